"""Files in a bucket, for what lies beside a log: each comes into being whole, under a name of its own.

    <prefix>/<name>       a file: one object, created by one request or by an upload in parts

Unlike the place of a commit (``objects``), which many writers want, a name here is its writer's alone. So a
request may be repeated until it is answered; whether an upload whose answer was lost has arrived is told
by the object itself. With ``objects`` this is the only module that imports obstore.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from eventstore import files
from eventstore.errors import StorageUnavailableError, WriteRefusedError
from eventstore.storage import objects
from eventstore.storage.numbered import RefusedError, UnclearError
from eventstore.storage.numbered.helper import Helper

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

PART_BYTES: Final = 8 * 1024 * 1024
"""What one request carries, and what each of the few that are under way at once holds in memory."""

_PARTS_MAX: Final = 10_000
_AT_ONCE: Final = 4
_DELETED_AT_ONCE: Final = 1000
_PAUSE_SECONDS: Final = 0.2
_TIMEOUT_FACTOR: Final = 4.0
_NO_SUCH_RANGE: Final = "416 Range Not Satisfiable"
_NOTHING_THERE: Final = "there is no object of this name"
_Answer = TypeVar("_Answer")


class StoredFile(NamedTuple):
    """A file in a bucket.

    Attributes:
        name: Its name, relative to the bucket's address.
        bytes: Its size.
        changed: When it was put there, in seconds since 1970 by the store's clock. For an upload in parts
            some stores say when it was begun.
        tag: What the store tells its content by; another one for other bytes.
    """

    name: str
    bytes: int
    changed: float
    tag: str


class Bucket:
    """The files at an address in a bucket; ``open_bucket`` makes it. Threads and forked children may use it.

    Every method raises ``StorageUnavailableError`` where the store does not answer for as long as the
    address says, and ``PermissionError`` where it may not be read, or there is no such bucket.

    Attributes:
        address: Where it is, without options.
        options: The options of the address.
    """

    def __init__(self, address: str, options: Mapping[str, str], *, patience_seconds: float) -> None:
        objects.check_address(address, options)
        self.address = address
        self.options = dict(options)
        self._patience = patience_seconds
        self._turn = threading.Lock()
        self._client: Client | None = None
        _buckets.add(self)

    def put(self, name: str, data: bytes) -> None:
        """Give a small file this content, whatever it had.

        Raises:
            WriteRefusedError: The store said no.
        """
        self._write(name, lambda client: client.put(name, data))

    def put_file(self, name: str, source: Path) -> None:
        """Make a file of this host one of the bucket; durable, and whole, when this returns.

        Args:
            name: A name that was never used before, or only for these very bytes.
            source: The file, which nobody changes meanwhile. It is sent in parts, a few at once.

        Raises:
            WriteRefusedError: The store said no; nothing is there.
        """
        size = source.stat().st_size

        def send(client: Client) -> None:
            try:
                client.put_file(name, str(source), size)
            except UnclearError:
                # Only the answer may have been lost; nobody else writes under this name.
                if client.size(name) != size:
                    raise

        self._write(name, send)

    def get(self, name: str) -> bytes | None:
        """The content of a small file, or None."""
        return self._ask(lambda client: client.get(name), f"read {name}")

    def fetch(self, name: str, descriptor: int, size: int) -> int:
        """Write a file of the bucket into an open one of this host, in parts, a few at once.

        Args:
            name: Its name.
            descriptor: The open file, from its beginning.
            size: How many bytes it should have.

        Returns:
            How many it has; where that is not ``size``, nothing of use was written.

        Raises:
            FileNotFoundError: There is none.
            OSError: The disk did not take it.
        """
        first = self._part(name, 0, min(size, PART_BYTES), descriptor)
        starts = range(PART_BYTES, size, PART_BYTES)
        if first == size and starts:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bucket") as workers:
                list(
                    workers.map(
                        lambda start: self._part(name, start, min(size - start, PART_BYTES), descriptor),
                        starts,
                    )
                )
        return first

    def read(self, name: str, start: int, count: int) -> bytes:
        """Bytes of a file, fewer only at its end.

        Raises:
            FileNotFoundError: There is none.
        """
        return self._range(name, start, count)[0]

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none."""
        return self._ask(lambda client: client.size(name), f"look for {name}")

    def delete(self, names: Sequence[str]) -> None:
        """Take files away; one that is not there is no error.

        Raises:
            WriteRefusedError: The store said no; some may be gone.
        """
        for start in range(0, len(names), _DELETED_AT_ONCE):
            some = list(names[start : start + _DELETED_AT_ONCE])
            self._write(some[0], lambda client, some=some: client.delete(some))  # type: ignore[misc]

    def files(self, folder: str) -> list[StoredFile]:
        """All files whose names begin with ``folder`` and a ``/``, in the order of their names."""
        return sorted(self._ask(lambda client: client.files(folder), f"list {folder}"))

    def entries(self, folder: str = "") -> list[str]:
        """The first parts of all names behind ``folder``; those that have further parts end with ``/``."""
        return sorted(self._ask(lambda client: client.entries(folder), f"list {folder or 'it'}"))

    def close(self) -> None:
        """Let the connections go; a further call makes new ones."""
        client, self._client = self._client, None
        if isinstance(client, _Helped):
            client.close()

    def after_fork(self) -> None:
        """Leave what was inherited alone: even to release it would wait for threads that are not here."""
        _inherited.append(self._client)
        self._turn = threading.Lock()
        self._client = None

    def _part(self, name: str, start: int, count: int, descriptor: int) -> int:
        data, size = self._range(name, start, count)
        while data:
            taken = files.write_at(descriptor, data, start)
            data, start = data[taken:], start + taken
        return size

    def _range(self, name: str, start: int, count: int) -> tuple[bytes, int]:
        found = self._ask(lambda client: client.range(name, start, count), f"read {name}")
        if found is None:
            raise FileNotFoundError(f"{self.address}/{name}: {_NOTHING_THERE}")
        return found

    def _write(self, name: str, request: Callable[[Client], None]) -> None:
        try:
            self._ask(request, f"write {name}")
        except RefusedError as error:
            raise WriteRefusedError(f"{self.address} refused to write {name}: {error}") from error

    def _ask(self, question: Callable[[Client], _Answer], purpose: str) -> _Answer:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return question(self._connected())
            except UnclearError as error:
                if time.monotonic() >= deadline:
                    raise StorageUnavailableError(
                        f"{self.address} does not answer, to {purpose}: {error}. Try again", path=self.address
                    ) from error
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret

    def _connected(self) -> Client:
        with self._turn:
            if self._client is None:
                about = {**self.options, "patience_seconds": str(self._patience)}
                if objects.runtime_is_own():
                    self._client = direct_client(self.address, about)
                else:
                    self._client = _Helped("eventstore.storage.bucket", "direct_client", self.address, about)
            return self._client


