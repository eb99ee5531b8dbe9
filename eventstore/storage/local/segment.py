"""Reading one segment file: frames in order, each checked against its seal before anybody sees it.

A ``Segment`` knows how far its frames were found good, one after the other, and where some of them
lie, so that a read from any position begins near it. A file is first read when something of it is
asked for. It never writes and takes no lock; what a flaw means, recovery or damage, is decided by its user.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventstore import annex as log_annex
from eventstore import files
from eventstore import format as log_format
from eventstore.annex import Annex
from eventstore.errors import DamagedLogError
from eventstore.format import END_OF_STREAM, PREFIX_BYTES, Flaw, Seal
from eventstore.index import Landmark, Place
from eventstore.schema import UnreadableBatchError, decoded_batch, folded_chain, segment_schema
from eventstore.storage.local.directory import SegmentName, former_names

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOW_BYTES_MIN = 1 << 14
_WINDOW_BYTES_MAX = 1 << 20
_NOTED_BYTES = 1 << 16
_GLANCE_BYTES = 1 << 16
_GLANCE_BYTES_MAX = 4 << 20


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame whose bytes are those that were sealed."""

    offset: int
    seal: Seal
    data: memoryview

    @property
    def end_offset(self) -> int:
        """Where the next frame begins."""
        return self.offset + self.seal.frame_bytes


class FlawedFrameError(Exception):
    """The bytes at ``offset`` are not a good frame. Never leaves the adapter."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class _End(msgspec.Struct, frozen=True):
    """Where the verified frames end, the chain's value there, and what they say was synced."""

    offset: int
    chain: bytes
    synced_position: int


@dataclass(frozen=True)
class _Head:
    """What a segment's first frame says."""

    schema: pa.Schema
    log_id: bytes
    chain: bytes
    end_offset: int
    synced_position: int


