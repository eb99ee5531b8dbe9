"""The four factories: which store the options ask for, on which base."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dacapo_store import (
    ArrayStore,
    ConfigStore,
    FileConfigStore,
    FileStatsStore,
    LocalArrayStore,
    LocalWeightsStore,
    Options,
    StatsStore,
    TrainingIterationStats,
    WeightsStore,
    create_array_store,
    create_config_store,
    create_stats_store,
    create_weights_store,
)
from dacapo_store.base import Base

FACTORIES = [
    (create_config_store, FileConfigStore, ConfigStore),
    (create_stats_store, FileStatsStore, StatsStore),
    (create_weights_store, LocalWeightsStore, WeightsStore),
    (create_array_store, LocalArrayStore, ArrayStore),
]


@pytest.mark.parametrize(("create", "store_class", "interface"), FACTORIES)
def test_options_in_code_say_where_to_store(
    tmp_path: Path, create: Callable[[Options], Any], store_class: type, interface: type
) -> None:
    """No file is needed: "the store path set in code, not only in dacapo.yaml"."""
    store = create(Options(type="files", runs_base_dir=tmp_path / "runs"))
    assert type(store) is store_class
    assert isinstance(store, interface)


@pytest.mark.parametrize(("create", "store_class", "interface"), FACTORIES)
def test_without_arguments_dacapo_yaml_says_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    create: Callable[[], Any],
    store_class: type,
    interface: type,
) -> None:
    """As DaCapo's own factories."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dacapo.yaml").write_text("type: files\nruns_base_dir: my_runs\n")
    assert type(create()) is store_class
    create_config_store().store_task_config({"name": "x"})
    assert FileConfigStore(tmp_path / "my_runs" / "configs").retrieve_task_config_names() == ["x"]


@pytest.mark.parametrize(("create", "store_class", "interface"), FACTORIES)
def test_an_unknown_type_is_refused_and_the_known_ones_listed(
    tmp_path: Path, create: Callable[[Options], Any], store_class: type, interface: type
) -> None:
    """Before anything is made on the disk."""
    with pytest.raises(ValueError, match=r"'postgres'; this version knows 'files', 'mongo'"):
        create(Options(type="postgres", runs_base_dir=tmp_path / "runs"))
    with pytest.raises(ValueError, match="mongo_db_host and mongo_db_name"):
        create(Options(type="mongo", runs_base_dir=tmp_path / "runs"))
    assert list(tmp_path.iterdir()) == []


def test_the_paths_are_those_that_dacapo_uses(tmp_path: Path) -> None:
    """<base>/configs, <base>/stats, and the base."""
    options = Options(type="files", runs_base_dir=tmp_path)
    assert str(create_config_store(options).path) == str(tmp_path / "configs")  # type: ignore[attr-defined]
    assert str(create_stats_store(options).path) == str(tmp_path / "stats")  # type: ignore[attr-defined]
    assert str(create_weights_store(options).basedir) == str(tmp_path)  # type: ignore[attr-defined]


def test_the_stores_of_a_base_are_faces_of_one_history(tmp_path: Path) -> None:
    """One log in one order, whichever store was made first."""
    options = Options(type="files", runs_base_dir=tmp_path)
    create_stats_store(options).store_training_stats("run", [TrainingIterationStats(0, loss=1.0)])
    create_config_store(options).store_task_config({"name": "x"})
    create_stats_store(options).store_training_stats("run", [TrainingIterationStats(1, loss=0.5)])
    streams = [event.stream for event in Base.at(tmp_path).log.read()]
    assert streams == ["training/run", "config/tasks/x", "training/run"]


def test_a_program_that_only_stores_loads_neither_duckdb_nor_torch_nor_pandas(tmp_path: Path) -> None:
    """What a trainer's first seconds are not to be spent on. Arrow would load pandas for a numpy array."""
    code = f"""
import sys
import numpy as np
from dacapo_store import (
    Options, TrainingIterationStats, TrainingStats, ValidationIterationScores, create_config_store,
    create_stats_store,
)
options = Options(type="files", runs_base_dir={str(tmp_path)!r})
create_config_store(options).store_task_config({{"name": "x"}})
assert create_config_store(options).retrieve_task_config("x") == {{"name": "x"}}
for _ in range(2):
    stats = create_stats_store(options)
    rows = [TrainingIterationStats(0, loss=1.0), TrainingIterationStats(1, time=1.0)]
    stats.store_training_stats("run", rows)
    stats.store_training_stats("run", TrainingStats.from_columns(np.arange(5), {{"loss": np.ones(5)}}))
    stats.store_validation_iteration_scores("run", [ValidationIterationScores(0, [[[1.0]]])])
    with stats.scalar_logger("run") as logger:
        logger.add(9, loss=1.0)
    stats.delete_training_stats("run")
print([name for name in ("duckdb", "torch", "zarr", "pandas") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
