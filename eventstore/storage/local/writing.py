"""``Writer``: where the next commit goes, how its bytes get there, and what is done when they do not.

Everything here is done under the log's lock. A writer appends only behind a verified frame. A segment
is created whole and durable before the first event goes into it, and everything in front of it is
durable by then: that is how the log rolls, and how it goes on after a sync that failed.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from eventstore import files
from eventstore import format as log_format
from eventstore.errors import DamagedLogError, ReadOnlyLogError, StorageError, WriteRefusedError
from eventstore.storage.local import directory
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.log_folder import LogFolder, gone
from eventstore.storage.local.recovery import settle_tail, torn_tail
from eventstore.storage.local.segment import FlawedFrameError, Frame, Segment
from eventstore.storage.local.syncing import Syncer

if TYPE_CHECKING:
    import pyarrow as pa


class Writer:
    """Writes to the segments of a folder.

    Args:
        folder: The log's folder.
        syncer: What makes it durable.
        segment_bytes_max: A segment that has this many bytes gets no further commit.
    """

    def __init__(self, folder: LogFolder, syncer: Syncer, *, segment_bytes_max: int) -> None:
        self._folder = folder
        self._syncer = syncer
        self._segment_bytes_max = segment_bytes_max

    # --- a commit

    def make_room(self) -> Segment:
        """The segment that the next commit goes to, once what others left undone is done.

        Raises:
            DamagedLogError: Its file was deleted.
            WriteRefusedError: A new segment was needed, and the disk does not take it.
            ReadOnlyLogError: So it was, after a sync that had failed.
        """
        folder, lock = self._folder, self._folder.lock
        assert lock is not None, "a log that is written to has one"
        generation, failed_at = lock.held or lock.state()
        if generation % 2:
            lock.write_state(generation=generation + 1, failed_at=failed_at)
        if failed_at is not None or self._syncer.never_sync is not None:
            self._make_up_for_failed_sync()
        segment = folder.segments[-1]
        looked_at = folder.found_whole_in == lock.turn
        if not looked_at and not files.has_name(segment.keep_open()):
            # What is written to it now would be gone with this process, and nobody else would see it.
            raise gone(segment.path, segment.name.first_position)
        full = (
            segment.end.offset >= self._segment_bytes_max
            and segment.next_position > segment.name.first_position
        )
        # Ended: a rolled segment whose successor a power cut took, or a copy that ends here.
        if full or (not looked_at and segment.is_ended()):
            self._roll(segment)
        return folder.segments[-1]

    def write(self, segment: Segment, frame: bytes, offset: int) -> None:
        """Write a frame behind the last one of a segment, or nothing.

        Raises:
            WriteRefusedError: The disk did not take it, and what it took of it is gone.
            StorageError: The disk did not confirm that it is gone.
        """
        descriptor = segment.keep_open()
        try:
            written = files.write_at(descriptor, frame, offset)
        except OSError as error:
            self._cut_back(segment, offset, str(error))
        if written != len(frame):
            self._cut_back(segment, offset, f"the disk took {written} of {len(frame)} bytes")

    def _cut_back(self, segment: Segment, offset: int, reason: str) -> NoReturn:
        # A crash here leaves a short frame, which the next writer sets aside.
        descriptor = segment.keep_open()
        try:
            with self.cutting():
                files.cut(descriptor, offset)
                files.sync_data(descriptor)
        except OSError as error:
            raise StorageError(
                f"a commit was not written to {segment.path} ({reason}), and the disk did not confirm that "
                f"what it took of it is gone ({error}). The next commit goes to a new file. Check the disk",
                path=str(segment.path),
            ) from error
        raise WriteRefusedError(
            f"nothing was written to {segment.path}: {reason}. Make room and repeat the call",
            path=str(segment.path),
        )

    # --- taking bytes away

    def settle(self, offset: int) -> None:
        """Cut the torn tail that begins at ``offset`` off the active segment.

        Raises:
            DamagedLogError: It is no torn tail. Nothing was changed.
        """
        folder = self._folder
        with self.cutting():
            settle_tail(
                folder.directory,
                folder.segments[-1],
                offset,
                synced_position=self._syncer.durable_position,
            )

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Bytes behind the good frames are taken away: others come there only when that is durable.

        Otherwise a power cut could mix the two, and nobody could tell that from damage. Meanwhile the
        log counts as one whose sync failed, so that after a crash in here the next writer goes on in
        a new segment.
        """
        lock, segment = self._folder.lock, self._folder.segments[-1]
        assert lock is not None, "a log that is written to has one"
        generation, failed_at = lock.state()
        if failed_at is None:
            # First the good frames: others may wait for their sync, and the mark is not to concern them.
            self._syncer.sync_descriptor(segment.keep_open(), segment)
            self._syncer.count_as_synced(segment.next_position)
        lock.write_state(
            generation=generation,
            failed_at=self._syncer.durable_position if failed_at is None else failed_at,
        )
        try:
            yield
        except DamagedLogError:
            lock.write_state(generation=generation, failed_at=failed_at)
            raise
        lock.write_state(generation=generation, failed_at=failed_at)

    # --- new segments

    def begin_log(self, schema: pa.Schema, chain: bytes) -> None:
        """Make the first segment of a log."""
        self._create_segment(SegmentName(0), schema, chain, [])

    def _roll(self, segment: Segment) -> None:
        """Close the active segment and begin the next. All that is in front of it is durable then."""
        self._syncer.sync_descriptor(segment.keep_open(), segment)
        self._create_segment(SegmentName(segment.next_position), segment.schema, segment.chain, [])
        self._folder.list_segments()

    def recover(self) -> None:
        """See ``Storage.recover``."""
        if self._syncer.failed_at() is None:
            return
        assert self._folder.lock is not None, "a log that is written to has one"
        with self._folder.lock, self._folder.state:
            self._folder.notice_new_segments()
            self._make_up_for_failed_sync()

    def _make_up_for_failed_sync(self) -> None:
        failed_at = self._syncer.failed_at()
        if failed_at is not None:
            self._salvage(failed_at)

    def _salvage(self, synced_position: int) -> None:
        """A sync of the active segment failed: put what is above the last good sync into a new one.

        The kernel may have dropped the failed pages, so the old file is never synced again. What can
        still be read of it is written anew; what cannot was never acknowledged.
        """
        folder, lock = self._folder, self._folder.lock
        assert lock is not None, "a log that is written to has one"
        # Looked at anew: what was read of it before may be gone by now.
        segment = Segment(folder.directory, folder.segments[-1].name)
        start = max(synced_position, segment.name.first_position)
        chain, kept = segment.first_chain, []
        try:
            for frame in segment.frames_from(segment.name.first_position):
                if frame.seal.next_position <= start:
                    chain = frame.seal.chain
                else:
                    kept.append(frame)
        except FlawedFrameError as flawed:
            # These bytes stay where they are: the old file is never written again.
            torn_tail(segment, flawed.offset, synced_position=max(start, self._syncer.durable_position))
        # The mark comes from a derived file, whose bytes nothing checks: a segment begins with a frame.
        start = kept[0].seal.first_position if kept else segment.next_position
        fresh = start > segment.name.first_position
        name = SegmentName(start) if fresh else SegmentName(start, segment.name.generation + 1)
        try:
            self._create_segment(name, segment.schema, chain, kept)
        except OSError as error:
            raise ReadOnlyLogError(
                f"a sync of {segment.path} failed, and so did writing its last events to a new file "
                f"({error}). The log takes no writes; everything below position {start} is safe. Check "
                "the disk"
            ) from error
        lock.write_state(generation=lock.state()[0], failed_at=None)
        folder.list_segments()
        for _ in folder.segments[-1].frames_from(start):
            pass
        self._syncer.synced = folder.segments[-1].next_position

    def _create_segment(
        self, name: SegmentName, schema: pa.Schema, chain: bytes, kept: Sequence[Frame]
    ) -> None:
        folder, lock = self._folder, self._folder.lock
        assert lock is not None, "a log that is written to has one"
        generation, failed_at = lock.state()
        odd = generation | 1
        content = segment_bytes(name, schema, chain, kept)
        # A crash in between leaves it odd: everybody lists the folder each time until the next writer.
        # It also leaves the mark, as does a failed sync of the folder: the name may be there and not
        # be durable, so the next writer goes on under another one.
        marked: int | None = name.first_position if failed_at is None else failed_at
        lock.write_state(generation=odd, failed_at=marked)
        try:
            directory.create_segment(folder.directory, name, content)
            marked = failed_at
        except OSError as error:
            if not (folder.directory / name.text).exists():
                marked = failed_at
            raise WriteRefusedError(
                f"the segment {name.text} could not be made in {folder.directory}: {error}. Nothing was "
                f"written; {_remedy(error)} and repeat the call",
                path=str(folder.directory / name.text),
            ) from error
        finally:
            lock.write_state(generation=odd + 1, failed_at=marked)


def segment_bytes(name: SegmentName, schema: pa.Schema, chain: bytes, kept: Sequence[Frame]) -> bytes:
    """A whole segment: the sealed schema, then ``kept`` frames sealed anew for their new places."""
    content = log_format.seal_frame(
        schema.serialize().to_pybytes(),
        first_position=name.first_position,
        event_count=0,
        synced_position=name.first_position,
        chain=chain,
        offset=0,
    )
    for frame in kept:
        content += log_format.seal_frame(
            log_format.unseal(frame.data, frame.seal),
            first_position=frame.seal.first_position,
            event_count=frame.seal.event_count,
            synced_position=frame.seal.synced_position,
            chain=frame.seal.chain,
            offset=len(content),
        )
    return content


def _remedy(error: OSError) -> str:
    return "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
