"""The envelope: the Arrow schema of a batch, and the way from batches back to events.

The schema's metadata carry ``format_version`` and ``log_id``; the columns are DESIGN's eleven and
are described in ``docs/format.md``. Pure functions: nothing here opens a file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from uuid import UUID

import pyarrow as pa

from eventstore import format as log_format
from eventstore.errors import DamagedLogError, FormatVersionError
from eventstore.format import Numbers
from eventstore.model import RecordedEvent

FORMAT_VERSION = 1
LOG_ID_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FIELDS = [
    pa.field("position", pa.uint64(), nullable=False),
    pa.field("event_id", pa.binary(16), nullable=False),
    pa.field("recorded_at", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("stream", pa.string(), nullable=False),
    pa.field("stream_version", pa.uint64(), nullable=False),
    pa.field("type", pa.string(), nullable=False),
    pa.field("schema_version", pa.uint16(), nullable=False),
    pa.field("data", pa.string(), nullable=False),
    pa.field("metadata", pa.string(), nullable=False),
    pa.field("index", pa.list_(pa.int64())),
    pa.field("values", pa.list_(pa.float64())),
]
COLUMNS = tuple(field.name for field in _FIELDS)
_MANY = 8  # lists are read together, past Arrow, where that is cheaper than one by one
_PLACES = {name: place for place, name in enumerate(COLUMNS)}


def envelope_schema(log_id: bytes) -> pa.Schema:
    """The schema of every batch of the log ``log_id`` (16 bytes)."""
    return pa.schema(_FIELDS, metadata={"format_version": str(FORMAT_VERSION), "log_id": log_id.hex()})


def log_id_of(schema: pa.Schema, *, path: str) -> bytes:
    """The log id that a segment's schema carries.

    Raises:
        FormatVersionError: ``path`` was written by a newer version of this program.
        ValueError: The schema is not that of a log.
    """
    metadata = schema.metadata or {}
    if b"format_version" not in metadata or b"log_id" not in metadata:
        raise ValueError(f"{path} is an Arrow stream, but not a segment of a log")
    version = int(metadata[b"format_version"])
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}; this program reads up to {FORMAT_VERSION}: upgrade it",
            path=path,
            format_version=version,
        )
    return bytes.fromhex(metadata[b"log_id"].decode())


class UnreadableBatchError(ValueError):
    """Bytes whose seal holds are no batch of events; the text says why."""


# What Arrow raises over messages that somebody made up.
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)


def segment_schema(message: bytes | memoryview, *, path: str) -> tuple[pa.Schema, bytes]:
    """The schema that a segment's first frame carries, and the id of the log it belongs to.

    Args:
        message: The frame.
        path: The file, for errors.

    Raises:
        FormatVersionError: ``path`` was written by a newer version of this program.
        ValueError: The schema is not that of a log.
    """
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
    except _ARROW_ERRORS as error:
        raise ValueError(f"it does not begin with an Arrow schema ({error})") from error
    log_id = log_id_of(schema, path=path)
    if len(log_id) != LOG_ID_BYTES or not schema.equals(envelope_schema(log_id)):
        raise ValueError("its columns or its log id are not those of a log")
    return schema, log_id


def decoded_batch(message: bytes | memoryview, schema: pa.Schema, *, event_count: int) -> pa.RecordBatch:
    """The events of a frame, with everything checked that could lead a reader out of its buffers.

    A seal tells accidents, but whoever can write to the folder can seal anything, and Arrow
    believes the offsets that it reads. Checking them costs a microsecond a commit.

    Raises:
        UnreadableBatchError: It is no batch of ``event_count`` events.
    """
    try:
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(message)), schema)
        batch.validate(full=True)
    except _ARROW_ERRORS as error:
        raise UnreadableBatchError(str(error)) from error
    if batch.num_rows != event_count:
        raise UnreadableBatchError(f"it holds {batch.num_rows} events, and its seal says {event_count}")
    return batch


def clocks(batch: pa.RecordBatch) -> list[int]:
    """The events' clocks, in microseconds since 1970, UTC."""
    times: list[int] = column_of(batch, "recorded_at").view(pa.int64()).to_pylist()
    return times


