"""Tests with DaCapo itself; ``make upstream`` runs them in an environment that has it.

A test that takes ``stores`` runs twice: on these stores in DaCapo's place, and on DaCapo's own. One
marked with ``defect`` describes what is right, and what DaCapo's own stores are known to get wrong:
there it must fail, and it is for us to notice when it does no more.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dacapo_store import compat

STAND_INS = Path(__file__).parents[2] / "tools" / "upstream" / "stand_ins"
HERE = importlib.util.find_spec("dacapo") is not None

collect_ignore_glob = [] if HERE else ["*"]

if HERE:
    os.environ |= {"DASK_SCHEDULER": "synchronous", "OMP_NUM_THREADS": "1"}
    sys.path.append(str(STAND_INS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what DaCapo's packages are warned of is not for us to mend
        import dacapo.store.create_store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """DaCapo's warnings are no errors here, and its known defects are expected failures."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        which = getattr(item, "callspec", SimpleNamespace(params={})).params.get("stores")
        for marker in item.iter_markers("defect"):
            if which == "theirs":
                item.add_marker(pytest.mark.xfail(reason=f"DaCapo: {marker.args[0]}", strict=True))


@pytest.fixture(params=["ours", "theirs"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Four functions that create stores of a new base directory, as DaCapo does, and its path."""
    base = tmp_path / "base"
    (tmp_path / "dacapo.yaml").write_text(f"type: files\nruns_base_dir: {base}\n")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(tmp_path / "dacapo.yaml"))
    monkeypatch.setenv(compat.VARIABLE, "")
    (compat.install if request.param == "ours" else compat.uninstall)()
    create = dacapo.store.create_store
    yield SimpleNamespace(
        config=create.create_config_store,
        stats=create.create_stats_store,
        weights=create.create_weights_store,
        arrays=create.create_array_store,
        base=base,
        ours=request.param == "ours",
    )
    compat.uninstall()
