"""The annex: what a frame that holds many commits says in front of its seal. Pure functions over bytes.

A re-encoded segment puts many commits into one frame. Its annex says where one commit ends and the
next begins, so that a repeated append still finds its commit; and it has a checksum for each 4 KiB, so
that a flipped bit is found and put right in a frame of any size. It lies in the message's padding, as
the seal does, and is specified in ``docs/format.md``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from eventstore.format import PREFIX_BYTES, SEAL_BYTES, Seal

ANNEX_MAGIC = b"DCPANNEX"
BLOCK_BYTES = 4096

_PREFIX = struct.Struct("<4sI")
_RUN = struct.Struct("<II")
_TRAILER = struct.Struct("<8sIIII")
_CRC = struct.Struct("<I")

assert (_RUN.size, _TRAILER.size) == (8, 24)
assert _TRAILER.size % 8 == 0, "Arrow wants the body at a multiple of eight bytes"


@dataclass(frozen=True)
class Annex:
    """What a frame says of the commits in it.

    Attributes:
        runs: Sizes of the commits, in order: so many events in each of so many commits.
        checksums: A CRC-32 of each block of the message, its prefix and this annex left out.
        offset: Where in the frame the annex begins.
    """

    runs: tuple[tuple[int, int], ...]
    checksums: tuple[int, ...]
    offset: int

    @property
    def event_count(self) -> int:
        """How many events the commits have together."""
        return sum(events * times for events, times in self.runs)

    def commit_at(self, row: int) -> tuple[int, int]:
        """The first row of the commit that holds the frame's row ``row``, and the row behind its last."""
        start = 0
        for events, times in self.runs:
            if row < start + events * times:
                first = start + (row - start) // events * events
                return first, first + events
            start += events * times
        raise IndexError(f"the frame has {start} events, so none at row {row}")

    def sizes(self) -> Iterator[int]:
        """The number of events of each commit."""
        return (events for events, times in self.runs for _ in range(times))


def with_annex(message: bytes, commit_sizes: Iterable[int]) -> bytes:
    """An encapsulated Arrow message with an annex at the end of its metadata, ready to be sealed."""
    continuation, metadata_bytes = _PREFIX.unpack_from(message)
    annex_at = PREFIX_BYTES + metadata_bytes
    runs = [(events, len(list(each))) for events, each in groupby(commit_sizes)]
    checksums = _checksums(message[PREFIX_BYTES:annex_at], message[annex_at:])
    annex = b"".join(_RUN.pack(*run) for run in runs) + struct.pack(f"<{len(checksums)}I", *checksums)
    annex += bytes(-len(annex) % 8)
    annex += _TRAILER.pack(ANNEX_MAGIC, len(runs), len(checksums), 0, 0)[: -_CRC.size]
    annex += _CRC.pack(zlib.crc32(annex))
    prefix = _PREFIX.pack(continuation, metadata_bytes + len(annex))
    return b"".join((prefix, message[PREFIX_BYTES:annex_at], annex, message[annex_at:]))


def read_annex(frame: bytes | memoryview, seal: Seal) -> Annex | None:
    """The annex of a frame; None when it has none, or its own checksum does not hold."""
    view = memoryview(frame)
    bounds = _bounds(view, seal)
    if bounds is None:
        return None
    start, end, run_count, checksum_count = bounds
    if _CRC.unpack_from(view, end - _CRC.size)[0] != zlib.crc32(view[start : end - _CRC.size]):
        return None
    runs_end = start + _RUN.size * run_count
    runs = tuple(_RUN.iter_unpack(view[start:runs_end]))
    checksums = struct.unpack_from(f"<{checksum_count}I", view, runs_end)
    if not all(events and times for events, times in runs):
        return None
    return Annex(runs, checksums, start)


def _bounds(view: memoryview, seal: Seal) -> tuple[int, int, int, int] | None:
    """Where the annex begins and ends, and what its trailer counts, as far as that can be true."""
    end = PREFIX_BYTES + seal.metadata_bytes - SEAL_BYTES
    if end < PREFIX_BYTES + _TRAILER.size:
        return None
    magic, run_count, checksum_count, _, _ = _TRAILER.unpack_from(view, end - _TRAILER.size)
    content = _RUN.size * run_count + _CRC.size * checksum_count
    start = end - _TRAILER.size - content - content % 8
    return (start, end, run_count, checksum_count) if magic == ANNEX_MAGIC and start >= PREFIX_BYTES else None


def checksums_hold(frame: bytes | memoryview, seal: Seal, annex: Annex) -> bool:
    """True when the annex's checksums are those of the frame's message."""
    view = memoryview(frame)
    body = view[PREFIX_BYTES + seal.metadata_bytes :]
    return tuple(_checksums(view[PREFIX_BYTES : annex.offset], body)) == annex.checksums


def one_bit_mended(frame: bytes, seal: Seal) -> Iterator[bytes]:
    """Frames that differ from this one in one bit and that the annex vouches for.

    Only the seal's digest says whether one of them is what was written.
    """
    annex = read_annex(frame, seal)
    if annex is None:
        yield from _annex_mended(frame, seal)
        return
    metadata = frame[PREFIX_BYTES : annex.offset]
    body_at = PREFIX_BYTES + seal.metadata_bytes
    covered = metadata + frame[body_at:]
    found = _checksums(metadata, frame[body_at:])
    if len(found) != len(annex.checksums):
        return
    wrong = [number for number, checksum in enumerate(found) if checksum != annex.checksums[number]]
    if len(wrong) != 1:
        return
    start = wrong[0] * BLOCK_BYTES
    for place, changed in _flips(covered[start : start + BLOCK_BYTES]):
        if zlib.crc32(changed) == annex.checksums[wrong[0]]:
            at = start + place
            at += PREFIX_BYTES if at < len(metadata) else body_at - len(metadata)
            yield frame[:at] + changed[place : place + 1] + frame[at + 1 :]


def _annex_mended(frame: bytes, seal: Seal) -> Iterator[bytes]:
    """The flipped bit is in the annex itself."""
    end = PREFIX_BYTES + seal.metadata_bytes - SEAL_BYTES
    bounds = _bounds(memoryview(frame), seal)
    start = max(end - _TRAILER.size, PREFIX_BYTES) if bounds is None else bounds[0]
    # Without the body: the search takes a copy for each bit.
    head = frame[:end]
    for place, changed in _flips(head[start:]):
        whole = head[:start] + changed
        if read_annex(whole, seal) is not None:
            at = start + place
            yield frame[:at] + whole[at : at + 1] + frame[at + 1 :]


def _flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    changed = bytearray(data)
    for place in range(len(data)):
        for bit in range(8):
            changed[place] ^= 1 << bit
            yield place, bytes(changed)
            changed[place] ^= 1 << bit


def _checksums(metadata: bytes | memoryview, body: bytes | memoryview) -> list[int]:
    covered = memoryview(b"".join((metadata, body)))
    return [zlib.crc32(covered[start : start + BLOCK_BYTES]) for start in range(0, len(covered), BLOCK_BYTES)]
