"""What of a segment file can still be proven good, wherever in it damage lies. Reads only.

A frame proves itself: its seal is found by its magic, says where the frame begins, and holds a
SHA-256 over all of it. So frames behind damage are found without the ones in front of them. A frame
with one flipped bit, which is what ageing disks and memory do most, can even be mended: of all
frames that differ in one bit only one has this SHA-256, and that is the one that was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eventstore import format as log_format
from eventstore.annex import ANNEX_MAGIC, one_bit_mended
from eventstore.errors import FormatVersionError
from eventstore.format import END_OF_STREAM, MAGIC, METADATA_BYTES_MAX, PREFIX_BYTES, SEAL_BYTES, Seal
from eventstore.schema import segment_schema

MENDED_BYTES_MAX = 64 << 10
"""Longer frames without an annex are not mended: the search takes the square of their length."""

ANNEXED_BYTES_MAX = 16 << 20
"""Longer frames with an annex are not mended either: the search copies them some hundred times."""

_SEALED_HEAD_BYTES = 80
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class GoodFrame:
    """A frame of events whose bytes are those that were sealed.

    Attributes:
        path: The file.
        offset: The byte in it where the frame begins.
        seal: Its seal.
        mended: The frame with its flipped bit put right; None when it is good as it stands.
    """

    path: Path
    offset: int
    seal: Seal
    mended: bytes | None = None

    def read(self) -> bytes:
        """The frame's bytes as they were sealed."""
        if self.mended is not None:
            return self.mended
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.seal.frame_bytes)


@dataclass(frozen=True)
class Unreadable:
    """Bytes that are no good frame.

    Attributes:
        path: The file.
        offset: Where they begin in it.
        end_offset: Where the next good frame begins, or the file ends.
        seals: The seals among them whose own checksum holds, each with the byte at which its frame
            would begin.
    """

    path: Path
    offset: int
    end_offset: int
    seals: tuple[tuple[int, Seal], ...]


@dataclass(frozen=True)
class Survey:
    """A segment file, as far as it can be read.

    Attributes:
        path: The file.
        file_bytes: Its length.
        schema: The frame of its schema, if that is good.
        log_id: The log it belongs to, if that can be read.
        frames: The good frames of events, as they lie in the file.
        unreadable: What lies between them.
        ended: True when Arrow's end-of-stream mark ends the file.
    """

    path: Path
    file_bytes: int
    schema: GoodFrame | None
    log_id: bytes | None
    frames: tuple[GoodFrame, ...]
    unreadable: tuple[Unreadable, ...]
    ended: bool = False

    @property
    def end_offset(self) -> int:
        """Where what the segment holds ends."""
        return self.file_bytes - len(END_OF_STREAM) * self.ended


def survey(path: Path) -> Survey:
    """Look at every byte of a segment file, which is read whole.

    Raises:
        FormatVersionError: The file was written by a newer version of this program.
    """
    data = path.read_bytes()
    schema: GoodFrame | None = None
    frames: list[GoodFrame] = []
    unreadable: list[Unreadable] = []
    end = 0
    for frame in _good_frames(path, data):
        if frame.offset > end:
            unreadable.append(_unreadable(path, data, end, frame.offset))
        end = frame.offset + frame.seal.frame_bytes
        if frame.seal.event_count:
            frames.append(frame)
        elif schema is None:
            schema = frame
    ended = schema is not None and data[end:] == END_OF_STREAM
    if end < len(data) and not ended:
        unreadable.append(_unreadable(path, data, end, len(data)))
    log_id = None if schema is None else _log_id(schema)
    return Survey(path, len(data), schema, log_id, tuple(frames), tuple(unreadable), ended)


def _good_frames(path: Path, data: bytes) -> Iterator[GoodFrame]:
    offset: int | None = 0
    while offset is not None and offset < len(data):
        frame = _frame_at(path, data, offset)
        if frame is None:
            found = (_frame_at(path, data, start) for start in _starts(data, offset))
            frame = next((each for each in found if each is not None), None)
        if frame is None:
            return
        yield frame
        offset = frame.offset + frame.seal.frame_bytes


def _starts(data: bytes, offset: int) -> Iterator[int]:
    """Where frames behind ``offset`` begin, by the seals whose own checksum holds."""
    at = data.find(MAGIC, offset)
    while at >= 0:
        seal = log_format.read_seal(data, at)
        if seal is not None:
            start = at + SEAL_BYTES - PREFIX_BYTES - seal.metadata_bytes
            if start > offset:
                yield start
        at = data.find(MAGIC, at + 1)


