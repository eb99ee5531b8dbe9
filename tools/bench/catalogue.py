"""Every benchmark there is, by its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tools.bench.commits import durable_commits, many_writers, os_commits
from tools.bench.configs import run_configs_stored
from tools.bench.dacapo_pattern import (
    retrieve_training_stats,
    store_training_stats,
    store_validation_scores,
)
from tools.bench.growth import growth
from tools.bench.live import live_runs
from tools.bench.loggers import scalar_loggers
from tools.bench.measure import Size
from tools.bench.opening import footprint, getting_going
from tools.bench.read_models import cold_open, queries, rebuild
from tools.bench.results import Section
from tools.bench.weights import weights

BENCHMARKS: Final[dict[str, Callable[[Size], Section]]] = {
    "B1": durable_commits,
    "B2": many_writers,
    "B3": os_commits,
    "B4": store_training_stats,
    "B5": retrieve_training_stats,
    "B6": store_validation_scores,
    "B7": run_configs_stored,
    "B8": scalar_loggers,
    "B8b": live_runs,
    "B9": rebuild,
    "B10": cold_open,
    "B11": queries,
    "B12": weights,
    "B13": footprint,
    "B14": getting_going,
    "growth": growth,
}
