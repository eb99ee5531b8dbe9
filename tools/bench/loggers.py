"""B8: loggers of scalars in a hot loop, what a kill costs them, and what a row takes on the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tools.bench.measure import (
    Contestant,
    Figures,
    Size,
    folder_bytes,
    in_child,
    metered,
    ratio,
    scratch,
    side_by_side,
)
from tools.bench.peers.mlflow_sqlite import MlflowSqlite
from tools.bench.peers.ours import DacapoStore, DacapoStoreCalls
from tools.bench.peers.peer import Peer
from tools.bench.peers.sqlite import SqliteNormal
from tools.bench.peers.tensorboard_events import TensorBoard
from tools.bench.peers.trackio_local import Trackio
from tools.bench.results import Goal, Section
from tools.bench.workloads import Curve, curve

if TYPE_CHECKING:
    import numpy.typing as npt

PEERS: Final[tuple[type[Peer], ...]] = (
    DacapoStore,
    DacapoStoreCalls,
    SqliteNormal,
    Trackio,
    TensorBoard,
    MlflowSqlite,
)
_CALL: Final = "µs a call"
_ALL: Final = "µs an iteration in all"
_WARM_UP: Final = 100


def scalar_loggers(size: Size) -> Section:
    """B8: one call an iteration, two scalars."""
    iterations = size.pick(full=20_000, quick=5_000, tiny=150)
    section = Section("B8", f"A scalar logger in a hot loop: {iterations:,} iterations, loss and time")
    section.rows = side_by_side(
        [Contestant(peer.name, log, (peer, iterations), peer.absent()) for peer in PEERS],
        rounds=size.pick(full=3, quick=1, tiny=1),
    )
    for peer in PEERS:
        if section.rows[peer.name].figures:
            with scratch() as folder:
                lost = in_child(
                    rows_lost_on_a_kill, folder, peer, size.pick(full=5_000, quick=2_000, tiny=150)
                )
            section.rows[peer.name].add({"rows lost on a kill": lost})
    ours = section.rows[DacapoStore.name]
    calls = {peer: section.rows[peer.name].median(_CALL) for peer in PEERS if peer not in _OURS}
    in_all = {peer: section.rows[peer.name].median(_ALL) for peer in PEERS if peer not in _OURS}
    section.goals = [
        Goal("a call, with the spool", ours.median(_CALL), "at most", 4.0, "µs"),
        Goal(
            "bytes an iteration before re-encoding",
            ours.median("bytes on disk an iteration"),
            "at most",
            60.0,
            "bytes",
        ),
        Goal("rows lost on a kill", ours.median("rows lost on a kill"), "at most", 0.0, "rows"),
        _over_fastest(section, calls, _CALL),
        _over_fastest(section, in_all, _ALL),
    ]
    section.notes = [
        f"{_ALL} is the wall time from the first call until the logger is closed and everything is safe.",
        "MLflow, trackio and TensorBoard keep rows in memory; SQLite makes a transaction of each.",
    ]
    return section


_OURS: Final = (DacapoStore, DacapoStoreCalls)


def _over_fastest(section: Section, found: dict[type[Peer], float | None], figure: str) -> Goal:
    known = {peer.name: value for peer, value in found.items() if value is not None}
    fastest = min(known, key=known.__getitem__, default="")
    over = ratio(section.rows, DacapoStore.name, fastest, figure)
    return Goal(f"{figure} over the fastest tracker's ({fastest})", over, "at most", 1.0)


def log(folder: Path, peer: type[Peer], iterations: int) -> Figures:
    """Log a curve, read it back, and check that it is the one."""
    given = curve(iterations)
    rows = list(zip(*(column.tolist() for column in given), strict=True))
    with metered() as in_all:
        with peer(folder).logger() as log_row:
            for row in rows[:_WARM_UP]:
                log_row(*row)
            with metered() as calls:
                for row in rows[_WARM_UP:]:
                    log_row(*row)
            before_close = time.perf_counter()
        closing = time.perf_counter() - before_close
    with metered() as reading:
        found = peer(folder).logged()
    _check_same(found, given, peer)
    logged = iterations - _WARM_UP
    return {
        _CALL: 1e6 * calls.seconds / logged,
        _ALL: 1e6 * (calls.seconds + closing) / logged,
        "CPU µs an iteration, opening included": 1e6 * in_all.cpu_seconds / iterations,
        "bytes written an iteration": in_all.bytes_written / iterations,
        "bytes on disk an iteration": folder_bytes(folder) / iterations,
        "ms to read all back": 1e3 * reading.seconds,
    }


def _check_same(found: Curve, given: Curve, peer: type[Peer]) -> None:
    if peer is TensorBoard:
        iterations, losses, times = given
        given = iterations, _as_float32(losses), _as_float32(times)
    if not all(map(np.array_equal, found, given)):
        raise AssertionError(f"{peer.name} did not give back what was logged")


def _as_float32(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return numbers.astype(np.float32).astype(np.float64)


def rows_lost_on_a_kill(folder: Path, peer: type[Peer], iterations: int) -> float:
    """How many rows are missing after a process that has logged them was killed by SIGKILL."""
    logging = multiprocessing.get_context("fork").Process(target=log_and_die, args=(folder, peer, iterations))
    logging.start()
    logging.join()
    if logging.exitcode != -signal.SIGKILL:
        raise AssertionError(f"{peer.name} was to be killed and ended with {logging.exitcode}")
    try:
        return float(iterations - len(peer(folder).logged()[0]))
    except (OSError, KeyError, ValueError, IndexError):  # nothing was written that the peer could read
        return float(iterations)


def log_and_die(folder: Path, peer: type[Peer], iterations: int) -> None:
    """Log a curve and be killed before the logger is closed."""
    with peer(folder).logger() as log_row:
        for row in zip(*(column.tolist() for column in curve(iterations)), strict=True):
            log_row(*row)
        os.kill(os.getpid(), signal.SIGKILL)
