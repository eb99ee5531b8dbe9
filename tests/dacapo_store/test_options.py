"""Options come from the first dacapo.yaml that DaCapo would read, and a mistake in it is named."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dacapo_store.options import KNOWN_STORE_TYPES, Options


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, an empty working directory, no variable and no DaCapo."""
    home = tmp_path / "home"
    for folder in (home / ".config" / "dacapo", tmp_path / "work"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DACAPO_OPTIONS_FILE", raising=False)
    monkeypatch.delitem(sys.modules, "dacapo", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return home


def options_file(path: Path, text: str = "type: files") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_there_are_defaults(home: Path) -> None:
    """DaCapo's: files below ~/dacapo."""
    options = Options.instance()
    assert Options.config_file() is None
    assert (options.type, options.base_path) == ("files", home / "dacapo")
    assert options.compute_context == {"type": "LocalTorch", "config": {}}
    assert (options.mongo_db_host, options.mongo_db_name, options.extra) == (None, None, {})
    assert options.type in KNOWN_STORE_TYPES


def test_the_file_is_read_anew_each_time() -> None:
    path = options_file(Path("dacapo.yaml"), "runs_base_dir: /a")
    assert Options.instance().runs_base_dir == Path("/a")
    options_file(path, "runs_base_dir: /b")
    assert Options.instance().runs_base_dir == Path("/b")


def test_all_keys_of_dacapo_are_read(tmp_path: Path) -> None:
    path = options_file(
        tmp_path / "o.yaml",
        "type: mongo\nruns_base_dir: runs\nmongo_db_host: host\nmongo_db_name: name\n"
        "compute_context: {type: Bsub, config: {queue: gpu}}\n",
    )
    options = Options.from_file(path)
    assert (options.type, options.mongo_db_host, options.mongo_db_name) == ("mongo", "host", "name")
    assert options.compute_context == {"type": "Bsub", "config": {"queue": "gpu"}}
    assert options.runs_base_dir == Path("runs")


def test_places_are_tried_in_dacapos_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last place to the first, each new file takes over."""
    package = ModuleType("dacapo")
    package.__file__ = str(tmp_path / "site" / "dacapo" / "__init__.py")
    monkeypatch.setitem(sys.modules, "dacapo", package)
    for path in (
        tmp_path / "site" / "dacapo.yaml",
        home / ".config" / "dacapo" / "dacapo.yaml",
        home / "dacapo.yaml",
        Path("dacapo.yaml"),
    ):
        options_file(path)
        assert Options.config_file() == path
    named = options_file(tmp_path / "named.yaml")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(named))
    assert Options.config_file() == named


def test_dacapos_folder_is_not_looked_at_unless_dacapo_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a package without a file is no place."""
    assert Options.config_file() is None
    assert "dacapo" not in sys.modules
    monkeypatch.setitem(sys.modules, "dacapo", ModuleType("dacapo"))
    assert Options.config_file() is None


def test_a_home_is_expanded_wherever_a_path_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DaCapo itself takes the ~ of ~/dacapo.yaml for a folder's name."""
    options_file(home / "my.yaml", "runs_base_dir: ~/runs")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "~/my.yaml")
    assert Options.instance().base_path == home / "runs"
    assert Options.from_file("~/my.yaml").runs_base_dir == home / "runs"


def test_the_environment_is_not_changed() -> None:
    """DaCapo's own class sets the variable, and so pins whatever it found first."""
    options_file(Path("dacapo.yaml"))
    before = dict(os.environ)
    Options.instance()
    assert dict(os.environ) == before


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on to another file would train into another base."""
    options_file(Path("dacapo.yaml"))
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "/no/such.yaml")
    with pytest.raises(FileNotFoundError, match=r"DACAPO_OPTIONS_FILE names '/no/such.yaml'.*unset it"):
        Options.instance()
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(Path.cwd()))
    with pytest.raises(FileNotFoundError, match="not a file"):
        Options.instance()


def test_an_empty_variable_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "")
    assert Options.config_file() is None


def test_a_folder_called_dacapo_yaml_is_passed_over(home: Path) -> None:
    Path("dacapo.yaml").mkdir()
    path = options_file(home / "dacapo.yaml")
    assert Options.config_file() == path


def test_what_the_program_says_goes_above_the_file() -> None:
    options_file(Path("dacapo.yaml"), "type: mongo\nmongo_db_name: file")
    options = Options.instance(type="files", runs_base_dir="there")
    assert (options.type, options.runs_base_dir, options.mongo_db_name) == ("files", Path("there"), "file")


def test_an_override_that_is_no_option_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no such option: run_base_dir; there are type, runs_base_dir"):
        Options.instance(run_base_dir="typo")


def test_a_relative_base_follows_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(runs_base_dir="runs")  # type: ignore[arg-type]
    assert options.base_path == tmp_path / "work" / "runs"
    monkeypatch.chdir(tmp_path)
    assert options.base_path == tmp_path / "runs"


def test_options_are_frozen_and_share_nothing() -> None:
    """Changing one's mapping changes no other's."""
    options = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.type = "mongo"  # type: ignore[misc]
    given = {"type": "x"}
    made = Options(compute_context=given)
    given["type"] = "y"
    assert made.compute_context == {"type": "x"}
    assert Options() == options


def test_an_unknown_key_is_kept_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """DaCapo may add keys; a typo should still be seen."""
    options_file(Path("dacapo.yaml"), "type: files\nextra: 2\nrun_base_dir: typo\n")
    with caplog.at_level(logging.WARNING):
        assert Options.instance().extra == {"run_base_dir": "typo", "extra": 2}
        assert Options.instance().extra == {"run_base_dir": "typo", "extra": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "dacapo.yaml: not used here: extra, run_base_dir"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"], ids=["empty", "comment", "document"])
def test_an_empty_file_means_defaults(text: str) -> None:
    """DaCapo's own class fails on it."""
    options_file(Path("dacapo.yaml"), text)
    assert Options.instance() == Options()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- type: files", r"dacapo.yaml: expected a mapping of options .* not list"),
        ("files", r"dacapo.yaml: expected a mapping of options .* not str"),
        ("type: [", r"dacapo.yaml: not readable as YAML"),
        ("type: !!python/object/apply:os.getcwd []", r"dacapo.yaml: not readable as YAML"),
        ("a: \x00", r"dacapo.yaml: not readable as YAML"),
        ("type: 3", r"dacapo.yaml: option type must be text such as 'files', not 3"),
        ("type:", r"dacapo.yaml: option type must be text"),
        ("runs_base_dir:", r"dacapo.yaml: option runs_base_dir must be a path, not None"),
        ("runs_base_dir: ''", r"dacapo.yaml: option runs_base_dir must be a path, not ''"),
        ("runs_base_dir: [a]", r"dacapo.yaml: option runs_base_dir must be a path"),
        ("runs_base_dir: ftp://b/k", r"option runs_base_dir: ftp:// is not known: expected a path"),
        ("compute_context: LocalTorch", r"option compute_context must be a mapping, not 'LocalTorch'"),
        ("mongo_db_host: 1", r"option mongo_db_host must be text or nothing, not 1"),
        ("mongo_db_name: [a]", r"option mongo_db_name must be text or nothing"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, match: str) -> None:
    """The message says which file, which option and what is expected."""
    options_file(Path("dacapo.yaml"), text)
    with pytest.raises(ValueError, match=match):
        Options.instance()


def test_bytes_that_are_no_text_are_named() -> None:
    Path("dacapo.yaml").write_bytes(b"type: \xff\xfe")
    with pytest.raises(ValueError, match=r"dacapo.yaml: not readable as YAML"):
        Options.instance()


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Options.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"type": None}, "^option type"),
        ({"runs_base_dir": 3}, "^option runs_base_dir"),
        ({"extra": 1}, "^option extra"),
    ],
    ids=["type", "path", "extra"],
)
def test_a_mistake_in_code_is_named_without_a_file(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Options(**options)


def test_universal_paths_are_paths() -> None:
    """DaCapo's options hold one; one that leads elsewhere is refused."""
    upath = pytest.importorskip("upath")
    assert Options(runs_base_dir=upath.UPath("/a/b")).base_path == Path("/a/b")
    with pytest.raises(ValueError, match="is not known"):
        Options(runs_base_dir=upath.UPath("memory://a"))


def test_importing_options_loads_no_yaml() -> None:
    """Only those who read a file wait for the parser."""
    code = (
        "import sys, dacapo_store.options; print(*{'yaml', 'numpy', 'upath', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
