"""The lock of a log on one host: flock on a file of its own, and what writers tell each other in it.

The kernel lets go of the lock when its holder dies, so there are no stale locks. It is held around
an append for microseconds and around the making of a segment for a few syncs, never while a commit
waits for the disk. The file also holds a few bytes of shared state; they are derived: a log whose
lock file was deleted gets a new one.

    offset  bytes  meaning
    0       8      "DCPLOCK1"
    8       8      directory generation: grows before and after each change of the list of segments;
                   odd while one is under way (or was cut off by a crash)
    16      8      1 + the synced position at the moment when a sync failed; 0 when none has. Also set
                   while the end of the log is mended, for whoever comes after a writer that died
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from eventstore import files

_STATE = struct.Struct("<8sQQ")
_MAGIC = b"DCPLOCK1"


class Lock:
    """One process's handle of the lock file: ``with lock:`` waits for it. Reentrant within a thread.

    Attributes:
        turn: How many times this handle has taken the lock.
        held: What ``state`` says, while this handle holds the lock: nobody else changes it. None otherwise.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = self._open()
        self._deleted: list[int] = []
        self._thread_lock = threading.RLock()
        self._depth = 0
        self.turn = 0
        self.held: tuple[int, int | None] | None = None

    def _open(self) -> int:
        descriptor = files.open_file(self._directory / "lock", os.O_RDWR | os.O_CREAT)
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=self._directory)
        return descriptor

    def __enter__(self) -> Self:
        self._thread_lock.acquire()
        try:
            if self._depth == 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                while not os.fstat(self._descriptor).st_nlink:
                    self._open_anew()
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                self.held = _read_state(self._descriptor)
                self.turn += 1
            self._depth += 1
        except BaseException:
            if self._depth == 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._thread_lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._depth -= 1
            if self._depth == 0:
                self.held = None
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def _open_anew(self) -> None:
        """Somebody deleted the file that is open: others lock a new one, and write to that."""
        deleted, self._descriptor = self._descriptor, self._open()
        fcntl.flock(deleted, fcntl.LOCK_UN)  # others wait for it, and will find it deleted as well
        # Not closed yet: another thread may be about to look, and its number could come to be another file's.
        self._deleted.append(deleted)

    def state(self) -> tuple[int, int | None]:
        """The directory generation, and the synced position at which a sync failed, if one has."""
        held = self.held
        if held is not None:
            return held
        descriptor = self._descriptor
        if self._depth or os.fstat(descriptor).st_nlink:
            return _read_state(descriptor)
        # Whoever takes the lock goes on with the new file, and nobody else: another thread may be waiting
        # for the deleted one, and has to find it deleted.
        descriptor = self._open()
        try:
            return _read_state(descriptor)
        finally:
            os.close(descriptor)

    def write_state(self, *, generation: int, failed_at: int | None) -> None:
        """Replace the shared state; the lock must be held."""
        failed = 0 if failed_at is None else failed_at + 1
        self.held = None
        os.pwrite(self._descriptor, _STATE.pack(_MAGIC, generation, failed), 0)
        if self._depth:
            self.held = generation, failed_at

    def close(self) -> None:
        """Close the file. In a forked child this does not release the parent's lock."""
        for descriptor in (self._descriptor, *self._deleted):
            os.close(descriptor)


def _read_state(descriptor: int) -> tuple[int, int | None]:
    data = os.pread(descriptor, _STATE.size, 0)
    if len(data) < _STATE.size:
        return 0, None
    magic, generation, failed = _STATE.unpack(data)
    if magic != _MAGIC:
        return 0, None
    return generation, failed - 1 if failed else None
