"""The zarr containers of a base, in a folder or in a bucket: which there are, and copies of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dacapo_store.bucket_arrays import run_folders
from dacapo_store.moving.zarr_trees import copy_tree, tree_bytes
from dacapo_store.names import RESERVED_RUN_NAMES
from eventstore import files, open_bucket

if TYPE_CHECKING:
    from eventstore.storage.bucket import Bucket, StoredFile

_AT_ONCE: Final = 16


class Containers(Protocol):
    """The containers of a base. Names are ``<run>/<container>``."""

    def names(self) -> list[str]:
        """All containers, sorted."""

    def bytes(self, name: str) -> int:
        """The size of all files of a container."""

    def receive(self, source: Path, name: str, *, link: bool) -> int:
        """Copy a container of this host into the base, as far as it is not there yet.

        Args:
            source: Its folder.
            name: Its name in the base.
            link: Give files a second name instead, where that can be done.

        Returns:
            How many bytes were copied.
        """

    def deliver(self, name: str, target: Path, *, link: bool, like: Path) -> int:
        """Copy a container to a folder of this host, as far as it is not there yet.

        Args:
            name: Its name in the base.
            target: Its folder.
            link: Give files a second name instead, where that can be done.
            like: The folder whose group and permission bits new folders take.

        Returns:
            How many bytes were copied.

        Raises:
            FileNotFoundError: It was changed meanwhile.
        """


class FolderContainers:
    """Containers in a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """See ``Containers.names``."""
        return [path.relative_to(self._root).as_posix() for path in self._containers()]

    def bytes(self, name: str) -> int:
        """See ``Containers.bytes``."""
        return tree_bytes(self._root / name)

    def receive(self, source: Path, name: str, *, link: bool) -> int:
        """See ``Containers.receive``."""
        return copy_tree(source, self._root / name, link=link, like=self._root)

    def deliver(self, name: str, target: Path, *, link: bool, like: Path) -> int:
        """See ``Containers.deliver``."""
        return copy_tree(self._root / name, target, link=link, like=like)

    def _containers(self) -> Iterator[Path]:
        for run in sorted(self._root.iterdir()):
            if run.is_dir() and run.name not in RESERVED_RUN_NAMES and not run.name.startswith("."):
                yield from sorted(path for path in run.glob("*.zarr") if path.is_dir())


class BucketContainers:
    """Containers in a bucket. A file that has the size of its copy, and is not newer, is not copied again.

    Args:
        bucket: The bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def names(self) -> list[str]:
        """See ``Containers.names``."""
        return [
            f"{run}{entry[:-1]}"
            for run in run_folders(self._bucket)
            if not run.startswith(".")
            for entry in self._bucket.entries(run[:-1])
            if entry.endswith(".zarr/")
        ]

    def bytes(self, name: str) -> int:
        """See ``Containers.bytes``."""
        return sum(file.bytes for file in self._bucket.files(name))

    def receive(self, source: Path, name: str, *, link: bool) -> int:
        """See ``Containers.receive``; there are no second names in a bucket."""
        del link
        there = {file.name: file for file in self._bucket.files(name)}
        new = {
            f"{name}/{path.relative_to(source).as_posix()}": path
            for path in (Path(parent, each) for parent, _, names in os.walk(source) for each in names)
        }
        wanted = {name: path for name, path in new.items() if not _is_sent(path, there.get(name))}
        # An object is not written over: what is another one now goes first.
        self._bucket.delete(sorted(wanted.keys() & there.keys()))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="containers") as workers:
            list(workers.map(self._bucket.put_file, wanted.keys(), wanted.values()))
        return sum(path.stat().st_size for path in wanted.values())

    def deliver(self, name: str, target: Path, *, link: bool, like: Path) -> int:
        """See ``Containers.deliver``."""
        del link
        wanted = []
        for file in self._bucket.files(name):
            path = target / file.name.removeprefix(f"{name}/")
            if ".." in path.relative_to(target).parts or _is_fetched(path, file):
                continue
            files.make_directories(path.parent, like=like)
            wanted.append((file, path))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="containers") as workers:
            list(workers.map(lambda each: self._fetch(*each), wanted))
        files.sync_file_systems()
        return sum(file.bytes for file, _ in wanted)

    def _fetch(self, file: StoredFile, path: Path) -> None:
        new = path.with_name(f".{path.name}.copy")
        with new.open("w+b") as made:
            size = self._bucket.fetch(file.name, made.fileno(), file.bytes)
        if size != file.bytes:
            new.unlink()
            raise FileNotFoundError(f"{file.name} has {size} bytes now, and had {file.bytes}")
        files.set_time(new, int(file.changed * 1e9))
        new.replace(path)


def containers_at(where: Path | str) -> Containers:
    """The containers in a folder, or at the address of a bucket."""
    return FolderContainers(where) if isinstance(where, Path) else BucketContainers(open_bucket(where))


def _is_sent(path: Path, there: StoredFile | None) -> bool:
    status = path.stat()
    return there is not None and there.bytes == status.st_size and there.changed >= status.st_mtime


def _is_fetched(path: Path, file: StoredFile) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == file.bytes and status.st_mtime_ns == int(file.changed * 1e9)
