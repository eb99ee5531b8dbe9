"""Re-encoding: a rolled segment is written again, with many commits in a frame and compressed.

The log's events and their chain of hashes stay as they are; a file of a higher generation takes the
place of the former one. Any number of processes may read and write the log meanwhile.

1. Only a rolled segment of which every byte is good is touched. Its commits are put together into
   larger frames, in a file in ``reencoding/``, which is synced, read back and proven: the chain that
   is computed anew from its events is what its seals say, and what the next segment begins with.
2. Under the log's lock the file is linked to its name.
3. The former file is deleted by a later call, when nobody can be expected to look for it any more,
   and only if the new one is proven again and the former one holds nothing else.

A crash during 1 leaves a file that nobody reads and the next call removes; a crash during 2 or 3 leaves
two files with the same events, or one. See ``docs/decisions/0011-reencoding.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from eventstore import files
from eventstore.errors import DamagedLogError, LogNotFoundError, WriteRefusedError
from eventstore.format import END_OF_STREAM
from eventstore.model import Progress, no_progress
from eventstore.schema import folded_chain
from eventstore.storage.local.directory import SegmentName, all_names, former_names, segment_names
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.merging import COMPRESSION_LEVEL, Commits, merged_frame, sealed_schema
from eventstore.storage.local.segment import FlawedFrameError, Segment, former_file

REENCODING = "reencoding"
_ENDED = "ended"
GRACE_SECONDS = 600.0
FRAME_BYTES = 512 << 10


@dataclass(frozen=True)
class ReencodedSegment:
    """A segment that has been, or can be, written again.

    Attributes:
        path: The former file, relative to the log's folder.
        new_path: The new one; None in a plan.
        bytes_before: The former file's length.
        bytes_after: The new one's; None in a plan.
    """

    path: str
    new_path: str | None
    bytes_before: int
    bytes_after: int | None


@dataclass(frozen=True)
class FormerFile:
    """A file whose events are in a file of a higher generation.

    Attributes:
        path: The file, relative to the log's folder.
        bytes: Its length.
    """

    path: str
    bytes: int


@dataclass(frozen=True)
class SkippedFile:
    """A file that was left alone.

    Attributes:
        path: The file, relative to the log's folder.
        reason: Why, and what to do about it.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ReencodingReport:
    """What a re-encoding did, or would do.

    Attributes:
        path: The log's folder.
        reencoded: Segments that were written again.
        deleted: Former files that were deleted.
        waiting: Former files that stay until the grace is over.
        skipped: Files that were left alone although they are due.
    """

    path: str
    reencoded: tuple[ReencodedSegment, ...]
    deleted: tuple[FormerFile, ...]
    waiting: tuple[FormerFile, ...]
    skipped: tuple[SkippedFile, ...]


class _LeftAloneError(Exception):
    """A file must be left alone; the text says why."""


def plan_reencoding(
    path: str | os.PathLike[str], *, grace_seconds: float = GRACE_SECONDS
) -> ReencodingReport:
    """Say what ``reencode_log`` would do, short of what it finds when it reads the files; writes nothing.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        grace_seconds: As for ``reencode_log``.

    Raises:
        LogNotFoundError: There is no log.
    """
    directory = _folder(path)
    outcome = _Outcome(directory)
    for name in segment_names(directory)[:-1]:
        with outcome.reporting(name):
            if not _is_reencoded(directory / name.text):
                size = (directory / name.text).stat().st_size
                outcome.reencoded.append(ReencodedSegment(name.text, None, size, None))
        _sort_former_files(directory, name, grace_seconds, due=outcome.deleted, waiting=outcome.waiting)
    return outcome.report()


def reencoding_is_due(path: str | os.PathLike[str], *, grace_seconds: float = GRACE_SECONDS) -> bool:
    """Whether there is work for ``reencode_log`` that its last call to end well has not seen.

    So a segment that must be left alone is looked at once and not again each time that somebody asks.
    Told by the files' names, lengths and times; nothing of the log is read.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        grace_seconds: As for ``reencode_log``.

    Raises:
        LogNotFoundError: There is no log.
    """
    directory = _folder(path)
    last_call = _last_call(directory)
    generations = Counter(name.first_position for name in all_names(directory))
    for name, following in pairwise(segment_names(directory)):
        with contextlib.suppress(FileNotFoundError):  # another call goes on meanwhile
            # A segment is rolled when the next one is made, however long ago its last event was.
            rolled = (directory / following.text).stat().st_mtime
            if rolled > last_call and not _is_reencoded(directory / name.text):
                return True
            over = (directory / name.text).stat().st_ctime + grace_seconds
            if generations[name.first_position] > 1 and last_call < over <= time.time():
                return True
    return False


