"""Fairness: four processes write to one log as fast as they can; SQLite does the same beside it.

Each writer makes durable commits of one event, one after the other, for a few seconds, and notes
how long each took from call to return. *Fair* is a log whose slowest writer made at least 0.8 of the
commits of its fastest, and where no commit took 100 ms or longer. SQLite runs in its mode for
many processes: write-ahead log, ``synchronous=FULL``, one INSERT a transaction, ``busy_timeout``
30 s. Both begin when all writers have made their first commit, and take turns, so that both meet
the machine as it is.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from eventstore import Event, EventLog
from tools.torture.report import Figure, Report

WRITERS: Final = 4
SECONDS: Final = 5.0
_SECONDS_SHORT: Final = 1.0
_ROUNDS: Final = 3
RATIO_MIN: Final = 0.8
WAIT_MILLISECONDS_MAX: Final = 100.0
_HANG_SECONDS: Final = 120
_BUSY_SECONDS: Final = 30

Opener = Callable[[Path, int], Any]
"""Opens a store for one writer: a context manager of a function that makes one durable commit."""


@dataclass(frozen=True)
class Tally:
    """What one writer got.

    Attributes:
        commits: How many commits it made.
        longest_seconds: How long the slowest of them took, from call to return.
        refused: How many attempts ended in an error.
    """

    commits: int
    longest_seconds: float
    refused: int


@dataclass(frozen=True)
class Outcome:
    """What all writers got."""

    tallies: tuple[Tally, ...]
    seconds: float

    @property
    def ratio(self) -> float:
        """The slowest writer's commits over the fastest one's."""
        commits = [tally.commits for tally in self.tallies]
        return min(commits) / max(commits)

    @property
    def longest_milliseconds(self) -> float:
        """The longest that anybody waited for a commit."""
        return 1e3 * max(tally.longest_seconds for tally in self.tallies)

    @property
    def refused(self) -> int:
        """How many attempts ended in an error."""
        return sum(tally.refused for tally in self.tallies)

    @property
    def commits_per_second(self) -> float:
        """Of all writers together."""
        return sum(tally.commits for tally in self.tallies) / self.seconds


def run(*, long: bool, seed: int) -> Report:  # noqa: ARG001 - nothing here is drawn by lot
    """Measure both; in the long run the goals count as promises."""
    began = time.monotonic()
    load = os.getloadavg()[0]  # of the last minute, before this begins
    seconds, rounds = (SECONDS, _ROUNDS) if long else (_SECONDS_SHORT, 1)
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    for _ in range(rounds):
        ours.append(measure(log_writer, seconds=seconds))
        theirs.append(measure(sqlite_writer, seconds=seconds))
    figures: dict[str, Figure] = {"writers": WRITERS, "seconds each": seconds, "rounds": rounds}
    figures["others' load on the machine"] = load
    figures |= _figures("log", ours) | _figures("sqlite", theirs)
    return Report("fairness", figures, _failures(ours) if long else [], time.monotonic() - began)


def _figures(name: str, outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """The worst of all rounds, and the mean rate."""
    rates = [outcome.commits_per_second for outcome in outcomes]
    return {
        f"{name}: slowest over fastest, worst round": min(outcome.ratio for outcome in outcomes),
        f"{name}: longest wait in ms, worst round": max(outcome.longest_milliseconds for outcome in outcomes),
        f"{name}: refused": sum(outcome.refused for outcome in outcomes),
        f"{name}: commits a second": sum(rates) / len(rates),
        f"{name}: commits by writer": "; ".join(
            " ".join(str(tally.commits) for tally in outcome.tallies) for outcome in outcomes
        ),
    }


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    """The goals, by the median round: others on the machine may spoil one."""
    ratio = statistics.median(outcome.ratio for outcome in outcomes)
    longest = statistics.median(outcome.longest_milliseconds for outcome in outcomes)
    failures = []
    if ratio < RATIO_MIN:
        failures.append(f"the slowest writer made {ratio:.2f} of the fastest one's commits, not {RATIO_MIN}")
    if longest >= WAIT_MILLISECONDS_MAX:
        failures.append(f"a writer waited for {longest:.0f} ms, not less than {WAIT_MILLISECONDS_MAX:.0f} ms")
    return failures


def measure(opener: Opener, *, seconds: float, writers: int = WRITERS) -> Outcome:
    """Let writers commit side by side in a new folder.

    Args:
        opener: What they write to.
        seconds: For how long.
        writers: How many processes.
    """
    context = multiprocessing.get_context("fork")
    folder = Path(tempfile.mkdtemp(prefix="fairness-"))
    try:
        with opener(folder, writers):
            pass  # whatever is made once is there
        pipes = [context.Pipe() for _ in range(writers)]
        processes = [
            context.Process(target=_write, args=(opener, folder, number, seconds, there), daemon=True)
            for number, (_, there) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        connections = [here for here, _ in pipes]
        for connection in connections:
            _hear(connection)
        for connection in connections:
            connection.send("go")
        tallies = tuple(_hear(connection) for connection in connections)
        for process in processes:
            process.join()
        return Outcome(tallies, seconds)
    finally:
        shutil.rmtree(folder)


def _hear(connection: Connection) -> Any:
    if not connection.poll(_HANG_SECONDS):
        raise TimeoutError(f"a writer has said nothing for {_HANG_SECONDS} seconds")
    return connection.recv()


def _write(opener: Opener, folder: Path, number: int, seconds: float, connection: Connection) -> None:
    with opener(folder, number) as commit:
        commit()
        connection.send("ready")
        connection.recv()
        connection.send(_tally(commit, until=time.monotonic() + seconds))


def _tally(commit: Callable[[], bool], *, until: float) -> Tally:
    commits, refused, longest = 0, 0, 0.0
    while (began := time.monotonic()) < until:
        if commit():
            commits += 1
        else:
            refused += 1
        longest = max(longest, time.monotonic() - began)
    return Tally(commits, longest, refused)


@contextmanager
def log_writer(folder: Path, number: int) -> Iterator[Callable[[], bool]]:
    """An event log; each writer has a stream of its own."""
    counter = itertools.count()
    with EventLog.open(folder / "events") as log:

        def commit() -> bool:
            log.append(f"writer-{number}", [Event("Noted", {"n": next(counter)})])
            return True

        yield commit


@contextmanager
def sqlite_writer(folder: Path, number: int) -> Iterator[Callable[[], bool]]:
    """A table in SQLite."""
    counter = itertools.count()
    with closing(sqlite3.connect(folder / "table.db", timeout=_BUSY_SECONDS, isolation_level=None)) as table:
        table.execute("PRAGMA journal_mode = WAL")
        table.execute("PRAGMA synchronous = FULL")
        table.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
        table.execute("CREATE TABLE IF NOT EXISTS noted (writer INTEGER, n INTEGER)")

        def commit() -> bool:
            try:
                table.execute("INSERT INTO noted VALUES (?, ?)", (number, next(counter)))
            except sqlite3.OperationalError:  # locked for too long
                return False
            return True

        yield commit
