"""The log against a list: whatever is done to it, in whatever order, it says what the list says.

Hypothesis drives appends with right and wrong expectations, to one stream and to several, with and
without ids, repetitions right and wrong, reads of every kind, and opening anew, through two handles
of one history. The model is a list of events in memory.
"""

from __future__ import annotations

import datetime as dt
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Commit,
    DuplicateEventError,
    Event,
    EventLog,
    ExpectedVersion,
    ExpectedVersionError,
    RecordedEvent,
    StreamAppend,
    derived_id,
    reencode_log,
)
from eventstore.schema import recorded_events
from eventstore.storage.memory import MemoryStorage

_NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
_STREAMS = ["a", "b", "training/run 7"]
_TYPES = ["A", "B", "C"]

_streams = st.sampled_from(_STREAMS)
_handles = st.integers(0, 1)
_columns = st.none() | st.lists(st.none() | st.floats(), max_size=3)
_positions = st.integers(0, 40)
# How an expectation relates to what is the case; "behind" and "ahead" are wrong versions.
_beliefs = st.sampled_from(["any", "right", "state", "other state", "behind", "ahead"])


@dataclass(frozen=True)
class _Written:
    """An event as the model knows it."""

    stream: str
    stream_version: int
    type: str
    data: Any
    values: tuple[bytes | None, ...] | None
    event_id: UUID
    minutes: int


@dataclass(frozen=True)
class _Draft:
    """An event to append, short of its id."""

    type: str
    data: Any
    values: list[float | None] | None
    minutes: int


_drafts = st.lists(
    st.builds(
        _Draft,
        type=st.sampled_from(_TYPES),
        data=st.dictionaries(st.sampled_from(["x", "$y"]), st.integers(0, 9) | st.floats(allow_nan=False)),
        values=_columns,
        minutes=st.integers(0, 20),
    ),
    min_size=1,
    max_size=4,
)


def _bits(values: Sequence[float | None] | None) -> tuple[bytes | None, ...] | None:
    return None if values is None else tuple(None if n is None else repr(n).encode() for n in values)


def _facts(event: RecordedEvent) -> _Written:
    return _Written(
        stream=event.stream,
        stream_version=event.stream_version,
        type=event.type,
        data=event.data,
        values=_bits(None if event.values is None else event.values.to_pylist()),
        event_id=event.event_id,
        minutes=(event.recorded_at - _NOON) // dt.timedelta(minutes=1),
    )