def _last_call(directory: Path) -> float:
    """When the last call ended well, in seconds since 1970; 0 for never."""
    try:
        return (directory / REENCODING / _ENDED).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _note_end(directory: Path) -> None:
    """For ``_last_call``."""
    descriptor = os.open(directory / REENCODING / _ENDED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=directory)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def reencode_log(
    path: str | os.PathLike[str],
    *,
    grace_seconds: float = GRACE_SECONDS,
    frame_bytes: int = FRAME_BYTES,
    compression_level: int = COMPRESSION_LEVEL,
    progress: Progress = no_progress,
) -> ReencodingReport:
    """Write rolled segments again, compactly; others may read and append all the while.

    No event changes, and neither does the chain of hashes. A file is replaced only by one that was synced,
    read back and proven to hold the same events. A segment in which anything is flawed is left alone and
    reported. Calling again does what is left to do; a second call at the same time does nothing.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        grace_seconds: A former file is deleted when its successor is so old; whoever listed the folder
            before, from another program or over a slow connection, can open it until then.
        frame_bytes: Commits are put into one frame until they have this many bytes before compression.
            Who wants one event reads a frame.
        compression_level: That of zstd.
        progress: Told of the segments that were looked at.

    Raises:
        LogNotFoundError: There is no log.
        WriteRefusedError: The disk did not take a new file. The log is as it was; make room and repeat.
        PermissionError: The folder cannot be written.
    """
    if frame_bytes <= 0 or grace_seconds < 0:
        raise ValueError(f"frame_bytes {frame_bytes} is above 0, and grace_seconds {grace_seconds} not below")
    directory = _folder(path)
    outcome = _Outcome(directory)
    with _alone(directory) as alone:
        if not alone:
            outcome.skipped.append(SkippedFile(REENCODING, "another process is re-encoding this log"))
            return outcome.report()
        work = _Work(directory, outcome, frame_bytes, compression_level)
        try:
            # What is deleted first makes room for what is written.
            work.delete_former_files(grace_seconds)
            work.reencode(progress)
            if not grace_seconds:
                work.delete_former_files(grace_seconds)
            _note_end(directory)
        finally:
            work.lock.close()
    for name in segment_names(directory)[:-1]:
        _sort_former_files(directory, name, grace_seconds, due=[], waiting=outcome.waiting)
    return outcome.report()


