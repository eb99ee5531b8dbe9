"""The public interface as a user's program calls it, for the type checkers; it is not run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import dacapo_store
import eventstore
from dacapo_store import (
    FileConfigStore,
    LocalArrayIdentifier,
    Options,
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
    ValidationScores,
)
from dacapo_store.moving import ExportReport, ImportReport, export_base, import_base
from dacapo_store.weights_store import TrainableRun
from eventstore import NO_STREAM, Commit, Event, EventLog, EventTypes, RecordedEvent, StreamAppend
from projections import ReadModels


@dataclass
class Task:
    """A config of a user's own."""

    name: str
    channels: int = 1


class Measured(msgspec.Struct, frozen=True):
    """An event of a user's own."""

    depth: float


def log(path: Path) -> list[RecordedEvent]:
    """Append, read, follow, verify."""
    types = EventTypes()
    types.register("Measured")(Measured)
    with EventLog.open(path, segment_bytes_max=1 << 20) as opened:
        commit: Commit = opened.append("probe", [Event("Measured", {"depth": 2.0})], expected=NO_STREAM)
        version: int = commit.last_stream_version
        opened.append_to_streams(
            [
                StreamAppend("probe", [types.event(Measured(3.0))], version),
                StreamAppend("other", [Event("Seen")]),
            ],
            durability="os",
        )
        position: int = opened.position_at(datetime.now(UTC))
        followed: Iterator[RecordedEvent] = opened.follow(position, timeout=0.1)
        verdict: eventstore.Verdict = opened.verify()
        return [event for event in followed if verdict.ok]


def stores(base: Path) -> float | None:
    """The four stores and their values."""
    options = Options(runs_base_dir=str(base))
    configs: dacapo_store.ConfigStore = dacapo_store.create_config_store(options)
    configs.store_task_config(Task("segment"))
    names: list[str] = configs.retrieve_run_config_names(task_names=["segment"])
    assert isinstance(configs, FileConfigStore)
    configs.delete_config(configs.tasks, "segment")

    stats_store: dacapo_store.StatsStore = dacapo_store.create_stats_store(options)
    stats = TrainingStats()
    stats.add_iteration_stats(TrainingIterationStats(0, loss=0.5, time=0.1, learning_rate=1e-3))
    stats_store.store_training_stats(names[0] if names else "run", stats)
    with stats_store.scalar_logger("run", columns=["loss"], flush_seconds=2) as scalars:
        logger: dacapo_store.ScalarLogger = scalars
        logger.add(1, loss=0.5, **{"lr/encoder": 1e-3})
        logger.flush(durable=False)
    trained_until: int = stats_store.retrieve_training_stats("run").trained_until()
    scores = ValidationScores([], [], None, [ValidationIterationScores(trained_until, [[[0.5]]])])
    stats_store.store_validation_iteration_scores("run", scores)
    kept: list[ValidationIterationScores] = stats_store.retrieve_validation_iteration_scores(
        "run", subsample=True
    )

    weights: dacapo_store.WeightsStore = dacapo_store.create_weights_store(options)
    latest: int | None = weights.latest_iteration("run")
    arrays: dacapo_store.ArrayStore = dacapo_store.create_array_store(options)
    array: LocalArrayIdentifier = arrays.validation_prediction_array("run", latest or 0, "dataset")
    arrays.remove(array)
    return kept[0].scores[0][0][0] if kept else None


def checkpoints(store: dacapo_store.WeightsStore, run: TrainableRun) -> bool:
    """Weights, waited for and not."""
    store.store_weights(run, 0)
    pending: dacapo_store.Pending = store.store_weights(run, 1, wait=False)
    pending.result(timeout_seconds=60)
    store.wait()
    store.load_weights(run, 1)
    return pending.done()


def history(path: Path) -> list[tuple[object, ...]]:
    """SQL over a log."""
    with EventLog.open(path, read_only=True) as opened:
        views = ReadModels(opened, threads=1, memory_limit="256MB")
        return views.query("SELECT run, min(loss) FROM training_stats GROUP BY run").fetchall()


def move(theirs: Path, ours: Path) -> list[str]:
    """From DaCapo's own stores, and back."""
    moved_in: ImportReport = import_base(
        theirs, into=ours, payloads="link", progress=lambda place, done, total: None
    )
    moved_out: ExportReport = export_base(ours, "back", at=moved_in.position, dry_run=True)
    return [f"{place}: {reason}" for place, reason in (*moved_in.problems, *moved_out.problems)]
