"""What may be in an event, and comes back bit by bit: numbers, names, documents; and what is refused."""

from __future__ import annotations

import datetime as dt
import math
import struct
from typing import Any

import pyarrow as pa
import pytest

from eventstore import (
    NO_STREAM,
    Event,
    EventLog,
    InvalidEventError,
)
from eventstore.testing.contract.given import (
    NOON,
    GivenLog,
    OpenLog,
    positions_of,
    present,
)

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
    *(pa.array([2**63], pa.uint64()), pa.array([1.5]), pa.array(["1"]), pa.array([NOON])),
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


def _as_list(column: Any) -> list[Any]:
    return list(column.to_pylist() if isinstance(column, pa.Array) else column)


class ValueContract(GivenLog):
    """Numbers, names and documents."""

    # --- numbers

    def test_the_bits_of_numbers_survive(self, log: EventLog, open_log: OpenLog) -> None:
        """NaNs differ in their bits, zeros in their sign, and both may matter to somebody."""
        patterns = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000123, 0x8000000000000000, 1]
        raw = struct.pack("<5Q", *patterns)
        values = pa.Array.from_buffers(pa.float64(), 5, [None, pa.py_buffer(raw)])
        log.append("s", [Event("A", values=values)])
        with open_log() as other:
            (back,) = other.read()
        offset = 8 * present(back.values).offset
        assert bytes(present(back.values).buffers()[1])[offset : offset + 40] == raw

    def test_an_absent_number_is_not_nan(self, log: EventLog, open_log: OpenLog) -> None:
        """None says that there is no number; NaN is one."""
        log.append("s", [Event("A", values=[None, math.nan, 1.0, None]), Event("B", values=[None])])
        with open_log() as other:
            first, second = other.read()
        numbers = present(first.values).to_pylist()
        assert numbers[0] is None
        assert math.isnan(numbers[1])
        assert numbers[2:] == [1.0, None]
        assert present(second.values).to_pylist() == [None]

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
        assert present(back.index).to_pylist() == _as_list(index)
        assert present(back.values).to_pylist() == _as_list(values)
        assert present(back.index).type == pa.int64()
        assert present(back.values).type == pa.float64()

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
        assert present(back.values).to_pylist() == [1.0, 2.0]
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
            assert positions_of(other.read(stream=name)) == [1, 2]
            assert positions_of(other.read(types=[name])) == [1]
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
