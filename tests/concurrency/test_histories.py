"""Seeded histories of processes and threads are clean; histories and code that are not are found out."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from eventstore import ANY, NO_STREAM, Finding
from tools.torture import histories
from tools.torture.histories import failures_of
from tools.torture.history_programs import ProgramKind, program
from tools.torture.history_runner import Followed, History, Seen
from tools.torture.linearizability import Call

SEED = 0
HISTORIES_UNTIL_FOUND = 60


def test_histories_are_clean() -> None:
    """200 histories, on the log and on the stores, forked and spawned, through rolls; seeds from 0."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = pool.submit(histories.run, long=False, seed=SEED).result()
    assert report.failures == []  # each names its seed
    assert report.figures["histories"] == histories.SHORT
    # They do meet: without that, a clean history would say nothing.
    assert int(report.figures["appends that lost to another"]) > histories.SHORT
    assert int(report.figures["events followed"]) > 0


def test_a_program_is_a_function_of_its_seed() -> None:
    """What a finding names is enough to let its program happen again."""
    kinds: list[ProgramKind] = ["log", "stores"]
    for kind in kinds:
        assert program(7, kind=kind) == program(7, kind=kind)
        assert program(7, kind=kind) != program(8, kind=kind)


# --- histories known good and known bad


def _event(position: int, stream: str, stream_version: int) -> Seen:
    return Seen(position, stream, stream_version, f"k{position}")


def _call(who: str, when: tuple[int, int], asked: Any, answered: Any) -> Call:
    return Call(who, asked, answered, *when)


def _append(
    who: str, when: tuple[int, int], parts: dict[str, tuple[Any, tuple[str, ...]]], answered: Any
) -> Call:
    asked = ("append", tuple((stream, keys, expected) for stream, (expected, keys) in parts.items()), False)
    return _call(who, when, asked, answered)


EVENTS = (_event(0, "a", 0), _event(1, "a", 1), _event(2, "b", 0), _event(3, "b", 1))
CALLS = {
    "first": _append("p0", (0, 10), {"a": (NO_STREAM, ("k0",))}, ("ok", 0, 1, (("a", 0),))),
    "refused": _append("p1", (5, 15), {"a": (NO_STREAM, ("k9",))}, ("conflict", "a", 0)),
    "both": _append(
        "p1", (20, 30), {"a": (0, ("k1",)), "b": (NO_STREAM, ("k2",))}, ("ok", 1, 3, (("a", 1), ("b", 0)))
    ),
    "read": _call("p2", (22, 40), ("read", 0), EVENTS[:3]),
    "length": _call("p0", (45, 46), ("next_position",), 3),
    "last": _append("p2", (50, 60), {"b": (ANY, ("k3",))}, ("ok", 3, 4, (("b", 1),))),
    "version": _call("p0", (70, 75), ("stream_version", "b"), 1),
    "stream": _call("p0", (80, 85), ("read_stream", "a", 0), EVENTS[:2]),
}
FOLLOWED = Followed("p1.follower", 0, EVENTS)
GOOD = History(tuple(CALLS.values()), (FOLLOWED,), EVENTS)


def _with(name: str, **changes: Any) -> History:
    """The good history with one call changed."""
    changed = {**CALLS, name: replace(CALLS[name], **changes)}
    return replace(GOOD, calls=tuple(changed.values()))


def _with_more(*calls: Call) -> History:
    return replace(GOOD, calls=(*GOOD.calls, *calls))


def _stores(*answers: Any) -> History:
    """Two processes at once store different configs of one name, and then one of them looks."""
    asked = [("store_configs", ((("tasks", "one"), content),)) for content in "xy"]
    looked = ("retrieve_config", "tasks", "one")
    calls = (
        _call("p0", (0, 10), asked[0], answers[0]),
        _call("p1", (1, 9), asked[1], answers[1]),
        _call("p1", (20, 30), looked, answers[2]),
    )
    return History(calls)


def test_the_good_history_is_clean() -> None:
    """Otherwise the rejections below would mean nothing."""
    assert failures_of(GOOD) == []


@pytest.mark.parametrize("winner", ["x", "y"])
def test_one_winner_is_clean(winner: str) -> None:
    """Either may win; the other is told."""
    told = ["ok" if content == winner else "duplicate" for content in "xy"]
    assert failures_of(_stores(*told, winner)) == []


_LOST = tuple(replace(event, position=event.position - 1) for event in EVENTS[1:])
_SWAPPED = (EVENTS[0], replace(EVENTS[3], position=1), *EVENTS[2:])


