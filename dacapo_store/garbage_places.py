"""What lies where garbage may be: the files of a base's weights and trash, in a folder or in a bucket.

Whether something is garbage is ``maintenance``'s business. No symbolic link is followed here, and nothing
outside the base is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dacapo_store import artifacts
from dacapo_store.bucket_arrays import TRASH, RemovalNotes, run_folders
from eventstore import files, open_bucket

if TYPE_CHECKING:
    from eventstore.storage.bucket import Bucket

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_NO_RUNS: Final = ("events", "views")


@dataclass(frozen=True)
class FoundFile:
    """A file that may be garbage by its place and name.

    Attributes:
        kind: ``orphan``, ``trash`` or ``temporary``.
        path: Where it lies, relative to the base.
        bytes: How much room it takes; a file that has another name takes none.
        changed: When it was last changed, in seconds since 1970.
    """

    kind: str
    path: str
    bytes: int
    changed: float


class GarbagePlace(Protocol):
    """The files of a base among which there may be garbage."""

    grace_seconds: float
    """A file that is younger may be one that a writer is about to name."""

    def found(self) -> Iterator[FoundFile]:
        """Payloads, temporary files and trash of all runs."""

    def size(self, path: str) -> int | None:
        """How many bytes a payload has that was there when ``found`` looked; None where there was none."""

    def second_name(self, run: str, iteration: int, path: str) -> str | None:
        """The name of an iteration, if it is one of this very payload's."""

    def delete(self, path: str) -> None:
        """Delete a file, or what lies in the trash."""


class GarbageInFolder:
    """The files of a base in a folder.

    Args:
        root: The folder.
    """

    grace_seconds = 3600.0

    def __init__(self, root: Path) -> None:
        self._root = root

    def found(self) -> Iterator[FoundFile]:
        """See ``GarbagePlace.found``."""
        yield from self._trash(self._root)
        for run in _folders(self._root):
            if run.name in _NO_RUNS:
                continue
            yield from self._trash(run)
            checkpoints = run / "checkpoints"
            if _is_folder(checkpoints):
                yield from self._checkpoint_files(checkpoints)

    def size(self, path: str) -> int | None:
        """See ``GarbagePlace.size``; of a regular file, when no symbolic link leads there."""
        file = self._inside(path)
        return None if file is None else file.stat().st_size

    def second_name(self, run: str, iteration: int, path: str) -> str | None:
        """See ``GarbagePlace.second_name``."""
        link = self._root / run / "checkpoints/iterations" / str(iteration)
        file = self._inside(path)
        if file is None or not link.is_file() or not link.samefile(file):
            return None
        return link.relative_to(self._root).as_posix()

    def delete(self, path: str) -> None:
        """See ``GarbagePlace.delete``."""
        file = self._root / path
        if os.path.realpath(file.parent) != str(file.parent):
            return
        if _is_folder(file):
            # The trash of a removal that goes on: its process deletes the same files.
            shutil.rmtree(file, ignore_errors=True)
        else:
            files.unlink(file)

    def _checkpoint_files(self, checkpoints: Path) -> Iterator[FoundFile]:
        for folder in (checkpoints, *_folders(checkpoints)):
            payloads = folder == checkpoints / "objects"
            for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                temporary = _TEMPORARY.fullmatch(entry.name) is not None
                if entry.is_dir(follow_symlinks=False) or not (temporary or payloads):
                    continue
                yield self._file(Path(entry.path), "temporary" if temporary else "orphan")

    def _trash(self, folder: Path) -> Iterator[FoundFile]:
        trash = folder / TRASH
        if _is_folder(trash):
            for entry in sorted(os.scandir(trash), key=lambda each: each.name):
                yield self._file(Path(entry.path), "trash")

    def _file(self, path: Path, kind: str) -> FoundFile:
        status = path.lstat()
        size = _tree_bytes(path) if stat.S_ISDIR(status.st_mode) else _freed(status)
        changed = max(status.st_mtime, status.st_ctime)
        return FoundFile(kind, path.relative_to(self._root).as_posix(), size, changed)

    def _inside(self, path: str) -> Path | None:
        try:
            file = artifacts.locate(self._root, path)
        except ValueError:
            return None
        if file.is_symlink() or not file.is_file() or os.path.realpath(file) != str(file):
            return None
        return file


class GarbageInBucket:
    """The files of a base in a bucket. There are neither second names nor temporary files.

    Args:
        bucket: The bucket. What is trash in it are notes of removals.
    """

    # Some stores date an upload in parts by its beginning; none takes that long.
    grace_seconds = 24 * 3600.0

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._removals = RemovalNotes(bucket)
        self._sizes: dict[str, int] = {}

    def found(self) -> Iterator[FoundFile]:
        """See ``GarbagePlace.found``. Arrays are not listed: they may be of any number of objects."""
        runs = run_folders(self._bucket)
        for note in self._removals.found(runs):
            yield FoundFile("trash", note.name, note.bytes, note.changed)
        for run in runs:
            for file in self._bucket.files(f"{run}checkpoints/objects"):
                self._sizes[file.name] = file.bytes
                yield FoundFile("orphan", file.name, file.bytes, file.changed)

    def size(self, path: str) -> int | None:
        """See ``GarbagePlace.size``."""
        return self._sizes.get(path)

    def second_name(self, run: str, iteration: int, path: str) -> str | None:
        """See ``GarbagePlace.second_name``."""
        del run, iteration, path
        return None

    def delete(self, path: str) -> None:
        """See ``GarbagePlace.delete``."""
        if path.split("/")[-2] == TRASH:
            self._removals.finish(path)
        else:
            self._bucket.delete([path])


def _tree_bytes(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(_freed(path.lstat()) for path in paths)


def _freed(status: os.stat_result) -> int:
    return status.st_size if status.st_nlink == 1 else 0


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def garbage_at(where: Path | str) -> GarbagePlace:
    """Where there may be garbage: a folder, or the address of a bucket."""
    return GarbageInFolder(where) if isinstance(where, Path) else GarbageInBucket(open_bucket(where))
