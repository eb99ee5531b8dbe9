"""Bytes of the log: the frame, its seal, and the chain of hashes. Pure functions over bytes.

A frame is one encapsulated Arrow IPC message whose metadata padding ends in a seal; a chain value
vouches for all events up to a position. The layout is specified in ``docs/format.md``, byte by byte.
This module never opens a file and never lets Arrow see a byte that its seal does not vouch for.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import Enum

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + bytes(4)
MAGIC = b"DCPSEAL1"
SECTOR_BYTES = 512

_PREFIX = struct.Struct("<4sI")
_SEAL = struct.Struct("<8sQQIIQ32sII32s")
_SEALED_FIELDS = struct.Struct("<8sQQIIQ32sI")
_CRC = struct.Struct("<I")
_CRC_OFFSET = 76
_DIGEST_OFFSET = 80
_CHAIN_START = b"dacapo-store/chain/1\0"
_CHAIN_STEP = struct.Struct("<32sQQ32s")
_CONTENT_HEAD = struct.Struct("<16sqHQ")
_LENGTH = struct.Struct("<Q")
_ZEROS = bytes(SECTOR_BYTES)

PREFIX_BYTES = _PREFIX.size
SEAL_BYTES = _SEAL.size
_UNSEALED = b"\xff" * SEAL_BYTES
METADATA_BYTES_MAX = 1 << 24
CHAIN_BYTES = 32
_DIGEST_BYTES = 32
_SEARCH_BYTES_MAX = 1 << 28

assert (PREFIX_BYTES, SEAL_BYTES) == (8, 112)
assert (_SEALED_FIELDS.size, _CRC_OFFSET + _CRC.size) == (_CRC_OFFSET, _DIGEST_OFFSET)
assert SEAL_BYTES % 8 == 0, "Arrow wants the body at a multiple of eight bytes"


class Seal(msgspec.Struct, frozen=True):
    """What a frame says of itself.

    Attributes:
        body_bytes: Length of the message's body.
        first_position: Position of the frame's first event; for a schema, of the segment's.
        event_count: Number of its events; 0 for a schema.
        zero_sectors: How many of the disk sectors that the frame touches hold only its zeros.
        synced_position: Positions below this were known to be synced when the frame was written.
        chain: The chain's value behind the frame's last event.
        metadata_bytes: Length of the message's metadata, padding and seal included.
        digest: SHA-256 of the frame without this digest.
    """

    body_bytes: int
    first_position: int
    event_count: int
    zero_sectors: int
    synced_position: int
    chain: bytes
    metadata_bytes: int
    digest: bytes

    @property
    def frame_bytes(self) -> int:
        """Length of the whole frame."""
        return PREFIX_BYTES + self.metadata_bytes + self.body_bytes

    @property
    def next_position(self) -> int:
        """The position behind the frame's last event."""
        return self.first_position + self.event_count


class Flaw(Enum):
    """Why bytes are not a good frame."""

    SHORT = "the frame is cut short"
    HOLE = "a sector of the frame was never written"
    WRONG = "the frame's bytes are not those that were sealed"


def seal_frame(
    message: bytes, *, first_position: int, event_count: int, synced_position: int, chain: bytes, offset: int
) -> bytes:
    """Turn an encapsulated Arrow message into a frame for the place ``offset`` of a file.

    Args:
        message: What ``RecordBatch.serialize`` or ``Schema.serialize`` gives.
        first_position: Position of the first event.
        event_count: Number of events, 0 for a schema.
        synced_position: Up to where the writer knows the log to be synced.
        chain: The chain's value behind the last event, 32 bytes.
        offset: Where in the file the frame will begin; its sectors are counted from there.
    """
    frame, _ = sealed(
        message,
        first_position=first_position,
        event_count=event_count,
        synced_position=synced_position,
        chain=chain,
        offset=offset,
    )
    return frame


def sealed(
    message: bytes, *, first_position: int, event_count: int, synced_position: int, chain: bytes, offset: int
) -> tuple[bytes, Seal]:
    """As ``seal_frame``; gives the frame and what its seal says."""
    continuation, old_metadata_bytes = _PREFIX.unpack_from(message)
    if continuation != CONTINUATION:
        raise ValueError("an encapsulated Arrow message begins with ff ff ff ff")
    seal_at = PREFIX_BYTES + old_metadata_bytes
    metadata_bytes = old_metadata_bytes + SEAL_BYTES
    head = _PREFIX.pack(CONTINUATION, metadata_bytes) + message[PREFIX_BYTES:seal_at]
    body = message[seal_at:]
    # Counted with ff in the seal's whole place: a share of a sector that holds a part of the seal
    # holds its magic or a part of its digest, so it is none of the zero ones either way.
    zero_sectors = count_zero_sectors(b"".join((head, _UNSEALED, body)), offset)
    fields = _SEALED_FIELDS.pack(
        MAGIC,
        len(body),
        first_position,
        event_count,
        zero_sectors,
        synced_position,
        chain,
        metadata_bytes,
    )
    undigested = b"".join((head, fields, _CRC.pack(zlib.crc32(fields))))
    hasher = hashlib.sha256(undigested)
    hasher.update(body)
    digest = hasher.digest()
    seal = Seal(
        len(body), first_position, event_count, zero_sectors, synced_position, chain, metadata_bytes, digest
    )
    return b"".join((undigested, digest, body)), seal


