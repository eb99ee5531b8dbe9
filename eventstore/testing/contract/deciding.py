"""What is decided on an append: whether the log is as expected, and whether it was made before."""

# ruff: noqa: PLR2004, FBT001 - asserts, numbers and flags to expect are what a test is made of

from __future__ import annotations

import math
import pickle
from typing import Any
from uuid import UUID

import pytest

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    DuplicateEventError,
    Event,
    EventLog,
    ExpectedVersion,
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
)


class DecisionContract(GivenLog):
    """Expectations, and appends that are repeated."""

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

    # --- repetitions

    def test_a_repetition_returns_the_commit_that_it_made(self, log: EventLog) -> None:
        """The same events with the same ids are one commit, however often they are sent."""
        events = [Event("A", {"x": 1}, event_id=ID_A), Event("B", values=[math.nan, None], event_id=ID_B)]
        log.append("other", [Event("Z")])
        first = log.append("s", events)
        log.append("s", [Event("Z")])
        assert log.append("s", events) == first
        assert log.next_position == 4

    def test_a_repetition_is_recognised_by_another_handle(self, log: EventLog, open_log: OpenLog) -> None:
        """The log knows its ids, not the process that wrote them."""
        first = log.append("s", [Event("A", event_id=ID_A)])
        with open_log() as other:
            assert other.append("s", [Event("A", event_id=ID_A)]) == first
            second = other.append("s", [Event("B", event_id=ID_B)])
        assert log.append("s", [Event("B", event_id=ID_B)]) == second
        assert log.next_position == 2

    @pytest.mark.parametrize("expected", [NO_STREAM, STREAM_EXISTS, 7])
    def test_a_repetition_is_recognised_before_expectations_are_looked_at(
        self, log: EventLog, expected: ExpectedVersion
    ) -> None:
        """Its own first success must not make it fail."""
        first = log.append("s", [Event("A", event_id=ID_A)], expected=NO_STREAM)
        assert log.append("s", [Event("A", event_id=ID_A)], expected=expected) == first

    def test_a_repetition_over_several_streams_is_recognised(self, log: EventLog) -> None:
        """Its commit comes back with all its streams."""
        parts = [
            StreamAppend("a", [Event("A", event_id=ID_A), Event("B", event_id=ID_B)], NO_STREAM),
            StreamAppend("b", [Event("C", event_id=ID_C)], NO_STREAM),
        ]
        first = log.append_to_streams(parts)
        log.append("a", [Event("Z")])
        assert log.append_to_streams(parts) == first
        assert first.stream_versions == {"a": 1, "b": 0}
        assert log.next_position == 4

    def test_a_repetition_may_differ_in_clock_and_metadata(self, log: EventLog) -> None:
        """They say who wrote and when; a retry is another writer at another time."""
        first = log.append("s", [Event("A", event_id=ID_A, metadata={"pid": 1}, recorded_at=NOON)])
        assert log.append("s", [Event("A", event_id=ID_A, metadata={"pid": 2})]) == first
        assert log.next_position == 1

    @pytest.mark.parametrize(
        ("stream", "event"),
        [
            ("t", Event("A", {"x": 1}, 1, [1], [0.0], ID_A)),
            ("s", Event("B", {"x": 1}, 1, [1], [0.0], ID_A)),
            ("s", Event("A", {"x": 2}, 1, [1], [0.0], ID_A)),
            ("s", Event("A", {"x": 1.0}, 1, [1], [0.0], ID_A)),
            ("s", Event("A", {"x": 1}, 2, [1], [0.0], ID_A)),
            ("s", Event("A", {"x": 1}, 1, [2], [0.0], ID_A)),
            ("s", Event("A", {"x": 1}, 1, None, [0.0], ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [-0.0], ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [None], ID_A)),
            ("s", Event("A", {"x": 1}, 1, [1], [], ID_A)),
        ],
    )
    def test_a_known_id_with_other_content_is_refused(self, log: EventLog, stream: str, event: Event) -> None:
        """One id is one event; the error names the id and where it stands."""
        log.append("z", [Event("Z")])
        log.append("s", [Event("A", {"x": 1}, 1, [1], [0.0], ID_A)])
        with pytest.raises(DuplicateEventError) as caught:
            log.append(stream, [event])
        assert caught.value.event_id == ID_A.hex
        assert caught.value.position == 1
        assert log.next_position == 2

    @pytest.mark.parametrize(
        "ids", [[ID_A], [ID_B], [ID_B, ID_A], [ID_A, ID_B, ID_C], [ID_C, ID_A], [ID_A, None]]
    )
    def test_a_part_of_a_known_commit_is_refused(self, log: EventLog, ids: list[UUID | None]) -> None:
        """A repetition repeats the whole commit, in its order, and nothing more."""
        log.append("s", [Event("A", event_id=ID_A), Event("A", event_id=ID_B)])
        with pytest.raises(DuplicateEventError):
            log.append("s", [Event("A", event_id=event_id) for event_id in ids])
        assert log.next_position == 2

    def test_events_of_two_known_commits_are_refused(self, log: EventLog) -> None:
        """They were two decisions and cannot become one."""
        log.append("s", [Event("A", event_id=ID_A)])
        log.append("s", [Event("A", event_id=ID_B)])
        with pytest.raises(DuplicateEventError):
            log.append("s", [Event("A", event_id=ID_A), Event("A", event_id=ID_B)])

    def test_one_id_twice_in_an_append_is_refused(self, log: EventLog) -> None:
        """Nothing is known of it yet; it is wrong all the same."""
        with pytest.raises(InvalidEventError, match="twice"):
            log.append("s", [Event("A", event_id=ID_A), Event("B", event_id=ID_A)])
        assert log.next_position == 0

    def test_a_refused_append_leaves_its_ids_unused(self, log: EventLog) -> None:
        """The same events can be sent again with another expectation."""
        with pytest.raises(ExpectedVersionError):
            log.append("s", [Event("A", event_id=ID_A)], expected=5)
        assert log.append("s", [Event("A", event_id=ID_A)], expected=NO_STREAM).first_position == 0
