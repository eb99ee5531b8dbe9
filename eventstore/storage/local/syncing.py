"""``Syncer``: who syncs, who waits, and what a failed sync means.

Threads that wait for the disk at the same time share one sync. It covers all that was written to the
active segment before it began; what lies in front of that segment was durable before it came to be.

A sync that failed is never tried again: the kernel has marked the pages clean, and the next one would
be answered with a lie. It leaves a mark in the lock file, which all processes look at.
"""

from __future__ import annotations

import contextlib
import os
import threading

from eventstore import files
from eventstore.errors import StorageError
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.log_folder import UNKNOWN, LogFolder
from eventstore.storage.local.segment import Segment


class Syncer:
    """Makes the log of a folder durable.

    Args:
        folder: The log's folder.

    Attributes:
        synced: Everything below this position was synced by this process.
        never_sync: The segment that a sync of this process has failed for, if one has.
    """

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder
        self.synced = 0
        self.never_sync: SegmentName | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Called in a forked child: threads of the parent may have held these."""
        self._gate = threading.Lock()
        self._ended = threading.Condition(self._gate)
        self._running = False
        self._waiting = 0
        self._one_sync = threading.Lock()

    @property
    def durable_position(self) -> int:
        """Everything below is known to survive a power cut."""
        with self._folder.state:
            segments = self._folder.segments
            return max(self.synced, segments[-1].end.synced_position) if segments else self.synced

    def sync(self, next_position: int) -> None:
        """See ``Storage.sync``."""
        while self.durable_position < next_position:
            with self._gate:
                if self._running:
                    self._waiting += 1
                    self._ended.wait()
                    self._waiting -= 1
                    continue
                self._running = True
            try:
                if self._sync_active(next_position):
                    return
            finally:
                with self._gate:
                    self._running = False
                    if self._waiting:
                        self._ended.notify_all()

    def _sync_active(self, next_position: int) -> bool:
        """Sync what was written so far. False if others have made a segment meanwhile: it does not count."""
        folder = self._folder
        with folder.state:
            lock, generation = folder.lock, folder.generation
            if lock is not None and generation == UNKNOWN:
                generation = lock.state()[0]
            segment = folder.segments[-1]
            written = segment.next_position
            # Whoever waits was served up to what it waits for, and what was served is read again
            # whenever segments are listed. Otherwise waiting would have no end.
            assert written >= next_position, "the active segment was read as far as the log was served"
            descriptor = self._descriptor_to_sync(segment)
        try:
            self.sync_descriptor(descriptor, segment)
        finally:
            os.close(descriptor)
        # A file that was opened after a sync of it had failed elsewhere does not hear of that. The mark
        # of it goes only when what could still be read was put into a new segment: so one look, behind
        # the sync, tells of a mark that was there before and of one that has come and gone.
        generation_now, failed_at = (generation, None) if lock is None else lock.state()
        if failed_at is not None and written > failed_at:
            raise self._failed_earlier(failed_at)
        if generation_now != generation:
            folder.notice_new_segments()
            return False
        with folder.state:
            self.synced = max(self.synced, written)
        return True

    def _descriptor_to_sync(self, segment: Segment) -> int:
        """A copy: another thread may roll the log meanwhile, which closes the segment's own."""
        try:
            return files.duplicate(segment.keep_open(), segment.path)
        except OSError as error:
            raise StorageError(
                f"a sync of {segment.path} could not begin ({error}): whether events from position "
                f"{self.durable_position} on survive a power cut is unknown, and they are not acknowledged. "
                "Look what is there before repeating the call",
                path=str(segment.path),
            ) from error

    def count_as_synced(self, position: int) -> None:
        """Everything below a position is known to be durable by now."""
        with self._folder.state:
            self.synced = max(self.synced, position)

    def sync_descriptor(self, descriptor: int, segment: Segment) -> None:
        """Sync a segment; one that failed once is never synced again, by no thread of this process.

        Raises:
            StorageError: The disk did not confirm it, now or before.
        """
        failure: OSError | None = None
        with self._one_sync:
            if self.never_sync is None or self.never_sync != segment.name:
                try:
                    files.sync_data(descriptor)
                except OSError as error:
                    self.never_sync, failure = segment.name, error
                else:
                    return
        self.mark_failed_sync()
        raise StorageError(
            f"the disk did not confirm a sync of {segment.path} ({failure or 'it failed before'}): whether "
            f"events from position {self.durable_position} on survive a power cut is unknown, and they are "
            "not acknowledged. Look what is there before repeating the call",
            path=str(segment.path),
        ) from failure

    # --- what a failed sync means

    def mark_failed_sync(self) -> None:
        """Tell every appender; trying the same sync again would be answered with a lie."""
        lock = self._folder.lock
        if lock is None:
            return
        with lock:
            generation, failed_at = lock.state()
            if failed_at is None:
                # A disk that refuses the mark as well must not hide that the sync has failed.
                with contextlib.suppress(OSError):
                    lock.write_state(generation=generation, failed_at=self.durable_position)

    def failed_at(self) -> int | None:
        """Where the synced part of the log ended when a sync of the active segment failed, if one has."""
        lock = self._folder.lock
        failed_at = None if lock is None else lock.state()[1]
        if failed_at is None and self._folder.segments[-1].name == self.never_sync:
            # The disk refused the mark, too. This process knows without it.
            return self.durable_position
        return failed_at

    def _failed_earlier(self, failed_at: int) -> StorageError:
        """The error for who waited for a sync that failed, here or elsewhere: nobody is told otherwise."""
        return StorageError(
            f"an earlier sync of the log in {self._folder.directory} failed: whether events from "
            f"position {failed_at} on survive a power cut is unknown, and they are not acknowledged. "
            "Look what is there before repeating the call",
            path=str(self._folder.directory),
        )
