"""How cost grows with the history: opening, appending, reading, memory, from 10^4 iterations on.

Runs are of one length, so that the work asked for is the same at each size and only what lies around
it grows: one run's curve is read, one run gets a hundred iterations more.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from tools.bench.history import History, run_name, write_history
from tools.bench.measure import (
    Contestant,
    Figures,
    Row,
    Size,
    in_child,
    metered,
    peak_bytes,
    scratch,
    side_by_side,
)
from tools.bench.peers.ours import DacapoStore
from tools.bench.read_models import publish_snapshot
from tools.bench.results import Plot, Section, Series
from tools.bench.warm_up import warm_up
from tools.bench.workloads import curve

_RUN_ITERATIONS: Final = 10_000
_ROWS: Final = 1000
_ADDED: Final = 100
_TICK_NANOSECONDS: Final = 100_000

_PLOTS: Final = {
    "append": ("An append of 100 iterations to one run", ("ms of the first append", "ms of a later append")),
    "open": ("Opening a base in a fresh process", ("ms to open for writing", "ms to the first answer")),
    "read": ("Reading the curve of one run of 10,000 iterations", ("ms to read a run, read models made",)),
    "memory": ("Memory of a process", ("MB when it has written", "MB when it has read")),
}


def growth(size: Size, iterations_max: int | None = None) -> Section:
    """Cost against history."""
    section = Section("growth", "How cost grows with the history")
    largest = iterations_max or size.pick(full=10**8, quick=10**6, tiny=10**4)
    sizes = [10**exponent for exponent in range(4, 10) if 10**exponent <= largest]
    measured: dict[int, Row] = {}
    for iterations in sizes:
        with scratch() as folder:
            events = _RUN_ITERATIONS // _ROWS
            in_child(write_history, folder, History(iterations // _RUN_ITERATIONS, events, _ROWS))
            in_child(publish_snapshot, folder)
            rows = side_by_side(
                [Contestant("write", write_more, (folder,)), Contestant("read", read_one, (folder,))],
                rounds=size.pick(full=3, quick=2, tiny=1),
            )
        measured[iterations] = Row(rows["write"].figures | rows["read"].figures)
    section.rows = {
        f"{DacapoStore.name}, {iterations:,} iterations": row for iterations, row in measured.items()
    }
    section.plots = [_plot(name, measured) for name in _PLOTS]
    section.notes = ["Runs of 10,000 iterations, events of 1,000. Imports are done before the clock starts."]
    return section


def _plot(name: str, measured: dict[int, Row]) -> Plot:
    title, figures = _PLOTS[name]
    lines = [
        Series(
            figure,
            [float(size) for size in measured],
            [row.median(figure) or 0.0 for row in measured.values()],
        )
        for figure in figures
    ]
    return Plot(f"growth-{name}", title, "iterations in the base", "MB" if name == "memory" else "ms", lines)


def write_more(_: Path, folder: Path) -> Figures:
    """Open for writing and extend one run, twice; DuckDB is never loaded."""
    from dacapo_store import FileStatsStore, TrainingStats

    # A later round goes on behind an earlier one: what falls behind would replace the run.
    steps, losses, times = curve(2 * _ADDED, first=time.time_ns() // _TICK_NANOSECONDS)
    first, second = (
        TrainingStats.from_columns(steps[rows], {"loss": losses[rows], "time": times[rows]})
        for rows in (slice(_ADDED), slice(_ADDED, None))
    )
    warm_up(query=False)
    with metered() as opening:
        store = FileStatsStore(folder / "stats")
    with metered() as appending:
        store.store_training_stats(run_name(0), first)
    with metered() as appending_again:
        store.store_training_stats(run_name(0), second)
    return {
        "ms to open for writing": 1e3 * opening.seconds,
        "ms of the first append": 1e3 * appending.seconds,
        "ms of a later append": 1e3 * appending_again.seconds,
        "MB when it has written": peak_bytes() / 1e6,
    }


def read_one(_: Path, folder: Path) -> Figures:
    """Open, ask for one run's curve, and once more when the read models are there."""
    from dacapo_store import FileStatsStore

    warm_up(query=True)
    with metered() as opening:
        store = FileStatsStore(folder / "stats")
        store.retrieve_training_stats(run_name(0))
    with metered() as reading:
        found = store.retrieve_training_stats(run_name(0))
    if len(found.iterations) < _RUN_ITERATIONS:
        raise AssertionError(f"{len(found.iterations)} iterations came back")
    return {
        "ms to the first answer": 1e3 * opening.seconds,
        "ms to read a run, read models made": 1e3 * reading.seconds,
        "MB when it has read": peak_bytes() / 1e6,
    }
