"""``RecentCommits``: what was read or written just now, in memory, because it is asked for again soon."""

from __future__ import annotations

import threading
from collections import OrderedDict

from eventstore.storage.numbered.commit_bytes import StoredCommit
from eventstore.storage.numbered.patience import PatientStore
from eventstore.storage.numbered.segments import BLOCKS, Segments

_KEPT_BYTES = 16 << 20


class RecentCommits:
    """The bytes of commits and blocks, of those that were kept last.

    Args:
        store: Where they come from.
        segments: What checks blocks; None where there are none.
    """

    def __init__(self, store: PatientStore, segments: Segments | None) -> None:
        self._store = store
        self._segments = segments
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, size: int, key: int, data: bytes) -> None:
        """Keep an object that holds so many commits, the first of them at ``key``."""
        with self._turn:
            if (size, key) in self._kept or len(data) > _KEPT_BYTES // 4:
                return
            self._kept[size, key] = data
            self._bytes += len(data)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])

    def data(self, key: int) -> bytes | None:
        """The bytes of the commit at ``key``, or None."""
        return self._kept.get((1, key))

    def commits(self, key: int) -> list[StoredCommit]:
        """The commits from ``key`` on that are kept together with it."""
        data = self.data(key)
        if data is not None:
            return [self._store.decoded(key, data)]
        if self._segments is not None:
            for size in BLOCKS:
                data = self._kept.get((size, key - key % size))
                if data is not None:
                    return self._segments.block_commits(size, key // size, data)[key % size :]
        return []

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._turn = threading.Lock()