class Segment:
    """A segment file and what is known of it.

    Attributes:
        name: Its name; ``first_position`` is in it.
        path: The file.
        next_position: The position behind the last verified event.
    """

    def __init__(self, directory: Path, name: SegmentName) -> None:
        self.name = name
        self.path = directory / name.text
        self._descriptor: int | None = None
        self._positions = array("Q")
        self._offsets = array("Q")
        self._known_head: _Head | None = None
        self._known_end: _End | None = None
        self.next_position = name.first_position

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema that its batches have."""
        return self._head.schema

    @property
    def log_id(self) -> bytes:
        """The log it belongs to."""
        return self._head.log_id

    @property
    def first_chain(self) -> bytes:
        """The chain's value in front of its first event."""
        return self._head.chain

    @property
    def end(self) -> _End:
        """The end of the verified frames."""
        if self._known_end is None:
            head = self._head
            synced_position = max(self.name.first_position, head.synced_position)
            self._known_end = _End(head.end_offset, head.chain, synced_position)
        return self._known_end

    @property
    def end_offset(self) -> int:
        """Where the verified frames end."""
        return self.end.offset

    @property
    def chain(self) -> bytes:
        """The chain's value there."""
        return self.end.chain

    @property
    def synced_position(self) -> int:
        """The greatest that any verified seal names."""
        return self.end.synced_position

    def read_head(self) -> None:
        """Check the file's first frame, if that was not done yet.

        Raises:
            DamagedLogError: It is not that of a segment of this name.
        """
        _ = self._head

    @property
    def _head(self) -> _Head:
        # No cached_property: up to Python 3.11 it has a lock, which a fork may leave locked for ever.
        if self._known_head is None:
            first = self._read_schema_frame()
            schema, log_id = self._read_schema(first)
            self._known_head = _Head(
                schema, log_id, first.seal.chain, first.end_offset, first.seal.synced_position
            )
        return self._known_head

    def _read_schema_frame(self) -> Frame:
        with self.descriptor() as descriptor:
            try:
                frame = next(frames(descriptor, 0, files.size(descriptor)), None)
            except FlawedFrameError:
                frame = None
        if frame is None or frame.seal.event_count or frame.seal.first_position != self.name.first_position:
            raise DamagedLogError(
                f"{self.path} does not begin with the sealed schema of a segment of that name; "
                "restore it from a copy",
                path=str(self.path),
                offset=0,
                position=self.name.first_position,
            )
        return frame

    def _read_schema(self, first: Frame) -> tuple[pa.Schema, bytes]:
        try:
            return segment_schema(first.data, path=str(self.path))
        except ValueError as error:
            raise DamagedLogError(
                f"{self.path} is no segment of a log: {error}; move it away",
                path=str(self.path),
                offset=0,
                position=self.name.first_position,
            ) from error

    def batch(self, frame: Frame) -> pa.RecordBatch:
        """The events of one of the segment's frames.

        Raises:
            DamagedLogError: Somebody has sealed what is no batch of events; no accident does that.
        """
        try:
            return decoded_batch(frame.data, self.schema, event_count=frame.seal.event_count)
        except UnreadableBatchError as error:
            raise DamagedLogError(
                f"{self.path} at byte {frame.offset}: the frame's seal holds, but it is no batch of events "
                f"({error}); restore the file from a copy",
                path=str(self.path),
                offset=frame.offset,
                position=frame.seal.first_position,
            ) from error

    def annex(self, frame: Frame) -> Annex | None:
        """What one of the segment's frames says of the commits in it; None when it holds just one.

        Raises:
            DamagedLogError: Somebody has sealed what cannot be; no accident does that.
        """
        annex = log_annex.read_annex(frame.data, frame.seal)
        if annex is not None and annex.event_count != frame.seal.event_count:
            raise DamagedLogError(
                f"{self.path} at byte {frame.offset}: the frame's seal holds, but it lists commits of "
                f"{annex.event_count} events and has {frame.seal.event_count}; restore the file from a copy",
                path=str(self.path),
                offset=frame.offset,
                position=frame.seal.first_position,
            )
        return annex

    def holds_exactly(self, next_position: int, chain: bytes) -> bool:
        """Whether each byte is good and the events end at a position with this value of the chain."""
        try:
            for _ in self.frames_from(self.name.first_position):
                pass
        except (FlawedFrameError, DamagedLogError):
            return False
        return (self.next_position, self.chain) == (next_position, chain)

    def keep_open(self) -> int:
        """The segment's descriptor for reading and writing, held until ``close``."""
        if self._descriptor is None:
            self._descriptor = files.open_file(self.path, os.O_RDWR)
        return self._descriptor

    def is_all_there(self) -> bool:
        """Whether the open file ends with the verified frames and nobody has deleted it."""
        end = self._known_end
        if self._descriptor is None or end is None:
            return False
        status = os.fstat(self._descriptor)
        return status.st_size == end.offset and status.st_nlink > 0

    def is_ended(self) -> bool:
        """Whether Arrow's end-of-stream mark stands behind the verified frames: nothing may follow."""
        with self.descriptor() as descriptor:
            return _is_end(descriptor, self.end_offset, files.size(descriptor))

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """A descriptor to read from."""
        if self._descriptor is not None:
            yield self._descriptor
            return
        descriptor = files.open_file(self.path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def frames_from(self, position: int, near: Landmark | None = None) -> Iterator[Frame]:
        """Good frames, from the one that holds ``position`` on.

        What lies behind the verified frames is verified in order, unless ``near`` leads farther. Of
        frames in front of ``position`` that are passed over nothing is checked but that they lead there.

        Args:
            position: The first position wanted.
            near: A hint where a frame at or in front of it lies. A wrong one costs time only.

        Raises:
            FlawedFrameError: What follows the last good frame is not a good frame.
            DamagedLogError: A good frame stands at the wrong place.
        """
        with self.descriptor() as descriptor:
            start = self._noted(position)
            if near is not None and self._leads(descriptor, near, position, start.position):
                start = near
            offset = start.place.offset
            expected = self.next_position if offset == self.end_offset else None
            below = 0 if expected is not None else position
            for frame in frames(descriptor, offset, files.size(descriptor), below=below):
                if expected is None:
                    expected = min(frame.seal.first_position, position)
                if frame.seal.first_position != expected or not frame.seal.event_count:
                    raise self._misplaced(frame.seal, frame.offset, expected)
                if frame.offset == self.end_offset:
                    self.extend(frame.seal, frame.offset)
                expected = frame.seal.next_position
                if expected > position:
                    yield frame

    def fresh(self) -> Iterator[Frame]:
        """Good frames behind the verified ones, by a look or two at the open file: the first few.

        Ends in front of the first that is not good.
        """
        assert self._descriptor is not None, "a segment that is kept open"
        offset = self.end.offset
        view = memoryview(files.read_at(self._descriptor, _GLANCE_BYTES, offset))
        seal = _seal_at_start(view)
        if seal is not None and len(view) < seal.frame_bytes <= _GLANCE_BYTES_MAX:
            view = memoryview(files.read_at(self._descriptor, seal.frame_bytes, offset))
        while seal is not None and len(view) >= seal.frame_bytes:
            if not log_format.digest_holds(view[: seal.frame_bytes], seal):
                return
            yield Frame(offset, seal, view[: seal.frame_bytes])
            offset += seal.frame_bytes
            view = view[seal.frame_bytes :]
            seal = _seal_at_start(view)

    def _noted(self, position: int) -> Landmark:
        """The nearest known frame at or in front of a position, or the end of the verified ones."""
        found = self.next_position, self.end_offset
        if position < self.next_position:
            place = bisect_right(self._positions, position) - 1
            known = (self._positions[place], self._offsets[place]) if place >= 0 else None
            found = known or (self.name.first_position, self._head.end_offset)
        return Landmark(found[0], Place(self.name.first_position, self.name.generation, found[1], 0))

    def _leads(self, descriptor: int, near: Landmark, position: int, noted: int) -> bool:
        """Whether a hint leads nearer to a position than what is known already."""
        place = near.place
        if place[:2] != (self.name.first_position, self.name.generation) or not (
            noted < near.position <= position
        ):
            return False
        seal = _seal_at(descriptor, place.offset)
        # A commit of its own once, and within a frame of many now: it is that frame that lies there.
        return seal is not None and seal.first_position <= near.position < seal.next_position

    def chain_at(self, position: int, near: Landmark | None = None) -> bytes | None:
        """The chain's value at a position; None when the segment ends in front of it.

        A frame that ends there says it. In one that goes on behind it, where several commits were put into
        one frame, it is computed from the events.

        Args:
            position: The position.
            near: A hint where a frame at or in front of it lies.

        Raises:
            FlawedFrameError, DamagedLogError: As ``frames_from``.
        """
        if self.name.first_position == position:
            return self.first_chain
        frame = next(self.frames_from(position - 1, near), None)
        if frame is None or frame.seal.next_position < position:
            return None
        first = frame.seal.first_position
        if frame.seal.next_position > position:
            chain = self.chain_at(first)
            events = self.batch(frame).slice(0, position - first)
            return None if chain is None else folded_chain(chain, events)
        self._go_on_behind(frame)
        return frame.seal.chain

    def _go_on_behind(self, frame: Frame) -> None:
        """Count all up to the end of a good frame as verified: its chain value is known to be right."""
        end = self.end
        if frame.offset >= end.offset:
            self._note(frame.seal, frame.offset, end)

    def extend(self, seal: Seal, offset: int) -> None:
        """Take note of a good frame at the end of the verified ones."""
        end = self._known_end or self.end
        if seal.first_position != self.next_position or offset != end.offset or not seal.event_count:
            raise self._misplaced(seal, offset, self.next_position)
        self._note(seal, offset, end)

    def _note(self, seal: Seal, offset: int, end: _End) -> None:
        if not self._offsets or offset - self._offsets[-1] >= _NOTED_BYTES:
            self._positions.append(seal.first_position)
            self._offsets.append(offset)
        synced_position = max(end.synced_position, seal.synced_position)
        self._known_end = _End(offset + seal.frame_bytes, seal.chain, synced_position)
        self.next_position = seal.first_position + seal.event_count

    def _misplaced(self, seal: Seal, offset: int, expected: int) -> DamagedLogError:
        return DamagedLogError(
            f"{self.path} at byte {offset}: a frame for position {seal.first_position} stands where "
            f"position {expected} belongs; restore the file from a copy",
            path=str(self.path),
            offset=offset,
            position=expected,
        )

    def flaw_at(self, offset: int) -> tuple[Flaw | None, bytes]:
        """What is wrong at ``offset``, and all the file's bytes from there on.

        None when the frame there is good by now: without the lock, a writer may have finished it
        since it was looked at. Both answers are about the same bytes, read once.
        """
        with self.descriptor() as descriptor:
            rest = files.read_at(descriptor, max(0, files.size(descriptor) - offset), offset)
        view = memoryview(rest)
        try:
            if _bytes_needed(view) <= len(view):
                _frame_at_start(view, offset)
                return None, rest
        except FlawedFrameError:
            pass
        return log_format.find_flaw(rest, offset), rest


def former_file(directory: Path, name: SegmentName, following: Segment) -> Segment | None:
    """A lower generation of a rolled segment that has all of its events, by the next segment's word."""
    for each in former_names(directory, name):
        with contextlib.suppress(DamagedLogError, FileNotFoundError):
            former = Segment(directory, each)
            if former.holds_exactly(following.name.first_position, following.first_chain):
                return former
    return None


def frames(descriptor: int, offset: int, size: int, *, below: int = 0) -> Iterator[Frame]:
    """The frames of an open file from ``offset`` to ``size``, or to Arrow's mark that ends the file.

    Args:
        descriptor: The open file.
        offset: Where the first frame begins.
        size: Where the last one ends.
        below: Frames that lie wholly in front of this position are passed over, by what their
            seals say of their length.

    Raises:
        FlawedFrameError: The bytes behind the last frame that was given are not a good one.
    """
    window, start, window_bytes = b"", offset, _WINDOW_BYTES_MIN
    while offset < size:
        if size - offset == len(END_OF_STREAM) and _is_end(descriptor, offset, size):
            return
        view = memoryview(window)[offset - start :]
        seal = _seal_at_start(view)
        needed = _bytes_needed(view) if seal is None else seal.frame_bytes
        if len(view) < needed:
            # Little is read for a look at one frame, much at a time for a whole file.
            window = files.read_at(descriptor, min(max(window_bytes, needed), size - offset), offset)
            if len(window) < needed:
                raise FlawedFrameError(offset)
            start, window_bytes = offset, min(2 * window_bytes, _WINDOW_BYTES_MAX)
            continue
        if seal is None:
            raise FlawedFrameError(offset)
        if not seal.event_count or seal.next_position > below:
            yield _checked(offset, seal, view)
        offset += needed


def _seal_at(descriptor: int, offset: int) -> Seal | None:
    """The seal of the frame that begins there, if one does."""
    prefix = files.read_at(descriptor, PREFIX_BYTES, offset)
    header = log_format.header_bytes(prefix) if len(prefix) == PREFIX_BYTES else None
    return None if header is None else _seal_at_start(memoryview(files.read_at(descriptor, header, offset)))


def _seal_at_start(view: memoryview) -> Seal | None:
    header = log_format.header_bytes(view) if len(view) >= PREFIX_BYTES else None
    return None if header is None or len(view) < header else log_format.header_seal(view[:header])


def _is_end(descriptor: int, offset: int, size: int) -> bool:
    length = len(END_OF_STREAM)
    return size - offset == length and files.read_at(descriptor, length, offset) == END_OF_STREAM


def _bytes_needed(view: memoryview) -> int:
    """How many bytes must be at hand to judge the frame that begins ``view``, as far as can be told."""
    if len(view) < PREFIX_BYTES:
        return PREFIX_BYTES
    header = log_format.header_bytes(view)
    if header is None or len(view) < header:
        return header or PREFIX_BYTES
    seal = log_format.header_seal(view[:header])
    return header if seal is None else seal.frame_bytes


def _frame_at_start(view: memoryview, offset: int) -> Frame:
    seal = _seal_at_start(view)
    if seal is None or len(view) < seal.frame_bytes:
        raise FlawedFrameError(offset)
    return _checked(offset, seal, view)


def _checked(offset: int, seal: Seal, view: memoryview) -> Frame:
    data = view[: seal.frame_bytes]
    if not log_format.digest_holds(data, seal):
        raise FlawedFrameError(offset)
    return Frame(offset, seal, data)
