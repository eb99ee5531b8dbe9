"""The envelope: the Arrow schema of a batch, and the way from events to batches and back.

The schema's metadata carry ``format_version`` and ``log_id``; the columns are DESIGN's eleven and
are described in ``docs/format.md``. Pure functions: nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa

from eventstore import format as log_format
from eventstore import tagged_json
from eventstore.errors import DamagedLogError, FormatVersionError, InvalidEventError
from eventstore.identifiers import uuid7
from eventstore.model import Event, RecordedEvent

FORMAT_VERSION = 1
STREAM_BYTES_MAX = 4096
SCHEMA_VERSION_MAX = 0xFFFF
LOG_ID_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

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


@dataclass(frozen=True)
class EncodedEvent:
    """An event ready for the log, short of its position and stream version."""

    event_id: UUID
    recorded_at: int
    stream: str
    type: str
    schema_version: int
    data: str
    metadata: str
    index: pa.Int64Array | None
    values: pa.DoubleArray | None
    content_digest: bytes


def encode_event(stream: str, event: Event) -> EncodedEvent:
    """Check an event and bring it into its stored form.

    Raises:
        InvalidEventError: The event or the stream's name cannot be stored; the text says why.
    """
    if not isinstance(event, Event):
        raise InvalidEventError(f"an append takes a sequence of Event, and {event!r} is none")
    _check_names(stream, event)
    _check_facts(event)
    recorded_at = datetime.now(UTC) if event.recorded_at is None else event.recorded_at
    event_id = event.event_id or uuid7()
    microseconds = (recorded_at - _EPOCH) // _MICROSECOND
    data, metadata = tagged_json.encode(event.data), tagged_json.encode(dict(event.metadata))
    index = _bulk_column("index", event, event.index, pa.int64())
    values = _bulk_column("values", event, event.values, pa.float64())
    digest = log_format.content_digest(
        event_id=event_id.bytes,
        recorded_at=microseconds,
        stream=stream,
        event_type=event.type,
        schema_version=event.schema_version,
        data=data,
        metadata=metadata,
        index=index,
        values=values,
    )
    return EncodedEvent(
        event_id,
        microseconds,
        stream,
        event.type,
        event.schema_version,
        data,
        metadata,
        index,
        values,
        digest,
    )


def _check_names(stream: str, event: Event) -> None:
    for what, text in (("a stream's name", stream), ("an event's type", event.type)):
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidEventError(f"{what} is non-empty text without NUL, not {text!r}")
        try:
            length = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidEventError(f"{what} is not valid Unicode text: {text!r}") from error
        if length > STREAM_BYTES_MAX:
            raise InvalidEventError(f"{what} has {length} bytes; at most {STREAM_BYTES_MAX} are allowed")
    version = event.schema_version
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= SCHEMA_VERSION_MAX:
        raise InvalidEventError(
            f"schema_version of a {event.type} is 0 to {SCHEMA_VERSION_MAX}, not {version!r}"
        )


def _check_facts(event: Event) -> None:
    wanted = (
        ("event_id", event.event_id, UUID, "a UUID"),
        ("metadata", event.metadata, Mapping, "a mapping"),
        ("recorded_at", event.recorded_at, datetime, "a datetime"),
    )
    for what, value, kind, called in wanted:
        if not (value is None and what != "metadata") and not isinstance(value, kind):
            raise InvalidEventError(f"{what} of a {event.type} is {called}, not {value!r}")
    if event.recorded_at is not None and event.recorded_at.tzinfo is None:
        raise InvalidEventError(f"recorded_at of a {event.type} needs a time zone: {event.recorded_at!r}")


def _bulk_column(name: str, event: Event, column: Any, arrow_type: pa.DataType) -> Any:
    if column is None:
        return None
    try:
        # In two steps: told the type at once, Arrow cuts 1.5 down to 1 without a word. And
        # from_pandas=False, so that a NaN of a pandas series stays one and does not become a null.
        array = column if isinstance(column, pa.Array) else pa.array(column, from_pandas=False)
        array = _numeric(array).cast(arrow_type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidEventError(
            f"{name} of a {event.type} must be a flat sequence of {arrow_type} numbers: {error}"
        ) from error
    if name == "index" and array.null_count:
        raise InvalidEventError(f"index of a {event.type} must not hold None")
    return array


def _numeric(array: pa.Array) -> pa.Array:
    kind = array.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numeric and not pa.types.is_null(kind):
        raise TypeError(f"its items are {kind}")
    return array


def event_columns(events: Sequence[EncodedEvent]) -> dict[str, pa.Array]:
    """All columns of a commit but ``position`` and ``stream_version``, which the lock decides on.

    To be made before the lock is taken: the first array that pyarrow makes of a list loads pandas
    where that is installed, which takes half a second.
    """
    return {
        "event_id": pa.array([event.event_id.bytes for event in events], pa.binary(16)),
        "recorded_at": pa.array([event.recorded_at for event in events], _FIELDS[2].type),
        "stream": pa.array([event.stream for event in events], pa.string()),
        "type": pa.array([event.type for event in events], pa.string()),
        "schema_version": pa.array([event.schema_version for event in events], pa.uint16()),
        "data": pa.array([event.data for event in events], pa.string()),
        "metadata": pa.array([event.metadata for event in events], pa.string()),
        "index": _lists([event.index for event in events], pa.int64()),
        "values": _lists([event.values for event in events], pa.float64()),
    }


def record_batch(
    schema: pa.Schema,
    columns: Mapping[str, pa.Array],
    *,
    first_position: int,
    stream_versions: Sequence[int],
) -> pa.RecordBatch:
    """The batch that a commit writes: its ``columns`` at consecutive positions from ``first_position``."""
    positions = range(first_position, first_position + len(stream_versions))
    decided = {
        "position": pa.array(positions, pa.uint64()),
        "stream_version": pa.array(stream_versions, pa.uint64()),
    }
    arrays = {**columns, **decided}
    return pa.RecordBatch.from_arrays([arrays[name] for name in COLUMNS], schema=schema)


def _lists(arrays: Sequence[Any], item_type: pa.DataType) -> pa.ListArray:
    if all(array is None for array in arrays):
        return pa.nulls(len(arrays), pa.list_(item_type))
    offsets: list[int | None] = []
    end = 0
    for array in arrays:
        offsets.append(None if array is None else end)
        end += 0 if array is None else len(array)
    present = [array for array in arrays if array is not None]
    items = pa.concat_arrays(present) if present else pa.array([], item_type)
    return pa.ListArray.from_arrays(pa.array([*offsets, end], pa.int32()), items)


def clocks(batch: pa.RecordBatch) -> list[int]:
    """The events' clocks, in microseconds since 1970, UTC."""
    times: list[int] = batch.column("recorded_at").view(pa.int64()).to_pylist()
    return times