_buckets: weakref.WeakSet[Bucket] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for bucket in list(_buckets):
        bucket.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Client(Protocol):
    """The requests that there are. Names of files, not open ones: a helper process may do them.

    Each raises ``UnclearError`` where it is not known what became of it, and ``RefusedError`` (a
    writing one) or ``OSError`` where repeating it would not help.
    """

    def put(self, name: str, data: bytes) -> None:
        """See ``Bucket.put``."""

    def put_file(self, name: str, source: str, size: int) -> None:
        """Send a file; ``UnclearError`` also where something of this name is there."""

    def get(self, name: str) -> bytes | None:
        """See ``Bucket.get``."""

    def range(self, name: str, start: int, count: int) -> tuple[bytes, int] | None:
        """Bytes of a file and how many it has; None where there is none."""

    def size(self, name: str) -> int | None:
        """See ``Bucket.size``."""

    def delete(self, names: Sequence[str]) -> None:
        """See ``Bucket.delete``."""

    def files(self, folder: str) -> list[StoredFile]:
        """See ``Bucket.files``; in any order."""

    def entries(self, folder: str) -> list[str]:
        """See ``Bucket.entries``; in any order."""


class _Helped(Helper):
    """The requests, done by another process."""

    def put(self, name: str, data: bytes) -> None:
        self._request("put", name, data)

    def put_file(self, name: str, source: str, size: int) -> None:
        self._request("put_file", name, source, size)

    def range(self, name: str, start: int, count: int) -> tuple[bytes, int] | None:
        found: tuple[bytes, int] | None = self._request("range", name, start, count)
        return found

    def size(self, name: str) -> int | None:
        size: int | None = self._request("size", name)
        return size

    def delete(self, names: Sequence[str]) -> None:
        self._request("delete", names)

    def files(self, folder: str) -> list[StoredFile]:
        found: list[StoredFile] = self._request("files", folder)
        return found

    def entries(self, folder: str) -> list[str]:
        found: list[str] = self._request("entries", folder)
        return found


