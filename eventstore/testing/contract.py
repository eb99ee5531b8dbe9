"""What every log promises, whatever storage it has: one suite for all of them.

Subclass ``LogContract`` in a test module and give it the fixture ``open_log``; each test then runs
against that storage. The suite uses the public interface of ``EventLog`` alone. What is special to
one storage (its files, its recovery) is tested beside it.

This is a test suite, so it needs pytest, and its checks are plain asserts.
"""

# ruff: noqa: PLR2004, FBT001 - asserts, numbers and flags to expect are what a test is made of

from __future__ import annotations

import datetime as dt
import itertools
import math
import pathlib
import pickle
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

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
    InvalidEventError,
    LogClosedError,
    RecordedEvent,
    StreamAppend,
    derived_id,
)
from eventstore.schema import COLUMNS

OpenLog = Callable[[], EventLog]
"""Opens the log once more: every call gives a new handle of one and the same history."""

_ID_A, _ID_B, _ID_C = derived_id("a"), derived_id("b"), derived_id("c")
_NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)

_AWKWARD_NAMES = [
    "config/runs/run 7",
    "../../etc/passwd",
    ".",
    " ",
    "\n\t",
    "'; DROP TABLE events; --",
    '"quoted"\\',
    "%s{0}$1",
    "Größe-\N{SNOWMAN}-\N{GRINNING FACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\N{ZERO WIDTH SPACE}",
    "x" * 4096,
]

_NO_INDEX: list[Any] = [
    *([1.5], [math.nan], [None], [2**63], ["1"], [[1]], "12", 5),
    *(pa.array([2**63], pa.uint64()), pa.array([1.5]), pa.array(["1"]), pa.array([_NOON])),
]
_NO_VALUES: list[Any] = [
    *(["x"], ["1.5"], [[1.0]], [object()], [2**53 + 1], "1.5", 1.5),
    *(pa.array(["1"]), pa.array([[1.0]]), pa.array([2**53 + 1])),
]


def _item_id(column: Any) -> str:
    return (
        f"{type(column).__name__} {_as_list(column)!r:.20}"
        if isinstance(column, (list, pa.Array))
        else repr(column)
    )


def _there(column: Any) -> Any:
    assert column is not None
    return column


def _as_list(column: Any) -> list[Any]:
    return list(column.to_pylist() if isinstance(column, pa.Array) else column)


def _events(*types: str) -> list[Event]:
    return [Event(name) for name in types]


def _positions(events: Iterator[RecordedEvent]) -> list[int]:
    return [event.position for event in events]


def _bits(numbers: Sequence[float]) -> list[bytes]:
    return [struct.pack("<d", number) for number in numbers]


def _facts(event: RecordedEvent) -> tuple[Any, ...]:
    """Everything in an event, comparable: NaN by its bits, None apart from empty."""
    index = None if event.index is None else event.index.to_pylist()
    values = None if event.values is None else _number_facts(event.values)
    envelope = (event.position, event.event_id, event.recorded_at, event.stream, event.stream_version)
    return (*envelope, event.type, event.schema_version, event.data_json, event.metadata_json, index, values)


def _number_facts(values: pa.DoubleArray) -> list[bytes | None]:
    return [None if number is None else struct.pack("<d", number) for number in values.to_pylist()]


