"""Concurrency: histories of many processes and threads, judged from what each call was told.

A history is a few processes (forked bare, forked with everything open, started afresh) with two
threads each, five calls a thread, on one log or on the stores of one base, with files held up at
random moments. It is clean when

1. *each object is linearizable* (``linearizability``): each stream; all configs together, so that
   of those who store different configs of one name one wins; the stats, the scores and the
   weights of each run;
2. *there is one total order*: positions are dense; every commit is where it was said to be, in one
   piece, with expectations that held there; no event is there twice, and none that nobody appended;
   what was acknowledged before another call began stands in front of what that call wrote and
   is in what it read, in whatever process; so nobody's view ever gets shorter;
3. *readers and followers see prefixes* of that order: nothing skipped, nothing twice, through rolls;
4. *nobody was told anything else*: no error that the call cannot lead to, no warning, nobody hangs,
   and ``verify`` has nothing to say afterwards.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tools.torture import history_models as models
from tools.torture.history_models import OK
from tools.torture.history_programs import PROGRAM_KINDS, Program, program
from tools.torture.history_runner import Crew, History, Place, Seen
from tools.torture.linearizability import Call, Step, check
from tools.torture.report import Report

SHORT: Final = 200
LONG: Final = 10_000
_STORES_EVERY: Final = 16
"""Each so-many-th history is one of the stores, which cost more time."""
_SHARED_EVERY: Final = 7
"""Two of so many histories are on a log that hosts share, in a folder (``shared://``)."""
_FAILURES_SHOWN_MAX: Final = 10
_CALLS_OF_A_LOG: Final = frozenset(
    {"append", "read", "read_stream", "stream_version", "next_position", "durable_position"}
)
_CALLS_OF_CONFIGS: Final = {
    "store_configs": "store",
    "delete_config": "delete",
    "retrieve_config": "retrieve",
    "config_names": "names",
}
"""What the model calls them."""


def run(*, long: bool, seed: int) -> Report:
    """Let histories happen and judge them."""
    began = time.monotonic()
    counted: Counter[str] = Counter()
    failures: list[str] = []
    programs = [program_of(number) for number in range(seed, seed + (LONG if long else SHORT))]
    for kind in PROGRAM_KINDS:
        with Crew(kind) as crew:
            for happens in [one for one in programs if one.kind == kind]:
                done, found = judged(happens, crew, _addresses)
                counted.update(counts(done))
                failures += found
                if len(failures) >= _FAILURES_SHOWN_MAX:
                    break
    return Report("histories", dict(counted), failures[:_FAILURES_SHOWN_MAX], time.monotonic() - began)


def program_of(number: int) -> Program:
    """The program of a number: of the stores now and then, of a log mostly."""
    return program(number, kind="stores" if number % _STORES_EVERY == 0 else "log")


def _addresses(happens: Program, folder: Path) -> tuple[str, ...]:
    return (f"shared://{folder}",) if happens.seed % _SHARED_EVERY in (0, 1) else ()


Addresses = Callable[[Program, Path], tuple[str, ...]]
"""The addresses of an empty base for a program, which has a folder; none for a base in that folder."""


def judged(happens: Program, crew: Crew, addresses: Addresses) -> tuple[History, list[str]]:
    """Let a program happen and say what was wrong with it, with what it takes to see it again."""
    folder = Path(tempfile.mkdtemp(prefix="history-"))
    try:
        place = Place(folder, addresses(happens, folder))
        done = crew.perform(happens, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    where = "".join(f", {address}" for address in place.addresses)
    return done, [f"seed {happens.seed}, {happens.kind}{where}: {failure}" for failure in failures_of(done)]


def counts(done: History) -> dict[str, int]:
    """What there was in a history."""
    return {
        "histories": 1,
        "calls": len(done.calls),
        "events": len(done.events),
        "appends that lost to another": sum(_verb(call.answered) == "conflict" for call in done.calls),
        "configs that lost to another": sum(call.answered == models.DUPLICATE for call in done.calls),
        "events followed": sum(len(followed.seen) for followed in done.followed),
    }


# --- judging


def failures_of(done: History) -> list[str]:
    """Everything in a history that must not be; empty when it is clean."""
    failures = [*done.problems, *map(str, done.findings)]
    failures += [f"not an answer: {call}" for call in done.calls if _verb(call.answered) == "error"]
    if failures:
        return failures  # what follows takes answers for granted
    return [*_order_failures(done), *_follower_failures(done), *_object_failures(done)]


def _verb(words: Any) -> Any:
    return words[0] if isinstance(words, tuple) and words else None


# --- one total order


@dataclass
class _Commit:
    """A commit and the calls that were told of it: one, unless the same append was made several times."""

    first: int
    following: int
    versions: tuple[tuple[str, int], ...]
    calls: list[Call] = field(default_factory=list)


def _order_failures(done: History) -> Iterator[str]:
    events = done.events
    if [event.position for event in events] != list(range(len(events))):
        yield f"positions are not dense: {[event.position for event in events]}"
        return
    twice = [key for key, count in Counter(event.key for event in events).items() if count > 1]
    if twice:
        yield f"events are there twice: {twice}"
    commits = _commits(done.calls)
    yield from _strangers(done, commits)
    yield from _replay(events, commits)
    yield from _prefixes(done)
    yield from _real_time(done, commits)


def _commits(calls: Iterable[Call]) -> list[_Commit]:
    commits: dict[tuple[int, int], _Commit] = {}
    for call in calls:
        if _verb(call.asked) == "append" and _verb(call.answered) == OK:
            _, first, following, versions = call.answered
            commits.setdefault((first, following), _Commit(first, following, versions)).calls.append(call)
    return [commits[place] for place in sorted(commits)]


def _strangers(done: History, commits: Sequence[_Commit]) -> Iterator[str]:
    """Of a log every event was acknowledged to somebody; stores do not say which events they append."""
    if not all(_verb(call.asked) in _CALLS_OF_A_LOG for call in done.calls):
        return
    told = {position for commit in commits for position in range(commit.first, commit.following)}
    strange = [event for event in done.events if event.position not in told]
    if strange:
        yield f"events that nobody was told of: {strange}"


def _replay(events: Sequence[Seen], commits: Sequence[_Commit]) -> Iterator[str]:
    """Do the commits one after the other, in the order of their positions."""
    for one, other in pairwise(commits):
        if one.following > other.first:
            yield f"two commits at one position: {one} and {other}"
    for commit in commits:
        written = tuple((event.stream, event.key) for event in events[commit.first : commit.following])
        for call in commit.calls:
            _, parts, _ = call.asked
            if written != tuple((stream, key) for stream, keys, _ in parts for key in keys):
                yield f"at {commit.first} stands {written}, which is not what was acknowledged: {call}"
        yield from _versions(events, commit)


def _versions(events: Sequence[Seen], commit: _Commit) -> Iterator[str]:
    before = Counter(event.stream for event in events[: commit.first])
    last = {event.stream: event.stream_version for event in events[commit.first : commit.following]}
    if dict(commit.versions) != last:
        yield f"stream versions are {last}, and told were {commit.versions}"
    for event in events[commit.first : commit.following]:
        if event.stream_version != before[event.stream]:
            yield f"{event} has a stream version that is not the next, {before[event.stream]}"
        before[event.stream] += 1
    there = Counter(event.stream for event in events[: commit.first])
    # Of several calls that made the same append one was the first, and its expectations held.
    if not any(_expectations_held(there, call) for call in commit.calls):
        yield f"expectations did not hold at position {commit.first}: {commit.calls}"


def _expectations_held(there: Counter[str], call: Call) -> bool:
    _, parts, _ = call.asked
    return all(
        models.fits(expected, there[stream] - 1 if there[stream] else None) for stream, _, expected in parts
    )


def _prefixes(done: History) -> Iterator[str]:
    """What readers saw is what stands there."""
    for call in done.calls:
        verb, *arguments = call.asked
        if verb == "read":
            seen = call.answered
            if seen != done.events[arguments[0] : arguments[0] + len(seen)]:
                yield f"a reader saw what is not there, or not all of it: {call}"
        elif verb == "read_stream":
            of_stream = [event for event in done.events if event.stream == arguments[0]]
            if list(call.answered) != of_stream[arguments[1] : arguments[1] + len(call.answered)]:
                yield f"a reader of a stream saw what is not there, or not all of it: {call}"


def _real_time(done: History, commits: Sequence[_Commit]) -> Iterator[str]:
    """Who begins after another has been told a length of the log finds it no shorter.

    Every call that says how long the log is gives two numbers: before it, the log had at most
    ``before`` events, and after it at least ``after``. The greatest ``after`` of all calls that
    had returned is what ``before`` of a later one must not fall short of.
    """
    spans = [span for commit in commits for span in _commit_spans(commit)]
    spans += [span for call in done.calls for span in _reader_spans(call)]
    returned = sorted(spans, key=lambda span: span.returned)
    known, known_by, place = 0, None, 0
    for span in sorted(spans, key=lambda span: span.invoked):
        while place < len(returned) and returned[place].returned < span.invoked:
            if returned[place].after > known:
                known, known_by = returned[place].after, returned[place]
            place += 1
        if span.before is not None and span.before < known:
            yield f"{span.call}\n    came after {known_by and known_by.call}\n    and did not know of it"


@dataclass(frozen=True)
class _Span:
    call: Call
    invoked: int
    returned: int
    before: int | None
    after: int


def _commit_spans(commit: _Commit) -> Iterator[_Span]:
    """The commit was made after the first of its calls was invoked and before any of them returned."""
    ends = [call.returned for call in commit.calls if call.returned is not None]
    first = min(commit.calls, key=lambda call: call.invoked)
    yield _Span(first, first.invoked, min(ends), commit.first, commit.following)


def _reader_spans(call: Call) -> Iterator[_Span]:
    assert call.returned is not None, "every call of a clean history returned"
    verb, *arguments = call.asked
    if verb == "next_position":
        yield _Span(call, call.invoked, call.returned, call.answered, call.answered)
    elif verb == "read" and (call.answered or arguments[0] == 0):
        length = arguments[0] + len(call.answered)
        yield _Span(call, call.invoked, call.returned, length, length)
    elif verb == "durable_position":
        # It may lag behind, but what is durable is there.
        yield _Span(call, call.invoked, call.returned, None, call.answered)


def _follower_failures(done: History) -> Iterator[str]:
    for followed in done.followed:
        expected = done.events[followed.from_position : followed.from_position + len(followed.seen)]
        if followed.seen != expected:
            yield f"{followed.who} skipped or repeated: {followed.seen} instead of {expected}"
        elif followed.problem:
            yield f"{followed.who} after {len(followed.seen)} events: {followed.problem}"


# --- each object on its own


@dataclass(frozen=True)
class _Object:
    """Something that is linearizable by itself, and the calls that concern it."""

    initial: Any
    step: Step[Any]
    calls: list[Call] = field(default_factory=list)


def _object_failures(done: History) -> Iterator[str]:
    objects: dict[tuple[str, ...], _Object] = {}
    for call in done.calls:
        for name, asked, answered in _projected(call):
            one = objects.setdefault(name, _new_object(name))
            one.calls.append(Call(call.who, asked, answered, call.invoked, call.returned))
    for name, one in objects.items():
        verdict = check(one.calls, initial=one.initial, step=one.step)
        if not verdict.linearizable:
            yield f"{' '.join(name)} is {verdict}"


def _new_object(name: tuple[str, ...]) -> _Object:
    match name[0]:
        case "stream":
            return _Object(models.NO_KEYS, models.stream)
        case "configs":
            return _Object(models.NO_CONFIGS, models.configs)
        case "weights":
            return _Object(models.NO_WEIGHTS, models.weights)
    return _Object(models.NO_ROWS, models.rows)


def _projected(call: Call) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """What a call says of which object: its name, what was asked of it, what it answered."""
    verb, *arguments = call.asked
    match verb:
        case "append":
            yield from _projected_append(call)
        case "read_stream":
            yield ("stream", arguments[0]), ("read", arguments[1]), tuple(e.key for e in call.answered)
        case "stream_version":
            yield ("stream", arguments[0]), ("version",), call.answered
        case _ if verb in _CALLS_OF_CONFIGS:
            yield ("configs",), (_CALLS_OF_CONFIGS[verb], *arguments), call.answered
        case "store_rows" | "delete_rows" | "retrieve_rows":
            what, run, *rest = arguments
            yield (what, "of", run), (verb.removesuffix("_rows"), *rest), call.answered
        case _ if verb.endswith("_weights"):
            run, *rest = arguments
            yield ("weights", "of", run), (verb.removesuffix("_weights"), *rest), call.answered


def _projected_append(call: Call) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """An append to several streams says something of each; a refused one of those it looked at."""
    _, parts, recognised = call.asked
    outcome, *rest = call.answered
    versions = dict(rest[2]) if outcome == OK else {}
    for stream, keys, expected in parts:
        name = ("stream", stream)
        refused = outcome != OK and stream == rest[0]
        answered = ("conflict", rest[1]) if refused else OK
        if not keys and (refused or not recognised):
            yield name, ("expect", expected), answered
        elif keys and (refused or outcome == OK):
            yield (
                name,
                ("append", expected, keys, recognised),
                answered if refused else (OK, versions.get(stream)),
            )
        elif not recognised:
            yield name, ("expect", expected), OK  # it was looked at, and the reason was another one
        if refused:
            return
