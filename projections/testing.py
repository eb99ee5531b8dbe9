"""Tests of read models: given these events, when applied, then these rows.

    >>> given = [event("ConfigStored", {"kind": "tasks", "name": "t", "document": 1})]
    >>> rows(given, "SELECT name, document FROM tasks")
    [('t', '1')]

``ListedLog`` is a log that is a list, cut into batches at will.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa

from eventstore.storage.protocol import SharedFiles
from projections.read_models import ReadModels

ENVELOPE = pa.schema(
    [
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
)

FIRST_RECORDED_AT = datetime(2025, 1, 1, tzinfo=UTC)
"""When the event at position 0 was recorded; each later one a second after the one before."""


@dataclass(frozen=True)
class GivenEvent:
    """An event short of its place: what matters to a read model."""

    type: str
    data: str
    index: Sequence[int | None] | None = None
    values: Sequence[float | None] | None = None
    schema_version: int = 1
    stream: str = "given"


def event(
    event_type: str,
    data: Any,
    *,
    index: Sequence[int | None] | None = None,
    values: Sequence[float | None] | None = None,
    schema_version: int = 1,
    stream: str = "given",
) -> GivenEvent:
    """An event of a type with these data, as JSON, and bulk columns."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return GivenEvent(event_type, text, index, values, schema_version, stream)


def envelope(events: Sequence[GivenEvent], *, first_position: int = 0) -> pa.RecordBatch:
    """The events as the log would give them, from a position on."""
    return pa.RecordBatch.from_pylist(
        [_row(given, position) for position, given in enumerate(events, first_position)], schema=ENVELOPE
    )


@dataclass
class ListedLog:
    """A log that is a list of events, read in batches of ``batch_events``."""

    events: list[GivenEvent] = field(default_factory=list)
    batch_events: int = 1000
    shared_files: SharedFiles | None = None

    @property
    def next_position(self) -> int:
        """How many events there are."""
        return len(self.events)

    def append(self, *events: GivenEvent) -> None:
        """Let these events have happened."""
        self.events.extend(events)

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        """All events from a position on."""
        for start in range(from_position, len(self.events), self.batch_events):
            yield envelope(self.events[start : start + self.batch_events], first_position=start)

    @property
    def log_id(self) -> bytes:
        """Sixteen bytes."""
        return bytes(16)

    @property
    def durable_position(self) -> int:
        """All events."""
        return self.next_position

    def chain_at(self, position: int) -> bytes:
        """A hash over the events below a position."""
        return hashlib.sha256(repr(self.events[:position]).encode()).digest()


def rows(
    events: Sequence[GivenEvent], sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """What a query finds once these events, and no others, have happened."""
    read_models = ReadModels(ListedLog(list(events)), threads=1)
    try:
        return read_models.query(sql, parameters).fetchall()
    finally:
        read_models.close()


def _row(given: GivenEvent, position: int) -> dict[str, Any]:
    return {
        "position": position,
        "event_id": UUID(int=position).bytes,
        "recorded_at": FIRST_RECORDED_AT + timedelta(seconds=position),
        "stream": given.stream,
        "stream_version": position,
        "type": given.type,
        "schema_version": given.schema_version,
        "data": given.data,
        "metadata": "{}",
        "index": given.index,
        "values": given.values,
    }
