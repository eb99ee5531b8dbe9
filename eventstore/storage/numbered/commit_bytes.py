"""The bytes of a numbered commit, and of many of them in one object. Pure functions; nothing is opened.

A commit's object is a whole Arrow IPC stream: a sealed schema message, then a sealed record-batch
message for each append that was committed together. All frames of one commit carry the position that
the commit begins at as their synced position, so a compacted segment, in which the frames of many
commits follow one schema message, still shows where each of them begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.format import PREFIX_BYTES, Seal
from eventstore.index import Place
from eventstore.schema import UnreadableBatchError, decoded_batch, envelope_schema, segment_schema
from eventstore.storage.protocol import NewCommit, StoredBatch

_CUT = "it is cut short"
_NO_FRAME = "there is no good frame here"


@dataclass(frozen=True)
class Frame:
    """A frame whose bytes are those that were sealed; ``offset`` counts from its commit's first frame."""

    offset: int
    seal: Seal
    data: memoryview


@dataclass(frozen=True)
class StoredCommit:
    """A commit that was read and checked.

    Attributes:
        key: Its key in the store.
        name: What it is called in errors.
        log_id: The log that it says it belongs to.
        first_position: The position of its first event.
        first_chain: The chain's value in front of it.
        frames: Its frames, none for the log's head.
        size: Its length in bytes.
    """

    key: int
    name: str
    log_id: bytes
    first_position: int
    first_chain: bytes
    frames: Sequence[Frame]
    size: int

    @property
    def next_position(self) -> int:
        """The position behind its last event."""
        return self.frames[-1].seal.next_position if self.frames else self.first_position

    @property
    def chain(self) -> bytes:
        """The chain's value there."""
        return self.frames[-1].seal.chain if self.frames else self.first_chain

    def continues(self, before: StoredCommit | None) -> bool:
        """Whether it has the position and the chain's value behind that one; of nothing it always has."""
        return before is None or (self.first_position, self.first_chain) == (
            before.next_position,
            before.chain,
        )

    def batches(self, from_position: int, until: int | None) -> Iterator[StoredBatch]:
        """Its events, from the append on that holds ``from_position``, up to ``until``."""
        schema = envelope_schema(self.log_id)
        for frame in self.frames:
            seal = frame.seal
            if seal.next_position <= from_position:
                continue
            if until is not None and seal.first_position >= until:
                return
            try:
                batch = decoded_batch(frame.data, schema, event_count=seal.event_count)
            except UnreadableBatchError as error:
                reason = f"its seal holds, but its content is not that of a commit ({error})"
                raise damaged(self.name, frame.offset, seal.first_position, reason) from error
            place = Place(self.key, 0, frame.offset, seal.frame_bytes)
            yield StoredBatch(seal.first_position, batch, seal.chain, place)


class Head(NamedTuple):
    """What the schema message in front of commits says."""

    log_id: bytes
    first_position: int
    chain: bytes
    size: int


def encode_commit(
    log_id: bytes, *, first_position: int, first_chain: bytes, commits: Iterable[NewCommit]
) -> bytes:
    """The object of commits that are made together; of none, the head of a log."""
    schema = envelope_schema(log_id).serialize().to_pybytes()
    parts = [
        log_format.seal_frame(
            schema,
            first_position=first_position,
            event_count=0,
            synced_position=first_position,
            chain=first_chain,
            offset=0,
        )
    ]
    size = len(parts[0])
    for message, position, event_count, chain in commits:
        frame = log_format.seal_frame(
            message,
            first_position=position,
            event_count=event_count,
            synced_position=first_position,
            chain=chain,
            offset=size,
        )
        parts.append(frame)
        size += len(frame)
    return b"".join(parts)