def content_digests(batch: pa.RecordBatch) -> Iterator[tuple[int, int, bytes]]:
    """For each event of a batch: its position, its stream version and its content digest."""
    columns = (
        *(column_of(batch, name).to_pylist() for name in ("position", "stream_version", "event_id")),
        clocks(batch),
        column_of(batch, "schema_version").to_pylist(),
        *(column_of(batch, name).to_pylist() for name in ("stream", "type", "data", "metadata")),
        *(_numbers(column_of(batch, name)) for name in ("index", "values")),
    )
    for (
        position,
        version,
        event_id,
        clock,
        schema_version,
        stream,
        kind,
        data,
        metadata,
        index,
        values,
    ) in zip(*columns, strict=True):
        digest = log_format.content_digest(
            event_id=event_id,
            recorded_at=clock,
            stream=stream.encode(),
            event_type=kind.encode(),
            schema_version=schema_version,
            data=data.encode(),
            metadata=metadata.encode(),
            index=index,
            values=values,
        )
        yield position, version, digest


def folded_chain(chain: bytes, batch: pa.RecordBatch) -> bytes:
    """The chain's value behind a batch, from the one in front of it."""
    for position, version, content in content_digests(batch):
        chain = log_format.next_chain(chain, position=position, stream_version=version, content=content)
    return chain


def recorded_events(batch: pa.RecordBatch) -> Iterator[RecordedEvent]:
    """The events of a batch, in order."""
    names = ("position", "event_id", "stream", "stream_version", "type", "schema_version", "data", "metadata")
    columns = [column_of(batch, name).to_pylist() for name in names]
    lists = [_items(column_of(batch, name)) for name in ("index", "values")]
    for (
        (position, event_id, stream, version, kind, schema_version, data, metadata),
        clock,
        index,
        values,
    ) in zip(zip(*columns, strict=True), clocks(batch), *lists, strict=True):
        yield RecordedEvent(
            position=position,
            event_id=UUID(bytes=event_id),
            recorded_at=_moment(clock, position),
            stream=stream,
            stream_version=version,
            type=kind,
            schema_version=schema_version,
            data_json=data,
            metadata_json=metadata,
            index=index,
            values=values,
        )


def column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column of the envelope, by its place: looking a name up costs Arrow more than reading one row."""
    return batch.column(_PLACES[name])


def text_array(texts: Sequence[str]) -> pa.StringArray:
    """Texts as an Arrow array. ``pa.array`` and ``pa.scalar`` load pandas, where that is installed."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    offsets = struct.pack(f"<{len(encoded) + 1}i", *accumulate(map(len, encoded), initial=0))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _items(lists: pa.ListArray) -> list[pa.Array | None]:
    """Each list's items, or None where there is no list."""
    if lists.null_count == len(lists):
        return [None] * len(lists)
    return [scalar.values for scalar in lists]


def _numbers(lists: pa.ListArray) -> list[Numbers | None]:
    values = lists.values
    data = values.buffers()[1]
    if len(lists) < _MANY or values.null_count or data is None:
        return [None if items is None else log_format.numbers_of(items) for items in _items(lists)]
    first = 4 * lists.offset
    offsets = memoryview(lists.buffers()[1])[first : first + 4 * (len(lists) + 1)].cast("i").tolist()
    view = memoryview(data)[8 * values.offset :]
    return [
        Numbers(end - start, b"", bytes(view[8 * start : 8 * end])) if present else None
        for (start, end), present in zip(pairwise(offsets), lists.is_valid().to_pylist(), strict=True)
    ]


def _moment(microseconds: int, position: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise DamagedLogError(
            f"the event at position {position} was recorded at a time that no calendar has: {microseconds} "
            "microseconds from 1970. No writer does that; restore the log from a copy",
            path="",
            offset=0,
            position=position,
        ) from error
