"""``LocalStorage``: the log's commits in the segments of one folder, on one host.

It keeps these invariants: a writer appends only behind a verified frame, under the lock; a segment
is created whole and durable before the first event goes into it, and everything in front of it is
durable by then; ``durable_position`` never claims more than was synced.

Lock order: the log's lock, ``Lock``, then ``_state``. ``_state`` is never held across a sync of a
commit, so that readers go on while writers wait for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore import files
from eventstore import format as log_format
from eventstore.annex import Annex
from eventstore.errors import (
    DamagedLogError,
    LogNotFoundError,
    ReadOnlyLogError,
    StorageError,
    WriteRefusedError,
)
from eventstore.format import Flaw
from eventstore.index import Landmark, Mark, Place
from eventstore.keys import keys_of
from eventstore.model import Verdict
from eventstore.schema import envelope_schema, folded_chain
from eventstore.storage.local import directory as folder
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.filesystem import NetworkFileSystemWarning, network_file_system
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.recovery import damage, settle_tail, torn_tail
from eventstore.storage.local.segment import FlawedFrameError, Frame, Segment, former_file
from eventstore.storage.local.verify import verify_log
from eventstore.storage.protocol import Glimpse, StoredBatch

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_BYTES_MAX = 64 << 20
_READ_BYTES = 4 << 20


class LocalStorage:
    """Commits in a folder.

    Args:
        directory: The log's folder.
        read_only: Take no lock, recover nothing, write nothing.
        segment_bytes_max: A segment that has this many bytes gets no further commit.
    """

    def __init__(
        self, directory: Path, *, read_only: bool, segment_bytes_max: int = SEGMENT_BYTES_MAX
    ) -> None:
        self.directory = directory
        self.read_only = read_only
        self.watched: Path | None = directory
        self.index_folder: Path | None = directory
        self._segment_bytes_max = segment_bytes_max
        self._state = threading.RLock()
        self._syncing = threading.Condition()
        self._sync_running = False
        self._one_sync = threading.Lock()
        self._never_sync: SegmentName | None = None
        self._served: tuple[int, bytes] | None = None
        self._synced = 0
        self._lock: Lock | None = None
        self._generation = -1
        self._found_whole_in = 0
        self._segments: list[Segment] = []
        self._flawed: set[SegmentName] = set()
        self._last_merged: tuple[Segment, Frame, pa.RecordBatch, Annex] | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.log_id = self._segments[0].log_id

    def _open(self) -> None:
        if self.read_only:
            self._open_to_read()
        else:
            self._open_to_write()

    def _open_to_read(self) -> None:
        if not self.directory.is_dir() or not folder.segment_names(self.directory):
            raise LogNotFoundError(f"there is no log in {self.directory}", path=str(self.directory))
        self._list_segments()

    def _open_to_write(self) -> None:
        file_system = network_file_system(self.directory)
        if file_system is not None:
            warnings.warn(
                f"{self.directory} lies on {file_system}, a network file system, where locks and appends of "
                "several hosts are not safe: use it from one host only, or open a new base as "
                f"shared://{self.directory.parent} (see docs/guides/beyond-one-machine.md)",
                NetworkFileSystemWarning,
                stacklevel=5,
            )
        files.make_directories(self.directory, like=_nearest_folder(self.directory))
        self._lock = Lock(self.directory)
        with self._lock.hold():
            folder.remove_temporaries(self.directory)
            if not folder.segment_names(self.directory):
                log_id = secrets.token_bytes(16)
                self._create_segment(
                    SegmentName(0), envelope_schema(log_id), log_format.first_chain(log_id), []
                )
            self._list_segments()

    # --- what the log calls

    @property
    def durable_position(self) -> int:
        """Everything below is known to survive a power cut."""
        with self._state:
            return max(self._synced, self._segments[-1].synced_position) if self._segments else self._synced

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """Hold the lock of this log."""
        return contextlib.nullcontext() if self._lock is None else self._lock.hold()

    def has_news(self, position: int) -> bool:
        """See ``Storage.has_news``. Two small looks at the log's files can tell."""
        lock = self._lock
        if lock is None:
            return True
        with self._state:
            turn, generation = lock.turn, lock.state()[0]
            if generation != self._generation or generation % 2 or not self._segments:
                return True
            segment = self._segments[-1]
            if position != segment.next_position or not segment.is_all_there():
                return True
            self._found_whole_in = turn
            return False

    def glance(self, position: int) -> Sequence[Glimpse]:
        """See ``Storage.glance``. A look at the active segment tells of some small commits."""
        lock = self._lock
        if lock is None:
            return ()
        seen: list[Glimpse] = []
        with self._state:
            generation = lock.state()[0]
            if generation != self._generation or generation % 2 or not self._segments:
                return ()
            segment = self._segments[-1]
            if position != segment.next_position:
                return ()
            segment.keep_open()
            for frame in segment.fresh():
                seal = frame.seal
                keys = None
                if seal.event_count and seal.first_position == segment.next_position:
                    keys = keys_of(frame.data, seal)
                if keys is None:
                    break
                place = _place(segment, frame.offset, seal.frame_bytes)
                seen.append(Glimpse(seal.first_position, keys, seal.chain, place))
                segment.extend(seal, frame.offset)
            if seen:
                self._serve(segment.next_position, segment.chain)
        return seen

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """See ``Storage.read``."""
        position = from_position
        while until is None or position < until:
            batches = self._read_listed(position, until, near)
            if not batches:
                return
            last = batches[-1]
            self._serve(last.next_position, last.chain)
            yield from batches
            position, near = last.next_position, Landmark(last.first_position, last.place)

    def resume(self, mark: Mark) -> bool:
        """See ``Storage.resume``. The frame that ends there is read and checked, and no other."""
        try:
            with self._state:
                self._notice_new_segments()
                place = self._place_of(mark.position)
                found = self._chain_of(self._segments, place, mark.position, mark.last)
        except (DamagedLogError, FlawedFrameError, FileNotFoundError):
            # Whatever it is: the reader that looks at everything says so.
            return False
        if found != mark.chain:
            return False
        self._serve(mark.position, mark.chain)
        return True

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """See ``Storage.put``; the caller holds ``turn`` and has read everything."""
        if self.read_only:
            raise ReadOnlyLogError(
                f"{self.directory} was opened read-only: open it without read_only=True to write"
            )
        with self._state:
            self._make_room()
            segment = self._segments[-1]
            self._check_same_history(segment, first_position)
            if segment.next_position != first_position:
                return None
            end = segment.end
            frame, seal = log_format.sealed(
                message,
                first_position=first_position,
                event_count=event_count,
                synced_position=max(self._synced, end.synced_position),
                chain=chain,
                offset=end.offset,
            )
            self._write(segment, frame)
            segment.extend(seal, end.offset)
            self._served = first_position + event_count, chain
        return _place(segment, end.offset, len(frame))

    def sync(self, next_position: int) -> None:
        """See ``Storage.sync``. Threads that wait at the same time share one sync."""
        while self.durable_position < next_position:
            self._refuse_after_failed_sync(next_position)
            with self._syncing:
                if self._sync_running:
                    self._syncing.wait()
                    continue
                self._sync_running = True
            try:
                self._sync_all(next_position)
            finally:
                with self._syncing:
                    self._sync_running = False
                    self._syncing.notify_all()

    def recover(self) -> None:
        """See ``Storage.recover``."""
        if self._failed_at() is None:
            return
        assert self._lock is not None
        with self._lock.hold(), self._state:
            self._notice_new_segments()
            failed_at = self._failed_at()
            if failed_at is not None:
                self._salvage(failed_at)

    def verify(self) -> Verdict:
        """See ``Storage.verify``."""
        return verify_log(self.directory)

    def after_fork(self) -> None:
        """Close the inherited descriptors, which leaves the parent's lock alone."""
        self._state = threading.RLock()
        self._syncing = threading.Condition()
        self._sync_running = False
        self._one_sync = threading.Lock()
        with contextlib.suppress(OSError):  # somebody may have closed them behind our back
            self.close()

    def reopen(self) -> None:
        """Open the files anew."""
        self._generation = -1
        self._served = None
        self._last_merged = None
        self._open()

    def close(self) -> None:
        """Close all files, also when one of them cannot be closed."""
        with contextlib.ExitStack() as ends:
            for segment in self._segments:
                ends.callback(segment.close)
            if self._lock is not None:
                ends.callback(self._lock.close)
            self._segments, self._lock = [], None

    # --- reading

    def _chain_of(
        self, segments: list[Segment], place: int, position: int, near: Landmark | None = None
    ) -> bytes | None:
        """The chain's value at a position of a segment; None when that ends in front of it."""
        try:
            return _chain_within(self._sound(segments, place), position, near)
        except FlawedFrameError as flawed:
            return _chain_within(self._former(segments, place, flawed), position)

    def _read_listed(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Some batches from ``position`` on; where a file is gone the folder is listed again.

        Its next generation may have taken its place, several times while this looks. Otherwise it is damage.
        """
        missing: str | None = None
        while True:
            try:
                if missing is not None:
                    self._list_segments()
                return self._read_settled(position, until, near)
            except FileNotFoundError as error:
                if error.filename == missing:
                    raise self._gone(error.filename, position) from error
                missing = error.filename

    def _gone(self, path: str | os.PathLike[str], position: int) -> DamagedLogError:
        return DamagedLogError(
            f"{os.fspath(path)} was deleted while it was in use: events from position {position} on cannot "
            "be read or written. Restore it from a copy and open the log again",
            path=os.fspath(path),
            offset=0,
            position=position,
        )

    def _read_settled(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Some batches from ``position`` on; a flaw at the very end is looked at again under the lock."""
        with self._state:
            self._notice_new_segments()
            while True:
                try:
                    return self._read_some(position, until, near)
                except FlawedFrameError as flawed:
                    if not self.read_only:
                        break
                    if self._ends_at(flawed.offset):
                        return []
        with self.turn(), self._state:
            self._notice_new_segments()
            try:
                return self._read_some(position, until, near)
            except FlawedFrameError as flawed:
                segment = self._segments[-1]
                with self._cutting():
                    settle_tail(self.directory, segment, flawed.offset, synced_position=self.durable_position)
                return self._read_some(position, until, near)

    def _read_some(self, position: int, until: int | None, near: Landmark | None) -> list[StoredBatch]:
        """Batches of one segment, up to a few megabytes; empty at the end of the log.

        Raises:
            FlawedFrameError: The last segment does not end with a good frame.
        """
        place = self._place_of(position)
        segment = self._sound(self._segments, place)
        self._check_of_this_log(segment)
        limit = self._segments[place + 1].name.first_position if place + 1 < len(self._segments) else None
        batches: list[StoredBatch] = []
        size = 0
        try:
            for frame in self._frames_from(segment, position, near):
                if limit is not None and frame.seal.first_position >= limit:
                    break
                if limit is not None and frame.seal.next_position > limit:
                    if batches:
                        break
                    raise self._begins_within(frame, self._segments[place + 1])
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

    def _frames_from(self, segment: Segment, position: int, near: Landmark | None) -> Iterator[Frame]:
        """As the segment's own, but a frame of many commits that was read last is not read again.

        Whoever reads one stream among many asks for one event of it after the other.
        """
        if self._last_merged is not None and self._last_merged[0] is segment:
            frame = self._last_merged[1]
            if frame.seal.first_position <= position < frame.seal.next_position:
                yield frame
                position = frame.seal.next_position
                near = Landmark(
                    frame.seal.first_position, _place(segment, frame.offset, frame.seal.frame_bytes)
                )
        yield from segment.frames_from(position, near)

    def _stored_batch(self, segment: Segment, frame: Frame, position: int) -> StoredBatch:
        """The events of a frame, from the commit on that holds ``position``."""
        seal = frame.seal
        place = _place(segment, frame.offset, seal.frame_bytes)
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

    def _read_former_file(
        self, place: int, position: int, until: int | None, near: Landmark | None, error: DamagedLogError
    ) -> list[StoredBatch]:
        """Read a lower generation of a damaged rolled segment, if it has all of its events; or the error."""
        self._former(self._segments, place, error)
        return self._read_some(position, until, near)

    def _sound(self, segments: list[Segment], place: int) -> Segment:
        """A segment of which at least the first frame is good; of a damaged one, a lower generation."""
        try:
            segments[place].read_head()
        except DamagedLogError as error:
            return self._former(segments, place, error)
        return segments[place]

    def _former(self, segments: list[Segment], place: int, error: Exception) -> Segment:
        """A lower generation of a damaged rolled segment takes its place, if it has all of its events.

        The next segment vouches for that. Otherwise it is the error.
        """
        name = segments[place].name
        if place + 1 == len(segments) or not folder.former_names(self.directory, name):
            raise error from None
        try:
            following = self._sound(segments, place + 1)
        except DamagedLogError:
            raise error from None
        former = former_file(self.directory, name, following)
        if former is None or former.log_id != following.log_id:
            raise error from None
        self._flawed.update(each for each in folder.all_names(self.directory) if former.name < each <= name)
        segments[place] = former
        return former

    def _begins_within(self, frame: Frame, following: Segment) -> DamagedLogError:
        """The error for a segment that begins in the middle of a commit, as after two locks for one log."""
        return DamagedLogError(
            f"{following.path} begins at position {following.name.first_position}, within the commit of "
            f"positions {frame.seal.first_position} to {frame.seal.next_position - 1} in the segment before "
            "it: one of the two does not belong here. Restore the files from a copy",
            path=str(following.path),
            offset=0,
            position=frame.seal.first_position,
        )

    def _place_of(self, position: int) -> int:
        place = bisect_right(self._segments, position, key=lambda segment: segment.name.first_position) - 1
        if place < 0:
            first = self._segments[0]
            raise DamagedLogError(
                f"the segment that begins at position 0 is missing in {self.directory}; the first is "
                f"{first.path.name}. Restore it from a copy",
                path=str(first.path),
                offset=0,
                position=0,
            )
        return place

    def _ends_at(self, offset: int) -> bool:
        """Without the lock, an unfinished tail reads as the log's end, unless a writer has finished it.

        Raises:
            DamagedLogError: It is no unfinished tail.
        """
        segment = self._segments[-1]
        flaw, rest = segment.flaw_at(offset)
        if flaw is None:
            return False
        durable = max(self.durable_position, log_format.greatest_synced_position(rest))
        if rest and segment.next_position < durable:
            raise damage(segment, offset, flaw)
        return True

    def _notice_new_segments(self) -> None:
        generation = None if self._lock is None else self._lock.state()[0]
        if generation is None or generation != self._generation or generation % 2:
            self._list_segments()

    def _list_segments(self) -> None:
        """Bring the list of segments up to date; the last one stays open."""
        with self._state:
            generation = -1 if self._lock is None else self._lock.state()[0]
            known = {segment.name: segment for segment in self._segments}
            segments = self._listed(known)
            for name, segment in known.items():
                if name != segments[-1].name:
                    segment.close()
            self._segments, self._found_whole_in = segments, 0
            self._check_of_this_log(segments[-1])
            if not self.read_only:
                segments[-1].keep_open()
            self._generation = generation

    def _listed(self, known: Mapping[SegmentName, Segment]) -> list[Segment]:
        """The segments that count; listed again while files go away, which re-encoding lets happen."""
        names: list[SegmentName] = []
        while True:
            names_before, names = names, folder.segment_names(self.directory, flawed=self._flawed)
            if not names:
                raise self._gone(self.directory / SegmentName(0).text, 0)
            segments = [known[name] if name in known else Segment(self.directory, name) for name in names]
            try:
                self._check_served_is_there(segments)
                # Of the others not even the first frame is read before somebody wants them.
                self._sound(segments, 0)
                self._sound(segments, len(segments) - 1)
            except FileNotFoundError:
                if names == names_before:
                    raise
            else:
                return segments

    def _check_of_this_log(self, segment: Segment) -> None:
        first = self._segments[0]
        if segment.log_id != first.log_id:
            raise DamagedLogError(
                f"{segment.path} belongs to another log than {first.path.name}: move it away",
                path=str(segment.path),
                offset=0,
                position=segment.name.first_position,
            )

    # --- writing, under the lock

    def _serve(self, next_position: int, chain: bytes) -> None:
        """Remember the end of what the log was given, as it was then: it decides on that."""
        if self._served is None or next_position > self._served[0]:
            self._served = next_position, chain

    def _check_same_history(self, segment: Segment, next_position: int) -> None:
        """Whoever read the log before it was repaired or restored must not write behind what it read."""
        if segment.next_position > next_position:
            return
        other_history = self._served is not None and self._served != (next_position, segment.end.chain)
        if other_history or segment.next_position < next_position:
            raise self._other_history()

    def _check_served_is_there(self, segments: list[Segment]) -> None:
        """A segment that was made anew after a failed sync lacks what the disk had lost by then."""
        if self._served is None:
            return
        position, chain = self._served
        place = bisect_right(segments, position, key=lambda segment: segment.name.first_position) - 1
        if place < 0 or segments[place] in self._segments:
            return
        found = None
        with contextlib.suppress(FlawedFrameError):
            found = self._chain_of(segments, place, position)
        if found != chain:
            raise self._other_history()

    def _other_history(self) -> StorageError:
        return StorageError(
            f"the log in {self.directory} was repaired or replaced while this process had it open; "
            "nothing was written. Open it again, in a new process, and look before repeating the call",
            path=str(self.directory),
        )

    def _write(self, segment: Segment, frame: bytes) -> None:
        descriptor = segment.keep_open()
        try:
            written = files.write_at(descriptor, frame, segment.end.offset)
            if written == len(frame):
                return
            reason = f"the disk took {written} of {len(frame)} bytes"
        except OSError as error:
            reason = str(error)
        # A crash here leaves a short frame, which the next writer sets aside.
        try:
            with self._cutting():
                files.cut(descriptor, segment.end_offset)
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

    @contextlib.contextmanager
    def _cutting(self) -> Iterator[None]:
        """Bytes behind the good frames are taken away: others come there only when that is durable.

        Otherwise a power cut could mix the two, and nobody could tell that from damage. Meanwhile the
        log counts as one whose sync failed, so that after a crash in here the next writer goes on in
        a new segment.
        """
        assert self._lock is not None
        segment = self._segments[-1]
        generation, failed_at = self._lock.state()
        if failed_at is None:
            # First the good frames: others may wait for their sync, and the mark is not to concern them.
            self._sync_descriptor(segment.keep_open(), segment)
            self._synced = max(self._synced, segment.next_position)
        self._lock.write_state(
            generation=generation, failed_at=self.durable_position if failed_at is None else failed_at
        )
        try:
            yield
        except DamagedLogError:
            self._lock.write_state(generation=generation, failed_at=failed_at)
            raise
        self._lock.write_state(generation=generation, failed_at=failed_at)

    def _make_room(self) -> None:
        assert self._lock is not None
        generation, failed_at = self._lock.state()
        if generation % 2:
            self._lock.write_state(generation=generation + 1, failed_at=failed_at)
        if failed_at is not None or self._never_sync is not None:
            failed_at = self._failed_at()
            if failed_at is not None:
                self._salvage(failed_at)
        segment = self._segments[-1]
        looked_at = self._found_whole_in == self._lock.turn
        if not looked_at and not files.has_name(segment.keep_open()):
            # What is written to it now would be gone with this process, and nobody else would see it.
            raise self._gone(segment.path, segment.name.first_position)
        full = (
            segment.end_offset >= self._segment_bytes_max
            and segment.next_position > segment.name.first_position
        )
        # Ended: a rolled segment whose successor a power cut took, or a copy that ends here.
        if full or (not looked_at and segment.is_ended()):
            self._roll(segment)

    def _roll(self, segment: Segment) -> None:
        """Close the active segment and begin the next. All that is in front of it is durable then."""
        self._sync_descriptor(segment.keep_open(), segment)
        self._create_segment(SegmentName(segment.next_position), segment.schema, segment.chain, [])
        self._list_segments()

    def _salvage(self, synced_position: int) -> None:
        """A sync of the active segment failed: put what is above the last good sync into a new one.

        The kernel may have dropped the failed pages, so the old file is never synced again. What can
        still be read of it is written anew; what cannot was never acknowledged.
        """
        # Looked at anew: what was read of it before may be gone by now.
        segment = Segment(self.directory, self._segments[-1].name)
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
            torn_tail(segment, flawed.offset, synced_position=max(start, self.durable_position))
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
        assert self._lock is not None
        self._lock.write_state(generation=self._lock.state()[0], failed_at=None)
        self._list_segments()
        for _ in self._segments[-1].frames_from(start):
            pass
        self._synced = self._segments[-1].next_position

    def _create_segment(self, name: SegmentName, schema: pa.Schema, chain: bytes, kept: list[Frame]) -> None:
        assert self._lock is not None
        generation, failed_at = self._lock.state()
        odd = generation | 1
        content = _segment_bytes(name, schema, chain, kept)
        # A crash in between leaves it odd: everybody lists the folder each time until the next writer.
        # It also leaves the mark, as does a failed sync of the folder: the name may be there and not
        # be durable, so the next writer goes on under another one.
        marked: int | None = name.first_position if failed_at is None else failed_at
        self._lock.write_state(generation=odd, failed_at=marked)
        try:
            folder.create_segment(self.directory, name, content)
            marked = failed_at
        except OSError as error:
            if not (self.directory / name.text).exists():
                marked = failed_at
            raise WriteRefusedError(
                f"the segment {name.text} could not be made in {self.directory}: {error}. Nothing was "
                f"written; {_remedy(error)} and repeat the call",
                path=str(self.directory / name.text),
            ) from error
        finally:
            self._lock.write_state(generation=odd + 1, failed_at=marked)

    # --- syncing

    def _sync_all(self, next_position: int) -> None:
        with self._state:
            segment = self._segments[-1]
            written = segment.next_position
            # Whoever waits was served up to what it waits for, and what was served is read again
            # whenever segments are listed. Otherwise waiting would have no end.
            assert written >= next_position, "the active segment was read as far as the log was served"
            descriptor = self._descriptor_to_sync(segment)
        try:
            self._sync_descriptor(descriptor, segment)
        finally:
            os.close(descriptor)
        # A file that was opened after a sync of it had failed elsewhere does not hear of that.
        self._refuse_after_failed_sync(written)
        with self._state:
            self._synced = max(self._synced, written)

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

    def _refuse_after_failed_sync(self, next_position: int) -> None:
        """Whoever waited for a sync that failed, here or elsewhere, must not be told otherwise."""
        failed_at = None if self._lock is None else self._lock.state()[1]
        if failed_at is not None and next_position > failed_at:
            raise StorageError(
                f"an earlier sync of the log in {self.directory} failed: whether events from position "
                f"{failed_at} on survive a power cut is unknown, and they are not acknowledged. Look what "
                "is there before repeating the call",
                path=str(self.directory),
            )

    def _failed_at(self) -> int | None:
        """Where the synced part of the log ended when a sync of the active segment failed, if one has."""
        failed_at = None if self._lock is None else self._lock.state()[1]
        if failed_at is None and self._segments[-1].name == self._never_sync:
            # The disk refused the mark, too. This process knows without it.
            return self.durable_position
        return failed_at

    def _sync_descriptor(self, descriptor: int, segment: Segment) -> None:
        """Sync a segment; one that failed once is never synced again, by no thread of this process."""
        failure: OSError | None = None
        with self._one_sync:
            if segment.name != self._never_sync:
                try:
                    files.sync_data(descriptor)
                except OSError as error:
                    self._never_sync, failure = segment.name, error
            if segment.name != self._never_sync:
                return
        self._mark_failed_sync()
        raise StorageError(
            f"the disk did not confirm a sync of {segment.path} ({failure or 'it failed before'}): whether "
            f"events from position {self.durable_position} on survive a power cut is unknown, and they are "
            "not acknowledged. Look what is there before repeating the call",
            path=str(segment.path),
        ) from failure

    def _mark_failed_sync(self) -> None:
        """Tell every appender; trying the same sync again would be answered with a lie."""
        if self._lock is None:
            return
        with self._lock.hold():
            generation, failed_at = self._lock.state()
            if failed_at is None:
                # A disk that refuses the mark as well must not hide that the sync has failed.
                with contextlib.suppress(OSError):
                    self._lock.write_state(generation=generation, failed_at=self.durable_position)


def _remedy(error: OSError) -> str:
    return "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"


def _nearest_folder(path: Path) -> Path:
    """The folder itself if it exists, otherwise the nearest one above it that does."""
    while not path.is_dir():
        path = path.parent
    return path


def _chain_within(segment: Segment, position: int, near: Landmark | None = None) -> bytes | None:
    """The chain's value at a position of a segment; None when it ends in front of it.

    A frame that ends there says it. In one that goes on behind it, where several commits were put into
    one frame, it is computed from the events.
    """
    if segment.name.first_position == position:
        return segment.first_chain
    frame = next(segment.frames_from(position - 1, near), None)
    if frame is None or frame.seal.next_position < position:
        return None
    first = frame.seal.first_position
    if frame.seal.next_position > position:
        chain = _chain_within(segment, first)
        events = segment.batch(frame).slice(0, position - first)
        return None if chain is None else folded_chain(chain, events)
    segment.go_on_behind(frame)
    return frame.seal.chain


def _place(segment: Segment, offset: int, size: int) -> Place:
    return Place(segment.name.first_position, segment.name.generation, offset, size)


def _segment_bytes(name: SegmentName, schema: pa.Schema, chain: bytes, kept: list[Frame]) -> bytes:
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