def unseal(frame: bytes | memoryview, seal: Seal) -> bytes:
    """The encapsulated Arrow message that a frame was made of."""
    seal_at = PREFIX_BYTES + seal.metadata_bytes - SEAL_BYTES
    prefix = _PREFIX.pack(CONTINUATION, seal.metadata_bytes - SEAL_BYTES)
    return b"".join((prefix, frame[PREFIX_BYTES:seal_at], frame[seal_at + SEAL_BYTES :]))


def read_seal(data: bytes | memoryview, seal_offset: int) -> Seal | None:
    """The seal that begins at ``seal_offset``, or None when its own checksum does not hold."""
    if len(data) < seal_offset + SEAL_BYTES:
        return None
    magic, body, first, count, zeros, synced, chain, metadata, crc, digest = _SEAL.unpack_from(
        data, seal_offset
    )
    if magic != MAGIC or crc != zlib.crc32(data[seal_offset : seal_offset + _CRC_OFFSET]):
        return None
    return Seal(body, first, count, zeros, synced, chain, metadata, digest)


def header_bytes(prefix: bytes | memoryview) -> int | None:
    """Length of prefix and metadata by the frame's first eight bytes, or None if they are no prefix."""
    continuation, metadata_bytes = _PREFIX.unpack_from(prefix)
    if continuation != CONTINUATION or not SEAL_BYTES < metadata_bytes <= METADATA_BYTES_MAX:
        return None
    return int(PREFIX_BYTES + metadata_bytes)


def header_seal(header: bytes | memoryview) -> Seal | None:
    """The seal at the end of a frame's prefix and metadata, when it fits them."""
    seal = read_seal(header, len(header) - SEAL_BYTES)
    return seal if seal is not None and PREFIX_BYTES + seal.metadata_bytes == len(header) else None


def digest_holds(frame: bytes | memoryview, seal: Seal) -> bool:
    """True when the bytes of a whole frame are those that were sealed."""
    digest_at = PREFIX_BYTES + seal.metadata_bytes - SEAL_BYTES + _DIGEST_OFFSET
    hasher = hashlib.sha256(frame[:digest_at])
    hasher.update(frame[digest_at + 32 :])
    return hasher.digest() == seal.digest


def find_flaw(data: bytes, offset: int) -> Flaw:
    """Say what is wrong with the frame that should begin a file's last bytes.

    Args:
        data: The file from the frame's first byte to the file's end.
        offset: Where in the file that first byte is.
    """
    expected = _seal_of_frame_at_start(data)
    if expected is None:
        header = header_bytes(data) if len(data) >= PREFIX_BYTES else None
        if header is not None and len(data) >= header:
            return Flaw.HOLE if count_zero_sectors(data[:header], offset) else Flaw.WRONG
        if header is None and len(data) >= PREFIX_BYTES:
            first_sector = data[: SECTOR_BYTES - offset % SECTOR_BYTES]
            return Flaw.WRONG if any(first_sector) else Flaw.HOLE
        return Flaw.SHORT
    if len(data) < expected.frame_bytes:
        return Flaw.SHORT
    frame = data[: expected.frame_bytes]
    missing = count_zero_sectors(frame, offset) - expected.zero_sectors
    if missing <= 0 or (missing == 1 and _one_bit_is_missing(frame, offset, expected)):
        return Flaw.WRONG
    return Flaw.HOLE


def _one_bit_is_missing(frame: bytes, offset: int, seal: Seal) -> bool:
    """Whether a sector holds only zeros because the one bit that was set in it has flipped.

    No power cut does that, and a frame may be acknowledged: it must not be cut.
    """
    digest_at = PREFIX_BYTES + seal.metadata_bytes - SEAL_BYTES + _DIGEST_OFFSET
    places = _places_in_zero_sectors(frame, offset)
    if len(places) * 8 * len(frame) > _SEARCH_BYTES_MAX:
        return False
    for place in places:
        in_front = hashlib.sha256(_without(frame, digest_at, 0, place))
        behind = _without(frame, digest_at, place + 1, len(frame))
        for bit in range(8):
            hasher = in_front.copy()
            hasher.update(bytes([1 << bit]))
            hasher.update(behind)
            if hasher.digest() == seal.digest:
                return True
    return False


def _without(frame: bytes, digest_at: int, start: int, end: int) -> bytes:
    """A part of a frame, without the bytes of its digest."""
    return frame[start : min(end, digest_at)] + frame[max(start, digest_at + _DIGEST_BYTES) : end]


def _places_in_zero_sectors(frame: bytes, offset: int) -> list[int]:
    places: list[int] = []
    start = 0
    while start < len(frame):
        end = min(start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES, len(frame))
        if not frame[start:end].strip(b"\0"):
            places += range(start, end)
        start = end
    return places


