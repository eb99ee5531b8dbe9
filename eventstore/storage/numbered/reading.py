"""``Reader``: the commits of a log in order, in as few requests as can be, and how far it is known to go.

A reader asks for the next key and trusts no listing; it believes a commit if it continues the position
and the chain value of the one in front of it. The farther it is behind, the more it asks for at once:
blocks and segments where there are some (``segments``), else the commits themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.index import Landmark, Mark
from eventstore.storage.numbered.commit_bytes import StoredCommit, check_follows
from eventstore.storage.numbered.patience import COMMITS_AT_ONCE, PatientStore
from eventstore.storage.numbered.recent import RecentCommits
from eventstore.storage.numbered.segments import BLOCKS, COMMITS, Segments

_SEGMENT_FROM = 8
_AFTER_KEPT = 2
_WITHOUT_BLOCKS = 112


class End(NamedTuple):
    """Where the next commit goes: its key, its position, and the chain's value in front of it."""

    key: int
    position: int
    chain: bytes


class Reader:
    """Reads a log.

    Args:
        store: Where it is.
        head: Its head.
        segments: Its segments and blocks, or None.
        recent: What was read or written just now.

    Attributes:
        end: How far the log is known to go.
    """

    def __init__(
        self, store: PatientStore, head: StoredCommit, segments: Segments | None, recent: RecentCommits
    ) -> None:
        self.end = End(store.key_behind(head), 0, head.chain)
        self._store = store
        self._log_id = head.log_id
        self._segments = segments
        self._recent = recent
        self._turn = threading.Lock()
        self._blocks_from = 0
        self._without_block = -1

    def commits(self, position: int, until: int | None, near: Landmark | None) -> Iterator[StoredCommit]:
        """The commits that hold these positions, each checked against the one in front of it.

        Args:
            position: The first position wanted.
            until: The position behind the last one wanted, or None.
            near: See ``Storage.read``.
        """
        key, before = self._start(position, near)
        # A request that reads many takes as long as one that reads a single commit.
        count = COMMITS_AT_ONCE if until is None and self._segments is None else 1
        at_end = False
        while not at_end and (until is None or position < until):
            found, at_end, count = self._fetch(key, count, before)
            for commit in found:
                check_follows(commit, before, self._log_id)
                before, key = commit, self._store.key_behind(commit)
                if commit.next_position > position:
                    yield commit
                    position = commit.next_position
                    if until is not None and position >= until:
                        return

    def go_on(self, commit: StoredCommit) -> bool:
        """Take note of a commit that was checked. Whether the log was not known to go so far."""
        with self._turn:
            if commit.next_position <= self.end.position:
                return False
            self.end = End(self._store.key_behind(commit), commit.next_position, commit.chain)
            return True

    def resume(self, mark: Mark) -> bool:
        """See ``Storage.resume``. The commit that ends there is read and checked, and no other."""
        if mark.last is None:
            return mark.chain == log_format.first_chain(self._log_id) and mark.position == 0
        try:
            found, *_ = self._fetch(mark.last.place.segment, 1)
        except DamagedLogError:
            return False  # whoever reads everything says so
        if not found or found[0].log_id != self._log_id:
            return False
        ends = {frame.seal.next_position: frame.seal.chain for frame in found[0].frames}
        if ends.get(mark.position) != mark.chain:
            return False
        self.go_on(found[0])
        return True

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._turn = threading.Lock()

    def _start(self, position: int, near: Landmark | None) -> tuple[int, StoredCommit | None]:
        """The key to begin reading at, and what is known to be in front of it, if anything."""
        end = self.end
        if position >= end.position:
            front = StoredCommit(end.key - 1, "", self._log_id, end.position, end.chain, (), 0)
            return end.key, front
        if near is not None and near.position <= position and near.place.segment < end.key:
            found, *_ = self._fetch(near.place.segment, 1)
            if found and found[0].first_position <= near.position < found[0].next_position:
                return near.place.segment, None
        return self._store.first_key, None

    def _fetch(
        self, key: int, count: int, before: StoredCommit | None = None
    ) -> tuple[list[StoredCommit], bool, int]:
        """Some commits from ``key`` on, about ``count`` of them.

        Also whether nothing is behind them, and how many to ask for next: the farther a reader is behind,
        the more at once. What is derived, and does not continue ``before``, is left out.
        """
        kept = self._recent.commits(key)
        if kept:
            return kept, False, max(count, _AFTER_KEPT)
        segments = self._segments
        if segments is not None:
            is_past = (key // COMMITS + 1) * COMMITS <= self.end.key
            if is_past or count >= _SEGMENT_FROM:
                found = self._store.ask(lambda: segments.commits(key), "read the log")
                if found and found[0].continues(before):
                    return found, False, min(2 * count, COMMITS_AT_ONCE)
            if segments.has_blocks and key >= self._blocks_from:
                return self._fetch_blocks(segments, key, count, before)
        count = min(count, COMMITS_AT_ONCE)
        found, at_end = self._fetch_commits(key, count)
        return found, at_end, min(2 * count, COMMITS_AT_ONCE)

    def _fetch_blocks(
        self, segments: Segments, key: int, count: int, before: StoredCommit | None
    ) -> tuple[list[StoredCommit], bool, int]:
        """The largest blocks that begin here and are not more than wanted; up to such a place, commits."""
        larger, is_missing = COMMITS, False
        for size in BLOCKS:
            if key % size == 0 and count >= size:
                wanted = min(count, larger - key % larger) // size
                found = self._blocks(segments, size, range(key // size, key // size + wanted), before)
                if len(found) == wanted * size:
                    return found, False, min(2 * count, COMMITS)
                count, is_missing = size // 2, True  # there is no more of this size
                if found:
                    return found, False, count
            larger = size
        wanted = count if count < larger and not is_missing else larger - key % larger
        found, at_end = self._fetch_commits(key, wanted)
        if is_missing and not at_end:
            # They are there, and no block of them: it is being made, or who wrote them was alone and has
            # made none. Where it happens twice in a row, no more are asked for.
            if key == self._without_block + larger:
                self._blocks_from = key + larger + _WITHOUT_BLOCKS
            self._without_block = key
        return found, at_end, 2 * count

    def _blocks(
        self, segments: Segments, size: int, numbers: range, before: StoredCommit | None
    ) -> list[StoredCommit]:
        found: list[StoredCommit] = []
        there = self._store.ask(lambda: segments.blocks(size, numbers.start, len(numbers)), "read the log")
        for number, data in zip(numbers, there, strict=False):
            commits = segments.block_commits(size, number, data)
            if not commits or not commits[0].continues(before):
                break
            self._recent.keep(size, number * size, data)
            found += commits
            before = commits[-1]
        return found

    def _fetch_commits(self, key: int, count: int) -> tuple[list[StoredCommit], bool]:
        found = []
        for data in self._store.read(key, count, "read the log"):
            commit = self._store.decoded(key, data)
            found.append(commit)
            self._recent.keep(1, key, data)
            key = self._store.key_behind(commit)
        return found, len(found) < count