def _folder(path: str | os.PathLike[str]) -> Path:
    directory = Path(path).expanduser().absolute()
    if not directory.is_dir() or not segment_names(directory):
        raise LogNotFoundError(f"there is no log in {directory}", path=str(directory))
    return directory


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """True when no other process re-encodes this log until the end; what a crash left is cleared away."""
    making = directory / REENCODING
    files.make_directories(making, like=directory)
    descriptor = os.open(making / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for name in all_names(making):
            (making / name.text).unlink(missing_ok=True)
        try:
            yield True
        finally:
            # A child that another thread has forked meanwhile holds this lock, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _is_reencoded(path: Path) -> bool:
    """Whether the file ends as re-encoded segments do; the mark is right behind the last frame there."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END_OF_STREAM)))
        return file.read() == END_OF_STREAM


def _sort_former_files(
    directory: Path,
    name: SegmentName,
    grace_seconds: float,
    *,
    due: list[FormerFile],
    waiting: list[FormerFile],
) -> None:
    """Put the lower generations of a segment into the right list."""
    with contextlib.suppress(FileNotFoundError):
        # The time of its last link: since then readers find it.
        age_seconds = time.time() - (directory / name.text).stat().st_ctime
        for former in reversed(former_names(directory, name)):
            size = (directory / former.text).stat().st_size
            over = not grace_seconds or age_seconds >= grace_seconds
            (due if over else waiting).append(FormerFile(former.text, size))


@dataclass
class _Outcome:
    """The report in the making."""

    directory: Path
    reencoded: list[ReencodedSegment] = field(default_factory=list)
    deleted: list[FormerFile] = field(default_factory=list)
    waiting: list[FormerFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)

    @contextlib.contextmanager
    def reporting(self, name: SegmentName) -> Iterator[None]:
        """Go on with the next file when this one must be left alone."""
        try:
            yield
        except FlawedFrameError as flawed:
            self._skip(name, f"it is flawed at byte {flawed.offset}: 'verify' says what is wrong")
        except FileNotFoundError:
            self._skip(name, "it was replaced meanwhile")
        except (DamagedLogError, _LeftAloneError) as error:
            self._skip(name, str(error))

    def _skip(self, name: SegmentName, reason: str) -> None:
        skipped = SkippedFile(name.text, reason)
        if skipped not in self.skipped:
            self.skipped.append(skipped)

    def report(self) -> ReencodingReport:
        return ReencodingReport(
            str(self.directory),
            tuple(self.reencoded),
            tuple(self.deleted),
            tuple(self.waiting),
            tuple(self.skipped),
        )


class _Work:
    """One call of ``reencode_log``."""

    def __init__(self, directory: Path, outcome: _Outcome, frame_bytes: int, compression_level: int) -> None:
        self._directory = directory
        self._outcome = outcome
        self._frame_bytes = frame_bytes
        self._not_proven: set[SegmentName] = set()
        self._compression_level = compression_level
        self.lock = Lock(directory)

    # --- steps 1 and 2

    def reencode(self, progress: Progress) -> None:
        """Write each rolled segment that is not compact yet again."""
        names = segment_names(self._directory)
        for done, (name, following) in enumerate(pairwise(names), 1):
            with self._outcome.reporting(name):
                self._reencode_segment(name, following)
            progress(done, len(names) - 1)

    def _reencode_segment(self, name: SegmentName, following_name: SegmentName) -> None:
        following = Segment(self._directory, following_name)
        source = self._source(name, following)
        if source is None:
            return
        generation = 1 + _greatest_generation(self._directory, name.first_position)
        new_name = SegmentName(name.first_position, generation)
        making = self._directory / REENCODING
        try:
            with files.new_file(making / new_name.text, like=self._directory) as (descriptor, made):
                self._write(descriptor, source, following)
                files.sync_file(descriptor)
                files.forget_cached(descriptor)
                _prove(Segment(making, new_name), following)
                self._put_in_place(made, name, following)
                size = files.size(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise WriteRefusedError(
                f"{name.text} could not be re-encoded in {self._directory}: {error}. The log is as it was; "
                "make room and repeat the call",
                path=str(self._directory / new_name.text),
            ) from error
        made.unlink(missing_ok=True)
        before = source.path.stat().st_size
        self._outcome.reencoded.append(ReencodedSegment(source.name.text, new_name.text, before, size))

    def _source(self, name: SegmentName, following: Segment) -> Segment | None:
        """The file to write again; None if there is none."""
        if name in self._not_proven:
            return former_file(self._directory, name, following)
        if _is_reencoded(self._directory / name.text):
            return None
        try:
            segment = Segment(self._directory, name)
            _check_frames(segment, following)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _LeftAloneError(f"the disk does not give it: {error}") from error
        return segment

    def _write(self, descriptor: int, source: Segment, following: Segment) -> None:
        """The whole new file."""
        first = source.name.first_position
        data = sealed_schema(source.schema, first_position=first, chain=source.first_chain)
        files.write(descriptor, data)
        offset = len(data)
        for commits in self._frames(source, following):
            data = merged_frame(
                commits, source.schema, offset=offset, compression_level=self._compression_level
            )
            files.write(descriptor, data)
            offset += len(data)
        files.write(descriptor, END_OF_STREAM)

    def _frames(self, source: Segment, following: Segment) -> Iterator[Commits]:
        """The segment's commits in groups that make frames of about the wanted length."""
        waiting = Commits(source.name.first_position)
        for frame in source.frames_from(source.name.first_position):
            if frame.seal.next_position > following.name.first_position:
                raise _LeftAloneError("it holds events that a later segment holds, too")
            batch, annex = source.batch(frame), source.annex(frame)
            # What the body of a small commit says is nearly the same, and Arrow takes its time to say it.
            batch_bytes = frame.seal.body_bytes if annex is None else batch.nbytes
            if waiting.batches and waiting.batch_bytes + batch_bytes > self._frame_bytes:
                yield waiting
                waiting = Commits(frame.seal.first_position)
            sizes = [batch.num_rows] if annex is None else annex.sizes()
            waiting.take(batch, sizes, chain=frame.seal.chain, batch_bytes=batch_bytes)
        yield waiting

    def _put_in_place(self, made: Path, name: SegmentName, following: Segment) -> None:
        """Step 2."""
        with self.lock:
            names = segment_names(self._directory)
            generation, failed_at = self.lock.state()
            if failed_at is not None:
                raise _LeftAloneError("a sync of this log failed: the next writer makes up for that first")
            if name not in names or following.name not in names:
                raise _LeftAloneError("the log was repaired meanwhile")
            # A crash in between leaves it odd: everybody lists the folder each time until the next writer.
            self.lock.write_state(generation=generation | 1, failed_at=None)
            try:
                files.link(made, self._directory / made.name)
            finally:
                self.lock.write_state(generation=(generation | 1) + 1, failed_at=None)

    # --- step 3

    def delete_former_files(self, grace_seconds: float) -> None:
        """Delete what has been replaced for long enough."""
        names = segment_names(self._directory)
        for name, following in pairwise(names):
            due: list[FormerFile] = []
            _sort_former_files(self._directory, name, grace_seconds, due=due, waiting=[])
            if due:
                with self._outcome.reporting(name):
                    self._delete(due, name, Segment(self._directory, following))

    def _delete(self, due: list[FormerFile], name: SegmentName, following: Segment) -> None:
        try:
            _prove(Segment(self._directory, name), following)
        except BaseException:
            # It is written again, from the former file.
            self._not_proven.add(name)
            raise
        files.sync_directory(self._directory)
        for former in due:
            former_name = next(each for each in all_names(self._directory) if each.text == former.path)
            with self._outcome.reporting(former_name):
                segment = Segment(self._directory, former_name)
                if not segment.holds_exactly(following.name.first_position, following.first_chain):
                    raise _LeftAloneError(
                        f"it is damaged, or holds other events than {name.text}: move it away if nobody "
                        "needs them"
                    )
                with self.lock:
                    self._delete_file(former_name, name, following.name)
                self._outcome.deleted.append(former)

    def _delete_file(self, former: SegmentName, name: SegmentName, following: SegmentName) -> None:
        names = segment_names(self._directory)
        if name not in names or following not in names:
            raise _LeftAloneError("the log was repaired meanwhile")
        generation, failed_at = self.lock.state()
        self.lock.write_state(generation=generation | 1, failed_at=failed_at)
        try:
            files.unlink(self._directory / former.text)
        finally:
            self.lock.write_state(generation=(generation | 1) + 1, failed_at=failed_at)


def _check_frames(segment: Segment, following: Segment) -> None:
    """That each byte is good and the events lead to the next segment.

    Raises:
        FlawedFrameError, DamagedLogError: A frame is not good.
        _LeftAloneError: The frames are good, but not just those that the segment shall hold.
    """
    for _ in segment.frames_from(segment.name.first_position):
        pass
    if segment.next_position > following.name.first_position:
        raise _LeftAloneError("it holds events that a later segment holds, too")
    if (segment.next_position, segment.chain) != (following.name.first_position, following.first_chain):
        raise _LeftAloneError("the next segment does not continue it: 'verify' says what is wrong")


def _prove(segment: Segment, following: Segment) -> None:
    """That the chain, computed anew from a segment's events, is what all seals say; raises as above."""
    chain = segment.first_chain
    for frame in segment.frames_from(segment.name.first_position):
        segment.annex(frame)
        chain = folded_chain(chain, segment.batch(frame))
        if chain != frame.seal.chain:
            raise _LeftAloneError("its events are not those that its chain vouches for: 'verify' says more")
    _check_frames(segment, following)


def _greatest_generation(directory: Path, first_position: int) -> int:
    """The greatest generation that a segment of this position ever had, those in quarantine included."""
    folders = [directory, *directory.glob("quarantine/repair-*")]
    names = [name for folder in folders for name in all_names(folder)]
    return max((name.generation for name in names if name.first_position == first_position), default=0)
