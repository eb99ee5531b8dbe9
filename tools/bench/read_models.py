"""B9 to B11: what it takes to have the read models of a long history, and to ask them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from tools.bench.history import History, run_name, write_history
from tools.bench.measure import (
    Contestant,
    Figures,
    Row,
    Size,
    in_child,
    metered,
    peak_bytes,
    ratio,
    scratch,
    side_by_side,
)
from tools.bench.peers.limits import create_table_seconds
from tools.bench.peers.ours import DacapoStore
from tools.bench.results import Goal, Section
from tools.bench.warm_up import warm_up

RATE: Final = "iterations/s"
_THREADS: Final = 2
_UNNESTED: Final = "limit: CREATE TABLE AS, unnesting the events' lists"
_FLAT: Final = "limit: CREATE TABLE AS, flat columns"


def _history(size: Size) -> History:
    return size.pick(full=History(1000, 100, 100), quick=History(100, 100, 100), tiny=History(3, 2, 10))


def rebuild(size: Size) -> Section:
    """B9: all read models from the log."""
    history = _history(size)
    events = history.runs * history.events
    section = Section(
        "B9", f"Rebuild all projections: {history.iterations:,} iterations in {events:,} events"
    )
    with scratch() as folder:
        in_child(write_history, folder, history)
        section.rows = side_by_side(
            [
                Contestant(DacapoStore.name, catch_up, (folder,)),
                Contestant(_UNNESTED, create_table, (folder, True)),
                Contestant(_FLAT, create_table, (folder, False)),
            ],
            rounds=size.pick(full=3, quick=2, tiny=1),
        )
    section.goals = [
        Goal(RATE, section.rows[DacapoStore.name].median(RATE), "at least", 5e6, RATE),
        Goal(
            "iterations/s over DuckDB's CREATE TABLE AS from the same Arrow data",
            ratio(section.rows, DacapoStore.name, _UNNESTED, RATE),
            "at least",
            0.5,
        ),
    ]
    section.notes = [
        "Opening the log, reading and checking it, and all read models are inside.",
        "The limits begin with Arrow data in memory and make one table.",
        f"DuckDB has {_THREADS} threads each time.",
    ]
    return section


def catch_up(_: Path, folder: Path) -> Figures:
    """Open the log and fold all of it."""
    import projections
    from eventstore import EventLog

    with metered() as opening:
        log = EventLog.open(folder / "events", read_only=True)
    with metered() as folding:
        views = projections.ReadModels(log, threads=_THREADS)
        views.catch_up()
    count, loss = views.query("SELECT count(*), sum(loss) FROM training_stats").fetchone() or (0, 0.0)
    return {
        RATE: count / (opening.seconds + folding.seconds),
        "s to open the log": opening.seconds,
        "s to fold it": folding.seconds,
        "CPU s": opening.cpu_seconds + folding.cpu_seconds,
        "peak memory, MB": peak_bytes() / 1e6,
        "iterations": count,
        "mean loss": loss / count,
    }


def create_table(_: Path, folder: Path, unnest: bool) -> Figures:  # noqa: FBT001 - a turn takes its arguments by place
    """One table in DuckDB out of Arrow data in memory."""
    import pyarrow as pa

    from eventstore import EventLog

    with EventLog.open(folder / "events", read_only=True) as log:
        events = pa.Table.from_batches(list(log.read_batches())).select(["position", "index", "values"])
    sql = """
        SELECT position, unnest(range(len(index))) AS ordinal, unnest(index) AS iteration,
            unnest(values[1 : len(index)]) AS loss, unnest(values[len(index) + 1 :]) AS time
        FROM given"""
    rows = sum(len(chunk.values) for chunk in events.column("index").chunks)
    if not unnest:
        events, sql = _flat(events), "SELECT * FROM given"
    seconds = create_table_seconds(events, sql, threads=_THREADS)
    return {
        RATE: rows / seconds,
        "s to fold it": seconds,
        "peak memory, MB": peak_bytes() / 1e6,
        "iterations": rows,
    }


def _flat(events: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    index = events.column("index").combine_chunks()
    counts = np.diff(index.offsets.to_numpy())
    values = events.column("values").combine_chunks().values.to_numpy().reshape(-1, 2, counts[0])
    return pa.table(
        {
            "position": np.repeat(events.column("position").to_numpy(), counts),
            "ordinal": np.tile(np.arange(counts[0]), len(counts)),
            "iteration": index.values,
            "loss": values[:, 0].ravel(),
            "time": values[:, 1].ravel(),
        }
    )


def cold_open(size: Size) -> Section:
    """B10: a fresh process on a long history: the first answer, and the first append."""
    history = _history(size)
    tenth = History(history.runs, max(history.events // 10, 1), history.rows)
    section = Section("B10", f"Cold open of {history.iterations:,} iterations of {history.runs:,} runs")
    queries, appends = f"{DacapoStore.name}, first query", f"{DacapoStore.name}, first append"
    with scratch() as folder:
        bases = {"": folder / "whole", " at a tenth": folder / "tenth"}
        for base, each in zip(bases.values(), (history, tenth), strict=True):
            in_child(write_history, base, each)
            in_child(publish_snapshot, base)
        section.rows = side_by_side(
            [
                Contestant(f"{name}{suffix}", turn, (base,))
                for suffix, base in bases.items()
                for name, turn in ((queries, first_query), (appends, first_append))
            ],
            rounds=size.pick(full=5, quick=3, tiny=1),
        )
    rows = section.rows
    section.goals = [
        Goal("open and first query", rows[queries].median("wall ms"), "at most", 100.0, "ms"),
        Goal(
            "the same over that at a tenth",
            ratio(rows, queries, f"{queries} at a tenth", "wall ms"),
            "at most",
            1.2,
        ),
        Goal("open and first append, without DuckDB", rows[appends].median("wall ms"), "at most", 30.0, "ms"),
        Goal(
            "the same over that at a tenth",
            ratio(rows, appends, f"{appends} at a tenth", "wall ms"),
            "at most",
            1.2,
        ),
    ]
    section.notes = ["Imports are done before the clock starts. A snapshot is published first."]
    return section


def publish_snapshot(folder: Path) -> None:
    """Leave behind what housekeeping leaves for the next process."""
    from dacapo_store.housekeeping import publish
    from projections import ANYTHING_NEW

    publish(folder, tail_limit=ANYTHING_NEW)


def first_query(_: Path, folder: Path) -> Figures:
    """Open and ask for one run's least loss."""
    from dacapo_store.base import Base

    warm_up(query=True)
    with metered() as meter:
        base = Base.at(folder)
        base.query("SELECT min(loss) FROM training_stats WHERE run = ?", [run_name(1)]).fetchone()
    return {
        "wall ms": 1e3 * meter.seconds,
        "CPU ms": 1e3 * meter.cpu_seconds,
        "peak memory, MB": peak_bytes() / 1e6,
    }


