"""Files in a bucket, for what lies beside a log: each comes into being whole, under a name of its own.

    <prefix>/<name>       a file: one object, created by one request or by an upload in parts

Unlike the place of a commit (``objects.commits``), which many writers want, a name here is its writer's
alone. So a request may be repeated until it is answered; whether an upload whose answer was lost has
arrived is told by the object itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from eventstore import files
from eventstore.errors import StorageUnavailableError, WriteRefusedError
from eventstore.storage.numbered import RefusedError, UnclearError
from eventstore.storage.objects import (
    PART_BYTES,
    PARTS_AT_ONCE,
    TIMEOUT_SECONDS,
    ObjectRequests,
    StoredFile,
    check_address,
)

__all__ = ["PART_BYTES", "Bucket", "StoredFile"]

_DELETED_AT_ONCE: Final = 1000
_PAUSE_SECONDS: Final = 0.2
_TIMEOUT_FACTOR: Final = 4.0
_NOTHING_THERE: Final = "there is no object of this name"
_Answer = TypeVar("_Answer")


class Bucket:
    """The files at an address in a bucket; ``open_bucket`` makes it. Threads and forked children may use it.

    Every method raises ``StorageUnavailableError`` where the store does not answer for as long as the
    address says, and ``PermissionError`` where it may not be read, or there is no such bucket.

    Attributes:
        address: Where it is, without options.
        options: The options of the address.
    """

    def __init__(self, address: str, options: Mapping[str, str], *, patience_seconds: float) -> None:
        check_address(address, options)
        self.address = address
        self.options = dict(options)
        self._patience = patience_seconds
        # A part takes longer than a commit, and one of many that fails must not fail all of them.
        timeout_seconds = _TIMEOUT_FACTOR * float(options.get("timeout_seconds", TIMEOUT_SECONDS))
        self._requests = ObjectRequests(
            address,
            {**options, "timeout_seconds": str(timeout_seconds)},
            patience_seconds=max(patience_seconds, 1.0),
        )

    def put(self, name: str, data: bytes) -> None:
        """Give a small file this content, whatever it had.

        Raises:
            WriteRefusedError: The store said no.
        """
        self._write(name, lambda: self._requests.put(name, data))

    def put_file(self, name: str, source: Path) -> None:
        """Make a file of this host one of the bucket; durable, and whole, when this returns.

        Args:
            name: A name that was never used before, or only for these very bytes.
            source: The file, which nobody changes meanwhile. It is sent in parts, a few at once.

        Raises:
            WriteRefusedError: The store said no; nothing is there.
        """
        size = source.stat().st_size
        self._write(name, lambda: self._requests.put_file(name, source, size))

    def get(self, name: str) -> bytes | None:
        """The content of a small file, or None."""
        return self._ask(lambda: self._requests.get(name), f"read {name}")

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
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="bucket") as workers:
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
        return self._ask(lambda: self._requests.size(name), f"look for {name}")

    def delete(self, names: Sequence[str]) -> None:
        """Take files away; one that is not there is no error.

        Raises:
            WriteRefusedError: The store said no; some may be gone.
        """
        for start in range(0, len(names), _DELETED_AT_ONCE):
            some = list(names[start : start + _DELETED_AT_ONCE])
            self._write(some[0], partial(self._requests.delete, some))

    def files(self, folder: str) -> list[StoredFile]:
        """All files whose names begin with ``folder`` and a ``/``, in the order of their names."""
        return sorted(self._ask(lambda: self._requests.files(folder), f"list {folder}"))

    def entries(self, folder: str = "") -> list[str]:
        """The first parts of all names behind ``folder``; those that have further parts end with ``/``."""
        return sorted(self._ask(lambda: self._requests.entries(folder), f"list {folder or 'it'}"))

    def close(self) -> None:
        """Let the connections go; a further call makes new ones."""
        self._requests.close()

    def _part(self, name: str, start: int, count: int, descriptor: int) -> int:
        data, size = self._range(name, start, count)
        while data:
            taken = files.write_at(descriptor, data, start)
            data, start = data[taken:], start + taken
        return size

    def _range(self, name: str, start: int, count: int) -> tuple[bytes, int]:
        found = self._ask(lambda: self._requests.part(name, start, count), f"read {name}")
        if found is None:
            raise FileNotFoundError(f"{self.address}/{name}: {_NOTHING_THERE}")
        return found

    def _write(self, name: str, request: Callable[[], None]) -> None:
        try:
            self._ask(request, f"write {name}")
        except RefusedError as error:
            raise WriteRefusedError(f"{self.address} refused to write {name}: {error}") from error

    def _ask(self, question: Callable[[], _Answer], purpose: str) -> _Answer:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return question()
            except FileNotFoundError as error:
                # Not a file is missing, but the bucket; to callers it must not look like a file.
                raise PermissionError(str(error)) from error
            except UnclearError as error:
                if time.monotonic() >= deadline:
                    raise StorageUnavailableError(
                        f"{self.address} does not answer, to {purpose}: {error}. Try again", path=self.address
                    ) from error
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret
