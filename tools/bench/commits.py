"""B1 to B3: commits of events, durable and not, by one process and by four."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from tools.bench.measure import Contestant, Figures, Row, Size, metered, ratio, side_by_side
from tools.bench.peers.eventsourcing_sqlite import EventSourcing
from tools.bench.peers.limits import RawAppend
from tools.bench.peers.ours import DacapoStore
from tools.bench.peers.peer import Durability, Peer
from tools.bench.peers.sqlite import SqliteFull, SqliteNormal
from tools.bench.results import Goal, Section
from tools.torture import fairness

RATE: Final = "events/s"
_WARM_UP_COMMITS: Final = 20
_WRITERS: Final = 4


def durable_commits(size: Size) -> Section:
    """B1: one event a commit, durable, one process."""
    section = Section("B1", "One event a commit, durable, one process")
    rows = _turns((DacapoStore, RawAppend, SqliteFull, EventSourcing), "commit", 1, size)
    section.rows = rows
    section.goals = [
        Goal(
            "events/s over write + fdatasync",
            ratio(rows, DacapoStore.name, RawAppend.name, RATE),
            "at least",
            0.95,
        ),
        Goal(
            "events/s over SQLite WAL FULL",
            ratio(rows, DacapoStore.name, SqliteFull.name, RATE),
            "at least",
            0.9,
        ),
    ]
    return section


def os_commits(size: Size) -> Section:
    """B3: commits that wait for the operating system only, of one event and of a hundred."""
    section = Section("B3", 'Commits with `durability="os"`, of one event and of 100')
    for count, title in ((1, "one"), (100, "100")):
        rows = _turns((DacapoStore, SqliteNormal, RawAppend), "os", count, size)
        section.rows |= {f"{name}, {title} a commit": row for name, row in rows.items()}
        section.goals.append(
            Goal(
                f"events/s over SQLite WAL NORMAL, {title} a commit",
                ratio(rows, DacapoStore.name, SqliteNormal.name, RATE),
                "at least",
                0.8,
            )
        )
    return section


def _turns(peers: tuple[type[Peer], ...], durability: Durability, count: int, size: Size) -> dict[str, Row]:
    seconds = size.pick(full=0.6, quick=0.3, tiny=0.01)
    contestants = [
        Contestant(peer.name, commit_for, (peer, durability, count, seconds), peer.absent()) for peer in peers
    ]
    return side_by_side(contestants, rounds=size.pick(full=7, quick=3, tiny=1))


def commit_for(folder: Path, peer: type[Peer], durability: Durability, count: int, seconds: float) -> Figures:
    """Commit for some seconds, one commit after the other."""
    waits = []
    with peer(folder).commits(durability) as commit:
        for number in range(_WARM_UP_COMMITS):
            commit(number * count, count)
        first = _WARM_UP_COMMITS * count
        with metered() as meter:
            began = now = time.perf_counter()
            while now < began + seconds:
                commit(first, count)
                first += count
                waits.append(-now + (now := time.perf_counter()))
    waits.sort()
    events = len(waits) * count
    return {
        RATE: events / meter.seconds,
        "µs a commit, median": 1e6 * waits[len(waits) // 2],
        "µs a commit, 99th percentile": 1e6 * waits[len(waits) * 99 // 100],
        "CPU µs an event": 1e6 * meter.cpu_seconds / events,
        "bytes written an event": meter.bytes_written / events,
    }


def many_writers(size: Size) -> Section:
    """B2: one event a commit, durable, four processes."""
    section = Section("B2", "One event a commit, durable, 4 processes")
    seconds = size.pick(full=2.0, quick=1.0, tiny=0.05)
    openers = {DacapoStore.name: fairness.log_writer, SqliteFull.name: fairness.sqlite_writer}
    section.rows = {name: Row() for name in openers}
    for _ in range(size.pick(full=5, quick=2, tiny=1)):
        for name, opener in openers.items():
            outcome = fairness.measure(opener, seconds=seconds, writers=_WRITERS)
            section.rows[name].add(
                {
                    RATE: outcome.commits_per_second,
                    "longest wait, ms": outcome.longest_milliseconds,
                    "slowest/fastest writer": outcome.ratio,
                    "refused": outcome.refused,
                }
            )
    ours = section.rows[DacapoStore.name]
    section.goals = [
        Goal(
            "events/s over SQLite WAL FULL",
            ratio(section.rows, DacapoStore.name, SqliteFull.name, RATE),
            "at least",
            1.8,
        ),
        Goal("longest wait", ours.median("longest wait, ms"), "at most", 50.0, "ms"),
        Goal("slowest/fastest writer", ours.median("slowest/fastest writer"), "at least", 0.9),
    ]
    return section