def content_digests(batch: pa.RecordBatch) -> Iterator[tuple[int, int, bytes]]:
    """For each event of a batch: its position, its stream version and its content digest."""
    times = clocks(batch)
    columns = [
        batch.column(name).to_pylist()
        for name in (
            "position",
            "stream_version",
            "event_id",
            "stream",
            "type",
            "schema_version",
            "data",
            "metadata",
        )
    ]
    for row, (position, version, event_id, stream, kind, schema_version, data, metadata) in enumerate(
        zip(*columns, strict=True)
    ):
        digest = log_format.content_digest(
            event_id=event_id,
            recorded_at=times[row],
            stream=stream,
            event_type=kind,
            schema_version=schema_version,
            data=data,
            metadata=metadata,
            index=batch.column("index")[row].values,
            values=batch.column("values")[row].values,
        )
        yield position, version, digest


def recorded_events(batch: pa.RecordBatch) -> Iterator[RecordedEvent]:
    """The events of a batch, in order."""
    index, values = batch.column("index"), batch.column("values")
    times = clocks(batch)
    names = ("position", "event_id", "stream", "stream_version", "type", "schema_version", "data", "metadata")
    columns = [batch.column(name).to_pylist() for name in names]
    for row, (position, event_id, stream, version, kind, schema_version, data, metadata) in enumerate(
        zip(*columns, strict=True)
    ):
        yield RecordedEvent(
            position=position,
            event_id=UUID(bytes=event_id),
            recorded_at=_moment(times[row], position),
            stream=stream,
            stream_version=version,
            type=kind,
            schema_version=schema_version,
            data_json=data,
            metadata_json=metadata,
            index=index[row].values,
            values=values[row].values,
        )


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
