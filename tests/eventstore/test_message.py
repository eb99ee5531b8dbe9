"""Messages that are written without Arrow, read by Arrow."""

from __future__ import annotations

import io
import subprocess
import sys

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import message as messages
from eventstore.encoding import EncodedEvent
from eventstore.errors import InvalidEventError
from eventstore.format import Numbers, numbers_of
from eventstore.message import BatchMessage
from eventstore.schema import COLUMNS, content_digests, decoded_batch, envelope_schema

SCHEMA = envelope_schema(bytes(range(16)))
TYPES = {field.name: field.type for field in SCHEMA}

_INT64 = st.integers(-(2**63), 2**63 - 1)
_LISTS = {
    "index": st.none() | st.lists(_INT64, max_size=20),
    "values": st.none() | st.lists(st.none() | st.floats(allow_nan=False), max_size=20),
}
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ROWS = st.fixed_dictionaries(
    {
        "event_id": st.binary(min_size=16, max_size=16),
        "recorded_at": _INT64,
        "stream": _TEXTS,
        "stream_version": st.integers(0, 2**64 - 1),
        "type": _TEXTS,
        "schema_version": st.integers(0, 0xFFFF),
        "data": _TEXTS,
        "metadata": _TEXTS,
        **_LISTS,
    }
)
Row = dict[str, object]


def encoded(row: Row) -> EncodedEvent:
    index, values = (
        None if row[name] is None else numbers_of(pa.array(row[name], TYPES[name].value_type))
        for name in _LISTS
    )
    return EncodedEvent(
        row["event_id"],
        row["recorded_at"],
        row["stream"],
        *(str(row[name]).encode() for name in ("stream", "type")),
        row["schema_version"],
        *(str(row[name]).encode() for name in ("data", "metadata")),
        index,
        values,
        bytes(32),
    )


def message_of(rows: list[Row], first_position: int) -> bytes:
    versions = [row["stream_version"] for row in rows]
    return BatchMessage([encoded(row) for row in rows]).at(first_position, versions)  # type: ignore[arg-type]


def arrow_batch(rows: list[Row], first_position: int) -> pa.RecordBatch:
    """The same rows, built by Arrow from Python's values."""
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    columns["position"] = list(range(first_position, first_position + len(rows)))
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[name], TYPES[name]) for name in COLUMNS], schema=SCHEMA
    )


@given(st.lists(ROWS, min_size=1, max_size=12), st.integers(0, 2**63))
def test_a_message_is_byte_for_byte_what_arrow_writes(rows: list[Row], first_position: int) -> None:
    """Whatever the columns hold: no reader can tell who has written it."""
    batch = arrow_batch(rows, first_position)
    message = message_of(rows, first_position)
    read = decoded_batch(message, SCHEMA, event_count=len(rows))
    assert read.equals(batch)
    assert message == read.serialize().to_pybytes()
    assert message == batch.serialize().to_pybytes()


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_another_arrow_reads_it_too(rows: list[Row]) -> None:
    """Polars has its own reader of the format."""
    stream = SCHEMA.serialize().to_pybytes() + message_of(rows, 7)
    frame = pl.read_ipc_stream(io.BytesIO(stream))
    assert frame["position"].to_list() == list(range(7, 7 + len(rows)))
    for name in ("stream", "type", "data", "metadata", "event_id", "stream_version", *_LISTS):
        assert frame[name].to_list() == [row[name] for row in rows]


@given(st.lists(ROWS, min_size=9, max_size=14), st.integers(0, 14))
def test_digests_of_many_events_are_those_of_each(rows: list[Row], start: int) -> None:
    """Read together or one by one, from a whole batch or a slice of it."""
    batch = decoded_batch(message_of(rows, 0), SCHEMA, event_count=len(rows))
    one_by_one = [next(content_digests(batch.slice(row, 1))) for row in range(len(rows))]
    assert list(content_digests(batch)) == one_by_one
    assert list(content_digests(batch.slice(start))) == one_by_one[start:]


def test_a_commit_of_many_events_is_one_message() -> None:
    """Ten thousand rows, with bits of nulls that end within a byte."""
    rows: list[Row] = [
        {
            "event_id": number.to_bytes(16),
            "recorded_at": number,
            "stream": f"s{number % 7}",
            "stream_version": number,
            "type": "A",
            "schema_version": 1,
            "data": "{}" * (number % 5),
            "metadata": "{}",
            "index": None if number % 3 else [number, -number],
            "values": None if number % 4 else [None, 0.5 * number, None][: number % 11],
        }
        for number in range(10_000)
    ]
    assert message_of(rows, 0) == arrow_batch(rows, 0).serialize().to_pybytes()


@pytest.mark.parametrize("column", ["data", "values"])
def test_a_commit_that_is_too_large_for_arrow_is_refused(
    column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets have 32 bits: nothing is cut, and the error says what to do."""
    row: Row = dict.fromkeys(COLUMNS, "x")
    row |= {"event_id": bytes(16), "recorded_at": 0, "schema_version": 1, "index": None, "values": [0.0] * 9}
    row["data"] = "x" * 9
    monkeypatch.setattr(messages, "_INT32_MAX", 17)
    BatchMessage([encoded(row)])
    with pytest.raises(InvalidEventError, match=f"{column}.* of a commit ha.* append less at once"):
        BatchMessage([encoded(row | {"data": "x", "values": None} | {column: row[column]})] * 2)


def test_numbers_count_what_is_absent() -> None:
    """A column without nulls has no bits at all."""
    assert numbers_of(pa.array([1.0, None, 2.0])) == Numbers(
        3, b"\x05", b"".join(pa.array([value]).buffers()[1].to_pybytes()[:8] for value in (1.0, 0.0, 2.0))
    )
    assert Numbers(3, b"\x05", bytes(24)).null_count == 1
    assert Numbers(3, b"", bytes(24)).null_count == 0


def test_a_first_append_loads_no_pandas(tmp_path: object) -> None:
    """Arrow loads it to make an array of a list, which takes half a second."""
    program = (
        "import sys; from eventstore import Event, EventLog\n"
        f"with EventLog.open({str(tmp_path)!r}) as log:\n"
        "    log.append('s', [Event('A', {'n': 1}, index=[1], values=[0.5])])\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
