"""The requests to an object store, and what its answers mean. Whoever talks to one does it by these.

Nothing is asked twice in here, but for what obstore may repeat by itself: to look, to ask again or to give
up is decided by who asks. obstore's synchronous interface only. Its runtime does not survive a fork: a
child whose parent has used it lets a helper process do its requests.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from eventstore.storage.numbered import RefusedError, UnclearError
from eventstore.storage.objects.client import object_store, runtime_is_own
from eventstore.storage.objects.helper import Helper

PART_BYTES: Final = 8 << 20
"""What one request carries of a large file, and what each of the few under way at once holds in memory."""

PARTS_AT_ONCE: Final = 4

_PARTS_MAX: Final = 10_000
_NO_SUCH_RANGE: Final = "416 Range Not Satisfiable"
_Answer = TypeVar("_Answer")
_Arguments = ParamSpec("_Arguments")


class StoredFile(NamedTuple):
    """What a listing says of an object.

    Attributes:
        name: Its name, relative to the address.
        bytes: Its size.
        changed: When it was put there, in seconds since 1970 by the store's clock. For an upload in parts
            some stores say when it was begun.
        tag: What the store tells its content by; another one for other bytes.
    """

    name: str
    bytes: int
    changed: float
    tag: str


class ObjectRequests:
    """The requests that there are. Threads and forked children may use it; it connects on its first use.

    Every one raises ``UnclearError`` where it is not known what became of it, and may then be repeated.
    Where that would not help, one that reads raises ``PermissionError``, or ``FileNotFoundError`` if there
    is no such bucket; one that writes raises ``RefusedError`` and has changed nothing.

    Args:
        location: The address.
        options: Its options.
        patience_seconds: For so long obstore repeats a request by itself; 0 for once only.
    """

    def __init__(self, location: str, options: Mapping[str, str], *, patience_seconds: float = 0.0) -> None:
        self._about = (location, dict(options), patience_seconds)
        self._turn = threading.Lock()
        self._client: _Direct | Helper | None = None
        _all_requests.add(self)

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; False when the store says that there is one, or is about to be."""
        return self._done(_Direct.create, name, data)

    def put(self, name: str, data: bytes) -> None:
        """Give a small object this content, whatever it had."""
        self._done(_Direct.put, name, data)

    def put_file(self, name: str, source: Path, size: int) -> None:
        """Make a file of this host an object, in parts if it is large, and not at all if one of them fails.

        Args:
            name: A name that was never used before, or only for these very bytes: where an answer was lost,
                an object of the same size shows that the file has arrived.
            source: The file, which nobody changes meanwhile.
            size: How many bytes it has.
        """
        self._done(_Direct.put_file, name, source, size)

    def get(self, name: str) -> bytes | None:
        """The object, or None."""
        return self._done(_Direct.get, name)

    def part(self, name: str, start: int, count: int) -> tuple[bytes, int] | None:
        """Bytes of an object, fewer only at its end, and how many it has; None where there is none."""
        return self._done(_Direct.part, name, start, count)

    def size(self, name: str) -> int | None:
        """How many bytes an object has; None where there is none."""
        return self._done(_Direct.size, name)

    def delete(self, names: Sequence[str]) -> None:
        """Take objects away, at most a thousand; one that is not there is no error."""
        self._done(_Direct.delete, names)

    def files(self, folder: str) -> list[StoredFile]:
        """All objects whose names begin with ``folder`` and a ``/``, in any order."""
        return self._done(_Direct.files, folder)

    def entries(self, folder: str) -> list[str]:
        """The first parts of all names behind ``folder``; those that have further parts end with ``/``."""
        return self._done(_Direct.entries, folder)

    def close(self) -> None:
        """Let the connections go; a further request makes new ones."""
        client, self._client = self._client, None
        if isinstance(client, Helper):
            client.close()

    def after_fork(self) -> None:
        """Leave what was inherited alone: even to release it would wait for threads that are not here."""
        _inherited.append(self._client)
        self._turn = threading.Lock()
        self._client = None

    def _done(
        self,
        request: Callable[Concatenate[_Direct, _Arguments], _Answer],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Answer:
        client = self._connected()
        if isinstance(client, Helper):
            answer: _Answer = client.do(request.__name__, *arguments, **named)
            return answer
        return request(client, *arguments, **named)

    def _connected(self) -> _Direct | Helper:
        with self._turn:
            if self._client is None:
                if runtime_is_own():
                    self._client = _Direct(*self._about)
                else:
                    self._client = Helper(__name__, _Direct.__name__, *self._about)
            return self._client


_all_requests: weakref.WeakSet[ObjectRequests] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for each in list(_all_requests):
        each.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class _Direct:
    """The requests, done by obstore in this process; see ``ObjectRequests``."""

    def __init__(self, location: str, options: Mapping[str, str], patience_seconds: float) -> None:
        self._store = object_store(location, options, patience_seconds=patience_seconds)

    def create(self, name: str, data: bytes) -> bool:
        import obstore
        from obstore import exceptions

        with _writing():
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
            except exceptions.BaseError as error:
                if not _is_conflict(error):
                    raise
                return False
        return True

    def put(self, name: str, data: bytes) -> None:
        import obstore

        with _writing():
            obstore.put(self._store, name, data, use_multipart=False)

    def put_file(self, name: str, source: Path, size: int) -> None:
        try:
            with _writing():
                self._send(name, source, size)
        except UnclearError:
            # Only the answer may have been lost, also where the store says that there is such an object.
            if self.size(name) != size:
                raise

    def get(self, name: str) -> bytes | None:
        import obstore

        return _if_there(lambda: bytes(obstore.get(self._store, name).bytes()))

    def part(self, name: str, start: int, count: int) -> tuple[bytes, int] | None:
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

        with _writing(), contextlib.suppress(FileNotFoundError):  # S3 says nothing, the others do
            # Not every store knows how to delete several.
            obstore.delete(self._store, names[0] if len(names) == 1 else names)

    def files(self, folder: str) -> list[StoredFile]:
        import obstore

        with _reading():
            return [
                StoredFile(
                    meta["path"],
                    meta["size"],
                    meta["last_modified"].timestamp(),
                    meta["e_tag"] or meta["version"] or "",
                )
                for some in obstore.list(self._store, folder)
                for meta in some
            ]

    def entries(self, folder: str) -> list[str]:
        import obstore

        with _reading():
            found = obstore.list_with_delimiter(self._store, folder or None)
        begin = len(folder) + 1 if folder else 0
        folders = [f"{name[begin:]}/" for name in found["common_prefixes"]]
        return folders + [meta["path"][begin:] for meta in found["objects"]]

    def _send(self, name: str, source: Path, size: int) -> None:
        import obstore

        if size <= PART_BYTES:
            obstore.put(self._store, name, source, mode="create", use_multipart=False)
            return
        try:
            obstore.put(
                self._store,
                name,
                source,
                use_multipart=True,
                chunk_size=max(PART_BYTES, -(-size // _PARTS_MAX)),
                max_concurrency=PARTS_AT_ONCE,
            )
        except FileNotFoundError as error:
            if _is_without_bucket(error):
                raise
            # The upload is not there any more: a request whose answer was lost may have completed it.
            raise UnclearError(_briefly(error)) from error


def _if_there(request: Callable[[], _Answer]) -> _Answer | None:
    """The answer to a request that reads, or None where there is no such object."""
    try:
        with _reading():
            return request()
    except FileNotFoundError as error:
        if _is_without_bucket(error):
            raise
        return None


def _reading() -> contextlib.AbstractContextManager[None]:
    """What obstore raises of a request that reads, as ``ObjectRequests`` says it."""
    return _told(refused=PermissionError, not_found=FileNotFoundError)


def _writing() -> contextlib.AbstractContextManager[None]:
    """What obstore raises of a request that writes, for which nothing must be there but the bucket."""
    return _told(refused=RefusedError, not_found=RefusedError)


@contextlib.contextmanager
def _told(*, refused: type[Exception], not_found: type[Exception]) -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except (
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.NotSupportedError,
    ) as error:
        raise refused(_briefly(error)) from error
    except (exceptions.BaseError, OSError) as error:
        # Of a listing obstore says only in the text what it did not find.
        is_absent = isinstance(error, FileNotFoundError) or _is_without_bucket(error)
        raise (not_found if is_absent else UnclearError)(_briefly(error)) from error


def _is_conflict(error: Exception) -> bool:
    """A 409: others are about to create the same object, and this request has not."""
    return "409 Conflict" in str(error)


def _is_without_bucket(error: Exception) -> bool:
    """Whether not an object is missing, but the bucket."""
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)


def _briefly(error: Exception) -> str:
    """An error's text without its debug output."""
    return str(error).split("\n\nDebug source:", maxsplit=1)[0].strip()
