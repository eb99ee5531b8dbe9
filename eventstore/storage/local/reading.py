"""``Reader``: batches of events out of the segments, and what the end of the log is when it is not whole.

A flaw where nobody has read a good frame yet may be the tail that a crash tore, or a frame that a writer
is at. Who may write looks again under the lock, where nobody writes, and settles it; who only reads
takes it for the log's end. Anywhere else a flaw is damage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eventstore import format as log_format
from eventstore.annex import Annex
from eventstore.errors import DamagedLogError
from eventstore.format import Flaw
from eventstore.index import Landmark, Place
from eventstore.keys import keys_of
from eventstore.storage.local.log_folder import LogFolder, gone
from eventstore.storage.local.recovery import damage
from eventstore.storage.local.segment import FlawedFrameError, Frame, Segment
from eventstore.storage.local.syncing import Syncer
from eventstore.storage.local.writing import Writer
from eventstore.storage.protocol import Glimpse, StoredBatch

if TYPE_CHECKING:
    import pyarrow as pa

_READ_BYTES = 4 << 20


class Reader:
    """Reads the segments of a folder.

    Args:
        folder: The log's folder.
        syncer: Knows what is durable.
        writer: Settles a torn tail.
    """

    def __init__(self, folder: LogFolder, syncer: Syncer, writer: Writer) -> None:
        self._folder = folder
        self._syncer = syncer
        self._writer = writer
        self._last_merged: tuple[Segment, Frame, pa.RecordBatch, Annex] | None = None

    def forget(self) -> None:
        """Let go of what was read."""
        self._last_merged = None

    def glimpses(self, position: int) -> Sequence[Glimpse]:
        """The commits from ``position`` on in the active segment, as far as a look or two can tell."""
        seen: list[Glimpse] = []
        segment = self._folder.segments[-1]
        if position != segment.next_position:
            return seen
        segment.keep_open()
        for frame in segment.fresh():
            seal = frame.seal
            keys = None
            if seal.event_count and seal.first_position == segment.next_position:
                keys = keys_of(frame.data, seal)
            if keys is None:
                break
            place = _place(segment, frame)
            seen.append(Glimpse(seal.first_position, keys, seal.chain, place))
            segment.extend(seal, frame.offset)
        if seen:
            self._folder.serve(segment.next_position, segment.chain)
        return seen

    def batches(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Some batches from ``position`` on; empty at the end of the log.

        Where a file is gone the folder is listed again: its next generation may have taken its place,
        several times while this looks. Otherwise it is damage.

        Raises:
            DamagedLogError: Bytes that must be right are wrong.
        """
        missing: str | None = None
        while True:
            try:
                if missing is not None:
                    self._folder.list_segments()
                return self._read_settled(position, until, near)
            except FileNotFoundError as error:
                if error.filename == missing:
                    raise gone(error.filename, position) from error
                missing = error.filename

    # --- the end of the log

    def _read_settled(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Some batches from ``position`` on; a flaw at the very end is looked at again under the lock."""
        folder = self._folder
        with folder.state:
            folder.notice_new_segments()
            while True:
                try:
                    return self._read_some(position, until, near)
                except FlawedFrameError as flawed:
                    if not folder.read_only:
                        break
                    if self._ends_at(flawed.offset):
                        return []
        with folder.lock or contextlib.nullcontext(), folder.state:
            folder.notice_new_segments()
            try:
                return self._read_some(position, until, near)
            except FlawedFrameError as flawed:
                self._writer.settle(flawed.offset)
                return self._read_some(position, until, near)

    def _ends_at(self, offset: int) -> bool:
        """Without the lock, an unfinished tail reads as the log's end, unless a writer has finished it.

        Raises:
            DamagedLogError: It is no unfinished tail.
        """
        segment = self._folder.segments[-1]
        flaw, rest = segment.flaw_at(offset)
        if flaw is None:
            return False
        durable = max(self._syncer.durable_position, log_format.greatest_synced_position(rest))
        if rest and segment.next_position < durable:
            raise damage(segment, offset, flaw)
        return True

    # --- one segment

    def _read_some(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Batches of one segment, up to a few megabytes; empty at the end of the log.

        Raises:
            FlawedFrameError: The last segment does not end with a good frame.
        """
        folder = self._folder
        place = folder.place_of(position)
        segment = folder.sound(place)
        folder.check_of_this_log(segment)
        following = folder.segments[place + 1] if place + 1 < len(folder.segments) else None
        limit = None if following is None else following.name.first_position
        batches: list[StoredBatch] = []
        size = 0
        try:
            for frame in self._frames_from(segment, position, near):
                if limit is not None and frame.seal.first_position >= limit:
                    break
                if following is not None and frame.seal.next_position > following.name.first_position:
                    if batches:
                        break
                    raise _begins_within(frame, following)
                batches.append(self._stored_batch(segment, frame, position))
                merged = batches[-1].first_commit_events is not None
                size += batches[-1].batch.nbytes if merged else frame.seal.frame_bytes
                if size >= _READ_BYTES or (until is not None and frame.seal.next_position >= until):
                    break
        except FlawedFrameError as flawed:
            if batches:
                return batches
            if limit is None and flawed.offset >= segment.end_offset:
                raise
            # What was found good once is no torn tail, whatever has become of it.
            flaw, _ = segment.flaw_at(flawed.offset)
            error = damage(segment, flawed.offset, flaw or Flaw.WRONG, position=position)
            return self._read_former_file(place, position, until, near, error)
        if not batches and limit is not None:
            error = damage(segment, segment.path.stat().st_size, Flaw.SHORT, position=position)
            return self._read_former_file(place, position, until, near, error)
        return batches

    def _read_former_file(
        self, place: int, position: int, until: int | None, near: Landmark | None, error: DamagedLogError
    ) -> list[StoredBatch]:
        """Read a lower generation of a damaged rolled segment, if it has all of its events; or the error."""
        self._folder.take_former(place, error)
        return self._read_some(position, until, near)

    def _frames_from(self, segment: Segment, position: int, near: Landmark | None) -> Iterator[Frame]:
        """As the segment's own, but a frame of many commits that was read last is not read again.

        Whoever reads one stream among many asks for one event of it after the other.
        """
        if self._last_merged is not None and self._last_merged[0] is segment:
            frame = self._last_merged[1]
            if frame.seal.first_position <= position < frame.seal.next_position:
                yield frame
                position = frame.seal.next_position
                near = Landmark(frame.seal.first_position, _place(segment, frame))
        yield from segment.frames_from(position, near)

    def _stored_batch(self, segment: Segment, frame: Frame, position: int) -> StoredBatch:
        """The events of a frame, from the commit on that holds ``position``."""
        seal = frame.seal
        place = _place(segment, frame)
        if self._last_merged is not None and self._last_merged[1] is frame:
            _, _, batch, annex = self._last_merged
        else:
            batch, found = segment.batch(frame), segment.annex(frame)
            if found is None:
                return StoredBatch(seal.first_position, batch, seal.chain, place)
            annex = found
            self._last_merged = segment, frame, batch, annex
        first = seal.first_position
        start, end = annex.commit_at(max(position - first, 0))
        return StoredBatch(first + start, batch.slice(start), seal.chain, place, end - start, first)


def _place(segment: Segment, frame: Frame) -> Place:
    name = segment.name
    return Place(name.first_position, name.generation, frame.offset, frame.seal.frame_bytes)


def _begins_within(frame: Frame, following: Segment) -> DamagedLogError:
    """The error for a segment that begins in the middle of a commit, as after two locks for one log."""
    return DamagedLogError(
        f"{following.path} begins at position {following.name.first_position}, within the commit of "
        f"positions {frame.seal.first_position} to {frame.seal.next_position - 1} in the segment before "
        "it: one of the two does not belong here. Restore the files from a copy",
        path=str(following.path),
        offset=0,
        position=frame.seal.first_position,
    )
