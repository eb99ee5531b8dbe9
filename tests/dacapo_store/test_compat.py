"""These stores in DaCapo's place: the switch, tried on a package that is made like DaCapo.

What the stores do behind it is tried with DaCapo itself, in ``tests/upstream``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import dacapo_store.compat
from dacapo_store import compat

FACTORIES = ("create_config_store", "create_stats_store", "create_weights_store", "create_array_store")
OWN = "\n".join(f"def {name}():\n    return 'DaCapo {name}'\n" for name in FACTORIES)
IMPORTS_THEM = f"from dacapo.store.create_store import {', '.join(FACTORIES)}\n"


def make_dacapo(folder: Path, create_store: str = OWN) -> None:
    """A package like DaCapo: its modules import the factories by name, one only when it is used."""
    files = {
        "__init__.py": "",
        "train.py": IMPORTS_THEM,
        "plot.py": IMPORTS_THEM,
        "store/__init__.py": "",
        "store/create_store.py": create_store,
    }
    for name, text in files.items():
        path = folder / "dacapo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from; what was imported from it and installed is undone."""
    stores = SimpleNamespace(
        base_of_options=lambda: Path("base"),
        config_store_of_options=lambda: "Config base/configs",
        stats_store_of_options=lambda: "Stats base/stats",
        **{f"DaCapo{kind}Store": functools.partial("{} {}".format, kind) for kind in ("Weights", "Array")},
    )
    # The real module imports the real DaCapo, which is not in this environment.
    monkeypatch.setitem(sys.modules, "dacapo_store.compat.stores", stores)  # type: ignore[misc]
    monkeypatch.setattr(dacapo_store.compat, "stores", stores, raising=False)
    monkeypatch.delenv(compat.VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    compat.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] == "dacapo"]:
        del sys.modules[name]


def created(module: types.ModuleType) -> list[str]:
    """What the four functions that a module has imported create."""
    return [getattr(module, name)() for name in FACTORIES]


THEIRS = [f"DaCapo {name}" for name in FACTORIES]
OURS = ["Config base/configs", "Stats base/stats", "Weights base", "Array base"]


@pytest.mark.parametrize("imported", [True, False])
def test_whoever_imported_a_function_creates_these_stores(place: Path, *, imported: bool) -> None:
    """It does not matter whether DaCapo, or one of its modules, was imported before or after."""
    make_dacapo(place)
    if imported:
        importlib.import_module("dacapo.train")
    compat.install()
    assert created(importlib.import_module("dacapo.train")) == OURS
    assert created(importlib.import_module("dacapo.plot")) == OURS


def test_a_function_that_is_held_elsewhere_creates_these_stores(place: Path) -> None:
    """A script's own name for it, a default argument, a partial: all are the same function."""
    make_dacapo(place)
    held = functools.partial(importlib.import_module("dacapo.train").create_stats_store)
    assert held() == "DaCapo create_stats_store"
    compat.install()
    assert held() == "Stats base/stats"


def test_uninstalling_leaves_nothing(place: Path) -> None:
    """The code of DaCapo's functions, the finders and the environment are what they were."""
    make_dacapo(place)
    module = importlib.import_module("dacapo.store.create_store")
    before = [getattr(module, name).__code__ for name in FACTORIES], list(sys.meta_path), dict(os.environ)
    compat.install()
    compat.install()
    assert compat.installed()
    assert created(module) == OURS
    compat.uninstall()
    assert not compat.installed()
    assert created(module) == THEIRS
    after = [getattr(module, name).__code__ for name in FACTORIES], list(sys.meta_path), dict(os.environ)
    assert after == before
    compat.uninstall()
    assert created(module) == THEIRS


def test_uninstalled_before_dacapo_is_imported(place: Path) -> None:
    make_dacapo(place)
    compat.install()
    compat.uninstall()
    assert created(importlib.import_module("dacapo.train")) == THEIRS


def test_processes_that_are_started_inherit_it(place: Path) -> None:
    """Workers of a training that called ``install()`` must not write to other stores."""
    make_dacapo(place)
    compat.install()
    assert os.environ[compat.VARIABLE] == "1"


def test_the_module_keeps_its_loader_and_can_be_reloaded(place: Path) -> None:
    """Tools that ask for sources find them; functions made anew by a reload are replaced, too."""
    make_dacapo(place)
    compat.install()
    module = importlib.import_module("dacapo.store.create_store")
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert inspect.getsource(module) == OWN
    assert created(importlib.reload(module)) == OURS
    compat.uninstall()
    assert created(module) == THEIRS


UNKNOWN = {
    "arguments": OWN.replace("create_array_store()", "create_array_store(options=None)"),
    "more arguments": OWN.replace("create_array_store()", "create_array_store(*, options)"),
    "a function is missing": OWN.replace("def create_weights_store", "def make_weights_store"),
    "no function": OWN + "\nclass create_stats_store: pass\n",
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN.keys())
@pytest.mark.parametrize("imported", [True, False])
def test_a_dacapo_that_is_not_known_is_refused(place: Path, text: str, *, imported: bool) -> None:
    """Nobody goes on with DaCapo's own stores unawares, and none of its functions is changed."""
    make_dacapo(place, text)
    if imported:
        module = importlib.import_module("dacapo.store.create_store")
        with pytest.raises(compat.UnsupportedDaCapoError, match="create_"):
            compat.install()
        assert not compat.installed()
        assert module.create_config_store() == "DaCapo create_config_store"
        return
    compat.install()
    with pytest.raises(ImportError, match=r"dacapo\.store\.create_store"):
        importlib.import_module("dacapo.train")


def test_without_dacapo_installing_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # whatever this environment has
    with pytest.raises(ModuleNotFoundError, match="pip install dacapo-ml"):
        compat.install()
    assert not compat.installed()
    assert compat.VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("yes", True), ("on", True), ("", False), ("0", False), ("No", False), ("false", False)],
)
def test_what_the_variable_says(
    place: Path, value: str, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    monkeypatch.setenv(compat.VARIABLE, value)
    compat.at_start()
    assert compat.installed() is expected


def test_installing_imports_neither_dacapo_nor_anything_heavy(tmp_path: Path) -> None:
    """In a process that has the variable, all that starts is a finder that waits."""
    make_dacapo(tmp_path)
    code = """
import sys, dacapo_store
dacapo_store.compat.install()
heavy = ("dacapo", "torch", "duckdb", "zarr", "pyarrow", "numpy", "yaml", "upath")
print([name for name in heavy if name in sys.modules])
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout.strip() == "[]"
