"""B8b: many processes that store at once, and a process that reads a run while it grows."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any, Final

from tools.bench.history import run_name
from tools.bench.measure import Contestant, Figures, Size, side_by_side
from tools.bench.peers.ours import RUN, DacapoStore
from tools.bench.results import Goal, Plot, Section, Series
from tools.bench.workloads import curve

RATE: Final = "iterations/s"
_ROWS: Final = 100


def live_runs(size: Size) -> Section:
    """B8b: writers side by side, then a reader beside a writer."""
    iterations = size.pick(full=25_000, quick=10_000, tiny=200)
    crowd = size.pick(full=64, quick=16, tiny=3)
    lengths = size.pick(full=(10_000, 100_000, 1_000_000), quick=(10_000, 100_000), tiny=(200,))
    section = Section(
        "B8b", f"4 processes, {iterations:,} iterations each in calls of {_ROWS}; a growing run, read live"
    )
    few, many = f"{DacapoStore.name}, 4 processes", f"{DacapoStore.name}, {crowd} processes"
    readers = {f"reading a run of {length:,}": length for length in lengths}
    rounds = size.pick(full=5, quick=3, tiny=1)
    section.rows = side_by_side(
        [
            Contestant(few, write_side_by_side, (4, iterations)),
            Contestant(many, write_side_by_side, (crowd, max(iterations // crowd, _ROWS)), rounds_max=2),
            *(Contestant(name, read_growing, (length,), rounds_max=1) for name, length in readers.items()),
        ],
        rounds=rounds,
    )
    reading = [section.rows[name].median(_READ) or 0.0 for name in readers]
    section.goals = [
        Goal("iterations/s of 4 processes", section.rows[few].median(RATE), "at least", 400e3, RATE),
        Goal("errors of 4 processes", section.rows[few].median("errors"), "at most", 0, "errors"),
        Goal(f"errors of {crowd} processes", section.rows[many].median("errors"), "at most", 0, "errors"),
        *(
            Goal(f"an incremental read, {name}", milliseconds, "at most", 5.0, "ms")
            for name, milliseconds in zip(readers, reading, strict=True)
        ),
    ]
    if len(lengths) > 1:
        line = Series(DacapoStore.name, [float(length) for length in lengths], reading)
        section.plots = [Plot("b8b-reading", "An incremental read", "iterations of the run", _READ, [line])]
    return section


def write_side_by_side(folder: Path, writers: int, iterations: int) -> Figures:
    """Processes forked from one that has imported what they need; they begin together."""
    import dacapo_store.stats_store  # noqa: F401

    context = multiprocessing.get_context("fork")
    ready, errors = context.Barrier(writers + 1), context.SimpleQueue()
    processes = [
        context.Process(target=_write, args=(folder, number, iterations, ready, errors))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    found = sum(not errors.empty() and bool(errors.get()) for _ in processes)
    stored = _stored(folder)
    if not found and stored != writers * iterations:
        raise AssertionError(f"{stored} iterations were stored, not {writers * iterations}")
    return {RATE: writers * iterations / seconds, "errors": found}


def _stored(folder: Path) -> int:
    from dacapo_store.base import Base

    return int(Base.at(folder).query("SELECT count(*) FROM training_stats").fetchone()[0])


def _write(folder: Path, number: int, iterations: int, ready: Any, errors: Any) -> None:
    from dacapo_store import FileStatsStore, TrainingStats

    steps, losses, times = curve(iterations)
    store = FileStatsStore(folder / "stats")
    calls = []
    for first in range(0, iterations, _ROWS):
        rows = slice(first, first + _ROWS)
        calls.append(TrainingStats.from_columns(steps[rows], {"loss": losses[rows], "time": times[rows]}))
    ready.wait()
    try:
        for stats in calls:
            store.store_training_stats(run_name(number), stats)
    except Exception as error:  # noqa: BLE001 - counted, whatever it is
        errors.put(repr(error))


_READ: Final = "ms of an incremental read"
_READS: Final = 30


def read_growing(folder: Path, length: int) -> Figures:
    """Another process stores 100 iterations more; how long until a query here has them."""
    from dacapo_store.base import Base

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    writer = context.Process(target=_grow, args=(folder, length, there))
    writer.start()
    here.recv()
    base = Base.at(folder)
    sql = """
        SELECT iteration, loss FROM training_stats
        WHERE run = ? AND position >= ? ORDER BY position, ordinal"""
    waits = []
    for _ in range(_READS):
        position = base.views.catch_up()
        here.send("go on")
        here.recv()
        began = time.perf_counter()
        found = base.query(sql, [RUN, position]).fetchall()
        waits.append(time.perf_counter() - began)
        if len(found) != _ROWS:
            raise AssertionError(f"an incremental read gave {len(found)} rows, not {_ROWS}")
    here.send("end")
    writer.join()
    waits.sort()
    return {_READ: 1e3 * waits[len(waits) // 2], "ms of the slowest one": 1e3 * waits[-1]}


def _grow(folder: Path, length: int, connection: Any) -> None:
    from dacapo_store import FileStatsStore, TrainingStats

    store = FileStatsStore(folder / "stats")
    steps, losses, times = curve(length + (_READS + 1) * _ROWS)

    def part(first: int, count: int) -> TrainingStats:
        rows = slice(first, first + count)
        return TrainingStats.from_columns(steps[rows], {"loss": losses[rows], "time": times[rows]})

    at_once = min(10_000, length)
    for first in range(0, length, at_once):
        store.store_training_stats(RUN, part(first, at_once))
    connection.send("ready")
    while connection.recv() == "go on":
        store.store_training_stats(RUN, part(length, _ROWS))
        length += _ROWS
        connection.send("stored")
