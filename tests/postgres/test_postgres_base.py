"""The stores on a base whose log is in PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dacapo_store
from dacapo_store import Options, TrainingIterationStats, create_config_store, create_stats_store

_OTHER = """
import sys
from dacapo_store import Options, TrainingIterationStats, create_stats_store
stats = create_stats_store(Options(runs_base_dir=sys.argv[1]))
stats.store_training_stats("run_7", [TrainingIterationStats(i, loss=0.5, time=0.1) for i in range(20)])
"""


def test_two_processes_share_the_stores_of_a_base(address: Callable[..., str], tmp_path: Path) -> None:
    """What one stores the other retrieves, now and as of before; the SQL is as ever."""
    base = address(files=tmp_path / "files")
    configs = create_config_store(Options(runs_base_dir=base))
    stats = create_stats_store(Options(runs_base_dir=base))
    configs.store_run_config({"name": "run_7", "learning_rate": 0.1})
    stats.store_training_stats("run_7", [TrainingIterationStats(i, loss=0.5, time=0.1) for i in range(10)])
    subprocess.run([sys.executable, "-c", _OTHER, base], check=True)
    assert stats.retrieve_training_stats("run_7").trained_until() == 20
    store = dacapo_store.open(base)
    assert store.sql("SELECT count(*) AS n FROM training_stats").fetchall() == [(20,)]
    before = store.position
    configs.store_run_config({"name": "run_8", "learning_rate": 0.2})
    past = dacapo_store.open(base, as_of=before)
    assert past.sql("SELECT name FROM runs").fetchall() == [("run_7",)]
    assert store.sql("SELECT name FROM runs ORDER BY name").fetchall() == [("run_7",), ("run_8",)]