def direct_client(location: str, options: Mapping[str, str]) -> Client:
    """A client that does its requests itself, for a process that has not been forked since.

    Args:
        location: The address.
        options: Its options, with ``patience_seconds``.
    """
    options = dict(options)
    return _Direct(location, options, float(options.pop("patience_seconds")))


class _Direct:
    """Requests by obstore, in this process."""

    def __init__(self, location: str, options: Mapping[str, str], patience_seconds: float) -> None:
        # A part takes longer than a commit, and one of many that fails must not fail all of them.
        timeout_seconds = _TIMEOUT_FACTOR * float(options.get("timeout_seconds", objects.TIMEOUT_SECONDS))
        self._store: ObjectStore = objects.object_store(
            location,
            {**options, "timeout_seconds": str(timeout_seconds)},
            patience_seconds=max(patience_seconds, 1.0),
        )

    def put(self, name: str, data: bytes) -> None:
        import obstore

        with _writing():
            obstore.put(self._store, name, data, use_multipart=False)

    def put_file(self, name: str, source: str, size: int) -> None:
        import obstore

        with _writing():
            if size <= PART_BYTES:
                obstore.put(self._store, name, Path(source), mode="create", use_multipart=False)
                return
            obstore.put(
                self._store,
                name,
                Path(source),
                use_multipart=True,
                chunk_size=max(PART_BYTES, -(-size // _PARTS_MAX)),
                max_concurrency=_AT_ONCE,
            )

    def get(self, name: str) -> bytes | None:
        import obstore

        return _if_there(lambda: bytes(obstore.get(self._store, name).bytes()))

    def range(self, name: str, start: int, count: int) -> tuple[bytes, int] | None:
        import obstore
        from obstore import exceptions

        def read() -> tuple[bytes, int]:
            try:
                # To a store a range of nothing is an error,
                found = obstore.get(self._store, name, options={"range": (start, start + max(count, 1))})
            except exceptions.BaseError as error:
                if _NO_SUCH_RANGE not in str(error):
                    raise
                # and so is one that begins behind the end.
                return b"", obstore.head(self._store, name)["size"]
            size = found.meta["size"]
            data = bytes(found.bytes())[:count]
            if len(data) != min(count, size - start):
                raise UnclearError(f"{len(data)} bytes of {name} came, and {count} were asked for")
            return data, size

        return _if_there(read)

    def size(self, name: str) -> int | None:
        import obstore

        return _if_there(lambda: obstore.head(self._store, name)["size"])

    def delete(self, names: Sequence[str]) -> None:
        import obstore

        with _writing(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, names)

    def files(self, folder: str) -> list[StoredFile]:
        import obstore

        with _told_apart(PermissionError):
            return [_stored(meta) for part in obstore.list(self._store, folder) for meta in part]

    def entries(self, folder: str) -> list[str]:
        import obstore

        with _told_apart(PermissionError):
            found = obstore.list_with_delimiter(self._store, folder or None)
        begin = len(folder) + 1 if folder else 0
        folders = [f"{name[begin:]}/" for name in found["common_prefixes"]]
        return folders + [meta["path"][begin:] for meta in found["objects"]]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """What obstore raises of a request that writes, as ``Client`` says it."""
    with _told_apart(RefusedError):
        try:
            yield
        except FileNotFoundError as error:
            if objects.is_without_bucket(error):
                raise RefusedError(objects.briefly(error)) from error
            # The upload is not there any more: a request whose answer was lost may have completed it.
            raise UnclearError(objects.briefly(error)) from error


def _if_there(request: Callable[[], _Answer]) -> _Answer | None:
    """The answer to a request that reads, or None where there is no such object."""
    with _told_apart(PermissionError):
        try:
            return request()
        except FileNotFoundError as error:
            if objects.is_without_bucket(error):
                raise PermissionError(objects.briefly(error)) from error
            return None


@contextlib.contextmanager
def _told_apart(refused: type[Exception]) -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except (RefusedError, PermissionError, UnclearError):
        raise
    except (
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.NotSupportedError,
    ) as error:
        raise refused(objects.briefly(error)) from error
    except (exceptions.BaseError, OSError) as error:
        raise UnclearError(objects.briefly(error)) from error


def _stored(meta: ObjectMeta) -> StoredFile:
    return StoredFile(
        meta["path"], meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or meta["version"] or ""
    )