def decode_commit(data: bytes, *, key: int, name: str) -> StoredCommit:
    """The commit that an object holds, every byte of it checked.

    Raises:
        DamagedLogError: It is not what was sealed.
        FormatVersionError: It was written by a newer version of this program.
    """
    view = memoryview(data)
    head = decode_head(view, name=name)
    frames = decode_frames(view[head.size :], name=name, first_position=head.first_position, base=head.size)
    return StoredCommit(key, name, head.log_id, head.first_position, head.chain, frames, len(data))


def check_follows(commit: StoredCommit, before: StoredCommit | None, log_id: bytes) -> None:
    """Return if a commit of this log continues the one in front of it, where that is known.

    Raises:
        DamagedLogError: It does not.
    """
    if commit.log_id != log_id:
        raise damaged(commit.name, 0, commit.first_position, "a commit of another log stands")
    if before is not None and not commit.continues(before):
        reason = f"a commit stands that does not continue the log (it begins at {commit.first_position})"
        raise damaged(commit.name, 0, before.next_position, reason)


def decode_head(data: memoryview, *, name: str) -> Head:
    """What the schema message that ``data`` begins with says.

    Raises:
        DamagedLogError: It begins with none that is good.
        FormatVersionError: It was written by a newer version of this program.
    """
    frame = _frame_at(data, 0, name=name, position=0)
    try:
        _, log_id = segment_schema(frame.data, path=name)
    except ValueError as error:
        raise damaged(name, 0, 0, str(error)) from error
    return Head(log_id, frame.seal.first_position, frame.seal.chain, len(frame.data))


def decode_frames(data: memoryview, *, name: str, first_position: int, base: int) -> list[Frame]:
    """The frames of one commit, which ``data`` holds from the first byte to the last.

    Args:
        data: The bytes.
        name: What they are a part of, for errors.
        first_position: The position of the commit's first event.
        base: The offset of ``data`` in there.

    Raises:
        DamagedLogError: They are not.
    """
    frames: list[Frame] = []
    offset, position = 0, first_position
    while offset < len(data):
        frame = _frame_at(data, offset, name=name, position=position, base=base)
        seal = frame.seal
        if (seal.first_position, seal.synced_position) != (position, first_position) or not seal.event_count:
            reason = f"a frame of position {seal.first_position} stands where position {position} belongs"
            raise damaged(name, base + offset, position, reason)
        frames.append(frame)
        offset, position = offset + len(frame.data), seal.next_position
    return frames


def _frame_at(data: memoryview, offset: int, *, name: str, position: int, base: int = 0) -> Frame:
    seal = seal_at(lambda start, count: data[start : start + count], offset)
    if seal is None:
        reason = _CUT if len(data) - offset < PREFIX_BYTES else _NO_FRAME
        raise damaged(name, base + offset, position, reason)
    frame = data[offset : offset + seal.frame_bytes]
    if len(frame) < seal.frame_bytes:
        raise damaged(name, base + offset, position, _CUT)
    if not log_format.digest_holds(frame, seal):
        raise damaged(name, base + offset, position, "the frame's bytes are not those that were sealed")
    return Frame(offset, seal, frame)


def seal_at(read: Callable[[int, int], bytes | memoryview], offset: int) -> Seal | None:
    """The seal of the frame that begins at ``offset``, its own checksum checked; None if there is none.

    Args:
        read: Gives so many bytes from an offset on, fewer at the end.
        offset: Where the frame begins.
    """
    prefix = read(offset, PREFIX_BYTES)
    size = log_format.header_bytes(prefix) if len(prefix) == PREFIX_BYTES else None
    if size is None:
        return None
    header = read(offset, size)
    return log_format.header_seal(header) if len(header) == size else None


def damaged(name: str, offset: int, position: int, reason: str) -> DamagedLogError:
    """The error for a part of the log that is not as it was written."""
    return DamagedLogError(
        f"{name}: at byte {offset}, where position {position} belongs, {reason}. Nothing was changed. "
        "Restore it from a copy",
        path=name,
        offset=offset,
        position=position,
    )
