"""The folder ``index/`` of a log: which index files are in it, and how one comes to be.

An index file is named by its range, ``<first>-<next>.<random>.index``, and its name is never used
again. Who writes one holds a lock meanwhile, for which nobody waits. All of it is derived: it may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from eventstore import files

_NAME = re.compile(r"(\d{20})-(\d{20})\.[0-9a-f]{16}\.index")
_TEMPORARY_SUFFIX = ".tmp"


class FileName(NamedTuple):
    """An index file's name, and the positions that it says it covers."""

    first_position: int
    next_position: int
    text: str

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """The name that a text is, or None."""
        match = _NAME.fullmatch(text)
        name = None if match is None else cls(int(match[1]), int(match[2]), text)
        return name if name is not None and name.first_position < name.next_position else None


class IndexFolder:
    """The folder; it need not exist.

    Args:
        path: The folder.
        like: The folder of the log, whose group and permission bits new files take.
    """

    def __init__(self, path: Path, *, like: Path) -> None:
        self.path = path
        self._like = like
        self._held: set[int] = set()

    def names(self) -> list[FileName]:
        """The index files that are there; none when the folder cannot be read.

        Raises:
            OSError: This process has no descriptor left.
        """
        try:
            found = [FileName.parsed(path.name) for path in self.path.iterdir()]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return []
        return sorted(name for name in found if name is not None)

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Hold the lock of those who write index files; False when somebody else has it.

        Raises:
            OSError: There is no writing here.
        """
        files.make_directories(self.path, like=self._like)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.add(descriptor)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                files.share(descriptor, like=self._like)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
                return
            yield False
        finally:
            self._held.discard(descriptor)
            os.close(descriptor)

    def after_fork(self) -> None:
        """Let go of the lock that a thread of the parent may hold."""
        while self._held:
            with contextlib.suppress(OSError):
                os.close(self._held.pop())

    def publish(self, content: bytes, *, first_position: int, next_position: int, synced: bool) -> FileName:
        """Put a new index file in its place.

        It need not be durable: a power cut may leave any part of it, which its digests tell. But a long
        one that others are deleted for is ``synced``, or a power cut would cost them all.
        """
        text = f"{first_position:020d}-{next_position:020d}.{secrets.token_hex(8)}.index"
        with files.new_file(self.path / f"{text}{_TEMPORARY_SUFFIX}", like=self._like) as (descriptor, made):
            files.write(descriptor, content)
            if synced:
                files.sync_data(descriptor)
            files.rename_derived(made, self.path / text)
        return FileName(first_position, next_position, text)

    def remove(self, names: Iterable[str]) -> None:
        """Take index files away; what cannot be deleted stays, and does no harm."""
        for name in names:
            with contextlib.suppress(OSError):
                files.remove_derived(self.path / name)

    def remove_unfinished(self) -> None:
        """Take away what writers that died have left; the turn must be held."""
        with contextlib.suppress(OSError):
            self.remove(path.name for path in self.path.glob(f"*{_TEMPORARY_SUFFIX}"))


def forget_index(log: Path) -> None:
    """Take away the index of the log in a folder, whose files are other ones from now on."""
    index = IndexFolder(log / "index", like=log)
    index.remove([name.text for name in index.names()])


def longest_chain(names: Iterable[FileName]) -> list[FileName]:
    """The index files that reach farthest from position 0 without a gap; the fewest that do."""
    best: dict[int, tuple[int, FileName | None]] = {0: (0, None)}
    for name in sorted(names):
        steps, _ = best.get(name.first_position, (-1, None))
        if steps >= 0 and steps + 1 < best.get(name.next_position, (steps + 2, None))[0]:
            best[name.next_position] = steps + 1, name
    chain = []
    last = best[max(best)][1]
    while last is not None:
        chain.append(last)
        last = best[last.first_position][1]
    return chain[::-1]
