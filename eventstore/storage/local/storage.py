"""``LocalStorage``: the log's commits in the segments of one folder, on one host.

It stands on four parts that share a ``LogFolder``: ``Reader``, ``Writer``, ``Syncer`` and the folder
itself. What each append goes through is here, in one piece.

Lock order: the log's lock, ``Lock``, then the folder's ``state``. ``state`` is never held across a sync
of a commit, so that readers go on while writers wait for the disk.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventstore import files
from eventstore import format as log_format
from eventstore.errors import DamagedLogError, LogNotFoundError, ReadOnlyLogError
from eventstore.index import Landmark, Mark, Place
from eventstore.model import Verdict
from eventstore.schema import envelope_schema
from eventstore.storage.local import directory as folder_names
from eventstore.storage.local.filesystem import NetworkFileSystemWarning, network_file_system
from eventstore.storage.local.log_folder import LogFolder
from eventstore.storage.local.reading import Reader
from eventstore.storage.local.segment import FlawedFrameError
from eventstore.storage.local.syncing import Syncer
from eventstore.storage.local.verify import verify_log
from eventstore.storage.local.writing import Writer
from eventstore.storage.protocol import Glimpse, StoredBatch

SEGMENT_BYTES_MAX = 64 << 20


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
        self._folder = LogFolder(directory, read_only=read_only)
        self._syncer = Syncer(self._folder)
        self._writer = Writer(self._folder, self._syncer, segment_bytes_max=segment_bytes_max)
        self._reader = Reader(self._folder, self._syncer, self._writer)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.log_id = self._folder.segments[0].log_id

    def _open(self) -> None:
        if self.read_only:
            self._open_to_read()
        else:
            self._open_to_write()

    def _open_to_read(self) -> None:
        if not self.directory.is_dir() or not folder_names.segment_names(self.directory):
            raise LogNotFoundError(f"there is no log in {self.directory}", path=str(self.directory))
        self._folder.list_segments()

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
        with self._folder.open_lock():
            folder_names.remove_temporaries(self.directory)
            if not folder_names.segment_names(self.directory):
                log_id = secrets.token_bytes(16)
                self._writer.begin_log(envelope_schema(log_id), log_format.first_chain(log_id))
            self._folder.list_segments()

    # --- what each append goes through

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """Hold the lock of this log."""
        return self._folder.lock or contextlib.nullcontext()

    def has_news(self, position: int) -> bool:
        """See ``Storage.has_news``. Two small looks at the log's files can tell."""
        folder = self._folder
        with folder.state:
            lock = folder.lock
            if lock is None:
                return True
            turn = lock.turn
            if (lock.held or lock.state())[0] != folder.generation:
                return True
            segment = folder.segments[-1]
            if position != segment.next_position or not segment.is_all_there():
                return True
            folder.found_whole_in = turn
            return False

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """See ``Storage.put``; the caller holds ``turn`` and has read everything."""
        if self.read_only:
            raise ReadOnlyLogError(
                f"{self.directory} was opened read-only: open it without read_only=True to write"
            )
        folder = self._folder
        with folder.state:
            segment = self._writer.make_room()
            end, name = segment.end, segment.name
            if segment.next_position > first_position:
                return None
            # Whoever read the log before it was repaired or restored must not write behind what it read.
            if segment.next_position < first_position or folder.served not in (
                None,
                (first_position, end.chain),
            ):
                raise folder.other_history()
            frame, seal = log_format.sealed(
                message,
                first_position=first_position,
                event_count=event_count,
                synced_position=max(self._syncer.synced, end.synced_position),
                chain=chain,
                offset=end.offset,
            )
            self._writer.write(segment, frame, end.offset)
            segment.extend(seal, end.offset)
            folder.served = first_position + event_count, chain
        return Place(name.first_position, name.generation, end.offset, len(frame))

    def sync(self, next_position: int) -> None:
        """See ``Storage.sync``. Threads that wait at the same time share one sync."""
        self._syncer.sync(next_position)

    @property
    def durable_position(self) -> int:
        """Everything below is known to survive a power cut."""
        return self._syncer.durable_position

    # --- the rest of what the log calls

    def glance(self, position: int) -> Sequence[Glimpse]:
        """See ``Storage.glance``. A look at the active segment tells of some small commits."""
        folder = self._folder
        with folder.state:
            lock = folder.lock
            if lock is None or lock.state()[0] != folder.generation:
                return ()
            return self._reader.glimpses(position)

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """See ``Storage.read``."""
        position = from_position
        while until is None or position < until:
            batches = self._reader.batches(position, until, near)
            if not batches:
                return
            last = batches[-1]
            self._folder.serve(last.next_position, last.chain)
            yield from batches
            position, near = last.next_position, Landmark(last.first_position, last.place)

    def resume(self, mark: Mark) -> bool:
        """See ``Storage.resume``. The frame that ends there is read and checked, and no other."""
        folder = self._folder
        try:
            with folder.state:
                folder.notice_new_segments()
                found = folder.chain_at(mark.position, mark.last)
        except (DamagedLogError, FlawedFrameError, FileNotFoundError):
            # Whatever it is: the reader that looks at everything says so.
            return False
        if found != mark.chain:
            return False
        folder.serve(mark.position, mark.chain)
        return True

    def recover(self) -> None:
        """See ``Storage.recover``."""
        self._writer.recover()

    def verify(self) -> Verdict:
        """See ``Storage.verify``."""
        return verify_log(self.directory)

    def after_fork(self) -> None:
        """Close the inherited descriptors, which leaves the parent's lock alone."""
        self._syncer.after_fork()
        self._folder.after_fork()

    def reopen(self) -> None:
        """Open the files anew."""
        self._reader.forget()
        self._open()

    def close(self) -> None:
        """Close all files, also when one of them cannot be closed."""
        self._folder.close()


def _nearest_folder(path: Path) -> Path:
    """The folder itself if it exists, otherwise the nearest one above it that does."""
    while not path.is_dir():
        path = path.parent
    return path