def _seal_of_frame_at_start(data: bytes) -> Seal | None:
    """The seal of the frame that begins ``data``, found by its magic: the prefix may be damaged."""
    at = data.find(MAGIC, 0, METADATA_BYTES_MAX)
    while at >= 0:
        seal = read_seal(data, at)
        if seal is not None and at + SEAL_BYTES == PREFIX_BYTES + seal.metadata_bytes:
            return seal
        at = data.find(MAGIC, at + 1, METADATA_BYTES_MAX)
    return None


def greatest_synced_position(data: bytes) -> int:
    """The greatest ``synced_position`` of any good frame that lies anywhere in ``data``, or 0."""
    greatest = 0
    at = data.find(MAGIC)
    while at >= 0:
        seal = read_seal(data, at)
        if seal is not None and seal.synced_position > greatest:
            start = at + SEAL_BYTES - PREFIX_BYTES - seal.metadata_bytes
            if start >= 0 and digest_holds(memoryview(data)[start : start + seal.frame_bytes], seal):
                greatest = seal.synced_position
        at = data.find(MAGIC, at + 1)
    return greatest


def count_zero_sectors(data: bytes | bytearray | memoryview, offset: int) -> int:
    """How many disk sectors' shares of ``data``, which begins at ``offset`` of a file, are all zero."""
    first = SECTOR_BYTES - offset % SECTOR_BYTES
    count = int(len(data) > 0 and not any(data[:first]))
    for start in range(first, len(data), SECTOR_BYTES):
        # Most sectors begin with something: only the others are looked at as a whole.
        if not data[start]:
            share = bytes(data[start : start + SECTOR_BYTES])
            count += share == _ZEROS[: len(share)]
    return count


def first_chain(log_id: bytes) -> bytes:
    """The chain's value in front of a log's first event."""
    return hashlib.sha256(_CHAIN_START + log_id).digest()


def next_chain(chain: bytes, *, position: int, stream_version: int, content: bytes) -> bytes:
    """The chain's value behind an event, from the one in front of it and its content digest."""
    return hashlib.sha256(_CHAIN_STEP.pack(chain, position, stream_version, content)).digest()


class Numbers(msgspec.Struct, frozen=True):
    """The items of a bulk column of one event, as they are hashed and stored.

    Attributes:
        count: How many items there are.
        validity: One bit an item, least significant first, 1 where the item is there; the bits
            behind the last are 0. Empty when no item is null.
        items: 8 bytes an item, zeros where it is null.
    """

    count: int
    validity: bytes
    items: bytes

    @property
    def null_count(self) -> int:
        """How many of the items are null."""
        return self.count - int.from_bytes(self.validity, "little").bit_count() if self.validity else 0


def numbers_of(array: pa.Array) -> Numbers:
    """The items of an Arrow array of int64 or float64."""
    validity = b""
    if array.null_count:
        validity = _validity(array)
        # Not fill_null, whose scalar loads pandas where that is installed.
        zeros = pa.Array.from_buffers(array.type, len(array), [None, pa.py_buffer(bytes(8 * len(array)))])
        array = pc.coalesce(array, zeros)
    items = array.buffers()[1]
    start = 8 * array.offset
    data = b"" if items is None else bytes(memoryview(items)[start : start + 8 * len(array)])
    return Numbers(len(array), validity, data)


def content_digest(  # noqa: PLR0913 - one argument for each field that is hashed
    *,
    event_id: bytes,
    recorded_at: int,
    stream: bytes,
    event_type: bytes,
    schema_version: int,
    data: bytes,
    metadata: bytes,
    index: Numbers | None,
    values: Numbers | None,
) -> bytes:
    """The SHA-256 of everything in an event but its position and stream version.

    ``recorded_at`` is in microseconds since 1970, UTC; texts are given as UTF-8.
    """
    # The order of what is hashed is that of docs/format.md; one call costs less than many.
    texts = (
        _CONTENT_HEAD.pack(event_id, recorded_at, schema_version, len(stream)),
        stream,
        _LENGTH.pack(len(event_type)),
        event_type,
        _LENGTH.pack(len(data)),
        data,
        _LENGTH.pack(len(metadata)),
        metadata,
    )
    if index is None and values is None:
        return hashlib.sha256(b"".join((*texts, b"\0\0"))).digest()
    return hashlib.sha256(b"".join((*texts, *_hashed(index), *_hashed(values)))).digest()


def _hashed(numbers: Numbers | None) -> tuple[bytes, ...]:
    if numbers is None:
        return (b"\0",)
    mark = b"\2" if numbers.validity else b"\1"
    return mark, _LENGTH.pack(numbers.count), numbers.validity, numbers.items


def _validity(array: pa.Array) -> bytes:
    """One bit an item, least significant first, 1 where the item is there."""
    there = pc.is_valid(array)
    bits = pc.and_(there, there)
    assert bits.offset == 0, "a kernel's own output begins at its buffer's first bit"
    packed = bytearray(memoryview(bits.buffers()[1])[: (len(array) + 7) // 8])
    if len(array) % 8:
        packed[-1] &= (1 << len(array) % 8) - 1
    return bytes(packed)
