"""What an appender must know of others' commits, read off their messages without Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event, EventLog, StreamAppend
from eventstore import format as log_format
from eventstore.keys import EventKeys, keys_of
from eventstore.message import BatchMessage
from eventstore.schema import clocks, decoded_batch, envelope_schema
from eventstore.storage.local import LocalStorage, segment
from tests.eventstore.test_message import ROWS, Row, encoded

SCHEMA = envelope_schema(bytes(16))


def sealed(message: bytes, count: int) -> tuple[memoryview, log_format.Seal]:
    frame, seal = log_format.sealed(
        message, first_position=7, event_count=count, synced_position=0, chain=bytes(32), offset=0
    )
    return memoryview(frame), seal


def by_arrow(frame: memoryview, count: int) -> EventKeys:
    batch = decoded_batch(frame, SCHEMA, event_count=count)
    ids = b"".join(batch.column("event_id").to_pylist())
    streams, versions = (batch.column(name).to_pylist() for name in ("stream", "stream_version"))
    return EventKeys(streams, tuple(versions), ids, max(clocks(batch)))


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_they_are_what_arrow_reads(rows: list[Row]) -> None:
    """Of messages of any number of events with any content."""
    message = BatchMessage(list(map(encoded, rows))).at(7, [row["stream_version"] for row in rows])
    frame, seal = sealed(message, len(rows))
    assert keys_of(frame, seal) == by_arrow(frame, len(rows))


@given(ROWS, st.data())
def test_a_message_that_somebody_made_up_is_left_to_arrow_or_read_like_it(
    row: Row, data: st.DataObject
) -> None:
    """Any byte changed, and sealed anew: nothing is read that Arrow would read otherwise."""
    message = bytearray(BatchMessage([encoded(row)]).at(7, [3]))
    place = data.draw(st.integers(log_format.PREFIX_BYTES, len(message) - 1))
    message[place] ^= data.draw(st.integers(1, 255))
    frame, seal = sealed(bytes(message), 1)
    found = keys_of(frame, seal)
    if found is not None:
        try:
            expected = by_arrow(frame, 1)
        except ValueError:
            return  # whoever reads the events is told
        assert found == expected


@pytest.mark.parametrize(
    "options", [pa.ipc.IpcWriteOptions(compression="zstd"), pa.ipc.IpcWriteOptions(compression="lz4")]
)
def test_other_layouts_are_left_to_arrow(options: pa.ipc.IpcWriteOptions) -> None:
    """Compressed batches have other metadata."""
    columns = [pa.nulls(1, field.type) for field in SCHEMA]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=options) as writer:
        writer.write_batch(batch)
    whole = sink.getvalue().to_pybytes()
    message = whole[len(SCHEMA.serialize()) :]
    assert keys_of(*sealed(message, 1)) is None


@pytest.fixture
def without_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ask Arrow what a frame holds."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Arrow was asked")

    monkeypatch.setattr(segment, "decoded_batch", refuse)


@pytest.mark.usefixtures("without_arrow")
def test_writers_read_each_other_without_arrow(tmp_path: Path) -> None:
    """Small commits of others, of one event and of several, to one stream and to several."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        for number in range(20):
            log.append("s", [Event("A", {"number": number})] * (number % 3 + 1), durability="os")
            both = [StreamAppend(name, [Event("B", {}, index=[1], values=[0.5])]) for name in "st"]
            other.append_to_streams(both, durability="os")
        assert (log.next_position, log.chain) == (other.next_position, other.chain)
        for each in (log, other):
            assert (each.stream_version("s"), each.stream_version("t")) == (58, 19)


@pytest.mark.usefixtures("without_arrow")
def test_who_opens_a_log_or_is_far_behind_asks_no_arrow(tmp_path: Path) -> None:
    """Many looks, one after the other; a commit that takes a look of its own is one of them."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as idle:
        for number in range(300):
            log.append(
                "s", [Event("A", {"text": "x" * (150_000 if number == 200 else 1_000)})], durability="os"
            )
        with EventLog.open(tmp_path) as fresh:
            for each in (idle, fresh):
                assert (each.next_position, each.chain) == (300, log.chain)


@pytest.mark.usefixtures("without_arrow")
def test_a_commit_that_is_too_large_for_a_look_is_read(tmp_path: Path) -> None:
    """Some megabytes are more than a look is for."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        log.append("s", [Event("A", {"text": "x" * 5_000_000})])
        with pytest.raises(AssertionError, match="Arrow was asked"):
            _ = other.next_position


def test_a_commit_that_is_half_there_is_not_seen(tmp_path: Path) -> None:
    """A look without the lock may meet a writer half way."""
    with EventLog.open(tmp_path) as log:
        log.append("s", [Event("A", {})])
        (path,) = tmp_path.glob("*.arrows")
        whole = path.read_bytes()
        log.append("s", [Event("A", {})])
        commit = path.read_bytes()[len(whole) :]
    for cut in (1, 8, len(commit) - 1):
        path.write_bytes(whole + commit[:cut])
        fresh = LocalStorage(tmp_path, read_only=False)
        assert [each.first_position for each in fresh.glance(0)] == [0]
        path.write_bytes(whole + commit)
        assert [each.first_position for each in fresh.glance(1)] == [1]
        fresh.close()