# What is wrong, what the judge says of it among other things, and the history.
BAD_HISTORIES: list[tuple[str, str, History]] = [
    ("an acknowledged event is lost", "not what was acknowledged", replace(GOOD, events=_LOST)),
    ("the last event is lost", "not what was acknowledged", replace(GOOD, events=EVENTS[:3])),
    (
        "a lost update: two were decided on version 0",
        "expectations did not hold",
        replace(
            _with_more(_append("p0", (90, 95), {"a": (0, ("k9",))}, ("ok", 4, 5, (("a", 2),)))),
            events=(*EVENTS, Seen(4, "a", 2, "k9")),
        ),
    ),
    (
        "two commits at one position",
        "two commits at one position",
        _with_more(_append("p0", (52, 58), {"b": (ANY, ("k3",))}, ("ok", 2, 4, (("b", 1),)))),
    ),
    ("one position twice", "not dense", replace(GOOD, events=(*EVENTS, EVENTS[3]))),
    (
        "one event twice",
        "events are there twice",
        replace(GOOD, events=(*EVENTS, replace(EVENTS[3], position=4, stream_version=2))),
    ),
    (
        "another event than the acknowledged one",
        "not what was acknowledged",
        replace(GOOD, events=_SWAPPED),
    ),
    (
        "an event that nobody appended",
        "nobody was told of",
        replace(GOOD, events=(*EVENTS, _event(4, "a", 2))),
    ),
    (
        "the event of a refused append",
        "nobody was told of",
        replace(GOOD, events=(*EVENTS, Seen(4, "a", 2, "k9"))),
    ),
    (
        "a read that misses what was acknowledged",
        "did not know of it",
        _with("read", invoked=31, answered=EVENTS[:1]),
    ),
    ("a read with a gap", "saw what is not there", _with("read", answered=(EVENTS[0], EVENTS[2]))),
    ("a length that misses half a commit", "did not know of it", _with("length", answered=2)),
    (
        "a length that shrinks, in another process",
        "did not know of it",
        _with_more(_call("p1", (47, 48), ("next_position",), 1)),
    ),
    ("a length of what was not yet written", "did not know of it", _with("length", answered=4)),
    (
        "durable before it was written",
        "did not know of it",
        _with_more(_call("p1", (47, 48), ("durable_position",), 4)),
    ),
    (
        "a commit in front of an earlier one",
        "did not know of it",
        _with("first", invoked=31, returned=35),
    ),
    ("a stale stream version", "stream b is not linearizable", _with("version", answered=0)),
    ("a stream that is gone again", "stream b is not linearizable", _with("version", answered=None)),
    ("a stale read of a stream", "stream a is not linearizable", _with("stream", answered=EVENTS[:1])),
    (
        "two winners of one stream",
        "stream a is not linearizable",
        _with("refused", answered=("ok", 0, 1, (("a", 0),))),
    ),
    (
        "a refusal without a reason",
        "stream a is not linearizable",
        _with("refused", answered=("conflict", "a", 7)),
    ),
    (
        "an acceptance against the expectation",
        "expectations did not hold",
        _with("last", asked=("append", (("b", ("k3",), NO_STREAM),), False)),
    ),
    (
        "a wrong stream version told",
        "stream versions are",
        _with("last", answered=("ok", 3, 4, (("b", 2),))),
    ),
    (
        "a follower that skips",
        "skipped or repeated",
        replace(GOOD, followed=(replace(FOLLOWED, seen=(EVENTS[0], *EVENTS[2:])),)),
    ),
    (
        "a follower that repeats",
        "skipped or repeated",
        replace(GOOD, followed=(replace(FOLLOWED, seen=(EVENTS[0], *EVENTS)),)),
    ),
    (
        "a follower that ends early",
        "silence",
        replace(GOOD, followed=(replace(FOLLOWED, seen=EVENTS[:2], problem="silence"),)),
    ),
    ("an error", "not an answer", _with("version", answered=("error", "OSError"))),
    ("a process that hung", "did not answer", replace(GOOD, problems=("p1 did not answer",))),
    (
        "a finding of verify",
        "unfinished",
        replace(GOOD, findings=(Finding("torn", "x", 0, 0, "unfinished"),)),
    ),
    ("two winners of one name", "configs is not linearizable", _stores("ok", "ok", "x")),
    ("no winner of a name", "configs is not linearizable", _stores("duplicate", "duplicate", "x")),
    ("the loser is retrieved", "configs is not linearizable", _stores("ok", "duplicate", "y")),
    ("the winner is missing", "configs is not linearizable", _stores("ok", "duplicate", "missing")),
]


@pytest.mark.parametrize(
    ("says", "history"), [case[1:] for case in BAD_HISTORIES], ids=[case[0] for case in BAD_HISTORIES]
)
def test_a_bad_history_is_rejected(says: str, history: History) -> None:
    """Each of these must not be, and the judge says what is wrong with it."""
    assert says in "\n".join(failures_of(history))


def test_stats_and_weights_are_judged_as_well() -> None:
    """A stale read of a run's rows, and best weights that were removed."""
    stored = _call("p0", (0, 1), ("store_rows", "training", "run", ((1, 0.5),)), "ok")
    assert failures_of(History((stored, _call("p1", (2, 3), ("retrieve_rows", "training", "run"), ()))))
    calls = [
        _call("p0", (0, 1), ("store_weights", "run", 10, 1.0), "ok"),
        _call("p0", (2, 3), ("choose_weights", "run", 10, "dice"), "ok"),
        _call("p1", (4, 5), ("remove_weights", "run", 10), "ok"),
    ]
    asked = ("best_weights", "run", "dice")
    assert failures_of(History((*calls, _call("p0", (6, 7), asked, "missing")))) == []
    assert failures_of(History((*calls, _call("p0", (6, 7), asked, 10))))
