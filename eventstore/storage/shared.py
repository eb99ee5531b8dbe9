"""The engine for a folder that several hosts use (NFS, Lustre, GPFS): one file for each commit.

A commit is written aside under a name of its own, synced, and put in its place by ``link``, which fails
if the name is taken. No file is ever written where it can be read, so nobody sees half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from eventstore import files
from eventstore.storage.numbered import DerivedObjects, RefusedError, UnclearError
from eventstore.storage.protocol import SharedFiles

_LEFT_SECONDS = 86_400.0
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.ENAMETOOLONG,
        errno.EMLINK,
        errno.EOPNOTSUPP,
    }
)


def open_store(location: str, *, options: Mapping[str, str], read_only: bool) -> SharedFolder:
    """The engine of a ``shared://`` address.

    Raises:
        ValueError: An option was given; there are none.
    """
    if options:
        raise ValueError(f"shared:// knows no options of this name: {', '.join(options)}")
    return SharedFolder(folder_of(location), read_only=read_only)


def folder_of(location: str) -> Path:
    """The folder that a ``shared://`` address names; ``shared:///data`` is absolute."""
    parts = urlsplit(location)
    return Path(unquote(parts.netloc + parts.path)).expanduser().resolve()


class SharedFolder:
    """Commits in the files of a folder.

    Args:
        folder: The log's folder.
        read_only: Make no folder.

    Raises:
        FileExistsError: There is a log of one host in it, which has no place for another one.
        OSError: The folder cannot be made.
    """

    keys: Literal["numbers"] = "numbers"

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self.address = f"shared://{folder}"
        self._folder = folder
        self._commits = folder / "log"
        self._aside = folder / "aside"
        self.derived: DerivedObjects = _DerivedFiles(folder, self._aside)
        self.shared_files: SharedFiles | None = None  # a base's folder is shared as it is
        self._seen = 0
        if next(folder.glob("*.arrows"), None) is not None:
            raise FileExistsError(
                f"{folder} holds the log of one host. Open it by its path; or copy its events into a new "
                "base with `dacapo-store replay` to share it among hosts"
            )
        if not read_only:
            like = _nearest_folder(folder)
            for each in (self._commits, self._aside):
                files.make_directories(each, like=like)
            self._remove_left_over()

    def check(self) -> None:
        """A file system without ``link`` says so when it is asked to."""

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        with _told():
            return _put_in_place(self._path(key), data, aside=self._aside)

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``."""
        found = []
        with _asked():
            for each in range(key, key + count):
                data = self._read(each)
                if data is None:
                    break
                found.append(data)
        return found

    def settle(self) -> None:
        """Sync the names in the folder."""
        with _told():
            files.sync_directory(self._commits)

    def wait(self, seconds: float) -> bool:
        """Look whether the folder has changed; on a network file system that may tell late."""
        time.sleep(seconds)
        try:
            changed = self._commits.stat().st_mtime_ns
        except OSError:
            return True
        seen, self._seen = self._seen, changed
        return changed != seen

    def after_fork(self) -> None:
        """No file stays open between two calls."""

    def close(self) -> None:
        """No file stays open between two calls."""

    def _path(self, key: int) -> Path:
        return self._commits / f"{key:020d}.arrow"

    def _read(self, key: int) -> bytes | None:
        path = self._path(key)
        data = _content(path)
        if data is None:
            # A network file system may remember that there was no such file. To open the folder makes
            # it ask the server whether anything has changed.
            with contextlib.suppress(FileNotFoundError):
                os.close(files.open_file(self._commits, os.O_RDONLY | os.O_DIRECTORY))
                data = _content(path)
        return data

    def _remove_left_over(self) -> None:
        """Take away what writers that died have left aside, a day ago or longer."""
        before = time.time() - _LEFT_SECONDS
        with contextlib.suppress(OSError):
            for path in self._aside.iterdir():
                if path.stat().st_mtime < before:
                    files.remove_derived(path)


class _DerivedFiles:
    """Derived objects, in files beside the commits."""

    has_blocks = False

    def __init__(self, folder: Path, aside: Path) -> None:
        self._folder = folder
        self._aside = aside

    def get(self, name: str) -> bytes | None:
        """See ``DerivedObjects.get``."""
        with _asked():
            return _content(self._folder / name)

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See ``DerivedObjects.get_many``."""
        return [self.get(name) for name in names]

    def put(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.put``."""
        path = self._folder / name
        with _told():
            files.make_directories(path.parent, like=self._folder)
            _put_in_place(path, data, aside=self._aside)

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""
        made = self._aside / f"{name}.{secrets.token_hex(8)}.tmp"
        with _told(), files.new_file(made, like=self._folder) as (descriptor, _):
            files.write(descriptor, data)
            files.rename_derived(made, self._folder / name)


def _put_in_place(path: Path, data: bytes, *, aside: Path) -> bool:
    """Make a file of this content, durably, unless there is one of this name."""
    made = aside / f"{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with files.new_file(made, like=path.parent) as (descriptor, _):
            files.write(descriptor, data)
            files.sync_data(descriptor)
            try:
                # A crash behind this line leaves the file aside; a day later somebody takes it away.
                files.link(made, path)
            except FileExistsError:
                return False
            except OSError as error:
                if path.exists():  # the name was made, and whether it lasts is not known
                    raise UnclearError(str(error)) from error
                raise
            return True
    finally:
        with contextlib.suppress(OSError):
            files.remove_derived(made)


def _content(path: Path) -> bytes | None:
    try:
        descriptor = files.open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return files.read_at(descriptor, files.size(descriptor), 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """What will not be answered in another way later is told as it is; the rest is asked again."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise
        raise UnclearError(str(error)) from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise RefusedError(str(error)) from error
        raise UnclearError(str(error)) from error


def _nearest_folder(path: Path) -> Path:
    while not path.is_dir():
        path = path.parent
    return path