def _frame_at(path: Path, data: bytes, offset: int) -> GoodFrame | None:
    """The frame that begins at ``offset``, if it is good or can be mended."""
    seal = _good_seal(memoryview(data)[offset:])
    if seal is not None:
        return GoodFrame(path, offset, seal)
    annexed = data.find(ANNEX_MAGIC, offset, offset + METADATA_BYTES_MAX) >= 0
    bytes_max = ANNEXED_BYTES_MAX if annexed or _is_long(data, offset) else MENDED_BYTES_MAX
    mended = mended_frame(data[offset : offset + bytes_max])
    if mended is None:
        return None
    good = _good_seal(mended)
    assert good is not None, "a mended frame is good"
    return GoodFrame(path, offset, good, mended)


def _is_long(data: bytes, offset: int) -> bool:
    """Whether the next seal says that its frame is one that only an annex can mend."""
    at = data.find(MAGIC, offset, offset + METADATA_BYTES_MAX)
    seal = None if at < 0 else log_format.read_seal(data, at)
    return seal is not None and seal.frame_bytes > MENDED_BYTES_MAX


def _good_seal(data: bytes | memoryview) -> Seal | None:
    """The seal of the frame that begins ``data``, when all of that frame is there and good."""
    header = log_format.header_bytes(data) if len(data) >= PREFIX_BYTES else None
    if header is None or len(data) < header:
        return None
    seal = log_format.header_seal(data[:header])
    if seal is None or len(data) < seal.frame_bytes:
        return None
    return seal if log_format.digest_holds(memoryview(data)[: seal.frame_bytes], seal) else None


def mended_frame(data: bytes) -> bytes | None:
    """The frame that begins ``data``, with one bit put right; None when no one bit does it.

    Args:
        data: From the frame's first byte on; what follows the frame does not matter.
    """
    for place in range(min(PREFIX_BYTES, len(data))):
        for changed in _flips(data, place):
            if (seal := _good_seal(changed)) is not None:
                return changed[: seal.frame_bytes]
    header = log_format.header_bytes(data) if len(data) >= PREFIX_BYTES else None
    if header is None or len(data) < header:
        return None
    seal = log_format.header_seal(data[:header])
    seal_at = header - SEAL_BYTES
    if seal is None:
        return _mended_in_seal(data, seal_at)
    if len(data) < seal.frame_bytes:
        return None
    return _mended_under_digest(data[: seal.frame_bytes], seal, seal_at + _SEALED_HEAD_BYTES)


def _flips(data: bytes, place: int) -> Iterator[bytes]:
    for bit in range(8):
        yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def _mended_in_seal(data: bytes, seal_at: int) -> bytes | None:
    """The seal's own checksum fails: the bit is among those that it covers, or in it."""
    for place in range(seal_at, seal_at + _SEALED_HEAD_BYTES):
        for changed in _flips(data[: seal_at + SEAL_BYTES], place):
            if log_format.read_seal(changed, seal_at) is not None:
                whole = changed + data[seal_at + SEAL_BYTES :]
                if (seal := _good_seal(whole)) is not None:
                    return whole[: seal.frame_bytes]
    return None


def _mended_under_digest(frame: bytes, seal: Seal, digest_at: int) -> bytes | None:
    """The seal reads well: the bit is in the digest, or in the metadata or the body that it is over."""
    covered = frame[:digest_at] + frame[digest_at + _DIGEST_BYTES :]
    digest = hashlib.sha256(covered).digest()
    if (int.from_bytes(digest) ^ int.from_bytes(seal.digest)).bit_count() == 1:
        return frame[:digest_at] + digest + frame[digest_at + _DIGEST_BYTES :]
    for mended in one_bit_mended(frame, seal):
        if log_format.digest_holds(mended, seal):
            return mended
    if len(frame) > MENDED_BYTES_MAX:
        return None
    in_front = hashlib.sha256()
    for place, byte in enumerate(covered):
        behind = memoryview(covered)[place + 1 :]
        for bit in range(8):
            flipped = bytes([byte ^ 1 << bit])
            hasher = in_front.copy()
            hasher.update(flipped)
            hasher.update(behind)
            if hasher.digest() == seal.digest:
                whole = covered[:place] + flipped + covered[place + 1 :]
                return whole[:digest_at] + seal.digest + whole[digest_at:]
        in_front.update(covered[place : place + 1])
    return None


def _unreadable(path: Path, data: bytes, offset: int, end_offset: int) -> Unreadable:
    seals = []
    at = data.find(MAGIC, offset, end_offset)
    while at >= 0:
        seal = log_format.read_seal(data, at)
        if seal is not None:
            seals.append((at + SEAL_BYTES - PREFIX_BYTES - seal.metadata_bytes, seal))
        at = data.find(MAGIC, at + 1, end_offset)
    return Unreadable(path, offset, end_offset, tuple(seals))


def _log_id(frame: GoodFrame) -> bytes | None:
    try:
        return segment_schema(frame.read(), path=str(frame.path))[1]
    except FormatVersionError:
        raise
    except ValueError:
        return None
