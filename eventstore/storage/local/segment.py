"""Reading one segment file: frames in order, each checked against its seal before anybody sees it.

A ``Segment`` remembers where the frames lie that were found good, so that a read from any position
goes straight there. It never writes and takes no lock; what a flaw means, recovery or damage, is
decided by its user.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore import files
from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.format import PREFIX_BYTES, Flaw, Seal
from eventstore.schema import UnreadableBatchError, decoded_batch, segment_schema
from eventstore.storage.local.directory import SegmentName

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Frame:
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


class Segment:
    """A segment file and what is known of it.

    Attributes:
        name: Its name; ``first_position`` is in it.
        path: The file.
        schema: The Arrow schema that its batches have.
        log_id: The log it belongs to.
        end_offset: Where the verified frames end.
        next_position: The position behind the last verified event.
        chain: The chain's value there.
        synced_position: The greatest that any verified seal names.
    """

    def __init__(self, directory: Path, name: SegmentName) -> None:
        self.name = name
        self.path = directory / name.text
        self._descriptor: int | None = None
        self._positions = array("Q")
        self._offsets = array("Q")
        first = self._read_schema_frame()
        self.schema, self.log_id = self._read_schema(first)
        self.first_chain = first.seal.chain
        self.end_offset = first.end_offset
        self.next_position = name.first_position
        self.chain = first.seal.chain
        self.synced_position = max(first.seal.synced_position, name.first_position)

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

    def keep_open(self) -> int:
        """The segment's descriptor for reading and writing, held until ``close``."""
        if self._descriptor is None:
            self._descriptor = files.open_file(self.path, os.O_RDWR)
        return self._descriptor

    def is_all_there(self) -> bool:
        """Whether the open file ends with the verified frames and nobody has deleted it."""
        if self._descriptor is None:
            return False
        status = os.fstat(self._descriptor)
        return status.st_size == self.end_offset and status.st_nlink > 0

    @contextmanager
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

    def frames_from(self, position: int) -> Iterator[Frame]:
        """Good frames, from the one that holds ``position`` or the first after the verified ones.

        Raises:
            FlawedFrameError: What follows the last good frame is not a good frame.
            DamagedLogError: A good frame stands at the wrong place.
        """
        with self.descriptor() as descriptor:
            for frame in frames(descriptor, self._offset_of(position), files.size(descriptor)):
                if frame.offset >= self.end_offset:
                    self.extend(frame.seal, frame.offset)
                if frame.seal.next_position > position:
                    yield frame

    def _offset_of(self, position: int) -> int:
        if position >= self.next_position:
            return self.end_offset
        return (
            self._offsets[bisect_right(self._positions, position) - 1] if self._offsets else self.end_offset
        )

    def extend(self, seal: Seal, offset: int) -> None:
        """Take note of a good frame at the end of the verified ones."""
        if seal.first_position != self.next_position or offset != self.end_offset or not seal.event_count:
            raise DamagedLogError(
                f"{self.path} at byte {offset}: a frame for position {seal.first_position} stands where "
                f"position {self.next_position} belongs; restore the file from a copy",
                path=str(self.path),
                offset=offset,
                position=self.next_position,
            )
        self._positions.append(seal.first_position)
        self._offsets.append(offset)
        self.end_offset = offset + seal.frame_bytes
        self.next_position = seal.next_position
        self.chain = seal.chain
        self.synced_position = max(self.synced_position, seal.synced_position)

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


def frames(descriptor: int, offset: int, size: int) -> Iterator[Frame]:
    """The frames of an open file from ``offset`` to ``size``.

    Raises:
        FlawedFrameError: The bytes behind the last frame that was given are not a good one.
    """
    window, start = b"", offset
    while offset < size:
        view = memoryview(window)[offset - start :]
        needed = _bytes_needed(view)
        if len(view) < needed:
            window = files.read_at(descriptor, min(max(_WINDOW_BYTES, needed), size - offset), offset)
            start, view = offset, memoryview(window)
            needed = _bytes_needed(view)
            if len(view) < needed:
                if needed > size - offset or needed <= _WINDOW_BYTES:
                    raise FlawedFrameError(offset)
                continue
        frame = _frame_at_start(view, offset)
        yield frame
        offset = frame.end_offset


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
    header = log_format.header_bytes(view)
    seal = None if header is None else log_format.header_seal(view[:header])
    if seal is None or len(view) < seal.frame_bytes:
        raise FlawedFrameError(offset)
    data = view[: seal.frame_bytes]
    if not log_format.digest_holds(data, seal):
        raise FlawedFrameError(offset)
    return Frame(offset, seal, data)