class _LogMachine(RuleBasedStateMachine):
    """Two handles of one log, and the list that they must agree with."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[_Written] = []
        self.commits: list[tuple[list[StreamAppend], Commit]] = []
        self.handles: list[EventLog] = []
        self.ids = (derived_id("machine", number) for number in itertools.count())

    def open(self, segment_bytes_max: int) -> EventLog:
        """Open the log under test."""
        raise NotImplementedError

    @initialize(sizes=st.tuples(st.sampled_from([1, 2500, 1 << 20]), st.sampled_from([1, 2500, 1 << 20])))
    def begin(self, sizes: tuple[int, int]) -> None:
        self.handles = [self.open(size) for size in sizes]

    def teardown(self) -> None:
        if not self.handles:
            return
        self._everything_is_there()
        for handle in self.handles:
            handle.close()

    # --- the model

    def _version(self, stream: str) -> int | None:
        versions = [event.stream_version for event in self.model if event.stream == stream]
        return versions[-1] if versions else None

    def _expectation(self, stream: str, belief: str) -> tuple[ExpectedVersion, bool]:
        """An expectation, and whether it fits."""
        actual = self._version(stream)
        states = (NO_STREAM, STREAM_EXISTS) if actual is None else (STREAM_EXISTS, NO_STREAM)
        right: ExpectedVersion = NO_STREAM if actual is None else actual
        behind: ExpectedVersion = NO_STREAM if not actual else actual - 1
        return {
            "any": (ANY, True),
            "right": (right, True),
            "state": (states[0], True),
            "other state": (states[1], False),
            "behind": (behind, actual is None),
            "ahead": ((-1 if actual is None else actual) + 1, False),
        }[belief]

    def _event(self, draft: _Draft, *, with_id: bool) -> Event:
        return Event(
            draft.type,
            draft.data,
            values=draft.values,
            event_id=next(self.ids) if with_id else None,
            recorded_at=_NOON + dt.timedelta(minutes=draft.minutes),
        )

    def _accept(self, appends: list[StreamAppend], commit: Commit) -> None:
        """Put a commit into the model, and check what it says of itself."""
        assert commit.first_position == len(self.model)
        event_ids = iter(commit.event_ids)
        for part in appends:
            for event in part.events:
                previous = self._version(part.stream)
                version = 0 if previous is None else previous + 1
                event_id = next(event_ids)
                assert event.event_id in (None, event_id)
                assert event.recorded_at is not None
                minutes = (event.recorded_at - _NOON) // dt.timedelta(minutes=1)
                self.model.append(
                    _Written(
                        part.stream, version, event.type, event.data, _bits(event.values), event_id, minutes
                    )
                )
        assert commit.next_position == len(self.model)
        versions = {part.stream: self._version(part.stream) for part in appends if part.events}
        assert commit.stream_versions == versions
        if all(event.event_id is not None for part in appends for event in part.events):
            self.commits.append((appends, commit))

    # --- writing

    @rule(
        handle=_handles,
        stream=_streams,
        drafts=_drafts,
        belief=_beliefs,
        with_ids=st.booleans(),
        durability=st.sampled_from(["commit", "os"]),
    )
    def append(
        self, handle: int, stream: str, drafts: list[_Draft], belief: str, *, with_ids: bool, durability: Any
    ) -> None:
        """One stream: written where the expectation fits, refused with the facts where it does not."""
        expected, fits = self._expectation(stream, belief)
        part = StreamAppend(stream, [self._event(draft, with_id=with_ids) for draft in drafts], expected)
        log = self.handles[handle]
        if fits:
            self._accept([part], log.append(stream, part.events, expected=expected, durability=durability))
            if durability == "commit":
                assert log.durable_position == len(self.model)
            return
        with pytest.raises(ExpectedVersionError) as caught:
            log.append(stream, part.events, expected=expected, durability=durability)
        assert (caught.value.stream, caught.value.actual) == (stream, self._version(stream))

    @rule(
        handle=_handles,
        parts=st.dictionaries(_streams, st.tuples(_drafts | st.just([]), _beliefs), min_size=2),
        with_ids=st.booleans(),
    )
    def append_to_streams(
        self, handle: int, parts: dict[str, tuple[list[_Draft], str]], *, with_ids: bool
    ) -> None:
        """Several streams: all of them or none."""
        appends, fit = [], True
        for stream, (drafts, belief) in parts.items():
            expected, fits = self._expectation(stream, belief)
            fit = fit and fits
            appends.append(
                StreamAppend(stream, [self._event(draft, with_id=with_ids) for draft in drafts], expected)
            )
        if not any(part.events for part in appends):
            return
        if fit:
            self._accept(appends, self.handles[handle].append_to_streams(appends))
            return
        with pytest.raises(ExpectedVersionError):
            self.handles[handle].append_to_streams(appends)

    @precondition(lambda self: self.commits)
    @rule(handle=_handles, data=st.data())
    def repeat(self, handle: int, data: st.DataObject) -> None:
        """The same events again: the same commit, and nothing written, whatever was expected."""
        appends, commit = data.draw(st.sampled_from(self.commits))
        assert self.handles[handle].append_to_streams(appends) == commit

    @precondition(lambda self: self.commits)
    @rule(handle=_handles, data=st.data(), fault=st.sampled_from(["content", "stream", "more"]))
    def repeat_wrongly(self, handle: int, data: st.DataObject, fault: str) -> None:
        """Known ids in another sense: refused, and nothing written."""
        appends, _ = data.draw(st.sampled_from(self.commits))
        part = next(part for part in appends if part.events)
        first, rest = part.events[0], list(part.events[1:])
        altered = {
            "content": StreamAppend(part.stream, [Event("Altered", event_id=first.event_id), *rest]),
            "stream": StreamAppend("elsewhere", part.events),
            "more": StreamAppend(part.stream, [first, *rest, Event("A", event_id=next(self.ids))]),
        }[fault]
        others = [other for other in appends if other is not part]
        with pytest.raises(DuplicateEventError):
            self.handles[handle].append_to_streams([altered, *others])

    @rule(handle=_handles, segment_bytes_max=st.sampled_from([1, 2500, 1 << 20]))
    def open_again(self, handle: int, segment_bytes_max: int) -> None:
        """A handle is closed and the log opened anew, perhaps to roll at another size."""
        self.handles[handle].close()
        self.handles[handle] = self.open(segment_bytes_max)

    # --- reading

    @rule(
        handle=_handles,
        from_position=_positions,
        until=st.none() | _positions,
        stream=st.none() | _streams,
        types=st.none() | st.sets(st.sampled_from(_TYPES)),
        in_batches=st.booleans(),
    )
    def read(
        self,
        handle: int,
        from_position: int,
        until: int | None,
        stream: str | None,
        types: set[str] | None,
        *,
        in_batches: bool,
    ) -> None:
        """Any read gives what a filter over the list gives."""
        log = self.handles[handle]
        if in_batches:
            batches = log.read_batches(from_position, until, stream=stream, types=types)
            found = [event for batch in batches for event in recorded_events(batch)]
        else:
            found = list(log.read(from_position, until, stream=stream, types=types))
        expected = [
            (position, event)
            for position, event in enumerate(self.model)
            if position >= from_position
            and (until is None or position < until)
            and stream in (None, event.stream)
            and (types is None or event.type in types)
        ]
        assert [(event.position, _facts(event)) for event in found] == expected

    @rule(handle=_handles, stream=_streams, from_version=st.integers(0, 10))
    def read_stream(self, handle: int, stream: str, from_version: int) -> None:
        """A stream from a version on."""
        found = [_facts(event) for event in self.handles[handle].read_stream(stream, from_version)]
        assert found == [event for event in self.model if event.stream == stream][from_version:]

    @rule(handle=_handles, from_position=_positions)
    def follow(self, handle: int, from_position: int) -> None:
        """Following without patience is reading."""
        found = [event.position for event in self.handles[handle].follow(from_position, timeout=0)]
        assert found == list(range(from_position, len(self.model)))

    @rule(handle=_handles, minutes=st.integers(-1, 21))
    def position_at(self, handle: int, minutes: int) -> None:
        """A moment counts by the running maximum of the clocks."""
        greatest = itertools.accumulate((event.minutes for event in self.model), max)
        expected = sum(1 for clock in greatest if clock <= minutes)
        assert self.handles[handle].position_at(_NOON + dt.timedelta(minutes=minutes)) == expected

    # --- what holds always

    @invariant()
    def every_handle_knows_the_present(self) -> None:
        """Length, durable part and stream versions, whoever wrote last."""
        for handle in self.handles:
            assert handle.next_position == len(self.model)
            assert handle.durable_position <= len(self.model)
            assert all(handle.stream_version(stream) == self._version(stream) for stream in _STREAMS)

    def _everything_is_there(self) -> None:
        """At the end: all events in order, one chain for all handles, and nothing for verify to say."""
        for handle in self.handles:
            assert [_facts(event) for event in handle.read()] == self.model
            verdict = handle.verify()
            assert verdict.findings == ()
            assert verdict.events == len(self.model)
            assert verdict.chain == handle.chain.hex()


class _DiskMachine(_LogMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="log-machine-")

    @rule(grace_seconds=st.sampled_from([0, 0, 600]), frame_bytes=st.sampled_from([1, 2_000, 512 << 10]))
    def reencode(self, grace_seconds: int, frame_bytes: int) -> None:
        """Nobody sees any of it."""
        report = reencode_log(
            Path(self.folder.name) / "events", grace_seconds=grace_seconds, frame_bytes=frame_bytes
        )
        assert report.skipped == ()

    def open(self, segment_bytes_max: int) -> EventLog:
        return EventLog.open(Path(self.folder.name) / "events", segment_bytes_max=segment_bytes_max)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


class _MemoryMachine(_LogMachine):
    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()

    def open(self, segment_bytes_max: int) -> EventLog:
        return EventLog(self.storage)


TestDiskLog = _DiskMachine.TestCase
TestMemoryLog = _MemoryMachine.TestCase
TestDiskLog.settings = TestMemoryLog.settings = settings(stateful_step_count=20)
