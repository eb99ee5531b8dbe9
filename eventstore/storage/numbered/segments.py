"""Compacted segments: 1,024 commits in one object, for those who read what they have not read before.

Where a request costs money there are smaller ones, too, *blocks* of 8 and of 64 commits, for those who
read what others have just committed: of a thousand writers each reads all that the others commit.

Segments and blocks are pure functions of the log, so whoever makes one makes the same bytes, and racing
makers do no harm. They are derived and never needed: the commits themselves are never deleted. Segments
that were fetched are kept in a folder of this host, bounded, shared by its processes, and checked like
anything that is read.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from eventstore import files
from eventstore.errors import DamagedLogError
from eventstore.storage.numbered.commit_bytes import (
    StoredCommit,
    damaged,
    decode_frames,
    decode_head,
    seal_at,
)
from eventstore.storage.numbered.commit_store import DerivedObjects, RefusedError, UnclearError

logger = logging.getLogger(__name__)

COMMITS = 1024
"""So many commits are in one segment."""

BLOCKS = (64, 8)
"""So many commits are in a block; each divides the one in front, and that divides ``COMMITS``."""

BLOCK_BYTES_MAX = 32 << 20
"""As ``SEGMENT_BYTES_MAX``, for blocks: they are held in memory."""

SEGMENT_BYTES_MAX = 256 << 20
"""Commits that together are larger stay as they are: one request for each costs little then."""

CACHE_BYTES_MAX = 4 << 30

_OPEN_MAX = 8
_READ_BYTES = 4 << 20
_ASK_AGAIN_SECONDS = 60.0


def segment_name(block: int) -> str:
    """The name of the object that holds commits 1024 k … 1024 (k + 1) - 1."""
    return f"seg/{block:012d}.arrow"


def block_name(size: int, number: int) -> str:
    """The name of the object that holds ``size`` commits from ``size * number`` on."""
    return f"seg/{size}/{number:012d}.arrow"


def compacted(objects: Iterable[bytes], *, name: str, bytes_max: int = SEGMENT_BYTES_MAX) -> bytes | None:
    """What holds the commits of these objects, which may be blocks; None where it would be too large."""
    parts: list[bytes | memoryview] = []
    size = 0
    for data in objects:
        view = memoryview(data)
        head = decode_head(view, name=name)
        parts.append(view[head.size :] if parts else view)
        size += len(parts[-1])
        if size > bytes_max:
            return None
    return b"".join(parts)


class Segments:
    """The compacted segments of a log, as far as they are there.

    Args:
        derived: Where they are.
        log_id: The log's id.
        folder: The folder of this host where they may be kept, or None.
        cache_bytes_max: How much of it.
    """

    def __init__(
        self, derived: DerivedObjects, *, log_id: bytes, folder: Path | None, cache_bytes_max: int
    ) -> None:
        self._derived = derived
        self._log_id = log_id
        self._cache = None if folder is None else SegmentCache(folder, cache_bytes_max)
        self._turn = threading.RLock()
        self._open: OrderedDict[int, _Segment] = OrderedDict()
        self._useless: set[int] = set()
        self._absent: dict[int, float] = {}

    def commits(self, key: int) -> list[StoredCommit]:
        """Some commits from ``key`` on, at least one, or none where there is no segment.

        Raises:
            UnclearError: The store could not be asked.
        """
        block, place = divmod(key, COMMITS)
        with self._turn:
            if block in self._useless:
                return []
            for fetch_anew in (False, True):
                try:
                    segment = self._segment(block, fetch_anew=fetch_anew)
                    return [] if segment is None else segment.commits(place)
                except (DamagedLogError, OSError) as error:
                    logger.warning("%s: %s. It is not used; it is derived.", segment_name(block), error)
                    self._forget(block)
            self._useless.add(block)
            return []

    @property
    def has_blocks(self) -> bool:
        """Whether there may be blocks."""
        return self._derived.has_blocks

    def blocks(self, size: int, number: int, count: int) -> list[bytes]:
        """The blocks from this one on, as far as they follow each other.

        Raises:
            UnclearError: The store could not be asked.
        """
        names = [block_name(size, each) for each in range(number, number + count)]
        found = itertools.takewhile(lambda data: data is not None, self._derived.get_many(names))
        return [data for data in found if data is not None]

    def block_commits(self, size: int, number: int, data: bytes) -> list[StoredCommit]:
        """The commits of a block; none where it is not what it should be."""
        name = block_name(size, number)
        try:
            return _Segment(data, name, range(size * number, size * (number + 1)), self._log_id).all()
        except DamagedLogError as error:
            logger.warning("%s: %s. It is not used; it is derived.", name, error)
            return []

    def keep_block(self, size: int, number: int, data: bytes) -> None:
        """Put a block into the store."""
        with contextlib.suppress(UnclearError, RefusedError):
            self._derived.put(block_name(size, number), data)

    def is_there(self, block: int) -> bool:
        """Whether the store has a segment, or cannot use one."""
        with self._turn:
            return block in self._useless or self._derived.get(segment_name(block)) is not None

    def keep(self, block: int, data: bytes | None) -> None:
        """Put a segment into the store; None marks commits that are too large for one."""
        if data is None:
            with self._turn:
                self._useless.add(block)
            return
        with contextlib.suppress(UnclearError, RefusedError):
            self._derived.put(segment_name(block), data)
            self._absent.pop(block, None)

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._turn = threading.RLock()

    def _segment(self, block: int, *, fetch_anew: bool) -> _Segment | None:
        if (segment := self._open.get(block)) is not None:
            self._open.move_to_end(block)
            return segment
        source: Path | bytes | None = None
        if self._cache is not None and not fetch_anew:
            source = self._cache.path_of(block)
        if source is None:
            data = self._fetched(block)
            if data is None:
                return None
            source = data if self._cache is None else self._cache.keep(block, data)
        keys = range(block * COMMITS, (block + 1) * COMMITS)
        segment = _Segment(source, segment_name(block), keys, self._log_id)
        self._open[block] = segment
        while len(self._open) > _OPEN_MAX:
            self._open.popitem(last=False)
        return segment

    def _fetched(self, block: int) -> bytes | None:
        """The segment from the store, which is not asked again and again for one that is not there."""
        now = time.monotonic()
        if now - self._absent.get(block, -_ASK_AGAIN_SECONDS) < _ASK_AGAIN_SECONDS:
            return None
        data = self._derived.get(segment_name(block))
        if data is None:
            self._absent[block] = now
        return data

    def stored(self, block: int) -> bytes | None:
        """The bytes of a segment as the store has it, or None."""
        return self._derived.get(segment_name(block))

    def _forget(self, block: int) -> None:
        self._open.pop(block, None)
        if self._cache is not None:
            self._cache.remove(block)


class _Segment:
    """A segment and where in it each commit is; the frames are checked when they are read."""

    def __init__(self, source: Path | bytes, name: str, keys: range, log_id: bytes) -> None:
        self._source = source
        self._name = name
        self._keys = keys
        # The head of the log is its first commit and has no events.
        self._without_frames = 1 if keys.start == 0 else 0
        self._log_id = log_id
        self._starts = array("Q")
        self._positions = array("Q")
        self._chains: list[bytes] = []
        self._read_layout()

    def all(self) -> list[StoredCommit]:
        """All of its commits."""
        found: list[StoredCommit] = []
        while len(found) < len(self._keys):
            found += self.commits(len(found))
        return found

    def commits(self, place: int) -> list[StoredCommit]:
        """Commits from the one at ``place`` on, a few megabytes of them."""
        found: list[StoredCommit] = []
        at = place - self._without_frames
        if at < 0:
            found.append(self._stored(0, 0, b""))
            at = 0
        stop = at + 1
        while stop < len(self._chains) and self._starts[stop + 1] - self._starts[at] <= _READ_BYTES:
            stop += 1
        start = self._starts[at]
        data = self._read(start, self._starts[stop] - start)
        for each in range(at, stop):
            part = data[self._starts[each] - start : self._starts[each + 1] - start]
            found.append(self._stored(each + self._without_frames, each, part))
        return found

    def _stored(self, place: int, at: int, data: bytes) -> StoredCommit:
        first = self._positions[at]
        frames = decode_frames(memoryview(data), name=self._name, first_position=first, base=self._starts[at])
        chain = self._chains[at]
        return StoredCommit(
            self._keys.start + place, self._name, self._log_id, first, chain, frames, len(data)
        )

    def _read_layout(self) -> None:
        with self._reader() as read:
            head = decode_head(memoryview(read(0, _READ_BYTES)), name=self._name)
            if head.log_id != self._log_id:
                raise damaged(self._name, 0, head.first_position, "a segment of another log begins")
            offset, position, chain = head.size, head.first_position, head.chain
            while (seal := seal_at(read, offset)) is not None:
                if seal.synced_position == seal.first_position:
                    self._starts.append(offset)
                    self._positions.append(position)
                    self._chains.append(chain)
                offset, position, chain = offset + seal.frame_bytes, seal.next_position, seal.chain
            if read(offset, 1) or len(self._chains) != len(self._keys) - self._without_frames:
                raise damaged(self._name, offset, position, "the segment does not go on as it should")
            self._starts.append(offset)

    def _read(self, offset: int, count: int) -> bytes:
        with self._reader() as read:
            return read(offset, count)

    def _reader(self) -> contextlib.AbstractContextManager[_Reader]:
        return _Reader(self._source)


class _Reader:
    """Reads a segment, from memory or from a file, which is open only meanwhile."""

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        if isinstance(self._source, Path):
            self._descriptor = files.open_file(self._source, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def __call__(self, offset: int, count: int) -> bytes:
        if self._descriptor is not None:
            return files.read_at(self._descriptor, count, offset)
        assert isinstance(self._source, bytes)
        return self._source[offset : offset + count]


class SegmentCache:
    """Segments in a folder of this host, used by all its processes. What is not there is fetched anew.

    Args:
        folder: The folder, which is there.
        bytes_max: What was used longest ago goes when there is more.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder / "seg"
        self._like = folder
        self._bytes_max = bytes_max

    def path_of(self, block: int) -> Path | None:
        """The file of a segment, or None; it was used now."""
        path = self._path(block)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def keep(self, block: int, data: bytes) -> Path | bytes:
        """Keep a segment; gives its file, or the bytes back where the disk takes none."""
        path = self._path(block)
        try:
            files.make_directories(self._folder, like=self._like)
            made = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
            with files.new_file(made, like=self._folder) as (descriptor, _):
                files.write(descriptor, data)
                files.rename_derived(made, path)
            self._make_room()
        except OSError:
            return data
        return path

    def remove(self, block: int) -> None:
        """Take a segment away."""
        with contextlib.suppress(OSError):
            files.remove_derived(self._path(block))

    def _path(self, block: int) -> Path:
        return self._folder / f"{block:012d}.arrow"

    def _make_room(self) -> None:
        there = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                there.append((status.st_mtime_ns, status.st_size, path))
        there.sort(key=lambda each: each[0], reverse=True)
        total = 0
        for newer, (_, size, path) in enumerate(there):
            total += size
            if total > self._bytes_max and newer:
                files.remove_derived(path)
