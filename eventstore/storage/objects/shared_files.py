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
from eventstore.storage.numbered import RefusedError, UnclearError
from eventstore.storage.objects.requests import PART_BYTES, PARTS_AT_ONCE, ObjectRequests
from eventstore.storage.protocol import SharedFile

_TRIES: Final = 4
_PAUSE_SECONDS: Final = 0.1
_NAME: Final = re.compile(r"(?P<folder>[a-z]+)/(?P<stem>[^/]+)\.(?P<digest>[0-9a-f]{64})(?P<suffix>\.[a-z]+)")
_Answer = TypeVar("_Answer")


class SharedObjects:
    """The derived files of one log, as objects; see ``SharedFiles``.

    Args:
        requests: Those of the log's address.
        address: The log's address, for errors.
    """

    def __init__(self, requests: ObjectRequests, address: str) -> None:
        self._requests = requests
        self._address = address

    def listed(self, folder: str) -> list[SharedFile]:
        """See ``SharedFiles.listed``."""
        found = []
        for name, size, modified, _ in self._tried(lambda: self._requests.files(folder)):
            match = _NAME.fullmatch(name)
            if match is not None and match["folder"] == folder:
                found.append(
                    SharedFile(folder, f"{match['stem']}{match['suffix']}", match["digest"], size, modified)
                )
        return found

    def fetch(self, file: SharedFile, descriptor: int) -> None:
        """See ``SharedFiles.fetch``."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="shared-files") as workers:
            starts = range(0, file.size, PART_BYTES)
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
        size = path.stat().st_size
        self._tried(lambda: self._requests.put_file(name, path, size))

    def remove(self, file: SharedFile) -> None:
        """See ``SharedFiles.remove``."""
        self._tried(lambda: self._requests.delete([_object_name(file)]))

    def _part(self, file: SharedFile, start: int) -> bytes:
        count = min(PART_BYTES, file.size - start)
        found = self._tried(lambda: self._requests.part(_object_name(file), start, count))
        if found is None:
            raise FileNotFoundError(f"{self._address}/{_object_name(file)} is gone")
        return found[0]

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
