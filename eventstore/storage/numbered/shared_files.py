"""Files that are derived from the log and lie beside it, for hosts that do not have them yet.

    <folder>/<stem>.<SHA-256 of the bytes>.<suffix>

The name of an object vouches for its bytes: those of a file that was fetched are compared with it before
anybody may use them, and whoever publishes the same name publishes the same bytes. A listing only tells
what might be there. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from eventstore import files
from eventstore.errors import StorageError, StorageUnavailableError, WriteRefusedError
from eventstore.storage.numbered.commit_store import LargeObjects, RefusedError, UnclearError
from eventstore.storage.protocol import SharedFile

_PART_BYTES: Final = 8 << 20
_AT_ONCE: Final = 4
_TRIES: Final = 4
_PAUSE_SECONDS: Final = 0.1
_NAME: Final = re.compile(r"(?P<folder>[a-z]+)/(?P<stem>[^/]+)\.(?P<digest>[0-9a-f]{64})(?P<suffix>\.[a-z]+)")
_Answer = TypeVar("_Answer")


class SharedObjects:
    """The derived files of one log, as objects; see ``SharedFiles``.

    Args:
        objects: Where they are.
        address: The log's address, for errors.
    """

    def __init__(self, objects: LargeObjects, address: str) -> None:
        self._objects = objects
        self._address = address

    def listed(self, folder: str) -> list[SharedFile]:
        """See ``SharedFiles.listed``."""
        found = []
        for name, size, modified in self._tried(lambda: self._objects.listed(folder)):
            match = _NAME.fullmatch(name)
            if match is not None and match["folder"] == folder:
                found.append(
                    SharedFile(folder, f"{match['stem']}{match['suffix']}", match["digest"], size, modified)
                )
        return found

    def fetch(self, file: SharedFile, descriptor: int) -> None:
        """See ``SharedFiles.fetch``."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shared-files") as workers:
            starts = range(0, file.size, _PART_BYTES)
            for part in workers.map(lambda start: self._part(file, start), starts):
                digest.update(part)
                files.write(descriptor, part)
        if digest.hexdigest() != file.digest:
            raise StorageError(
                f"{self._address}/{_object_name(file)} does not hold the bytes that its name vouches for. "
                "It is derived and may be deleted",
                path=_object_name(file),
            )

    def publish(self, folder: str, path: Path) -> None:
        """See ``SharedFiles.publish``."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = _object_name(SharedFile(folder, path.name, digest, 0, 0.0))
        self._tried(lambda: self._objects.keep_file(name, path))

    def remove(self, file: SharedFile) -> None:
        """See ``SharedFiles.remove``."""
        self._tried(lambda: self._objects.remove(_object_name(file)))

    def _part(self, file: SharedFile, start: int) -> bytes:
        count = min(_PART_BYTES, file.size - start)
        part = self._tried(lambda: self._objects.part(_object_name(file), start, count))
        if part is None:
            raise FileNotFoundError(f"{self._address}/{_object_name(file)} is gone")
        return part

    def _tried(self, request: Callable[[], _Answer]) -> _Answer:
        """Of many requests some fail; each of these may be repeated."""
        for left in reversed(range(_TRIES)):
            try:
                return request()
            except RefusedError as error:
                raise WriteRefusedError(f"{self._address}: {error}", path=self._address) from error
            except UnclearError as error:
                if not left:
                    raise StorageUnavailableError(
                        f"{self._address} does not answer: {error}", path=self._address
                    ) from error
                time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret
        raise AssertionError


def _object_name(file: SharedFile) -> str:
    name = Path(file.name)
    return f"{file.folder}/{name.stem}.{file.digest}{name.suffix}"