class LogContract:
    """The suite. A subclass gives the fixture ``open_log``."""

    @pytest.fixture
    def open_log(self) -> OpenLog:
        """Give a function that opens the log under test, empty at first, as often as it is called."""
        raise NotImplementedError

    @pytest.fixture
    def log(self, open_log: OpenLog) -> Iterator[EventLog]:
        """Give one handle, closed at the end."""
        with open_log() as log:
            yield log

    # --- an empty log

    def test_an_empty_log_has_nothing_in_it(self, log: EventLog) -> None:
        """As of 0 there is nothing, and asking is no error."""
        assert log.next_position == 0
        assert log.durable_position == 0
        assert list(log.read()) == []
        assert list(log.read_batches()) == []
        assert list(log.read_stream("s")) == []
        assert log.stream_version("s") is None
        assert log.position_at(_NOON) == 0
        assert log.verify().ok
        assert log.verify().events == 0

    def test_a_log_has_one_id_in_every_handle(self, log: EventLog, open_log: OpenLog) -> None:
        """The id is the log's, made once."""
        with open_log() as other:
            assert other.log_id == log.log_id
        assert len(log.log_id) == 16

    # --- append

    def test_a_commit_says_where_its_events_stand(self, log: EventLog) -> None:
        """Positions, stream versions and ids of the first commits count from 0."""
        first = log.append("s", [Event("A", event_id=_ID_A), Event("B", event_id=_ID_B)])
        second = log.append("s", [Event("C", event_id=_ID_C)])
        assert first == Commit(0, 2, {"s": 1}, _ID_A.bytes + _ID_B.bytes)
        assert first.event_ids == (_ID_A, _ID_B)
        assert second == Commit(2, 3, {"s": 2}, _ID_C.bytes)
        assert second.last_stream_version == 2
        assert log.next_position == 3

    def test_an_event_comes_back_as_it_was_given(self, log: EventLog) -> None:
        """Each part of an event survives, what JSON has no word for included."""
        data = {"name": "run 7", "shape": (1, (2, 3)), "path": pathlib.Path("/a"), "by": {1: b"\0"}}
        event = Event(
            type="ConfigStored",
            data=data,
            schema_version=3,
            index=[1, -2, 2**62],
            values=[0.5, -0.0, math.inf],
            event_id=_ID_A,
            metadata={"user": "Ümit", "pid": 7},
            recorded_at=_NOON,
        )
        log.append("config/run 7", [event])
        (back,) = log.read()
        assert (back.position, back.stream, back.stream_version) == (0, "config/run 7", 0)
        assert (back.type, back.schema_version, back.event_id) == ("ConfigStored", 3, _ID_A)
        assert back.data == data
        assert back.metadata == {"user": "Ümit", "pid": 7}
        assert back.recorded_at == _NOON
        assert _there(back.index).to_pylist() == [1, -2, 2**62]
        assert _bits(_there(back.values).to_pylist()) == _bits([0.5, -0.0, math.inf])

    def test_an_event_needs_no_more_than_a_type(self, log: EventLog) -> None:
        """Id and time are made by the log; columns that were not given are absent, not empty."""
        before = dt.datetime.now(dt.UTC)
        commit = log.append("s", [Event("A")])
        (back,) = log.read()
        assert commit.event_ids == (back.event_id,)
        assert back.event_id.version == 7
        assert before - dt.timedelta(milliseconds=1) <= back.recorded_at <= dt.datetime.now(dt.UTC)
        assert back.data == {}
        assert back.metadata == {}
        assert back.index is None
        assert back.values is None

    def test_a_time_of_another_zone_comes_back_as_the_same_moment(self, log: EventLog) -> None:
        """The log keeps moments, in UTC."""
        moment = dt.datetime(1969, 12, 31, 23, 0, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=-7)))
        log.append("s", [Event("A", recorded_at=moment)])
        (back,) = log.read()
        assert back.recorded_at == moment
        assert back.recorded_at.utcoffset() == dt.timedelta(0)

    def test_positions_are_dense_over_all_streams_and_versions_within_each(self, log: EventLog) -> None:
        """The total order and the order of each subject have no gaps."""
        for number in range(12):
            log.append(f"s{number % 3}", _events("A", "B"))
        events = list(log.read())
        assert [event.position for event in events] == list(range(24))
        for stream in ("s0", "s1", "s2"):
            assert [event.stream_version for event in events if event.stream == stream] == list(range(8))

    def test_events_of_any_sequence_are_taken(self, log: EventLog) -> None:
        """A tuple is as good as a list."""
        assert log.append("s", tuple(_events("A", "B"))).next_position == 2

    def test_what_was_appended_is_seen_by_another_handle_at_once(
        self, log: EventLog, open_log: OpenLog
    ) -> None:
        """A read that begins after an append returned has it."""
        with open_log() as other:
            log.append("s", [Event("A")])
            assert [event.type for event in other.read()] == ["A"]
            assert other.next_position == 1
            assert other.stream_version("s") == 0
            other.append("s", [Event("B")], expected=0)
            assert [event.type for event in log.read_stream("s")] == ["A", "B"]

    def test_a_log_that_is_opened_again_goes_on_where_it_was(self, open_log: OpenLog) -> None:
        """Everything is there, and positions and versions go on."""
        with open_log() as log:
            log.append("s", _events("A", "B"))
            log.append("t", [Event("C", {"x": math.nan}, index=[1], values=[math.nan])])
            before = list(map(_facts, log.read()))
        with open_log() as log:
            assert list(map(_facts, log.read())) == before
            commit = log.append("s", [Event("D")], expected=1)
            assert (commit.first_position, commit.last_stream_version) == (3, 2)

    def test_an_acknowledged_commit_is_durable(self, log: EventLog) -> None:
        """The default waits for the disk."""
        commit = log.append("s", _events("A", "B"))
        assert log.durable_position >= commit.next_position

    def test_a_commit_for_the_operating_system_is_seen(self, log: EventLog) -> None:
        """``durability="os"`` saves the wait and nothing else."""
        log.append("s", [Event("A")], durability="os")
        log.append("s", [Event("B")])
        assert [event.type for event in log.read()] == ["A", "B"]
        assert log.durable_position == 2

    def test_an_unknown_durability_is_refused(self, log: EventLog) -> None:
        """A typing error must not weaken a promise."""
        with pytest.raises(ValueError, match="durability"):
            log.append("s", [Event("A")], durability="none")  # type: ignore[arg-type]
        assert log.next_position == 0

    def test_an_append_of_nothing_is_refused(self, log: EventLog) -> None:
        """There is no empty commit."""
        with pytest.raises(InvalidEventError, match="at least one event"):
            log.append("s", [])
        with pytest.raises(InvalidEventError, match="at least one event"):
            log.append_to_streams([])

    def test_a_commit_may_hold_many_events(self, log: EventLog) -> None:
        """Ten thousand events are one commit, in order."""
        commit = log.append("s", [Event("A", {"n": number}) for number in range(10_000)])
        assert (commit.first_position, commit.next_position) == (0, 10_000)
        assert [event.data["n"] for event in log.read(9_998)] == [9_998, 9_999]
        assert [event.data["n"] for event in log.read_stream("s", 5_000)] == list(range(5_000, 10_000))

    def test_an_event_may_hold_many_numbers(self, log: EventLog, open_log: OpenLog) -> None:
        """A million iterations are one event."""
        numbers = pa.array(range(1_000_000), pa.int64())
        log.append(
            "s", [Event("A"), Event("B", index=numbers, values=numbers.cast(pa.float64())), Event("C")]
        )
        with open_log() as other:
            back = list(other.read())
        assert _there(back[1].index).equals(numbers)
        assert _there(back[1].values).equals(numbers.cast(pa.float64()))
        assert back[2].index is None

    def test_a_large_document_comes_back(self, log: EventLog, open_log: OpenLog) -> None:
        """A document may be longer than any buffer."""
        text = "ä€" * 1_000_000
        log.append("s", [Event("A", {"text": text})])
        with open_log() as other:
            (back,) = other.read()
        assert back.data == {"text": text}

    # --- expectations

    @pytest.mark.parametrize(
        ("there", "expected", "fits"),
        [
            (0, ANY, True),
            (0, NO_STREAM, True),
            (0, STREAM_EXISTS, False),
            (0, 0, False),
            (2, ANY, True),
            (2, NO_STREAM, False),
            (2, STREAM_EXISTS, True),
            (2, 1, True),
            (2, 0, False),
            (2, 2, False),
        ],
    )
    def test_an_append_happens_exactly_where_it_was_expected(
        self, log: EventLog, there: int, expected: ExpectedVersion, fits: bool
    ) -> None:
        """A wrong expectation writes nothing and says what is the case."""
        log.append("other", [Event("A")])
        for _ in range(there):
            log.append("s", [Event("A")])
        if fits:
            assert log.append("s", [Event("B")], expected=expected).last_stream_version == there
            return
        with pytest.raises(ExpectedVersionError) as caught:
            log.append("s", [Event("B")], expected=expected)
        assert caught.value.stream == "s"
        assert caught.value.expected == expected
        assert caught.value.actual == (there - 1 if there else None)
        assert log.next_position == there + 1
        assert log.stream_version("s") == (there - 1 if there else None)

    def test_an_expectation_counts_what_another_handle_wrote(self, log: EventLog, open_log: OpenLog) -> None:
        """The decision is made on the log, not on what this handle has read."""
        log.append("s", [Event("A")])
        with open_log() as other:
            other.append("s", [Event("B")])
        with pytest.raises(ExpectedVersionError, match="is at version 1"):
            log.append("s", [Event("C")], expected=0)

    @pytest.mark.parametrize("expected", [-1, -2, True, 1.0, "ANY", None])
    def test_an_expectation_that_means_nothing_is_refused(self, log: EventLog, expected: Any) -> None:
        """A mistake in the call is not a conflict: trying again would not help."""
        with pytest.raises(InvalidEventError, match="expected is ANY, NO_STREAM"):
            log.append("s", [Event("A")], expected=expected)
        assert log.next_position == 0

    def test_an_expectation_error_survives_pickling(self, log: EventLog) -> None:
        """A worker process hands it to its parent with all its facts."""
        with pytest.raises(ExpectedVersionError) as caught:
            log.append("s", [Event("A")], expected=4)
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
        assert str(copy) == str(caught.value)
        assert (copy.stream, copy.expected, copy.actual) == ("s", 4, None)

    # --- several streams at once

    def test_a_list_that_goes_on_filling_is_taken_as_it_was(self, log: EventLog) -> None:
        """Another thread may own it."""
        events: list[Event] = []

        class Filling(Mapping[str, Any]):
            def __getitem__(self, name: str) -> Any:
                raise KeyError(name)

            def __iter__(self) -> Iterator[str]:
                events.append(Event("B"))
                return iter(())

            def __len__(self) -> int:
                return 1

        events.append(Event("A", metadata=Filling()))
        assert log.append("s", events).next_position == 1
        assert [event.type for event in log.read()] == ["A"]
        assert len(events) > 1

    def test_several_streams_are_extended_in_one_commit(self, log: EventLog) -> None:
        """Positions follow the order of the parts; each stream has its own versions."""
        log.append("b", [Event("A")])
        commit = log.append_to_streams(
            [StreamAppend("a", _events("B", "C"), NO_STREAM), StreamAppend("b", _events("D"), 0)]
        )
        assert (commit.first_position, commit.next_position) == (1, 4)
        assert commit.stream_versions == {"a": 1, "b": 1}
        assert [(event.stream, event.stream_version, event.type) for event in log.read(1)] == [
            ("a", 0, "B"),
            ("a", 1, "C"),
            ("b", 1, "D"),
        ]

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_one_wrong_expectation_stops_all_streams(self, log: EventLog, wrong: int) -> None:
        """All or none, whichever part it is."""
        parts = [
            StreamAppend(f"s{place}", _events("A"), STREAM_EXISTS if place == wrong else NO_STREAM)
            for place in range(3)
        ]
        with pytest.raises(ExpectedVersionError) as caught:
            log.append_to_streams(parts)
        assert caught.value.stream == f"s{wrong}"
        assert log.next_position == 0

    def test_one_event_that_cannot_be_stored_stops_all_streams(self, log: EventLog) -> None:
        """All or none."""
        parts = [StreamAppend("a", _events("A")), StreamAppend("b", [Event("B", {"x": object()})])]
        with pytest.raises(InvalidEventError):
            log.append_to_streams(parts)
        assert log.next_position == 0

    def test_a_part_without_events_checks_its_expectation(self, log: EventLog) -> None:
        """A decision may rest on a stream that it does not extend."""
        parts = [StreamAppend("a", _events("A")), StreamAppend("b", [], NO_STREAM)]
        commit = log.append_to_streams(parts)
        assert commit.stream_versions == {"a": 0}
        log.append("b", [Event("B")])
        with pytest.raises(ExpectedVersionError):
            log.append_to_streams(parts)
        assert log.next_position == 2

    def test_a_stream_that_is_named_twice_is_refused(self, log: EventLog) -> None:
        """Two expectations of one stream cannot both hold."""
        with pytest.raises(InvalidEventError, match="each stream once"):
            log.append_to_streams([StreamAppend("a", _events("A")), StreamAppend("a", _events("B"))])
        assert log.next_position == 0

    # --- repetitions

    def test_a_repetition_returns_the_commit_that_it_made(self, log: EventLog) -> None:
        """The same events with the same ids are one commit, however often they are sent."""
        events = [Event("A", {"x": 1}, event_id=_ID_A), Event("B", values=[math.nan, None], event_id=_ID_B)]
        log.append("other", [Event("Z")])
        first = log.append("s", events)
        log.append("s", [Event("Z")])
        assert log.append("s", events) == first
        assert log.next_position == 4

    def test_a_repetition_is_recognised_by_another_handle(self, log: EventLog, open_log: OpenLog) -> None:
        """The log knows its ids, not the process that wrote them."""
        first = log.append("s", [Event("A", event_id=_ID_A)])
        with open_log() as other:
            assert other.append("s", [Event("A", event_id=_ID_A)]) == first
            second = other.append("s", [Event("B", event_id=_ID_B)])
        assert log.append("s", [Event("B", event_id=_ID_B)]) == second
        assert log.next_position == 2

    @pytest.mark.parametrize("expected", [NO_STREAM, STREAM_EXISTS, 7])
    def test_a_repetition_is_recognised_before_expectations_are_looked_at(
        self, log: EventLog, expected: ExpectedVersion
    ) -> None:
        """Its own first success must not make it fail."""
        first = log.append("s", [Event("A", event_id=_ID_A)], expected=NO_STREAM)
        assert log.append("s", [Event("A", event_id=_ID_A)], expected=expected) == first

    def test_a_repetition_over_several_streams_is_recognised(self, log: EventLog) -> None:
        """Its commit comes back with all its streams."""
        parts = [
            StreamAppend("a", [Event("A", event_id=_ID_A), Event("B", event_id=_ID_B)], NO_STREAM),
            StreamAppend("b", [Event("C", event_id=_ID_C)], NO_STREAM),
        ]
        first = log.append_to_streams(parts)
        log.append("a", [Event("Z")])
        assert log.append_to_streams(parts) == first
        assert first.stream_versions == {"a": 1, "b": 0}
        assert log.next_position == 4

    def test_a_repetition_may_differ_in_clock_and_metadata(self, log: EventLog) -> None:
        """They say who wrote and when; a retry is another writer at another time."""
        first = log.append("s", [Event("A", event_id=_ID_A, metadata={"pid": 1}, recorded_at=_NOON)])
        assert log.append("s", [Event("A", event_id=_ID_A, metadata={"pid": 2})]) == first
        assert log.next_position == 1

    @pytest.mark.parametrize(
        ("stream", "event"),
        [
            ("t", Event("A", {"x": 1}, 1, [1], [0.0], _ID_A)),
            ("s", Event("B", {"x": 1}, 1, [1], [0.0], _ID_A)),
            ("s", Event("A", {"x": 2}, 1, [1], [0.0], _ID_A)),
            ("s", Event("A", {"x": 1.0}, 1, [1], [0.0], _ID_A)),
            ("s", Event("A", {"x": 1}, 2, [1], [0.0], _ID_A)),
            ("s", Event("A", {"x": 1}, 1, [2], [0.0], _ID_A)),
            ("s", Event("A", {"x": 1}, 1, None, [0.0], _ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [-0.0], _ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [None], _ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [], _ID_A)),
        ],
    )
    def test_a_known_id_with_other_content_is_refused(self, log: EventLog, stream: str, event: Event) -> None:
        """One id is one event; the error names the id and where it stands."""
        log.append("z", [Event("Z")])
        log.append("s", [Event("A", {"x": 1}, 1, [1], [0.0], _ID_A)])
        with pytest.raises(DuplicateEventError) as caught:
            log.append(stream, [event])
        assert caught.value.event_id == _ID_A.hex
        assert caught.value.position == 1
        assert log.next_position == 2

    @pytest.mark.parametrize(
        "ids", [[_ID_A], [_ID_B], [_ID_B, _ID_A], [_ID_A, _ID_B, _ID_C], [_ID_C, _ID_A], [_ID_A, None]]
    )
    def test_a_part_of_a_known_commit_is_refused(self, log: EventLog, ids: list[UUID | None]) -> None:
        """A repetition repeats the whole commit, in its order, and nothing more."""
        log.append("s", [Event("A", event_id=_ID_A), Event("A", event_id=_ID_B)])
        with pytest.raises(DuplicateEventError):
            log.append("s", [Event("A", event_id=event_id) for event_id in ids])
        assert log.next_position == 2

    def test_events_of_two_known_commits_are_refused(self, log: EventLog) -> None:
        """They were two decisions and cannot become one."""
        log.append("s", [Event("A", event_id=_ID_A)])
        log.append("s", [Event("A", event_id=_ID_B)])
        with pytest.raises(DuplicateEventError):
            log.append("s", [Event("A", event_id=_ID_A), Event("A", event_id=_ID_B)])

    def test_one_id_twice_in_an_append_is_refused(self, log: EventLog) -> None:
        """Nothing is known of it yet; it is wrong all the same."""
        with pytest.raises(InvalidEventError, match="twice"):
            log.append("s", [Event("A", event_id=_ID_A), Event("B", event_id=_ID_A)])
        assert log.next_position == 0

    def test_a_refused_append_leaves_its_ids_unused(self, log: EventLog) -> None:
        """The same events can be sent again with another expectation."""
        with pytest.raises(ExpectedVersionError):
            log.append("s", [Event("A", event_id=_ID_A)], expected=5)
        assert log.append("s", [Event("A", event_id=_ID_A)], expected=NO_STREAM).first_position == 0

    # --- read

    @pytest.mark.parametrize(
        ("from_position", "until", "expected"),
        [
            (0, None, [0, 1, 2, 3, 4, 5]),
            (2, None, [2, 3, 4, 5]),
            (0, 4, [0, 1, 2, 3]),
            (2, 4, [2, 3]),
            (1, 2, [1]),
            (0, 0, []),
            (3, 3, []),
            (4, 2, []),
            (0, 100, [0, 1, 2, 3, 4, 5]),
            (6, None, []),
            (100, None, []),
            (100, 200, []),
        ],
    )
    def test_a_read_gives_the_positions_from_one_up_to_another(
        self, log: EventLog, from_position: int, until: int | None, expected: list[int]
    ) -> None:
        """Also where they begin or end within a commit, or beyond the log."""
        for _ in range(2):
            log.append("s", _events("A", "B", "C"))
        assert _positions(log.read(from_position, until)) == expected

    def test_a_read_may_ask_for_a_stream_and_for_types(self, log: EventLog) -> None:
        """Filters narrow what is given, in the same order."""
        for stream, name in itertools.product(("s", "t"), ("A", "B", "C")):
            log.append(stream, [Event(name)])
        assert _positions(log.read(stream="t")) == [3, 4, 5]
        assert _positions(log.read(types=["A", "C"])) == [0, 2, 3, 5]
        assert _positions(log.read(types={"B"}, stream="s")) == [1]
        assert _positions(log.read(1, 4, types=("A", "B"))) == [1, 3]
        assert _positions(log.read(stream="u")) == []
        assert _positions(log.read(types=["Unknown"])) == []
        assert _positions(log.read(types=[])) == []

    def test_filters_cut_within_a_commit(self, log: EventLog) -> None:
        """A commit of several streams and types is given in part."""
        log.append_to_streams([StreamAppend("s", _events("A", "B")), StreamAppend("t", _events("A", "B"))])
        assert _positions(log.read(stream="t")) == [2, 3]
        assert _positions(log.read(types=["B"])) == [1, 3]
        assert _positions(log.read(2, types=["B"])) == [3]

    def test_positions_below_zero_are_refused(self, log: EventLog) -> None:
        """They would silently mean something else, as they do in Python's lists."""
        for call in (
            lambda: log.read(-1),
            lambda: log.read(0, -1),
            lambda: log.read_batches(-1),
            lambda: log.read_stream("s", -1),
            lambda: next(log.follow(-1, timeout=0)),
        ):
            with pytest.raises(ValueError, match="count from 0"):
                call()

    def test_a_read_gives_what_was_there_when_it_was_called(self, log: EventLog) -> None:
        """Neither more nor less, however long its user takes."""
        log.append("s", _events("A", "B"))
        reading, batches = log.read(), log.read_batches()
        log.append("s", [Event("C")])
        assert next(reading).position == 0
        log.append("s", [Event("D")])
        assert _positions(reading) == [1]
        assert sum(batch.num_rows for batch in batches) == 2

    def test_reads_do_not_disturb_each_other(self, log: EventLog) -> None:
        """Each has its own place."""
        for _ in range(5):
            log.append("s", _events("A", "B"))
        pairs = zip(log.read(), log.read(), strict=True)
        assert all(left.position == right.position for left, right in pairs)

    def test_batches_hold_what_a_read_gives(self, log: EventLog) -> None:
        """In the envelope's columns and types, row for row, and none is empty."""
        for number in range(6):
            log.append(
                f"s{number % 2}", [Event("A", {"n": number}), Event("B", index=[number], values=[None])]
            )
        for arguments in ({}, {"stream": "s1"}, {"types": ["A"]}, {"from_position": 3, "until": 8}):
            batches = list(log.read_batches(**arguments))
            assert all(batch.num_rows for batch in batches)
            table = pa.Table.from_batches(batches)
            assert tuple(table.column_names) == COLUMNS
            events = list(log.read(**arguments))
            assert table.column("position").to_pylist() == [event.position for event in events]
            assert table.column("event_id").to_pylist() == [event.event_id.bytes for event in events]
            assert table.column("data").to_pylist() == [event.data_json for event in events]
            assert table.column("values").to_pylist() == [event.values and [None] for event in events]

    def test_batches_carry_the_log_and_its_format(self, log: EventLog) -> None:
        """A table that was taken out of the log still says where it comes from."""
        log.append("s", [Event("A")])
        (batch,) = log.read_batches()
        assert batch.schema.metadata[b"log_id"].decode() == log.log_id.hex()
        assert batch.schema.metadata[b"format_version"] == b"1"
        assert batch.schema.field("recorded_at").type == pa.timestamp("us", tz="UTC")

    def test_a_stream_is_read_from_a_version_on(self, log: EventLog) -> None:
        """In the order of its versions, whatever lies between its events."""
        for number in range(30):
            log.append("noise", _events(*["N"] * (number * 7 % 100 + 1)))
            log.append("s", [Event("A", {"n": number})])
        assert [event.data["n"] for event in log.read_stream("s")] == list(range(30))
        assert [event.stream_version for event in log.read_stream("s", 27)] == [27, 28, 29]
        assert list(log.read_stream("s", 30)) == []
        assert list(log.read_stream("unknown")) == []
        assert log.stream_version("s") == 29

    def test_a_raw_event_needs_no_known_type(self, log: EventLog) -> None:
        """The log gives back what it does not understand, of the highest schema version too."""
        log.append("s", [Event("NobodyKnowsThis", {"$new": 1}, schema_version=65_535)])
        (back,) = log.read()
        assert (back.type, back.schema_version, back.data) == ("NobodyKnowsThis", 65_535, {"$new": 1})

    # --- numbers

    def test_the_bits_of_numbers_survive(self, log: EventLog, open_log: OpenLog) -> None:
        """NaNs differ in their bits, zeros in their sign, and both may matter to somebody."""
        patterns = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000123, 0x8000000000000000, 1]
        raw = struct.pack("<5Q", *patterns)
        values = pa.Array.from_buffers(pa.float64(), 5, [None, pa.py_buffer(raw)])
        log.append("s", [Event("A", values=values)])
        with open_log() as other:
            (back,) = other.read()
        offset = 8 * _there(back.values).offset
        assert bytes(_there(back.values).buffers()[1])[offset : offset + 40] == raw

    def test_an_absent_number_is_not_nan(self, log: EventLog, open_log: OpenLog) -> None:
        """None says that there is no number; NaN is one."""
        log.append("s", [Event("A", values=[None, math.nan, 1.0, None]), Event("B", values=[None])])
        with open_log() as other:
            first, second = other.read()
        numbers = _there(first.values).to_pylist()
        assert numbers[0] is None
        assert math.isnan(numbers[1])
        assert numbers[2:] == [1.0, None]
        assert _there(second.values).to_pylist() == [None]

    def test_an_empty_column_is_not_an_absent_one(self, log: EventLog, open_log: OpenLog) -> None:
        """No iterations and nothing about iterations are two statements."""
        log.append("s", [Event("A", index=[], values=[]), Event("B"), Event("C", index=[1], values=[])])
        with open_log() as other:
            columns = [(event.index, event.values) for event in other.read()]
        lengths = [tuple(None if column is None else len(column) for column in pair) for pair in columns]
        assert lengths == [(0, 0), (None, None), (1, 0)]

    @pytest.mark.parametrize(
        ("index", "values"),
        [
            ((-(2**63), 2**63 - 1), (1, 2)),
            (range(3), (1.0, -0.5)),
            (pa.array([1, 2], pa.int32()), pa.array([0.5, None], pa.float32())),
            (memoryview(struct.pack("<2q", 5, 6)).cast("q"), memoryview(struct.pack("<2d", 5, 6)).cast("d")),
        ],
    )
    def test_columns_may_be_any_flat_sequence_of_numbers(
        self, log: EventLog, index: Any, values: Any
    ) -> None:
        """Ranges, Arrow arrays of smaller numbers, anything with a buffer."""
        log.append("s", [Event("A", index=index, values=values)])
        (back,) = log.read()
        assert _there(back.index).to_pylist() == _as_list(index)
        assert _there(back.values).to_pylist() == _as_list(values)
        assert _there(back.index).type == pa.int64()
        assert _there(back.values).type == pa.float64()

    @pytest.mark.parametrize("index", _NO_INDEX, ids=_item_id)
    def test_an_index_that_is_no_list_of_ints_is_refused(self, log: EventLog, index: Any) -> None:
        """Nothing is rounded, parsed or flattened on the way, and no key is absent."""
        with pytest.raises(InvalidEventError, match="index of a Counted"):
            log.append("s", [Event("Counted", index=index)])
        assert log.next_position == 0

    @pytest.mark.parametrize("values", _NO_VALUES, ids=_item_id)
    def test_values_that_are_no_list_of_numbers_are_refused(self, log: EventLog, values: Any) -> None:
        """Nothing is parsed or flattened on the way."""
        with pytest.raises(InvalidEventError, match="values of a Counted"):
            log.append("s", [Event("Counted", values=values)])
        assert log.next_position == 0

    def test_what_was_appended_does_not_change_with_the_callers_buffer(self, log: EventLog) -> None:
        """An array that is used again for the next batch must not reach into the log."""
        buffer = bytearray(struct.pack("<2d", 1.0, 2.0))
        values = pa.Array.from_buffers(pa.float64(), 2, [None, pa.py_buffer(buffer)])
        log.append("s", [Event("A", values=values)])
        buffer[:] = struct.pack("<2d", 8.0, 9.0)
        (back,) = log.read()
        assert _there(back.values).to_pylist() == [1.0, 2.0]
        assert log.verify().ok

    # --- names and documents

    @pytest.mark.parametrize("name", _AWKWARD_NAMES)
    def test_any_text_names_a_stream_and_a_type(self, log: EventLog, open_log: OpenLog, name: str) -> None:
        """Names come from people; the log gives them no meaning."""
        log.append("s", [Event("A")])
        log.append(name, [Event(name)], expected=NO_STREAM)
        log.append(name, [Event("A")], expected=0)
        with open_log() as other:
            assert [event.type for event in other.read_stream(name)] == [name, "A"]
            assert _positions(other.read(stream=name)) == [1, 2]
            assert _positions(other.read(types=[name])) == [1]
            assert other.stream_version(name) == 1

    def test_names_that_look_alike_are_different_streams(self, log: EventLog) -> None:
        """Case, spaces and the way an accent is composed all count."""
        names = [
            "run",
            "Run",
            "run ",
            "r\N{LATIN SMALL LETTER U WITH DIAERESIS}n",
            "ru\N{COMBINING DIAERESIS}n",
        ]
        for name in names:
            log.append(name, [Event("A")], expected=NO_STREAM)
        assert all(log.stream_version(name) == 0 for name in names)

    @pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 4097, "é" * 2049, 7, None, b"s"])
    def test_names_that_no_log_can_hold_are_refused(self, log: EventLog, name: Any) -> None:
        """As a stream's name and as a type alike; nothing is written."""
        with pytest.raises(InvalidEventError, match="stream's name"):
            log.append(name, [Event("A")])
        with pytest.raises(InvalidEventError, match="event's type"):
            log.append("s", [Event(name)])
        assert log.next_position == 0

    @pytest.mark.parametrize(
        "event",
        [
            Event("A", {"x": object()}),
            Event("A", {"x": "\ud800"}),
            Event("A", metadata={"x": object()}),
            Event("A", schema_version=-1),
            Event("A", schema_version=65_536),
            Event("A", schema_version=True),
            Event("A", recorded_at=dt.datetime(2024, 1, 1)),  # noqa: DTZ001 - the point of the test
        ],
    )
    def test_an_event_that_cannot_be_stored_is_refused(self, log: EventLog, event: Event) -> None:
        """The good events beside it are not written either."""
        with pytest.raises(InvalidEventError):
            log.append("s", [Event("Good"), event])
        assert log.next_position == 0

    def test_data_may_be_any_value(self, log: EventLog) -> None:
        """A mapping is usual, not required."""
        for data in (None, 5, "text", [1, (2,)], math.inf, {1, 2}):
            log.append("s", [Event("A", data)])
        assert [event.data for event in log.read()] == [None, 5, "text", [1, (2,)], math.inf, {1, 2}]

    # --- time

    def test_a_moment_is_a_position(self, log: EventLog) -> None:
        """The state at a moment is the fold of what had been recorded by then."""
        for minutes in (0, 10, 20):
            log.append("s", [Event("A", recorded_at=_NOON + dt.timedelta(minutes=minutes))])
        at = [
            log.position_at(_NOON + dt.timedelta(minutes=minutes)) for minutes in (-1, 0, 5, 10, 19, 20, 99)
        ]
        assert at == [0, 1, 1, 2, 2, 3, 3]

    def test_a_clock_that_goes_back_does_not_reorder(self, log: EventLog, open_log: OpenLog) -> None:
        """An event counts by the greatest clock up to it, within commits and over them."""
        clocks = [[10], [30, 5, 40], [20], [35, 50], [1]]
        for minutes in clocks:
            times = [_NOON + dt.timedelta(minutes=minute) for minute in minutes]
            log.append("s", [Event("A", recorded_at=time) for time in times])
        flat = [minute for minutes in clocks for minute in minutes]
        greatest = list(itertools.accumulate(flat, max))
        with open_log() as other:
            for minute in range(60):
                moment = _NOON + dt.timedelta(minutes=minute)
                expected = sum(1 for clock in greatest if clock <= minute)
                assert log.position_at(moment) == expected
                assert other.position_at(moment) == expected

    def test_a_moment_has_a_zone(self, log: EventLog) -> None:
        """Without one it is another moment on every machine."""
        with pytest.raises(ValueError, match="time zone"):
            log.position_at(dt.datetime(2024, 1, 1))  # noqa: DTZ001 - the point of the test

    def test_the_extremes_of_time_are_moments_too(self, log: EventLog) -> None:
        """Before everything, and after it."""
        log.append("s", [Event("A")])
        assert log.position_at(dt.datetime.min.replace(tzinfo=dt.UTC)) == 0
        assert log.position_at(dt.datetime.max.replace(tzinfo=dt.UTC)) == 1

    # --- chain and verify

    def test_the_chain_vouches_for_what_is_there(self, log: EventLog, open_log: OpenLog) -> None:
        """It changes with every event, is the same in every handle, and verify finds it again."""
        values = [log.chain]
        for number in range(3):
            log.append("s", [Event("A", {"n": number}, values=[None, 1.0], index=[])])
            values.append(log.chain)
        assert len(set(values)) == 4
        with open_log() as other:
            assert other.chain == values[-1]
        verdict = log.verify()
        assert verdict.ok
        assert verdict.findings == ()
        assert verdict.events == 3
        assert verdict.chain == values[-1].hex()

    # --- follow

    def test_following_catches_up_and_ends_after_silence(self, log: EventLog) -> None:
        """With a timeout of 0 it is a read."""
        log.append("s", _events("A", "B", "C"))
        assert _positions(log.follow(timeout=0)) == [0, 1, 2]
        assert _positions(log.follow(2, timeout=0)) == [2]
        assert _positions(log.follow(3, timeout=0)) == []

    def test_following_gives_what_others_append_in_order_and_none_left_out(
        self, log: EventLog, open_log: OpenLog
    ) -> None:
        """While they append, in another thread and through another handle."""
        log.append("s", [Event("A")])

        def write() -> None:
            with open_log() as other:
                for _ in range(20):
                    other.append("s", _events("B", "C"))

        writer = threading.Thread(target=write)
        writer.start()
        followed = list(itertools.islice(log.follow(timeout=60), 41))
        writer.join()
        assert [event.position for event in followed] == list(range(41))

    def test_following_ends_when_it_is_told_to(self, log: EventLog) -> None:
        """At once if it was told before; soon if told while it waits, or between two events."""
        stop = threading.Event()
        log.append("s", _events("A", "B"))
        following = log.follow(stop=stop)
        assert next(following).position == 0
        stop.set()
        assert list(following) == []
        assert list(log.follow(stop=stop)) == []
        stop.clear()
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        assert _positions(log.follow(stop=stop)) == [0, 1]
        timer.join()

    # --- several at once

    def test_threads_that_append_at_once_lose_nothing(self, log: EventLog) -> None:
        """Each event once, each thread's in its order, positions and versions dense."""
        commits: list[list[Commit]] = [[] for _ in range(4)]

        def write(writer: int) -> None:
            for number in range(25):
                event = Event("A", {"thread": writer, "n": number})
                commits[writer].append(log.append("s", [event], durability="os"))

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = list(log.read())
        assert [(event.position, event.stream_version) for event in events] == [(n, n) for n in range(100)]
        for writer, made in enumerate(commits):
            mine = [event for event in events if event.data["thread"] == writer]
            assert [event.data["n"] for event in mine] == list(range(25))
            assert [event.position for event in mine] == [commit.first_position for commit in made]

    def test_of_those_who_expect_the_same_one_wins(self, log: EventLog, open_log: OpenLog) -> None:
        """Four handles decide on the same version at once, ten times over."""
        winners: list[int] = []

        def compete(number: int) -> None:
            with open_log() as other:
                for version in range(10):
                    barrier.wait()
                    try:
                        other.append(
                            "s", [Event("A", number)], expected=version - 1 if version else NO_STREAM
                        )
                        winners.append(version)
                    except ExpectedVersionError:
                        pass
                    barrier.wait()

        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=compete, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert winners == list(range(10))
        assert log.next_position == 10

    # --- close

    def test_a_closed_log_says_so(self, open_log: OpenLog) -> None:
        """Every use after the end is the same clear error."""
        log = open_log()
        log.append("s", [Event("A")])
        log.close()
        for call in (
            lambda: log.append("s", [Event("B")]),
            lambda: log.next_position,
            lambda: log.durable_position,
            lambda: log.chain,
            lambda: log.log_id,
            lambda: log.stream_version("s"),
            lambda: list(log.read()),
            lambda: list(log.read_batches()),
            lambda: list(log.read_stream("s")),
            lambda: list(log.follow(timeout=0)),
            lambda: log.position_at(_NOON),
            log.verify,
        ):
            with pytest.raises(LogClosedError):
                call()

    def test_closing_ends_with_a_block_and_may_be_repeated(self, open_log: OpenLog) -> None:
        """Closing twice is no error."""
        with open_log() as log:
            log.append("s", [Event("A")])
        log.close()
        with pytest.raises(LogClosedError):
            log.append("s", [Event("B")])

    def test_a_read_in_progress_ends_with_an_error_when_its_log_is_closed(self, open_log: OpenLog) -> None:
        """Not as if nothing more had been there, and not with an error from inside."""
        log = open_log()
        for _ in range(50):
            log.append("s", [Event("A", {"text": "x" * 200_000})], durability="os")
        reading = log.read()
        next(reading)
        log.close()
        with pytest.raises(LogClosedError):
            list(reading)

    def test_other_handles_go_on_when_one_is_closed(self, log: EventLog, open_log: OpenLog) -> None:
        """A handle is a handle."""
        open_log().close()
        log.append("s", [Event("A")])
        assert _positions(log.read()) == [0]
