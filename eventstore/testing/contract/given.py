"""What the themes of the contract share: a log to test, and how its events are compared."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import Event, EventLog, RecordedEvent, derived_id

if TYPE_CHECKING:
    import pyarrow as pa

OpenLog = Callable[[], EventLog]
"""Opens the log once more: every call gives a new handle of one and the same history."""

ID_A, ID_B, ID_C = derived_id("a"), derived_id("b"), derived_id("c")
NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)


class GivenLog:
    """The log under test. A subclass of the contract gives the fixture ``open_log``."""

    @pytest.fixture
    def open_log(self) -> OpenLog:
        """Give a function that opens the log under test, empty at first, as often as it is called."""
        raise NotImplementedError

    @pytest.fixture
    def log(self, open_log: OpenLog) -> Iterator[EventLog]:
        """Give one handle, closed at the end."""
        with open_log() as log:
            yield log


def events_of_types(*types: str) -> list[Event]:
    """One event of each type, with nothing else in them."""
    return [Event(name) for name in types]


def positions_of(events: Iterator[RecordedEvent]) -> list[int]:
    """Where events stand."""
    return [event.position for event in events]


def present(column: Any) -> Any:
    """A column that is there."""
    assert column is not None
    return column


def bits(numbers: Sequence[float]) -> list[bytes]:
    """Numbers, comparable: NaN by its bits, zero by its sign."""
    return [struct.pack("<d", number) for number in numbers]


def facts(event: RecordedEvent) -> tuple[Any, ...]:
    """Everything in an event, comparable: NaN by its bits, None apart from empty."""
    index = None if event.index is None else event.index.to_pylist()
    values = None if event.values is None else _number_facts(event.values)
    envelope = (event.position, event.event_id, event.recorded_at, event.stream, event.stream_version)
    return (*envelope, event.type, event.schema_version, event.data_json, event.metadata_json, index, values)


def _number_facts(values: pa.DoubleArray) -> list[bytes | None]:
    return [None if number is None else struct.pack("<d", number) for number in values.to_pylist()]