def first_append(_: Path, folder: Path) -> Figures:
    """Open and store one iteration of a new run."""
    import sys

    from dacapo_store import FileStatsStore, TrainingIterationStats

    had_duckdb = "duckdb" in sys.modules
    warm_up(query=False)
    run = f"new_{time.time_ns()}"
    with metered() as meter:
        FileStatsStore(folder / "stats").store_training_stats(run, [TrainingIterationStats(0, 0.5, 0.1)])
    if "duckdb" in sys.modules and not had_duckdb:
        raise AssertionError("a process that only writes has loaded DuckDB")
    return {
        "wall ms": 1e3 * meter.seconds,
        "CPU ms": 1e3 * meter.cpu_seconds,
        "peak memory, MB": peak_bytes() / 1e6,
    }


_QUERIES: Final = {
    "best loss of each run": ("SELECT run, min(loss) FROM training_stats GROUP BY run", 500.0),
    "one run's curve": (
        "SELECT iteration, loss FROM training_stats WHERE run = $run ORDER BY position, ordinal",
        30.0,
    ),
    "one run's curve as of half the history": (
        "SELECT iteration, loss FROM training_stats_at($half) WHERE run = $run ORDER BY position, ordinal",
        60.0,
    ),
}


def queries(size: Size) -> Section:
    """B11: SQL on a long history, when the process has it."""
    history = _history(size)
    section = Section("B11", f"SQL on {history.iterations:,} iterations of {history.runs:,} runs")
    section.rows = {name: Row() for name in _QUERIES}
    with scratch() as folder:
        in_child(write_history, folder, history)
        in_child(publish_snapshot, folder)
        for figures in in_child(ask, folder, history, size.pick(full=15, quick=7, tiny=2)):
            for name, milliseconds in figures.items():
                section.rows[name].add({"wall ms": milliseconds})
    section.goals = [
        Goal(name, section.rows[name].median("wall ms"), "at most", target, "ms")
        for name, (_, target) in _QUERIES.items()
    ]
    return section


def ask(folder: Path, history: History, times: int) -> list[Figures]:
    """Each query some times, in turns, the first time not counted; answers come as Arrow."""
    from dacapo_store.base import Base

    views = Base.at(folder).views
    half = history.runs * history.events // 2
    answers: list[Figures] = []
    for _ in range(times + 1):
        figures = {}
        for name, (sql, _target) in _QUERIES.items():
            given = {"run": run_name(history.runs // 2), "half": half}
            parameters = {key: value for key, value in given.items() if f"${key}" in sql}
            began = time.perf_counter()
            found = views.arrow(sql, parameters)
            figures[name] = 1e3 * (time.perf_counter() - began)
            if not found.num_rows:
                raise AssertionError(f"{name}: nothing was found")
        answers.append(figures)
    return answers[1:]
