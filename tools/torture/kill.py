"""Writers are killed (SIGKILL), again and again, in the middle of whatever they do; what then?

Four processes do all store operations on one base and say of each what they are about to do, and that
it has returned. They end at random moments, or at a failpoint: before, after or in the middle of
any step on the way of bytes to the disk. A successor takes over each one's subjects, while the others
go on. After each end, a fresh process looks at what the dead one's subjects are:

- every operation that had returned is there, with all of its content;
- the one that was under way is there, or is not there: nothing is there by half;
- every store opens, first read-only; ``verify`` finds no damage; positions and stream versions are
  dense; what commits said of their positions holds; of several writers of one config name one won.

When a base has seen enough it is looked at as a whole once more: ``verify`` finds nothing but notes, read
models that followed all along are equal to those made from nothing, links and trash can be mended.

A kill leaves the operating system's memory alone: what a power cut does is another suite's. Failpoints
are spread evenly: each writer gets some of those that were tried least.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dacapo_store import FileConfigStore, LocalArrayStore, LocalWeightsStore, housekeeping
from dacapo_store.base import Base
from dacapo_store.location import VIEWS
from eventstore import EventLog, LogNotFoundError, RecordedEvent, Verdict
from projections import ANYTHING_NEW, ReadModels
from tools.torture.failpoints import FAILPOINTS, Failpoints
from tools.torture.operations import (
    SHARED_KIND,
    SHARED_NOTES,
    BrokenPromiseError,
    Operation,
    State,
    after,
    choose,
    goes_to_both,
    observe,
    outcomes,
    perform,
)
from tools.torture.report import Report
from tools.torture.zygote import Job, Tell, Worker, Zygote

KILLS_LONG: Final = 2400
KILLS_SHORT: Final = 100

_WRITERS: Final = 4
_KILLS_OF_A_BASE: Final = 25
_SEGMENT_BYTES_MAX: Final = 20_000
_LIFE_SECONDS_MAX: Final = 0.6
_HUNT_SECONDS: Final = 10.0
_TARGETS: Final = 6
_OFTEN: Final = 0.8
_RECOVERY_SECONDS: Final = 0.15
"""How long the others are given to come upon a torn tail before a looker does."""

_TEARS: Final = "in the middle write_at segment"
_REACHED_BY: Final = {
    "choice": ("store_weights", "store_best"),
    "choices folder": ("store_weights", "store_best"),
    "link": ("store_weights", "remove_weights"),
    "links folder": ("store_weights", "remove_weights"),
    "weights": ("store_weights", "remove_weights"),
    "weights folder": ("store_weights", "remove_weights"),
    "trash": ("make_array", "remove_array"),
    "trash folder": ("make_array", "remove_array"),
    "array folder": ("make_array", "remove_array"),
}
"""The operations that come to failpoints of such files; the others come to any."""

_RECOVERY: Final = tuple(
    point
    for point in FAILPOINTS
    if point.endswith(("quarantine", "quarantine folder", "cut segment", "sync_file segment"))
)


def run(*, long: bool, seed: int) -> Report:
    """Kill writers and report; ``long`` makes more than two thousand kills."""
    began = time.monotonic()
    tally = Tally()
    with Zygote("tools.torture.kill") as zygote, tempfile.TemporaryDirectory() as folder:
        failures = torture(
            zygote, Path(folder), kills=KILLS_LONG if long else KILLS_SHORT, seed=seed, tally=tally
        )
    return Report("kill", tally.figures(), failures, time.monotonic() - began)


@dataclass
class Tally:
    """What was done, counted."""

    kills: int = 0
    bases: int = 0
    checks: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    under_way: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    unfinished: int = 0
    events: int = 0
    set_aside: int = 0
    failpoints: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, int | float | str]:
        """For the report."""
        return {
            "kills": self.kills,
            "of them at a failpoint": sum(self.failpoints.values()),
            "of them at a random moment": self.kills - sum(self.failpoints.values()),
            "failpoints hit": len(self.failpoints),
            "failpoints there are": len(FAILPOINTS),
            "never hit": ", ".join(point for point in FAILPOINTS if point not in self.failpoints) or "none",
            "fewest kills of a failpoint that was hit": min(self.failpoints.values(), default=0),
            "bases": self.bases,
            "looks by a fresh process": self.checks,
            "events": self.events,
            "operations acknowledged": sum(self.acknowledged.values()),
            "operations under way at a kill": sum(self.under_way.values()),
            "of these that change anything, there afterwards": self.finished,
            "of these that change anything, not there": self.unfinished,
            "torn tails set aside": self.set_aside,
            **{f"acknowledged {what}": count for what, count in sorted(self.acknowledged.items())},
        }


def torture(
    zygote: Zygote,
    folder: Path,
    *,
    kills: int,
    seed: int,
    tally: Tally,
    broken: str | None = None,
    failpoints: Sequence[str] = FAILPOINTS,
    only: Sequence[str] = (),
) -> list[str]:
    """Kill writers until there were so many kills; what was found, which ends it at once.

    Args:
        zygote: Forks the workers; its jobs are this module's.
        folder: Where the bases are made.
        kills: How many kills there are to be, at least.
        seed: Where the dice begin.
        tally: Counts along.
        broken: Breaks the writers on purpose, to see that it is noticed: a name out of ``mutations.kill``.
        failpoints: Those that writers are to end at.
        only: The operations that they do; all, when empty.
    """
    habits = _Habits(broken, failpoints, only)
    while tally.kills < kills:
        round_seed = seed * 10_000 + tally.bases
        base = folder / f"base-{tally.bases}"
        round_ = _Round(zygote, base, random.Random(round_seed), tally, habits)  # noqa: S311
        failures = round_.play(min(_KILLS_OF_A_BASE, kills - tally.kills))
        tally.bases += 1
        if failures:
            return [f"{failure} (seed {seed}, base {tally.bases - 1})" for failure in failures]
        shutil.rmtree(base)
    return []


@dataclass(frozen=True)
class _Habits:
    """What the writers of all bases have in common; see ``torture``."""

    broken: str | None
    failpoints: Sequence[str]
    only: Sequence[str]


@dataclass
class _Slot:
    """One writer after the other, with the same subjects.

    Attributes:
        name: What its subjects are named by.
        state: What its subjects must hold, by all that was acknowledged.
        under_way: The operation that was begun and has not returned.
        next_number: What the next operation's content will be made of.
    """

    name: str
    state: State = field(default_factory=State)
    under_way: Operation | None = None
    next_number: int = 1
    worker: Worker | None = None
    ends_at: float = 0.0


class _Round:
    """One base and its writers, until it has seen enough kills."""

    def __init__(
        self, zygote: Zygote, base: Path, dice: random.Random, tally: Tally, habits: _Habits
    ) -> None:
        self._zygote = zygote
        self._base = base
        self._dice = dice
        self._tally = tally
        self._habits = habits
        self._slots = [_Slot(f"w{number}") for number in range(_WRITERS)]
        self._claims: list[dict[str, Any]] = []
        self._failures: list[str] = []
        self._torn = False

    def play(self, kills: int) -> list[str]:
        """Let writers live and die; what was found."""
        follower = self._zygote.fork("follow", base=str(self._base))
        try:
            enough = self._tally.kills + kills - _WRITERS
            for slot in self._slots:
                self._start(slot)
            while not self._failures and self._tally.kills < enough:
                dead = self._await_ends()
                if self._torn:
                    time.sleep(_RECOVERY_SECONDS)
                self._look(dead)
                follower.tell({"digests": False})
                for slot in dead:
                    self._start(slot)
            self._end_all()
            if not self._failures:
                self._look_at_the_end(follower)
        finally:
            for slot in self._slots:
                if slot.worker is not None:
                    slot.worker.kill()
                    slot.worker.hear_all()
                    slot.worker.end()
            follower.kill()
            follower.hear_all()
            follower.end()
        return self._failures

    # --- lives and deaths

    def _start(self, slot: _Slot) -> None:
        targets = self._targets()
        slot.worker = self._zygote.fork(
            "write",
            base=str(self._base),
            writer=slot.name,
            state=slot.state.as_document(),
            again=None if slot.under_way is None else slot.under_way.as_document(),
            number=slot.next_number,
            seed=self._dice.randrange(1 << 30),
            targets=targets,
            often=_operations_that_reach(next(iter(targets), "")),
            broken=self._habits.broken,
            only=self._habits.only,
        )
        slot.under_way = None
        # Who is broken is to end where that shows, however slow the machine is.
        life = self._dice.uniform(0.01, _LIFE_SECONDS_MAX) if self._habits.broken is None else _HUNT_SECONDS
        slot.ends_at = time.monotonic() + life

    def _targets(self) -> dict[str, int]:
        """At which call of which failpoints a writer is to end; none for one that dies at random."""
        if self._habits.broken is not None:
            return {point: self._dice.choice([1, 2, 3]) for point in self._habits.failpoints}
        if self._dice.random() < 0.2:  # noqa: PLR2004 - a share of random moments, always
            return {}
        order = sorted(self._habits.failpoints, key=lambda point: (self._tried(point), self._dice.random()))
        chosen = order[:_TARGETS]
        self._tally.tried.update(chosen)
        # Recovery needs a torn tail, and whoever comes to it is to die there as well.
        if self._dice.random() < 0.2:  # noqa: PLR2004 - as often as that
            chosen.append(_TEARS)
        hits = self._tally.failpoints
        chosen.append(min(_RECOVERY, key=lambda point: (hits[point], self._dice.random())))
        return {
            point: 1 if point in _RECOVERY else self._dice.choice([1, 1, 2, 3, 5])
            for point in dict.fromkeys(chosen)
        }

    def _tried(self, failpoint: str) -> int:
        return self._tally.tried[failpoint] + 5 * self._tally.failpoints[failpoint]

    def _await_ends(self) -> list[_Slot]:
        """Hear what the writers say until one or more of them have ended; those."""
        self._torn = False
        wanted = self._dice.choice([1, 2, 3, 3])
        alive = list(self._slots)
        while len(self._slots) - len(alive) < wanted:
            wait = max(0.0, min(slot.ends_at for slot in alive) - time.monotonic())
            workers = [slot.worker for slot in alive if slot.worker is not None]
            speaking = select.select(workers, [], [], wait)[0]
            ended = [slot for slot in alive if slot.worker in speaking and not self._hear(slot)]
            late = [slot for slot in alive if slot not in ended and time.monotonic() >= slot.ends_at]
            for slot in late:
                self._kill(slot)
            alive = [slot for slot in alive if slot not in (*ended, *late)]
        dead = [slot for slot in self._slots if slot not in alive]
        for slot in dead:
            self._bury(slot)
        return dead

    def _kill(self, slot: _Slot) -> None:
        assert slot.worker is not None
        slot.worker.kill()
        while self._hear(slot):
            pass

    def _end_all(self) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                self._kill(slot)
                self._bury(slot)

    def _bury(self, slot: _Slot) -> None:
        assert slot.worker is not None
        status = slot.worker.end()
        slot.worker = None
        self._tally.kills += 1
        if slot.under_way is not None:
            self._tally.under_way[slot.under_way.what] += 1
        if status != -signal.SIGKILL:
            self._failures.append(f"writer {slot.name} ended by itself, with status {status}")

    def _hear(self, slot: _Slot) -> bool:
        """Take note of what a writer says; False when it has ended."""
        assert slot.worker is not None
        said = slot.worker.hear()
        for word in said or []:
            self._note(slot, word)
        return said is not None

    def _note(self, slot: _Slot, word: Mapping[str, Any]) -> None:
        if "begins" in word:
            slot.under_way = Operation(**word["begins"])
            slot.next_number = max(slot.next_number, slot.under_way.number + 1)
        elif "ended" in word:
            assert slot.under_way is not None
            slot.state = after(slot.under_way, slot.state)
            self._tally.acknowledged[slot.under_way.what] += 1
            self._claims.append({"writer": slot.name, "number": slot.under_way.number, **word["ended"]})
            slot.under_way = None
        elif "failpoint" in word:
            self._tally.failpoints[word["failpoint"]] += 1
            self._torn = self._torn or word["failpoint"] == _TEARS
        else:
            self._failures.append(f"writer {slot.name}: {word['error']}")

    # --- looking

    def _look(self, dead: Sequence[_Slot], *, at_the_end: bool = False) -> dict[str, Any]:
        """Let a fresh process look at the base and at the subjects of the dead."""
        looker = self._zygote.fork("look", base=str(self._base))
        names = [slot.name for slot in dead]
        answer = looker.answer({"writers": names, "claims": self._claims, "at_the_end": at_the_end})
        looker.hear_all()
        looker.end()
        self._tally.checks += 1
        if "error" in answer:
            self._failures.append(answer["error"])
            return answer
        for slot in dead:
            self._compare(slot, State.of_document(answer["states"][slot.name]))
        return answer

    def _compare(self, slot: _Slot, found: State) -> None:
        expected = [slot.state] if slot.under_way is None else outcomes(slot.under_way, slot.state)
        if found not in expected:
            self._failures.append(
                f"{slot.name} after {slot.under_way or 'nothing under way'}: {found.differences(expected[0])}"
            )
        elif slot.under_way is not None and expected[0] != expected[-1]:
            self._tally.finished += found == expected[-1]
            self._tally.unfinished += found != expected[-1]
        slot.state = found

    def _look_at_the_end(self, follower: Worker) -> None:
        answer = self._look(self._slots, at_the_end=True)
        follower.tell({"digests": True})
        followed = [word for word in self._heard_to_the_end(follower) if "digests" in word]
        if self._failures:
            return
        self._tally.events += answer["position"]
        self._tally.set_aside += answer["set_aside"]
        if [answer["position"], answer["digests"]] != [followed[-1]["position"], followed[-1]["digests"]]:
            self._failures.append(f"read models that followed are at {followed}, made anew at {answer}")

    def _heard_to_the_end(self, follower: Worker) -> list[dict[str, Any]]:
        heard = follower.hear_all()
        self._failures += [f"the follower: {word['error']}" for word in heard if "error" in word]
        return heard


def _operations_that_reach(failpoint: str) -> Sequence[str]:
    """Those that a writer does most if it is to come to a failpoint within its short life."""
    kinds = [kind for kind in _REACHED_BY if failpoint.endswith(f" {kind}")]
    return _REACHED_BY[kinds[0]] if kinds else ()


# --- the workers


def _write(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Do operation after operation until killed."""
    os.nice(10)  # those who look have to wait for nobody
    base, writer = Path(task["base"]), str(task["writer"])
    _let_segments_roll_early()
    if task["broken"] is not None:
        from tools.torture.mutations.kill import break_this_process  # which builds on this module

        break_this_process(task["broken"])
    Failpoints(base, task["targets"], lambda name: tell({"failpoint": name})).install()
    dice = random.Random(task["seed"])  # noqa: S311 - habits of a writer
    state, number = State.of_document(task["state"]), int(task["number"])
    if task["again"] is not None and task["again"]["what"] == "note":
        # What was under way may be there: the same again must not be there twice.
        state = do(Operation(**task["again"]), state, base, writer, tell)
    while True:
        operation = choose(dice, state, number, writer=writer)
        if task["only"] and operation.what not in task["only"]:
            continue
        if task["often"] and operation.what not in task["often"] and dice.random() < _OFTEN:
            continue
        state = do(operation, state, base, writer, tell)
        number += 1
        time.sleep(dice.random() * 0.02)  # so that there is more to kill than to check


