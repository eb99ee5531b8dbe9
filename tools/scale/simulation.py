"""A discrete-event simulation of writers that win places in one log by creating numbered commits.

It follows ``eventstore/storage/numbered`` and ``group_commit.py`` step by step: one request at a
time for each process, which carries all that has gathered; who loses looks, waits a little, reads on and
tries the next place; who wins lets others in, and makes a block of what it has completed. Time passes in
requests only: no processor is ever busy. The hint by which somebody who joins asks for a turn is left out.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

COMPANY_SECONDS: Final = 5.0
WINS_MAX: Final = 64
PAUSE_SECONDS: Final = 0.1
GAP: Final = 6
AFTER_KEPT: Final = 2
SEGMENT_FROM: Final = 8
COMMITS: Final = 1024
BLOCKS: Final = (64, 8)
"""As in ``eventstore.storage.numbered``; a test compares them."""

_MANY: Final = 64


@dataclass(frozen=True)
class Engine:
    """How long requests take, and what they carry.

    Attributes:
        create_seconds: The median time of a request that creates.
        read_seconds: The median time of a request that reads.
        spread: The standard deviation of the logarithm of these times.
        reads_many: Whether one request reads many commits, or one; then there are blocks of them.
        looks_first: Whether a writer reads what is new before it creates, as the stores do.
        at_once: How many requests that read are made at once.
    """

    create_seconds: float
    read_seconds: float
    spread: float = 0.25
    reads_many: bool = False
    looks_first: bool = False
    at_once: int = 16


@dataclass
class Outcome:
    """What happened.

    Attributes:
        seconds: How long it was.
        commits: Commits that were made, by each writer.
        creates: Requests that create, of winners and losers.
        reads: Requests that read.
        waits: How long each append waited for its acknowledgement.
    """

    seconds: float
    commits: list[int]
    creates: int = 0
    reads: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def commit_rate(self) -> float:
        """Commits a second of all writers together."""
        return sum(self.commits) / self.seconds

    @property
    def append_rate(self) -> float:
        """Acknowledged appends a second of all writers together."""
        return len(self.waits) / self.seconds

    def wait(self, share: float) -> float:
        """The time within which this share of the appends was acknowledged; infinite if none was."""
        if not self.waits:
            return math.inf
        return sorted(self.waits)[min(len(self.waits) - 1, int(share * len(self.waits)))]

    @property
    def median_wait(self) -> float:
        """The time within which half of them were."""
        return statistics.median(self.waits) if self.waits else math.inf


_Steps = Generator[float, None, None]


class _Simulation:
    def __init__(self, engine: Engine, *, writers: int, seconds: float, every: float, seed: int) -> None:
        self.engine = engine
        self.every = every
        self.dice = random.Random(seed)  # noqa: S311 - dice
        self.now = 0.0
        self.end = 0
        self.made: dict[int, list[float]] = {size: [] for size in BLOCKS}
        self.outcome = Outcome(seconds, [0] * writers)
        self._queue: list[tuple[float, int, _Steps]] = []
        for writer in range(writers):
            heapq.heappush(self._queue, (0.0, writer, self._writer(writer)))

    def run(self) -> Outcome:
        count = len(self._queue)
        while self._queue:
            self.now, _, steps = heapq.heappop(self._queue)
            if self.now >= self.outcome.seconds:
                break
            pause = next(steps)
            count += 1
            heapq.heappush(self._queue, (self.now + pause, count, steps))
        return self.outcome

    def _time(self, median: float) -> float:
        return median * math.exp(self.dice.gauss(0, self.engine.spread))

    def _writer(self, writer: int) -> _Steps:
        """One process: what comes each ``every`` seconds (0: at once) goes with the next commit."""
        dice, outcome = self.dice, self.outcome
        known, wins, won_at, seen, latency = self.end, 0, 0.0, -math.inf, 0.0
        due = dice.uniform(0, self.every)
        while True:
            if due > self.now:
                yield due - self.now
            known, seen = yield from self._looked(known, seen)
            while True:
                wins = wins if self.now - won_at <= GAP * latency else 0
                pause = self._pause(wins, seen=seen, latency=latency) - (self.now - won_at)
                wins = 0 if self.now - seen >= COMPANY_SECONDS and wins >= WINS_MAX else wins
                if pause > 0:
                    yield pause
                group_until, begun = self.now, self.now
                outcome.creates += 1
                yield self._time(self.engine.create_seconds) / 2
                has_won = known == self.end
                if has_won:
                    self.end += 1
                    self._make_blocks()
                yield begun + 2 * (self.now - begun) - self.now  # back as long as there
                latency = self.now - begun
                if has_won:
                    break
                outcome.reads += 1
                yield self._time(self.engine.read_seconds)
                known, wins, seen = known + 1, 0, self.now
                yield dice.uniform(0, min(latency, PAUSE_SECONDS))
                known = yield from self._caught_up(known, count=AFTER_KEPT)
            known, wins, won_at = known + 1, wins + 1, self.now
            outcome.commits[writer] += 1
            while due <= group_until:
                outcome.waits.append(self.now - due)
                due = due + self.every if self.every else self.now

    def _pause(self, wins: int, *, seen: float, latency: float) -> float:
        """How long whoever wins one commit after the other lets others in."""
        pause = 0.0
        if self.now - seen < COMPANY_SECONDS:
            pause = self.dice.uniform(0, 4 * latency) if wins else 0.0
        elif wins >= WINS_MAX:
            pause = GAP * latency
        return min(pause, PAUSE_SECONDS)

    def _looked(self, known: int, seen: float) -> Generator[float, None, tuple[int, float]]:
        """What is known after the look with which a store call begins, and when others were last seen."""
        if not self.engine.looks_first:
            return known, seen
        found = yield from self._caught_up(known)
        return found, self.now if found > known else seen

    def _make_blocks(self) -> None:
        """Who creates the last commit of a block makes it, unless there is nobody else."""
        if not self.engine.reads_many and len(self.outcome.commits) > 1:
            for size in reversed(BLOCKS):
                if self.end % size == 0:
                    self.outcome.creates += 1
                    self.outcome.reads += 0 if size == BLOCKS[-1] else size // BLOCKS[-1]
                    self.made[size].append(self.now + 2 * self._time(self.engine.create_seconds))

    def _reading(self, requests: int) -> Generator[float, None, float]:
        """So many requests at once, as far as the store; gives how long their answers take."""
        self.outcome.reads += requests
        duration = math.ceil(requests / self.engine.at_once) * self._time(self.engine.read_seconds)
        yield duration / 2
        return duration / 2

    def _caught_up(self, known: int, *, count: int = 1) -> Generator[float, None, int]:
        count = _MANY if self.engine.reads_many else count
        while True:
            found, wanted, count = yield from self._read(known, count)
            known += found
            if found < wanted:
                return known

    def _read(self, known: int, count: int) -> Generator[float, None, tuple[int, int, int]]:
        """How many commits were found and asked for, and how many to ask for next."""
        if self.engine.reads_many:
            back = yield from self._reading(1)
            found = min(count, self.end - known)
            yield back
            return found, count, min(2 * count, _MANY)
        if count >= SEGMENT_FROM and (known // COMMITS + 1) * COMMITS <= self.end:
            yield (yield from self._reading(1))
            found = (known // COMMITS + 1) * COMMITS - known
            return found, found, min(2 * count, _MANY)
        larger = COMMITS
        for size in BLOCKS:
            if known % size == 0 and count >= size:
                wanted = min(count, larger - known % larger) // size
                back = yield from self._reading(wanted)
                first = known // size
                made = [each for each in self.made[size][first : first + wanted] if each <= self.now]
                yield back
                if len(made) == wanted:
                    return size * wanted, size * wanted, min(2 * count, COMMITS)
                count = size // 2
                if made:
                    return size * len(made), size * len(made), count
                if size == BLOCKS[-1]:
                    return (yield from self._read_singly(known, size, count))
            larger = size
        wanted = count if count < larger else larger - known % larger
        return (yield from self._read_singly(known, wanted, count))

    def _read_singly(
        self, known: int, wanted: int, count: int
    ) -> Generator[float, None, tuple[int, int, int]]:
        back = yield from self._reading(wanted)
        found = min(wanted, self.end - known)
        yield back
        return found, wanted, 2 * count


def simulated(engine: Engine, *, writers: int, seconds: float, every: float = 0.0, seed: int = 1) -> Outcome:
    """Let writers append to one log for a while.

    Args:
        engine: The storage.
        writers: How many processes.
        seconds: For how long.
        every: How often each of them has something to append, in seconds; 0: whenever it was acknowledged.
        seed: Of the dice.
    """
    return _Simulation(engine, writers=writers, seconds=seconds, every=every, seed=seed).run()
