"""Zarr containers on a disk: which arrays are in them, what they are, their digests, and copies.

What an array is stands in small JSON files, which are read as they are: so containers of zarr 2 and 3
are told alike, whichever zarr is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dacapo_store.moving.found import UnreadableError, digest_of
from eventstore import files

_METADATA: Final = (".zarray", "zarr.json")


@dataclass(frozen=True)
class ZarrFile:
    """A file of an array: its path within the array's folder, its size, when it was changed."""

    path: str
    bytes: int
    stamp_ns: int


@dataclass(frozen=True)
class ZarrArray:
    """An array: where it is in its container, and its files in the order of their paths."""

    dataset: str
    folder: Path
    files: tuple[ZarrFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(each.bytes for each in self.files)

    @property
    def stamp_ns(self) -> int:
        """When one of them was last changed."""
        return max((each.stamp_ns for each in self.files), default=0)

    @property
    def identity(self) -> str:
        """A digest of names, sizes and times: another one as soon as anything was written."""
        return digest_of(*(f"{each.path}\0{each.bytes}\0{each.stamp_ns}".encode() for each in self.files))

    def content_digest(self, progress: Callable[[int], None]) -> str:
        """The SHA-256 of the JSON list of ``[path, bytes, SHA-256]`` of every file, sorted by path.

        Raises:
            UnreadableError: A file cannot be read, or was changed meanwhile.
        """
        rows = []
        for each in self.files:
            rows.append([each.path, each.bytes, _file_digest(self.folder / each.path, each)])
            progress(each.bytes)
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def description(self) -> tuple[list[int], str, list[int]]:
        """Shape, dtype and shape of a chunk.

        Raises:
            UnreadableError: The metadata cannot be read.
        """
        for name in _METADATA:
            path = self.folder / name
            if path.is_file():
                try:
                    return _described(json.loads(path.read_bytes()))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    raise UnreadableError(f"{self.dataset}/{name} cannot be read: {error}") from error
        raise UnreadableError(f"{self.dataset} has no metadata any more")


def arrays_in(container: Path) -> Iterator[ZarrArray]:
    """The arrays of a container, in the order of their paths.

    Raises:
        UnreadableError: A folder cannot be listed, or a name is no text.
    """

    def fail(error: OSError) -> None:
        raise UnreadableError(f"{error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(container, onerror=fail):
        folders.sort()
        folder = Path(parent)
        if _is_array(folder, names):
            folders.clear()
            dataset = _text(folder.relative_to(container).as_posix())
            yield ZarrArray(
                "" if dataset == "." else dataset, folder, tuple(sorted(_files(folder), key=_path))
            )


def tree_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(Path(parent, name).stat().st_size for parent, _, names in os.walk(folder) for name in names)


def copy_tree(source: Path, target: Path, *, link: bool, like: Path) -> int:
    """Copy what is not there yet, with its times; a copy that was interrupted goes on where it was.

    Args:
        source: The container.
        target: Where it goes.
        link: Give files a second name instead, where both lie on one file system.
        like: The base whose group and permission bits new folders take.

    Returns:
        How many bytes were copied.
    """
    copied = 0
    for parent, folders, names in os.walk(source):
        folders.sort()
        here = target / Path(parent).relative_to(source)
        files.make_directories(here, like=like)
        for name in sorted(names):
            copied += _copy(Path(parent, name), here / name, link=link)
    files.sync_file_systems()
    return copied


def _copy(source: Path, target: Path, *, link: bool) -> int:
    status = source.stat()
    if target.is_file():
        found = target.stat()
        if (found.st_size, found.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return 0
    new = target.with_name(f".{target.name}.copy")
    new.unlink(missing_ok=True)
    if link and _linked(source, new):
        new.replace(target)
        return 0
    shutil.copy2(source, new)
    new.replace(target)
    return status.st_size


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        return False  # another file system, or one without links: a copy is as good
    return True


def _is_array(folder: Path, names: list[str]) -> bool:
    if ".zarray" in names:
        return True
    if "zarr.json" not in names:
        return False
    try:
        metadata = json.loads((folder / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return True  # so that somebody is told that it cannot be read
    return isinstance(metadata, dict) and metadata.get("node_type") == "array"


def _files(folder: Path) -> Iterator[ZarrFile]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            text = _text(path.relative_to(folder).as_posix())
            try:
                status = path.stat()
            except OSError as error:
                raise UnreadableError(f"{text}: {error.strerror}") from error
            yield ZarrFile(text, status.st_size, status.st_mtime_ns)


def _text(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UnreadableError(f"{os.fsencode(path)!r} is no text in UTF-8: rename it") from error
    return path


def _path(file: ZarrFile) -> str:
    return file.path


def _file_digest(path: Path, expected: ZarrFile) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
    except OSError as error:
        raise UnreadableError(f"{expected.path}: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != (expected.bytes, expected.stamp_ns):
        raise UnreadableError(f"{expected.path} was changed while it was read: end what writes to it, repeat")
    return digest


def _described(metadata: dict[str, Any]) -> tuple[list[int], str, list[int]]:
    if "chunk_grid" in metadata:
        dtype = metadata["data_type"]
        chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    else:
        dtype = _numpy_name(metadata["dtype"])
        chunks = metadata["chunks"]
    return (
        [int(n) for n in metadata["shape"]],
        dtype if isinstance(dtype, str) else str(dtype),
        list(map(int, chunks)),
    )


def _numpy_name(dtype: Any) -> str:
    """The name that zarr shows; a structured one is a list of fields."""
    return str(np.dtype([tuple(field) for field in dtype] if isinstance(dtype, list) else dtype))
