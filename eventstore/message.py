"""Record-batch messages of the envelope, written directly: what pyarrow would write, byte for byte.

Building a batch of one row and serializing it costs Arrow a hundred times what its bytes do. The
envelope never changes within a format version, so neither does the shape of a message's metadata:
the same nodes, the same buffers, all of fixed width. One message that pyarrow itself has written
serves as the template; its numbers are put in by struct, and the body is laid out by joining bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Final

import msgspec
import pyarrow as pa

from eventstore.encoding import EncodedEvent
from eventstore.errors import InvalidEventError
from eventstore.format import CONTINUATION, PREFIX_BYTES, Numbers, numbers_of
from eventstore.schema import envelope_schema

_ALIGNMENT: Final = 8
_NONE: Final = (0, "")  # a buffer that is not there: no item of the column is null
_INT32_MAX: Final = (1 << 31) - 1
_NODES: Final = 13  # eleven columns, and the items of the two lists
_BUFFERS: Final = 30
_NO_NUMBERS: Final = Numbers(0, b"", b"")
_INT64: Final = struct.Struct("<q")
_NODE_FIELDS: Final = struct.Struct(f"<{2 * _NODES}q")
BUFFER_FIELDS: Final = struct.Struct(f"<{2 * _BUFFERS}q")


class BatchMessage:
    """The message of a commit, all but the positions and stream versions, which the lock decides on.

    Raises:
        InvalidEventError: The events hold more text or numbers than one commit can.
    """

    def __init__(self, events: Sequence[EncodedEvent]) -> None:
        self._count = len(events)
        self._shape, self._between, self._behind = (
            _of_one(events[0]) if len(events) == 1 else _of_many(events)
        )

    def at(self, first_position: int, stream_versions: Sequence[int]) -> bytes:
        """The encapsulated message of the events at consecutive positions from ``first_position``."""
        positions = range(first_position, first_position + self._count)
        return self._shape.head + self._shape.body.pack(
            *positions, *self._between, *stream_versions, *self._behind
        )


_Parts = tuple["_Shape", tuple[Any, ...], tuple[Any, ...]]
"""The message's shape, what lies between positions and stream versions, and what lies behind these."""


def _of_one(event: EncodedEvent) -> _Parts:
    """As ``_of_many``, without the lists and sums of one item."""
    stream, kind, data, metadata = event.stream_name, event.type_name, event.data, event.metadata
    index = _NO_NUMBERS if event.index is None else event.index
    values = _NO_NUMBERS if event.values is None else event.values
    sizes = len(stream), len(kind), len(data), len(metadata)
    if max(*sizes, index.count, values.count) > _INT32_MAX:
        return _of_many([event])
    index_nulls, values_nulls = int(event.index is None), int(event.values is None)
    shape = _shape(
        1,
        sizes,
        (index_nulls, index.count, index.null_count if index.validity else 0),
        (values_nulls, values.count, values.null_count if values.validity else 0),
    )
    behind = (
        *(0, sizes[1], kind, event.schema_version, 0, sizes[2], data, 0, sizes[3], metadata),
        *(bytes(index_nulls), 0, index.count, index.validity, index.items),
        *(bytes(values_nulls), 0, values.count, values.validity, values.items),
    )
    return shape, (event.id_bytes, event.recorded_at, 0, sizes[0], stream), behind


def _of_many(events: Sequence[EncodedEvent]) -> _Parts:
    ids, times, _, streams, types, schema_versions, data, metadata, index, values, _ = zip(
        *map(msgspec.structs.astuple, events), strict=True
    )
    stream_offsets, type_offsets = _offsets("names of streams", streams), _offsets("types", types)
    data_offsets, metadata_offsets = _offsets("data", data), _offsets("metadata", metadata)
    indexes, rows = _lists("index", index), _lists("values", values)
    shape = _shape(
        len(events),
        (stream_offsets[-1], type_offsets[-1], data_offsets[-1], metadata_offsets[-1]),
        (indexes.null_count, indexes.items.count, indexes.items.null_count),
        (rows.null_count, rows.items.count, rows.items.null_count),
    )
    behind = (
        *(*type_offsets, b"".join(types), *schema_versions),
        *(*data_offsets, b"".join(data), *metadata_offsets, b"".join(metadata)),
        *(indexes.validity, *indexes.offsets, indexes.items.validity, indexes.items.items),
        *(rows.validity, *rows.offsets, rows.items.validity, rows.items.items),
    )
    return shape, (b"".join(ids), *times, *stream_offsets, b"".join(streams)), behind


