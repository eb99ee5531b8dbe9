"""What DaCapo's own stores have written is, after the import, what ours answer.

Runs where DaCapo is; skipped elsewhere. The base is written by DaCapo's stores, here and now.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dacapo_store import FileConfigStore, FileStatsStore, LocalWeightsStore
from dacapo_store.converter import documents_equal
from dacapo_store.moving import import_base
from tools.make_upstream_base import ITERATIONS, make_base

if importlib.util.find_spec("dacapo") is None:
    pytest.skip("DaCapo is not installed here", allow_module_level=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What DaCapo's stores leave of two runs."""
    make_base(tmp_path / "source")
    return tmp_path / "source"


def upstream_stores(base: Path) -> Any:
    """DaCapo's own stores on a base."""
    from dacapo.store.file_config_store import FileConfigStore
    from dacapo.store.file_stats_store import FileStatsStore
    from dacapo.store.local_weights_store import LocalWeightsStore

    return SimpleNamespace(
        configs=FileConfigStore(base / "configs"),
        stats=FileStatsStore(base / "stats"),
        weights=LocalWeightsStore(base),
    )


def test_our_stores_answer_what_dacapo_s_do(source: Path) -> None:
    """Configs as documents, stats and scores bit by bit, weights tensor by tensor, what is best."""
    from dacapo.store.converter import converter

    theirs = upstream_stores(source)
    assert import_base(source).problems == ()
    configs, stats, weights = (
        FileConfigStore(source / "configs"),
        FileStatsStore(source / "stats"),
        LocalWeightsStore(source),
    )
    runs = sorted(theirs.configs.retrieve_run_config_names())
    assert configs.retrieve_run_config_names() == runs
    for run in runs:
        config = theirs.configs.retrieve_run_config(run)
        document = configs.retrieve_run_config(run, raw=True)
        assert documents_equal(document, converter.unstructure(config))
        rows = theirs.stats.retrieve_training_stats(run).iteration_stats
        ours = stats.retrieve_training_stats(run)
        assert ours.iterations.tolist() == [row.iteration for row in rows]
        for name in ("loss", "time"):
            expected = np.array([getattr(row, name) for row in rows], np.float64)
            assert ours.column(name).tobytes() == expected.tobytes()
        assert [
            (each.iteration, np.array(each.scores).tobytes())
            for each in stats.retrieve_validation_iteration_scores(run)
        ] == [
            (each.iteration, np.array(each.scores, np.float64).tobytes())
            for each in theirs.stats.retrieve_validation_iteration_scores(run)
        ]
        assert weights.latest_iteration(run) == theirs.weights.latest_iteration(run)
        for iteration in ITERATIONS:
            same_weights(
                weights.retrieve_weights(run, iteration), theirs.weights.retrieve_weights(run, iteration)
            )
    for kind in ("task", "architecture", "trainer", "datasplit", "array"):
        names = sorted(getattr(theirs.configs, f"retrieve_{kind}_config_names")())
        assert getattr(configs, f"retrieve_{kind}_config_names")() == names


def same_weights(ours: Any, theirs: Any) -> None:
    """Equal states of model and optimizer."""
    import torch

    assert list(ours.model) == list(theirs.model)
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in ours.model)
    assert repr(ours.optimizer) == repr(theirs.optimizer)


def test_dacapo_goes_on_where_it_was(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On these stores in the imported base: its own objects, equal to those that its own stores gave."""
    compat = pytest.importorskip("dacapo_store.compat")
    from dacapo.store import create_store

    theirs = upstream_stores(source)
    runs = sorted(theirs.configs.retrieve_run_config_names())
    before = {run: everything(theirs, run) for run in runs}
    import_base(source)
    (source.parent / "dacapo.yaml").write_text(f"type: files\nruns_base_dir: {source}\n")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(source.parent / "dacapo.yaml"))
    compat.install()
    try:
        ours = SimpleNamespace(
            configs=create_store.create_config_store(),
            stats=create_store.create_stats_store(),
            weights=create_store.create_weights_store(),
        )
        assert isinstance(ours.configs, FileConfigStore)
        assert {run: everything(ours, run) for run in runs} == before
    finally:
        compat.uninstall()


def everything(stores: Any, run: str) -> tuple[str, ...]:
    """What DaCapo asks when it goes on with a run."""
    return (
        repr(stores.configs.retrieve_run_config(run)),
        repr(stores.stats.retrieve_training_stats(run)),
        repr(stores.stats.retrieve_validation_iteration_scores(run)),
        repr(stores.weights.latest_iteration(run)),
        repr(vars(stores.weights.retrieve_weights(run, ITERATIONS[-1]))),
    )
