"""What an append promises: where its events stand, that they come back, and all of them or none."""

# ruff: noqa: PLR2004 - asserts, numbers and flags to expect are what a test is made of

from __future__ import annotations

import datetime as dt
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pytest

from eventstore import (
    NO_STREAM,
    STREAM_EXISTS,
    Commit,
    Event,
    EventLog,
    ExpectedVersionError,
    InvalidEventError,
    StreamAppend,
)
from eventstore.testing.contract.given import (
    ID_A,
    ID_B,
    ID_C,
    NOON,
    GivenLog,
    OpenLog,
    bits,
    events_of_types,
    facts,
    present,
)


class AppendContract(GivenLog):
    """Appends to one stream and to several."""

    # --- an empty log

    def test_an_empty_log_has_nothing_in_it(self, log: EventLog) -> None:
        """As of 0 there is nothing, and asking is no error."""
        assert log.next_position == 0
        assert log.durable_position == 0
        assert list(log.read()) == []
        assert list(log.read_batches()) == []
        assert list(log.read_stream("s")) == []
        assert log.stream_version("s") is None
        assert log.position_at(NOON) == 0
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
        first = log.append("s", [Event("A", event_id=ID_A), Event("B", event_id=ID_B)])
        second = log.append("s", [Event("C", event_id=ID_C)])
        assert first == Commit(0, 2, {"s": 1}, ID_A.bytes + ID_B.bytes)
        assert first.event_ids == (ID_A, ID_B)
        assert second == Commit(2, 3, {"s": 2}, ID_C.bytes)
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
            event_id=ID_A,
            metadata={"user": "Ümit", "pid": 7},
            recorded_at=NOON,
        )
        log.append("config/run 7", [event])
        (back,) = log.read()
        assert (back.position, back.stream, back.stream_version) == (0, "config/run 7", 0)
        assert (back.type, back.schema_version, back.event_id) == ("ConfigStored", 3, ID_A)
        assert back.data == data
        assert back.metadata == {"user": "Ümit", "pid": 7}
        assert back.recorded_at == NOON
        assert present(back.index).to_pylist() == [1, -2, 2**62]
        assert bits(present(back.values).to_pylist()) == bits([0.5, -0.0, math.inf])

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
            log.append(f"s{number % 3}", events_of_types("A", "B"))
        events = list(log.read())
        assert [event.position for event in events] == list(range(24))
        for stream in ("s0", "s1", "s2"):
            assert [event.stream_version for event in events if event.stream == stream] == list(range(8))

    def test_events_of_any_sequence_are_taken(self, log: EventLog) -> None:
        """A tuple is as good as a list."""
        assert log.append("s", tuple(events_of_types("A", "B"))).next_position == 2

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
            log.append("s", events_of_types("A", "B"))
            log.append("t", [Event("C", {"x": math.nan}, index=[1], values=[math.nan])])
            before = list(map(facts, log.read()))
        with open_log() as log:
            assert list(map(facts, log.read())) == before
            commit = log.append("s", [Event("D")], expected=1)
            assert (commit.first_position, commit.last_stream_version) == (3, 2)

    def test_an_acknowledged_commit_is_durable(self, log: EventLog) -> None:
        """The default waits for the disk."""
        commit = log.append("s", events_of_types("A", "B"))
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
        assert present(back[1].index).equals(numbers)
        assert present(back[1].values).equals(numbers.cast(pa.float64()))
        assert back[2].index is None

    def test_a_large_document_comes_back(self, log: EventLog, open_log: OpenLog) -> None:
        """A document may be longer than any buffer."""
        text = "ä€" * 1_000_000
        log.append("s", [Event("A", {"text": text})])
        with open_log() as other:
            (back,) = other.read()
        assert back.data == {"text": text}

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
            [
                StreamAppend("a", events_of_types("B", "C"), NO_STREAM),
                StreamAppend("b", events_of_types("D"), 0),
            ]
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
            StreamAppend(f"s{place}", events_of_types("A"), STREAM_EXISTS if place == wrong else NO_STREAM)
            for place in range(3)
        ]
        with pytest.raises(ExpectedVersionError) as caught:
            log.append_to_streams(parts)
        assert caught.value.stream == f"s{wrong}"
        assert log.next_position == 0

    def test_one_event_that_cannot_be_stored_stops_all_streams(self, log: EventLog) -> None:
        """All or none."""
        parts = [StreamAppend("a", events_of_types("A")), StreamAppend("b", [Event("B", {"x": object()})])]
        with pytest.raises(InvalidEventError):
            log.append_to_streams(parts)
        assert log.next_position == 0

    def test_a_part_without_events_checks_its_expectation(self, log: EventLog) -> None:
        """A decision may rest on a stream that it does not extend."""
        parts = [StreamAppend("a", events_of_types("A")), StreamAppend("b", [], NO_STREAM)]
        commit = log.append_to_streams(parts)
        assert commit.stream_versions == {"a": 0}
        log.append("b", [Event("B")])
        with pytest.raises(ExpectedVersionError):
            log.append_to_streams(parts)
        assert log.next_position == 2

    def test_a_stream_that_is_named_twice_is_refused(self, log: EventLog) -> None:
        """Two expectations of one stream cannot both hold."""
        with pytest.raises(InvalidEventError, match="each stream once"):
            log.append_to_streams(
                [StreamAppend("a", events_of_types("A")), StreamAppend("a", events_of_types("B"))]
            )
        assert log.next_position == 0