def do(operation: Operation, state: State, base: Path, writer: str, tell: Tell) -> State:
    """Do an operation and tell of it, before and after; the state that it leaves."""
    tell({"begins": operation.as_document()})
    answer = perform(operation, state, base=base, writer=writer)
    tell({"ended": answer})
    return after(operation, state)


def _look(task: Mapping[str, Any], told: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Look at a base as a process does that begins now."""
    base, wish = Path(task["base"]), next(told)
    _let_segments_roll_early()
    # The very first writer may have been killed before there was a log.
    with contextlib.suppress(LogNotFoundError), EventLog.open(base / "events", read_only=True) as log:
        _check_events(list(log.read()), wish["claims"])
    verdict = Base.at(base).log.verify()
    _require(verdict.ok, f"verify found {verdict.findings}")
    states = {writer: observe(base, writer).as_document() for writer in wish["writers"]}
    answer: dict[str, Any] = {"states": states}
    if wish["at_the_end"]:
        answer |= _look_at_the_end(base, verdict)
    tell(answer)


def _check_events(events: Sequence[RecordedEvent], claims: Sequence[Mapping[str, Any]]) -> None:
    """Dense positions and stream versions, and what writers were told of their commits."""
    versions: Counter[str] = Counter()
    for position, event in enumerate(events):
        _require(event.position == position, f"position {event.position} stands at {position}")
        _require(event.stream_version == versions[event.stream], f"stream {event.stream} is not dense")
        versions[event.stream] += 1
    for claim in claims:
        if "first_position" in claim:
            span = events[claim["first_position"] : claim["next_position"]]
            found = {(event.data.get("writer"), event.data.get("number")) for event in span}
            _require(found == {(claim["writer"], claim["number"])}, f"{claim} holds {found}")
    _check_winners(events, [claim for claim in claims if "shared" in claim])
    _check_commits_of_two_streams(events)


def _check_winners(events: Sequence[RecordedEvent], claims: Sequence[Mapping[str, Any]]) -> None:
    """A config that all writers want to store has one owner, and they were told the same."""
    owners: dict[str, list[str]] = {}
    for event in events:
        if event.type == "ConfigStored" and event.data["kind"] == SHARED_KIND:
            owners.setdefault(event.data["name"], []).append(event.data["document"]["owner"])
    for name, owned_by in owners.items():
        _require(len(owned_by) == 1, f"{name} was won by {owned_by}")
    for claim in claims:
        owned_by = owners.get(claim["shared"], [])
        _require(owned_by != [] and (owned_by == [claim["writer"]]) == claim["won"], f"{claim}: {owned_by}")


def _check_commits_of_two_streams(events: Sequence[RecordedEvent]) -> None:
    """A commit to two streams is in both or in none, and once."""
    notes = [
        (event.stream, event.data["writer"], event.data["number"])
        for event in events
        if event.type == "Noted"
    ]
    shared = [(writer, number) for stream, writer, number in notes if stream == SHARED_NOTES]
    own = {(writer, number) for stream, writer, number in notes if stream != SHARED_NOTES}
    expected = sorted(note for note in own if goes_to_both(note[1]))
    _require(sorted(shared) == expected, f"{SHARED_NOTES} has {sorted(shared)}, not {expected}")


def _look_at_the_end(base: Path, verdict: Verdict) -> dict[str, Any]:
    """The whole base, when nobody writes any more."""
    log = Base.at(base).log
    # Whoever comes behind a kill in the middle of a recovery goes on in a new file, which is noted.
    worse = [finding for finding in verdict.findings if finding.severity != "note"]
    _require(not worse, f"verify has to say: {worse}")
    _require(verdict.events == log.next_position, f"verify read {verdict.events} of {log.next_position}")
    _require(not list((base / "events").glob(".*.tmp")), "temporary segments are left")
    FileConfigStore(base / "configs").retrieve_trainer_config_names()
    weights = LocalWeightsStore(base)
    weights.repair_links()
    _check_links(base)
    LocalArrayStore(base).empty_trash()
    left = [str(path) for path in base.glob("*/.trash/*")]
    _require(not left, f"the trash holds {left}")
    position = Base.at(base).views.catch_up()
    digests = Base.at(base).views.digests()
    _look_at_a_snapshot(base, digests)
    quarantine = base / "events" / "quarantine"
    return {
        "position": position,
        "digests": digests,
        "set_aside": len(list(quarantine.iterdir())) if quarantine.exists() else 0,
    }


def _look_at_a_snapshot(base: Path, digests: dict[str, str]) -> None:
    """The follower has made snapshots while writers died; whoever begins with one sees the same."""
    housekeeping.publish(base, tail_limit=ANYTHING_NEW)
    newcomer = ReadModels(Base.at(base).log, snapshots=base / VIEWS)
    _require(newcomer.digests() == digests, "a snapshot shows something else than the log")
    newcomer.close()


def _check_links(base: Path) -> None:
    """Each weights file that is on record has its link, and there is no other link."""
    rows = Base.at(base).query("SELECT run, iteration, path FROM weights").fetchall()
    expected = {f"{run}/checkpoints/iterations/{iteration}": path for run, iteration, path in rows}
    links = [path for path in base.glob("*/checkpoints/iterations/*") if not path.name.startswith(".")]
    _require(
        {str(link.relative_to(base)) for link in links} == expected.keys(), f"links: {links}, not {expected}"
    )
    for link, path in expected.items():
        _require((base / link).samefile(base / path), f"{link} is not {path}")


def _follow(task: Mapping[str, Any], told: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Keep read models and let them catch up whenever told to; say at the end what they hold."""
    base = Path(task["base"])
    for wish in told:
        views = Base.at(base).views
        position = views.catch_up()
        housekeeping.publish(base, tail_limit=ANYTHING_NEW)
        if wish["digests"]:
            tell({"position": position, "digests": views.digests()})
            return


def _let_segments_roll_early() -> None:
    """A base opens its log with the default, and a history of kilobytes is to have segments, too."""
    defaults = EventLog.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    defaults["segment_bytes_max"] = _SEGMENT_BYTES_MAX


def _require(kept: bool, broken: str) -> None:  # noqa: FBT001 - a condition, like that of an assert
    if not kept:
        raise BrokenPromiseError(broken)


JOBS: Final[dict[str, Job]] = {"write": _write, "look": _look, "follow": _follow}
