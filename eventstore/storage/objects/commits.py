"""The engine for object storage: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

    log/{N:020d}.arrow    commit N: created once, never overwritten, never deleted
    seg/{k:012d}.arrow    1,024 commits in one object (``numbered.segments``)
    seg/8/ seg/64/        so many commits in one object
    turn                  changes when somebody cannot get a place
    snap/ index/          files that are derived from the log (``shared_files``)
    probe                 shows that the store creates an object only if there is none

A commit is never asked for twice in here: after an error it is the adapter that looks and decides.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Final, Literal

from eventstore.errors import UnsuitableStorageError
from eventstore.storage.numbered import DerivedObjects, RefusedError, UnclearError
from eventstore.storage.objects.client import check_address
from eventstore.storage.objects.requests import ObjectRequests
from eventstore.storage.objects.shared_files import SharedObjects
from eventstore.storage.protocol import SharedFiles

_PROBE: Final = "probe"
_AT_ONCE: Final = 16
_TRIES: Final = 3


def open_store(location: str, *, options: Mapping[str, str], read_only: bool) -> ObjectCommits:
    """The engine of an ``s3://``, ``gs://`` or ``az://`` address.

    Raises:
        ImportError: obstore is not installed.
        ValueError: The address names no bucket, or an option is not known; the text lists those.
    """
    del read_only
    check_address(location, options)
    return ObjectCommits(location, options)


class ObjectCommits:
    """Commits in a bucket.

    Args:
        location: The address.
        options: Its options.

    Attributes:
        requests: What does the requests.
    """

    keys: Literal["numbers"] = "numbers"

    def __init__(self, location: str, options: Mapping[str, str]) -> None:
        self.address = location
        self.requests = ObjectRequests(location, options)
        self._turn = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.derived: DerivedObjects = _DerivedObjects(self)
        self.shared_files: SharedFiles | None = SharedObjects(self.requests, location)

    def check(self) -> None:
        """See ``CommitStore.check``: the second of two creations of one object must fail."""
        try:
            is_told = not (self.requests.create(_PROBE, b"one") and self.requests.create(_PROBE, b"two"))
        except RefusedError as error:
            raise UnsuitableStorageError(
                f"{self.address} takes no objects, or not this way: {error}", path=self.address
            ) from error
        if not is_told:
            raise UnsuitableStorageError(
                f"{self.address} ignores If-None-Match: it created an object that was there already, so two "
                "writers would overwrite each other's commits. No log can be kept there; use a store that "
                "honours conditional writes (Amazon S3, Ceph, MinIO, R2, GCS, Azure), or shared:// on a file "
                "system",
                path=self.address,
            )

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        return self.requests.create(_name(key), data)

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``: several requests at once where several are wanted."""
        answers = self.fetched([_name(each) for each in range(key, key + count)])
        return [data for data in takewhile(lambda data: data is not None, answers) if data is not None]

    def fetched(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Objects, each of them or None; asked for at once.

        Raises:
            UnclearError: One of them could not be asked for.
        """
        get = self.requests.get
        if len(names) == 1:
            return iter([get(names[0])])
        workers = self._workers()
        try:
            asked = [workers.submit(_insistent, get, name) for name in names]
        except RuntimeError as error:
            raise UnclearError(str(error)) from error  # this process ends, or the store was closed
        return (each.result() for each in asked)

    def settle(self) -> None:
        """What a store gives, it has."""

    def wait(self, seconds: float) -> bool:
        """Each look costs money: it is left to who follows to look now and then."""
        time.sleep(seconds)
        return False

    def after_fork(self) -> None:
        """Leave what was inherited alone: even to release it would wait for threads that are not here."""
        _inherited.append(self._pool)
        self._turn = threading.Lock()
        self._pool = None

    def close(self) -> None:
        """Let the connections go."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        self.requests.close()

    def _workers(self) -> ThreadPoolExecutor:
        with self._turn:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects")
            return self._pool


_inherited: list[object] = []


class _DerivedObjects:
    """Derived objects, beside the commits."""

    has_blocks = True

    def __init__(self, store: ObjectCommits) -> None:
        self._store = store

    def get(self, name: str) -> bytes | None:
        """See ``DerivedObjects.get``."""
        return self._store.requests.get(name)

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See ``DerivedObjects.get_many``."""
        return list(self._store.fetched(names))

    def put(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.put``."""
        self._store.requests.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""
        self._store.requests.put(name, data)


def _insistent(get: Callable[[str], bytes | None], name: str) -> bytes | None:
    """Of many requests some fail: not all of them are made again for that."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(UnclearError):
            return get(name)
    return get(name)


def _name(key: int) -> str:
    return f"log/{key:020d}.arrow"
