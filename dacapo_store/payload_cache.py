"""Payloads of buckets on the disk of this host: what was stored or retrieved here lately.

A file is named by the digest of what it holds, which is compared again whenever it is used; so processes
and bases may share the folder, and all of it may be deleted at any time. What was used longest ago goes
when there is more than the limit. It is the first place, too, where a payload is written on its way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from dacapo_store.artifacts import Artifact
from eventstore import files

logger = logging.getLogger(__name__)

BYTES_MAX: Final = 4 << 30

_LEFT_OVER_SECONDS: Final = 24 * 3600.0
"""What is being written is not that old: its process has been killed."""


class PayloadCache:
    """The payloads that this host keeps.

    Args:
        folder: Where; None keeps nothing, and payloads on their way lie among temporary files.
        bytes_max: How much of it may be kept.
    """

    def __init__(self, folder: Path | None, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    @contextlib.contextmanager
    def new_file(self) -> Iterator[tuple[int, Path]]:
        """A new file, open for reading and writing; taken away at the end unless ``keep`` has it.

        Raises:
            OSError: The disk has no room for it.
        """
        descriptor, made = self._made()
        try:
            yield descriptor, made
        finally:
            os.close(descriptor)
            files.remove_derived(made)

    def _made(self) -> tuple[int, Path]:
        name = f".{uuid.uuid4().hex}.tmp"
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                return _created(self._folder / name), self._folder / name
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                logger.warning("%s: what is read and written of buckets is not kept on this host", error)
                self._folder = None
        made = Path(tempfile.gettempdir(), name)
        return _created(made), made

    def opened(self, artifact: Artifact) -> IO[bytes] | None:
        """The file that may hold a payload, open at its beginning, or None; to be verified."""
        if self._folder is None:
            return None
        path = self._folder / artifact.digest
        try:
            file = path.open("rb")
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def keep(self, made: Path, artifact: Artifact) -> None:
        """Keep a file of ``new_file`` that holds a payload, if there is room for it."""
        if self._folder is None or artifact.bytes > self._bytes_max:
            return
        try:
            files.rename_derived(made, self._folder / artifact.digest)
            self._make_room()
        except OSError as error:
            logger.warning("%s was not kept on this host: %s", artifact.path, error)

    def forget(self, artifact: Artifact) -> None:
        """Take a payload away that turned out to be another one."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                files.remove_derived(self._folder / artifact.digest)

    def _make_room(self) -> None:
        assert self._folder is not None
        there = []
        now = time.time()
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if not path.name.endswith(".tmp"):
                    there.append((status.st_mtime_ns, status.st_size, path))
                elif now - status.st_mtime > _LEFT_OVER_SECONDS:
                    files.remove_derived(path)
        there.sort(key=lambda each: each[0], reverse=True)
        total = 0
        for _, size, path in there:
            total += size
            if total > self._bytes_max:
                files.remove_derived(path)


def _created(path: Path) -> int:
    return files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
