"""Power cuts: writers work on a recorded disk, and what any moment's power cut could leave is opened.

A *scenario* is a chain of boots. In each, processes and threads append to one log in turns that dice
decide; writes are refused, syncs fail, processes are killed. Then the power fails: many folders that
it could leave are rebuilt from the trace and checked, and with one of them the next boot goes on. So
recoveries are cut short like everything else, and what they write is checked, too.

What is checked of each folder: it opens; all that was acknowledged is there, at its position and with
its content, and so is all below any ``durable_position`` that was claimed; positions are dense and
commits whole; what recovery cut off lies in quarantine byte for byte; the log takes an append,
verifies clean, and opens again as the same. Now and then the disk is made to lose what it had
promised to keep: that must be called damage, and change nothing.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

from eventstore import DamagedLogError, EventLog, LogNotFoundError
from eventstore import format as log_format
from eventstore.storage.local.verify import verify_log
from tools.torture.boots import Boot, Plan
from tools.torture.promises import (
    BrokenPromiseError,
    Key,
    Promise,
    commit_of,
    keys_of,
    must_be_kept,
    must_have_payloads,
    must_hold,
    no_error,
)
from tools.torture.recorder import Recorder, clear_folder, read_folder, write_folder
from tools.torture.report import Figure, Report
from tools.torture.simulated_disk import SECTOR_BYTES, Disk, State, crash_state

_FAILURES_MAX: Final = 10
_NOBODYS: Final = 10**6
"""The number of the commit that a check makes itself."""

_SOMETIMES: Final = 0.05
_OFTEN: Final = 0.25


@dataclass
class Counts:
    """What has been done so far."""

    scenarios: int = 0
    crash_points: int = 0
    torn: int = 0
    in_recovery: int = 0
    damaged: int = 0
    killed: int = 0
    refused: int = 0
    failed: int = 0


class Checker:
    """Opens folders that a power cut left, in a scratch folder of its own, and looks whether all is there."""

    def __init__(self, scratch: Path, counts: Counts, dice: Random, *, segment_bytes_max: int) -> None:
        self._segment_bytes_max = segment_bytes_max
        self._scratch = scratch
        self._folder = scratch / "events"
        self._counts = counts
        self._dice = dice

    def check(self, state: State, floor: int, promised: dict[int, Key], *, deeper: bool = True) -> None:
        """Open what a power cut left and look.

        Raises:
            BrokenPromiseError: Something that was promised is not so.
        """
        self._counts.crash_points += 1
        clear_folder(self._scratch)
        write_folder(self._scratch, state)
        recorder = Recorder(self._scratch) if deeper and self._dice.random() < _OFTEN else None
        before = self._look_without_writing() if self._dice.random() < _SOMETIMES else None
        if recorder is not None:
            with no_error("opening"), recorder:
                self._open().close()
        with no_error("opening"):
            log = self._open()
        with log:
            found = keys_of(log)
            if before is not None and before != found:
                raise BrokenPromiseError(f"read-only it showed {len(before)} events, opened {len(found)}")
            must_hold(found, floor, promised)
            must_have_payloads(found, state)
            torn = must_be_kept(state, _within(read_folder(self._folder)))
            self._counts.torn += torn
            self._go_on(log, found, thoroughly=torn or self._dice.random() < _OFTEN)
        if self._dice.random() < _SOMETIMES:
            self._damage()
        if recorder is not None:
            self._crash_again(recorder, floor, promised, found)

    def _open(self) -> EventLog:
        return EventLog.open(self._folder, segment_bytes_max=self._segment_bytes_max)

    def _look_without_writing(self) -> list[Key]:
        with no_error("reading only"):
            try:
                verdict = verify_log(self._folder)
            except LogNotFoundError:
                return []
            if not verdict.ok:
                raise BrokenPromiseError(f"verify called it damaged: {verdict.findings}")
            with EventLog.open(self._folder, read_only=True) as log:
                return keys_of(log)

    def _go_on(self, log: EventLog, found: list[Key], *, thoroughly: bool) -> None:
        """Append, and open once more."""
        with no_error("going on"):
            commit = log.append_to_streams(commit_of(_NOBODYS))
            verdict = log.verify() if thoroughly else None
            log.close()
            with self._open() as log_again:
                length = log_again.next_position
                again = keys_of(log_again) if thoroughly else None
        count = commit.next_position - commit.first_position
        expected = found + [(_NOBODYS, part) for part in range(count)]
        if verdict is not None and any(finding.severity != "note" for finding in verdict.findings):
            raise BrokenPromiseError(f"after recovery verify finds {verdict.findings}")
        if length != len(expected) or (again is not None and again != expected):
            raise BrokenPromiseError("an append and a second opening gave another log")

    def _crash_again(
        self, recorder: Recorder, floor: int, promised: dict[int, Key], found: list[Key]
    ) -> None:
        """The power fails while the log recovers, and once more just behind it; no byte is lost."""
        disk = Disk(recorder.start)
        points = [self._dice.randrange(len(recorder.trace) + 1) for _ in range(3)]
        for taken, step in enumerate([*recorder.trace, None]):
            for _ in range(points.count(taken)):
                self._counts.in_recovery += 1
                state = crash_state(disk, self._dice)
                must_be_kept(recorder.start, state)
                self.check(state, floor, promised, deeper=False)
            if step is not None:
                disk.apply(step)
        self.check(crash_state(disk, self._dice), len(found), dict(enumerate(found)), deeper=False)

    def _damage(self) -> None:
        """Take bytes away that a later frame says are synced, or flip a bit in the last frame."""
        path = max(self._folder.glob("*.arrows"))
        content = path.read_bytes()
        seals = _seals(content)
        durable = max(seal.synced_position for _, seal in seals)
        below = [(at, seal) for at, seal in seals if seal.event_count and seal.first_position < durable]
        at, seal = self._dice.choice([*below, seals[-1]])
        spoilt = bytearray(content)
        if (at, seal) in below:
            start, end = at + self._dice.randrange(seal.frame_bytes), at + seal.frame_bytes
            lost = min(SECTOR_BYTES, end - start)
            spoilt[start : start + lost] = bytes(lost)
        else:
            spoilt[at + self._dice.randrange(seal.frame_bytes)] ^= 1 << self._dice.randrange(8)
        if spoilt == content:
            return
        self._counts.damaged += 1
        path.write_bytes(spoilt)
        with suppress(DamagedLogError):
            EventLog.open(self._folder).close()
            raise BrokenPromiseError(f"damage at {at} of {path.name} was taken for a torn tail")
        if path.read_bytes() != spoilt:
            raise BrokenPromiseError("damage was changed")


def _within(events: State) -> State:
    """The same as a part of a base."""
    return {f"events/{path}": content for path, content in events.items()}


def _seals(content: bytes) -> list[tuple[int, log_format.Seal]]:
    """All frames of a sound segment: where each begins, and its seal."""
    found, at = list[tuple[int, log_format.Seal]](), 0
    while at < len(content):
        header = log_format.header_bytes(content[at : at + 8])
        assert header is not None, "the log was opened just now"
        seal = log_format.header_seal(content[at : at + header])
        assert seal is not None, "as above"
        found.append((at, seal))
        at += seal.frame_bytes
    return found


class Suite:
    """Scenario after scenario, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.counts = Counts()
        self._boots = folder / "boots"
        self._scratch = folder / "scratch"
        for path in (self._boots, self._scratch):
            path.mkdir()

    def scenario(self, dice: Random, *, plan: Plan | None = None, boots: int = 3, points: int = 60) -> None:
        """A chain of boots, each cut off, with so many crash points in each; without a plan, one is drawn.

        Raises:
            BrokenPromiseError: The log did not keep a promise.
        """
        self.counts.scenarios += 1
        plan = plan or replace(Plan.drawn(dice), reencoding=dice.choice([0.0, 0.1]))
        promise, numbers = Promise(), itertools.count()
        checker = Checker(self._scratch, self.counts, dice, segment_bytes_max=plan.segment_bytes_max)
        clear_folder(self._boots)
        for _ in range(boots):
            boot = Boot(self._boots, plan, dice, promise, numbers)
            with no_error("working"):
                boot.run()
            self.counts.killed += boot.mischief.killed
            self.counts.refused += boot.mischief.refused
            self.counts.failed += boot.mischief.failed
            state, floor = self._cut(boot, checker, dice, points)
            clear_folder(self._boots)
            write_folder(self._boots, state)
            promise.begin_anew(floor)

    def _cut(self, boot: Boot, checker: Checker, dice: Random, points: int) -> tuple[State, int]:
        """Check crash points of a boot, and say with what the next one begins."""
        trace, promise = boot.recorder.trace, boot.promise
        chosen = sorted(dice.randrange(len(trace) + 1) for _ in range(points))
        disk, seen = Disk(boot.recorder.start), set[int]()
        state, floor = boot.recorder.start, promise.floor_at(0)
        for point in chosen:
            while disk.steps < point:
                disk.apply(trace[disk.steps])
            state, floor = crash_state(disk, dice), promise.floor_at(point)
            known = hash((floor, *state.items()))
            if known not in seen:
                seen.add(known)
                checker.check(state, floor, promise.keys)
        return state, floor


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is a disk that we simulate."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the name
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(*, long: bool, seed: int) -> Report:
    """Cut the power 2,000 times, or 100,000 times."""
    wanted, began = 100_000 if long else 2_000, time.monotonic()
    failures: list[str] = []
    with fast_folder() as folder:
        suite = Suite(folder)
        for number in itertools.count():
            if suite.counts.crash_points >= wanted or len(failures) >= _FAILURES_MAX:
                break
            try:
                suite.scenario(Random(f"{seed} {number}"))  # noqa: S311 - to be repeated
            except BrokenPromiseError as error:
                failures.append(f"scenario {number} of seed {seed}: {error}")
    seconds = time.monotonic() - began
    figures: dict[str, Figure] = {
        "crash points": suite.counts.crash_points,
        "... with a torn tail": suite.counts.torn,
        "... during recovery": suite.counts.in_recovery,
        "damage told from torn tails": suite.counts.damaged,
        "scenarios": suite.counts.scenarios,
        "processes killed": suite.counts.killed,
        "writes refused": suite.counts.refused,
        "syncs failed": suite.counts.failed,
        "crash points a second": suite.counts.crash_points / seconds,
        "broken promises": len(failures),
    }
    return Report("power_cut", figures, failures, seconds)
