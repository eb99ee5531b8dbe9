"""``Compactor``: makes blocks and segments out of commits, in the background; nobody waits for them.

Whoever creates the last commit of one makes it: a pure function of the log, so that it matters to nobody who
does, or whether several do. What was not made keeps nobody from reading: it is derived.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from eventstore.errors import DamagedLogError, EventStoreError, StorageUnavailableError
from eventstore.storage.numbered.commit_bytes import StoredCommit, check_follows, damaged
from eventstore.storage.numbered.commit_store import RefusedError, UnclearError
from eventstore.storage.numbered.patience import PatientStore
from eventstore.storage.numbered.recent import RecentCommits
from eventstore.storage.numbered.segments import (
    BLOCK_BYTES_MAX,
    BLOCKS,
    COMMITS,
    SEGMENT_BYTES_MAX,
    Segments,
    compacted,
    segment_name,
)

logger = logging.getLogger(__name__)

_PURPOSE = "compact the log"


class Compactor:
    """Makes what is derived from the commits of a log.

    Args:
        store: Where the log is.
        log_id: The log's id.
        segments: Where segments and blocks go.
        recent: What was read or written just now, and need not be read.
    """

    def __init__(self, store: PatientStore, log_id: bytes, segments: Segments, recent: RecentCommits) -> None:
        self._store = store
        self._log_id = log_id
        self._segments = segments
        self._recent = recent
        self._others_until = 0
        self._turn = threading.Lock()
        self._maker_of_segments: threading.Thread | None = None

    def note_others(self, key: int) -> None:
        """What is in front of this key was committed by others, in part: they will read what follows."""
        self._others_until = max(self._others_until, key)

    def make_soon(self, key: int) -> None:
        """Make what ends with the commit at ``key``, which was created just now, if anything does."""
        count = key + 1
        # Blocks, unless there is nobody else to read them.
        sizes = [size for size in BLOCKS if count % size == 0 and self._others_until > count - size]
        if sizes and self._segments.has_blocks:
            _in_background("a block of commits", lambda: self._make_blocks(sizes[::-1], count))
        # Half a segment later somebody looks again: who should have made it may have ended meanwhile.
        if count >= COMMITS and count % (COMMITS // 2) == 0:
            with self._turn:
                if self._maker_of_segments is None or not self._maker_of_segments.is_alive():
                    block = count // COMMITS - 1
                    self._maker_of_segments = _in_background(
                        segment_name(block), lambda: self._make_segment(block)
                    )

    def make_segments(self) -> int:
        """Make the segments that are not there yet; gives how many were made.

        Raises:
            DamagedLogError: A commit is not as it was written.
            StorageUnavailableError: The store does not answer.
        """
        made, block = 0, 0
        while self._store.read((block + 1) * COMMITS - 1, 1, _PURPOSE):
            made += self._make_segment(block)
            block += 1
        return made

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._turn = threading.Lock()
        self._maker_of_segments = None

    def _make_blocks(self, sizes: Sequence[int], count: int) -> None:
        for size in sizes:
            number = count // size - 1
            data = self._joined(size, number, BLOCK_BYTES_MAX)
            if data is not None:
                self._segments.keep_block(size, number, data)

    def _make_segment(self, block: int) -> bool:
        if self._store.ask(lambda: self._segments.is_there(block), _PURPOSE):
            return False
        self._segments.keep(block, self._joined(COMMITS, block, SEGMENT_BYTES_MAX))
        return True

    def _joined(self, size: int, number: int, bytes_max: int) -> bytes | None:
        """What holds so many commits, checked, put together from blocks where there are some."""
        keys = range(size * number, size * (number + 1))
        smaller = [each for each in BLOCKS if each < size and self._segments.has_blocks]
        try:
            parts = self._checked_parts(keys, smaller)
        except DamagedLogError:
            if not smaller:
                raise
            # One of the blocks may be of other commits; the commits themselves cannot.
            parts = self._checked_parts(keys, ())
        return compacted(parts, name=f"{size} commits", bytes_max=bytes_max)

    def _checked_parts(self, keys: range, sizes: Sequence[int]) -> list[bytes]:
        parts: list[bytes] = []
        before: StoredCommit | None = None
        for part, commits in self._parts(keys, sizes):
            for commit in commits:
                check_follows(commit, before, self._log_id)
                before = commit
            parts.append(part)
        return parts

    def _parts(self, keys: range, sizes: Sequence[int]) -> Iterator[tuple[bytes, list[StoredCommit]]]:
        """What holds these commits, in order, in as few requests as can be."""
        key = keys.start
        while key < keys.stop:
            part = self._block_at(key, sizes) or self._commit_at(key)
            yield part
            key += len(part[1])

    def _block_at(self, key: int, sizes: Sequence[int]) -> tuple[bytes, list[StoredCommit]] | None:
        """The largest block of these sizes that begins here; None where none is."""
        for size in sizes:
            if key % size == 0:
                number = key // size
                for data in self._store.ask(partial(self._segments.blocks, size, number, 1), _PURPOSE):
                    commits = self._segments.block_commits(size, number, data)
                    if commits:
                        return data, commits
        return None

    def _commit_at(self, key: int) -> tuple[bytes, list[StoredCommit]]:
        data = self._recent.data(key)
        if data is None:
            found = self._store.read(key, 1, _PURPOSE)
            if not found:
                raise damaged(self._store.name(key), 0, 0, "nothing stands, although commits follow")
            data = found[0]
        return data, [self._store.decoded(key, data)]


def _in_background(what: str, make: Callable[[], object]) -> threading.Thread:
    maker = threading.Thread(target=_try, args=(what, make), name="compaction", daemon=True)
    maker.start()
    return maker


def _try(what: str, make: Callable[[], object]) -> None:
    try:
        make()
    except (EventStoreError, UnclearError, RefusedError, OSError) as error:
        # A store that does not answer now is the weather: the next who passes makes it.
        is_weather = isinstance(error, StorageUnavailableError | UnclearError)
        level = logging.INFO if is_weather else logging.WARNING
        logger.log(level, "%s was not made: %s. It is derived.", what, error)