def _offsets(what: str, texts: Sequence[bytes]) -> Sequence[int]:
    """Where each text begins in all of them together, and where the last one ends."""
    offsets = list(accumulate(map(len, texts), initial=0))
    if offsets[-1] > _INT32_MAX:
        raise InvalidEventError(
            f"the {what} of a commit have {offsets[-1]} bytes; at most {_INT32_MAX} are allowed: "
            "append less at once"
        )
    return offsets


class _Lists(msgspec.Struct, frozen=True):
    """A column of lists of numbers: which are there, where each begins, and all items."""

    null_count: int
    validity: bytes
    offsets: Sequence[int]
    items: Numbers


def _lists(what: str, columns: Sequence[Numbers | None]) -> _Lists:
    present = [numbers for numbers in columns if numbers is not None]
    if not present:
        return _no_lists(len(columns))
    offsets = list(accumulate(map(_count_of, columns), initial=0))
    if offsets[-1] > _INT32_MAX:
        raise InvalidEventError(
            f"{what} of a commit has {offsets[-1]} numbers; at most {_INT32_MAX} are allowed: "
            "append less at once"
        )
    null_count = len(columns) - len(present)
    return _Lists(null_count, _bits(columns) if null_count else b"", offsets, _joined(present))


@lru_cache(maxsize=64)
def _no_lists(count: int) -> _Lists:
    """A column of nothing but nulls."""
    return _Lists(count, bytes((count + 7) // 8), (0,) * (count + 1), _NO_NUMBERS)


def _count_of(numbers: Numbers | None) -> int:
    return 0 if numbers is None else numbers.count


def _bits(columns: Sequence[Numbers | None]) -> bytes:
    """One bit a list, least significant first, 1 where the list is there."""
    number = sum(1 << place for place, numbers in enumerate(columns) if numbers is not None)
    return number.to_bytes((len(columns) + 7) // 8, "little")


def _joined(present: Sequence[Numbers]) -> Numbers:
    if len(present) == 1:
        return present[0]
    if not any(numbers.validity for numbers in present):
        return Numbers(
            sum(numbers.count for numbers in present), b"", b"".join([numbers.items for numbers in present])
        )
    # Bits of columns that end within a byte have to be shifted, which Arrow does well.
    arrays = [
        pa.Array.from_buffers(
            pa.int64(),
            numbers.count,
            [pa.py_buffer(numbers.validity) if numbers.validity else None, pa.py_buffer(numbers.items)],
        )
        for numbers in present
    ]
    return numbers_of(pa.concat_arrays(arrays))


# --- the metadata


class MessageTemplate(msgspec.Struct, frozen=True):
    """A message without its body, and where the numbers stand that differ from message to message.

    Attributes:
        head: Prefix and metadata.
        body_length_at: Where in it the body's length stands.
        row_count_at: Where the number of rows stands.
        nodes_at: Where the list of nodes begins: length and null count of each.
        buffers_at: Where the list of buffers begins: place in the body and length of each.
        constants: What is the same in all messages, but for the prefix: start, end, and the bytes there.
    """

    head: bytes
    body_length_at: int
    row_count_at: int
    nodes_at: int
    buffers_at: int
    constants: tuple[tuple[int, int, bytes], ...]


class _Shape(msgspec.Struct, frozen=True):
    """What messages of one shape have in common: prefix and metadata, and the layout of their body."""

    head: bytes
    body: struct.Struct


@lru_cache(maxsize=1024)
def _shape(
    count: int, text_bytes: tuple[int, ...], index: tuple[int, int, int], values: tuple[int, int, int]
) -> _Shape:
    """The shape of messages by what differs between them; a program makes few of them.

    Args:
        count: The number of events.
        text_bytes: How many bytes of text ``stream``, ``type``, ``data`` and ``metadata`` have.
        index: Of ``index``: lists that are null, items, items that are null.
        values: The same of ``values``.
    """
    stream, kind, data, metadata = ((_NONE, _offset_items(count), _bytes(size)) for size in text_bytes)
    longs = (_NONE, (8 * count, f"{count}Q"))
    columns = [
        *(*longs, _NONE, _bytes(16 * count)),
        *(_NONE, (8 * count, f"{count}q"), *stream, *longs, *kind),
        *(_NONE, (2 * count, f"{count}H"), *data, *metadata),
        *_list_buffers(count, *index),
        *_list_buffers(count, *values),
    ]
    buffers: list[int] = []
    layout = ["<"]
    end = 0
    for size, code in columns:
        padding = -size % _ALIGNMENT
        buffers += (end, size)
        layout.append(f"{code}{padding}x" if code else "")
        end += size + padding
    nodes = [*(count, 0) * 9, count, index[0], *index[1:], count, values[0], *values[1:]]
    template = message_template()
    head = bytearray(template.head)
    _INT64.pack_into(head, template.body_length_at, end)
    _INT64.pack_into(head, template.row_count_at, count)
    _NODE_FIELDS.pack_into(head, template.nodes_at, *nodes)
    BUFFER_FIELDS.pack_into(head, template.buffers_at, *buffers)
    body = struct.Struct("".join(layout))
    assert body.size == end, "a body as announced"
    return _Shape(bytes(head), body)


def _bytes(size: int) -> tuple[int, str]:
    return size, f"{size}s"


def _offset_items(count: int) -> tuple[int, str]:
    return 4 * (count + 1), f"{count + 1}i"


def _list_buffers(count: int, null_lists: int, items: int, null_items: int) -> Sequence[tuple[int, str]]:
    """Bits and offsets of the lists, bits of the items, and the items."""
    bits = (count + 7) // 8 if null_lists else 0
    item_bits = (items + 7) // 8 if null_items else 0
    return _bytes(bits), _offset_items(count), _bytes(item_bits), _bytes(8 * items)


@cache
def message_template() -> MessageTemplate:
    """The template of all messages."""
    schema = envelope_schema(bytes(16))
    # Nulls, because making an array of a list loads pandas where that is installed: half a second.
    columns = [pa.nulls(1, field.type) for field in schema]
    message = pa.RecordBatch.from_arrays(columns, schema=schema).serialize().to_pybytes()
    assert message.startswith(CONTINUATION), "an encapsulated message"
    head = message[: PREFIX_BYTES + int.from_bytes(message[4:PREFIX_BYTES], "little")]
    # A flatbuffer: Message { version, header_type, header, bodyLength }, whose header is
    # RecordBatch { length, nodes, buffers }.
    root = PREFIX_BYTES + _uint32(head, PREFIX_BYTES)
    header_at = _field(head, root, 2)
    header = header_at + _uint32(head, header_at)
    body_length_at, row_count_at = _field(head, root, 3), _field(head, header, 0)
    nodes_at = _vector(head, _field(head, header, 1), _NODES)
    buffers_at = _vector(head, _field(head, header, 2), _BUFFERS)
    numbers = [
        (body_length_at, _INT64.size),
        (row_count_at, _INT64.size),
        (nodes_at, _NODE_FIELDS.size),
        (buffers_at, BUFFER_FIELDS.size),
    ]
    return MessageTemplate(
        head, body_length_at, row_count_at, nodes_at, buffers_at, tuple(_between(head, sorted(numbers)))
    )


def _between(head: bytes, numbers: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
    """The parts of the metadata that lie between places of some length."""
    start = PREFIX_BYTES
    for place, size in (*numbers, (len(head), 0)):
        if place > start:
            yield start, place, head[start:place]
        start = place + size


def _uint32(flatbuffer: bytes, at: int) -> int:
    return int.from_bytes(flatbuffer[at : at + 4], "little")


def _field(flatbuffer: bytes, table: int, slot: int) -> int:
    """Where a field of a table stands; a table begins with the distance back to its field list."""
    (back,) = struct.unpack_from("<i", flatbuffer, table)
    (offset,) = struct.unpack_from("<H", flatbuffer, table - back + 4 + 2 * slot)
    assert offset, "a field of the template that has its default value is left out"
    return table + int(offset)


def _vector(flatbuffer: bytes, at: int, count: int) -> int:
    """Where the items of a vector begin."""
    start = at + _uint32(flatbuffer, at)
    assert _uint32(flatbuffer, start) == count, "as many as the envelope has"
    return start + 4
