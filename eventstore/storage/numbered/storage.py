"""``NumberedStorage``: a log as numbered commits that are created once each, by writers on any host.

The rules, each of which stands for data that somebody has lost:

1. The bytes of a commit are fixed once, for one place: they hold position, chain value and event ids.
2. Create at N. Created: committed.
3. "Exists": read N. If it is mine, an earlier answer was lost and I had won. If nothing is there, the
   same bytes go to N again. If it is another's, its events count from now on; short jitter; next N.
4. Any other error: read N and decide in the same way. Never move past N while N is empty.
5. At the deadline the outcome is unknown, and is said to be. Whatever comes to stand at N settles it.

A commit is mine if it is these very bytes. A reader asks for the next key and trusts no listing; it
believes a commit if it continues the position and the chain value of the one in front of it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from eventstore import format as log_format
from eventstore.errors import (
    CommitUnknownError,
    DamagedLogError,
    EventStoreError,
    LogNotFoundError,
    ReadOnlyLogError,
    StorageError,
    StorageUnavailableError,
    WriteRefusedError,
)
from eventstore.index import Landmark, Mark, Place
from eventstore.model import Verdict
from eventstore.storage.numbered.commit_bytes import (
    StoredCommit,
    damaged,
    decode_commit,
    encode_commit,
)
from eventstore.storage.numbered.commit_store import (
    CommitStore,
    DerivedObjects,
    RefusedError,
    UnclearError,
)
from eventstore.storage.numbered.segments import (
    BLOCK_BYTES_MAX,
    BLOCKS,
    CACHE_BYTES_MAX,
    COMMITS,
    SEGMENT_BYTES_MAX,
    Segments,
    compacted,
    segment_name,
)
from eventstore.storage.numbered.shared_index import fetch_index, publish_index
from eventstore.storage.numbered.verify import verify_commits
from eventstore.storage.protocol import Glimpse, NewCommit, StoredBatch

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0

_KEPT_BYTES = 16 << 20
_MANY = 64
_SEGMENT_FROM = 8
_PAUSE_SECONDS = 0.1
_COMPANY_SECONDS = 5.0
_WINS_MAX = 64
_GAP = 6
_AFTER_KEPT = 2
_WITHOUT_BLOCKS = 112
_LOSSES = 2
_LOOK_EACH = 4
_TURN = "turn"
_Answer = TypeVar("_Answer")


class _End(NamedTuple):
    """Where the next commit goes: its key, its position, and the chain's value in front of it."""

    key: int
    position: int
    chain: bytes


class NumberedStorage:
    """Commits in a store that creates each of them once.

    Args:
        store: The engine.
        read_only: Create nothing; the log must be there.
        patience_seconds: For so long a store that does not answer is asked again.
        cache: A folder of this host where what was read may be kept, or None.
        cache_bytes_max: How much of it.

    Raises:
        LogNotFoundError: ``read_only`` and there is no log.
        StorageUnavailableError: The store does not answer.
        WriteRefusedError: The store takes no log.
    """

    watched: Path | None = None

    def __init__(
        self,
        store: CommitStore,
        *,
        read_only: bool,
        patience_seconds: float = PATIENCE_SECONDS,
        cache: Path | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.read_only = read_only
        self._store = store
        self._patience = patience_seconds
        self._first_key = 0 if store.keys == "numbers" else -1
        self._state = threading.RLock()
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._latency = 0.0
        self._others_seen = -_COMPANY_SECONDS
        self._wins = 0
        self._losses = 0
        self._won_at = 0.0
        self._asked: bytes | None = None
        self._has_looked = False
        self._blocks_from = 0
        self._without_block = -1
        self._closed = False
        self._compactor: threading.Thread | None = None
        try:
            head = self._open()
        except BaseException:
            store.close()
            raise
        self.log_id = head.log_id
        self._end = _End(self._key_behind(head), 0, head.chain)
        self._others_until = 0
        self._durable = 0
        self.index_folder = _folder_of_log(cache, self.log_id)
        self.shared_files = store.shared_files
        if self.shared_files is not None and self.index_folder is not None:
            fetch_index(self.shared_files, self.index_folder)
        self._segments: Segments | None = None
        if store.derived is not None:
            self._segments = Segments(
                store.derived, log_id=self.log_id, folder=self.index_folder, cache_bytes_max=cache_bytes_max
            )

    def _open(self) -> StoredCommit:
        key = self._first_key
        if not self.read_only:
            self._ask(self._store.check, "open the log")
        there = self._read(key, 1, "open the log")
        if not there:
            if self.read_only:
                raise LogNotFoundError(f"there is no log at {self._store.address}", path=self._store.address)
            log_id = secrets.token_bytes(16)
            first_chain = log_format.first_chain(log_id)
            mine = encode_commit(log_id, first_position=0, first_chain=first_chain, commits=())
            there = [self._settled(key, mine) or mine]
        head = decode_commit(there[0], key=key, name=self._name(key))
        if head.frames or head.first_chain != log_format.first_chain(head.log_id):
            raise damaged(head.name, 0, 0, "the head of a log belongs")
        return head

    # --- what the log calls

    @property
    def durable_position(self) -> int:
        """Everything that was read or created counts, once the store says that it is durable."""
        end = self._end.position
        if self._durable < end:
            with contextlib.suppress(UnclearError):
                self._store.settle()
                self._durable = max(self._durable, end)
        return self._durable

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """There is no lock among hosts: ``put`` tells who came second."""
        return contextlib.nullcontext()

    def has_news(self, position: int) -> bool:
        """There may be: to ask the store would cost as much as to read."""
        del position
        return True

    def glance(self, position: int) -> Sequence[Glimpse]:
        """See ``Storage.glance``: next to a request, what Arrow takes is little."""
        del position
        return ()

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """See ``Storage.read``."""
        for commit in self._commits(from_position, until, near):
            yield from commit.batches(from_position, until)

    def resume(self, mark: Mark) -> bool:
        """See ``Storage.resume``. The commit that ends there is read and checked, and no other."""
        if mark.last is None:
            return mark.chain == log_format.first_chain(self.log_id) and mark.position == 0
        try:
            found, *_ = self._fetch(mark.last.place.segment, 1)
        except DamagedLogError:
            return False  # whoever reads everything says so
        if not found or found[0].log_id != self.log_id:
            return False
        ends = {frame.seal.next_position: frame.seal.chain for frame in found[0].frames}
        if ends.get(mark.position) != mark.chain:
            return False
        self._go_on(found[0])
        return True

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """See ``Storage.put``."""
        places = self.put_together([NewCommit(message, first_position, event_count, chain)])
        return None if places is None else places[0]

    def put_together(self, commits: Sequence[NewCommit]) -> list[Place] | None:
        """See ``GroupStorage.put_together``."""
        if self.read_only:
            raise ReadOnlyLogError(
                f"{self._store.address} was opened read-only: open it without read_only=True to write"
            )
        end = self._end
        if commits[0].first_position != end.position:
            return None
        self._let_others_in()
        data = encode_commit(self.log_id, first_position=end.position, first_chain=end.chain, commits=commits)
        others = self._settled(end.key, data, commits[0])
        self._keep(1, end.key, data if others is None else others)
        if others is not None:
            hints = self._store.derived
            self._wins = 0
            self._losses += 1
            self._note_others(end.key + 1)
            if self._losses % _LOSSES == 0 and hints is not None:
                self._in_background(lambda: hints.replace(_TURN, secrets.token_bytes(16)))
            # Whoever lost tries again at once, but not at the same moment as all the others.
            time.sleep(random.uniform(0, min(self._latency, _PAUSE_SECONDS)))  # noqa: S311 - no secret
            return None
        self._wins, self._losses, self._won_at = self._wins + 1, 0, time.monotonic()
        mine = decode_commit(data, key=end.key, name=self._name(end.key))
        self._go_on(mine)
        self._durable = max(self._durable, mine.next_position)
        self._make_blocks_soon(end.key)
        self._compact_soon(end.key)
        return [Place(end.key, 0, frame.offset, frame.seal.frame_bytes) for frame in mine.frames]

    def sync(self, next_position: int) -> None:
        """See ``Storage.sync``: what was created is durable, and others' commits are made so."""
        if self._durable < next_position and self.durable_position < next_position:
            raise StorageError(
                f"{self._store.address}: it cannot be known whether the log is durable up to position "
                f"{next_position}; look at the storage and try again",
                path=self._store.address,
            )

    def recover(self) -> None:
        """There is nothing that a sync could have failed to do."""

    def wait(self, seconds: float) -> bool:
        """See ``GroupStorage.wait``."""
        return self._store.wait(seconds)

    def verify(self, *, expect: bytes | None = None) -> Verdict:
        """Read every commit and every segment, compute the chain again, and compare."""
        return verify_commits(self._stored_commits(), self.log_id, self._segments, expect=expect)

    def _stored_commits(self) -> Iterator[tuple[StoredCommit, bytes]]:
        """Every commit, as the store has it now, with its bytes."""
        key = self._first_key
        before: StoredCommit | None = None
        while found := self._read(key, _MANY, "verify the log"):
            for data in found:
                commit = decode_commit(data, key=key, name=self._name(key))
                self._check(commit, before)
                before, key = commit, self._key_behind(commit)
                yield commit, data

    def share_index(self) -> None:
        """See ``GroupStorage.share_index``."""
        if self.shared_files is not None and self.index_folder is not None:
            publish_index(self.shared_files, self.index_folder)

    def compact(self) -> int:
        """Make the segments that are not there yet; gives how many were made.

        Raises:
            DamagedLogError: A commit is not as it was written.
            StorageUnavailableError: The store does not answer.
        """
        made, block = 0, 0
        while self._segments is not None and self._is_complete(block):
            made += self._make_segment(block)
            block += 1
        return made

    def after_fork(self) -> None:
        """Let the engine go; a thread of the parent may have held the lock."""
        self._state = threading.RLock()
        self._compactor = None
        self._store.after_fork()
        if self._segments is not None:
            self._segments.after_fork()

    def reopen(self) -> None:
        """The engine is made anew on its first use, and what was read is still true."""

    def close(self) -> None:
        """Release the engine."""
        self._closed = True
        self._store.close()

    # --- winning a place

    def _let_others_in(self) -> None:
        """Whoever wins one commit after the other waits a little in between.

        The winner knows the next place at once, and those who lost must first read: without a pause
        they would find it taken each time, for as long as the winner has something to write. Where
        nobody else was seen, a hint tells whether somebody is waiting; and because a hint may get
        lost, a longer pause now and then lets them in anyway.
        """
        now = time.monotonic()
        if now - self._won_at > _GAP * self._latency:
            self._wins = 0  # whoever waited had time enough
        if now - self._others_seen < _COMPANY_SECONDS:
            pause = random.uniform(0, 4 * self._latency) if self._wins else 0.0  # noqa: S311 - no secret
        elif self._wins >= _WINS_MAX:
            pause, self._wins = _GAP * self._latency, 0
        else:
            hints = self._store.derived
            if hints is not None and self._wins and self._wins % _LOOK_EACH == 0:
                self._in_background(lambda: self._look_for_company(hints))
            return
        # What the caller has spent on other things since is a pause as well.
        time.sleep(max(0.0, min(pause, _PAUSE_SECONDS) - (now - self._won_at)))

    def _look_for_company(self, hints: DerivedObjects) -> None:
        """Whether somebody has asked for a turn since the last look."""
        asked = hints.get(_TURN)
        if self._has_looked and asked != self._asked:
            self._others_seen = time.monotonic()
        self._asked, self._has_looked = asked, True

    def _in_background(self, work: Callable[[], None]) -> None:
        """Nobody waits for a hint, and nobody is told when it cannot be had."""

        def run() -> None:
            with contextlib.suppress(EventStoreError, UnclearError, RefusedError, OSError):
                if not self._closed:
                    work()

        threading.Thread(target=run, name="hint", daemon=True).start()

    def _settled(self, key: int, data: bytes, first: NewCommit | None = None) -> bytes | None:
        """Create ``data`` at ``key`` and return when that is decided: None for mine, or another's bytes.

        Raises:
            CommitUnknownError: It could not be decided in time.
            WriteRefusedError: Nothing was created, now or before.
        """
        deadline = time.monotonic() + self._patience
        may_be_on_its_way = False
        while True:
            refused: RefusedError | None = None
            problem: Exception | None = None
            begun = time.monotonic()
            try:
                created = self._store.create(key, data)
                self._latency = time.monotonic() - begun
                if created:
                    return None
            except RefusedError as error:
                refused = problem = error
            except UnclearError as error:
                may_be_on_its_way, problem = True, error
            there = self._look(key)
            if there is not None:
                if there != data:
                    return there
                if self._is_settled():
                    return None
                may_be_on_its_way = True
            elif refused is not None and not may_be_on_its_way:
                raise WriteRefusedError(
                    f"{self._store.address} takes no commit: {refused}. Nothing was written; mend it and "
                    "repeat the call",
                    path=self._store.address,
                ) from refused
            if time.monotonic() >= deadline:
                raise self._unknown(first, problem) from problem
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret

    def _look(self, key: int) -> bytes | None:
        """What is at ``key``; None also where the store does not answer."""
        try:
            found = self._store.read(key, 1)
        except (UnclearError, OSError):
            return None
        return found[0] if found else None

    def _is_settled(self) -> bool:
        try:
            self._store.settle()
        except UnclearError:
            return False
        return True

    def _unknown(self, first: NewCommit | None, problem: Exception | None) -> Exception:
        reason = "it says that something is there and shows nothing" if problem is None else str(problem)
        if first is None:
            return StorageUnavailableError(
                f"{self._store.address} does not answer ({reason}): the log could not be opened. Try again",
                path=self._store.address,
            )
        return CommitUnknownError(
            f"{self._store.address} did not answer within {self._patience:g} s ({reason}): whether the "
            f"commit at position {first.first_position} is there is not known yet. Ask with "
            "EventLog.resolve before repeating it",
            commit_id=first.chain.hex(),
            position=first.first_position,
            next_position=first.first_position + first.event_count,
            group_position=first.first_position,
        )

    # --- reading

    def _commits(self, position: int, until: int | None, near: Landmark | None) -> Iterator[StoredCommit]:
        """The commits that hold these positions, each checked against the one in front of it."""
        key, before = self._start(position, near)
        # A request that reads many takes as long as one that reads a single commit.
        count = _MANY if until is None and self._segments is None else 1
        at_end = False
        while not at_end and (until is None or position < until):
            found, at_end, count = self._fetch(key, count, before)
            for commit in found:
                self._check(commit, before)
                before, key = commit, self._key_behind(commit)
                if commit.next_position > position:
                    if self._go_on(commit):
                        self._note_others(key)
                    yield commit
                    position = commit.next_position
                    if until is not None and position >= until:
                        return

    def _note_others(self, key: int) -> None:
        """What is in front of this key was committed by others, in part, and just now."""
        self._others_seen = time.monotonic()
        self._others_until = max(self._others_until, key)

    def _start(self, position: int, near: Landmark | None) -> tuple[int, StoredCommit | None]:
        """The key to begin reading at, and what is known to be in front of it, if anything."""
        end = self._end
        if position >= end.position:
            front = StoredCommit(end.key - 1, "", self.log_id, end.position, end.chain, (), 0)
            return end.key, front
        if near is not None and near.position <= position and near.place.segment < end.key:
            found, *_ = self._fetch(near.place.segment, 1)
            if found and found[0].first_position <= near.position < found[0].next_position:
                return near.place.segment, None
        return self._first_key, None

    def _check(self, commit: StoredCommit, before: StoredCommit | None) -> None:
        if commit.log_id != self.log_id:
            raise damaged(commit.name, 0, commit.first_position, "a commit of another log stands")
        if before is None:
            return
        if not _continues(commit, before):
            reason = f"a commit stands that does not continue the log (it begins at {commit.first_position})"
            raise damaged(commit.name, 0, before.next_position, reason)

    def _go_on(self, commit: StoredCommit) -> bool:
        """Whether the log was not known to go so far."""
        with self._state:
            if commit.next_position <= self._end.position:
                return False
            self._end = _End(self._key_behind(commit), commit.next_position, commit.chain)
            return True

    def _fetch(
        self, key: int, count: int, before: StoredCommit | None = None
    ) -> tuple[list[StoredCommit], bool, int]:
        """Some commits from ``key`` on, about ``count`` of them.

        Also whether nothing is behind them, and how many to ask for next: the farther a reader is behind,
        the more at once. What is derived, and does not continue ``before``, is left out.
        """
        kept = self._kept_commits(key)
        if kept:
            return kept, False, max(count, _AFTER_KEPT)
        segments = self._segments
        if segments is not None:
            is_past = (key // COMMITS + 1) * COMMITS <= self._end.key
            if is_past or count >= _SEGMENT_FROM:
                found = self._ask(lambda: segments.commits(key), "read the log")
                if found and _continues(found[0], before):
                    return found, False, min(2 * count, _MANY)
            if segments.has_blocks and key >= self._blocks_from:
                return self._fetch_blocks(segments, key, count, before)
        count = min(count, _MANY)
        found, at_end = self._fetch_commits(key, count)
        return found, at_end, min(2 * count, _MANY)

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

    def _fetch_commits(self, key: int, count: int) -> tuple[list[StoredCommit], bool]:
        found = []
        for data in self._read(key, count, "read the log"):
            commit = decode_commit(data, key=key, name=self._name(key))
            found.append(commit)
            self._keep(1, key, data)
            key = self._key_behind(commit)
        return found, len(found) < count

    def _blocks(
        self, segments: Segments, size: int, numbers: range, before: StoredCommit | None
    ) -> list[StoredCommit]:
        found: list[StoredCommit] = []
        there = self._ask(lambda: segments.blocks(size, numbers.start, len(numbers)), "read the log")
        for number, data in zip(numbers, there, strict=False):
            commits = segments.block_commits(size, number, data)
            if not commits or not _continues(commits[0], before):
                break
            self._keep(size, number * size, data)
            found += commits
            before = commits[-1]
        return found

    def _kept_commits(self, key: int) -> list[StoredCommit]:
        """The commits from ``key`` on that are kept together with it."""
        data = self._kept.get((1, key))
        if data is not None:
            return [decode_commit(data, key=key, name=self._name(key))]
        if self._segments is not None:
            for size in BLOCKS:
                data = self._kept.get((size, key - key % size))
                if data is not None:
                    return self._segments.block_commits(size, key // size, data)[key % size :]
        return []

    def _keep(self, size: int, key: int, data: bytes) -> None:
        """Keep what was read or written just now, so many commits: it is asked for again soon."""
        with self._state:
            if (size, key) in self._kept or len(data) > _KEPT_BYTES // 4:
                return
            self._kept[size, key] = data
            self._kept_bytes += len(data)
            while self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _key_behind(self, commit: StoredCommit) -> int:
        return commit.key + 1 if self._store.keys == "numbers" else commit.next_position

    def _name(self, key: int) -> str:
        return f"{self._store.address}, commit {key}"

    def _read(self, key: int, count: int, purpose: str) -> Sequence[bytes]:
        return self._ask(lambda: self._store.read(key, count), purpose)

    def _ask(self, question: Callable[[], _Answer], purpose: str) -> _Answer:
        """Ask the store until it answers.

        Raises:
            StorageUnavailableError: It has not, in the time that there is.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return question()
            except UnclearError as error:
                if self._closed or time.monotonic() >= deadline:
                    raise StorageUnavailableError(
                        f"{self._store.address} does not answer, to {purpose}: {error}. Try again",
                        path=self._store.address,
                    ) from error
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret

    # --- compaction

    def _make_blocks_soon(self, key: int) -> None:
        """Whoever creates the last commit of a block makes it, unless there is nobody else to read it."""
        segments, count = self._segments, key + 1
        if segments is None or not segments.has_blocks:
            return
        sizes = [size for size in BLOCKS if count % size == 0 and self._others_until > count - size]
        if sizes:
            maker = threading.Thread(target=self._try_to_make_blocks, args=(sizes[::-1], count), daemon=True)
            maker.start()

    def _try_to_make_blocks(self, sizes: Sequence[int], count: int) -> None:
        try:
            for size in sizes:
                self._make_block(size, count // size - 1)
        except (EventStoreError, UnclearError, RefusedError, OSError) as error:
            _tell_not_made("a block of commits", error)

    def _make_block(self, size: int, number: int) -> None:
        segments = self._segments
        assert segments is not None
        data = self._joined(segments, size, number, BLOCK_BYTES_MAX)
        if data is not None:
            segments.keep_block(size, number, data)

    def _joined(self, segments: Segments, size: int, number: int, bytes_max: int) -> bytes | None:
        """What holds so many commits, checked, put together from blocks where there are some."""
        keys = range(size * number, size * (number + 1))
        smaller = [each for each in BLOCKS if each < size]
        try:
            parts = self._checked_parts(segments, keys, smaller)
        except DamagedLogError:
            # One of the blocks may be of other commits; the commits themselves cannot.
            parts = self._checked_parts(segments, keys, ())
        return compacted(parts, name=f"{size} commits", bytes_max=bytes_max)

    def _checked_parts(self, segments: Segments, keys: range, sizes: Sequence[int]) -> list[bytes]:
        parts: list[bytes] = []
        before: StoredCommit | None = None
        for part, commits in self._parts_of(segments, keys, sizes):
            for commit in commits:
                self._check(commit, before)
                before = commit
            parts.append(part)
        return parts

    def _parts_of(
        self, segments: Segments, keys: range, sizes: Sequence[int]
    ) -> Iterator[tuple[bytes, list[StoredCommit]]]:
        """What holds these commits, in order, in as few requests as can be."""
        key = keys.start
        while key < keys.stop:
            part = self._block_at(segments, key, sizes)
            if part is None:
                data = self._kept.get((1, key)) or next(iter(self._read(key, 1, "compact the log")), b"")
                part = data, [decode_commit(data, key=key, name=self._name(key))]
            yield part
            key += len(part[1])

    def _block_at(
        self, segments: Segments, key: int, sizes: Sequence[int]
    ) -> tuple[bytes, list[StoredCommit]] | None:
        """The largest block of these sizes that begins here; None where none is."""
        for size in sizes:
            if key % size == 0:
                for data in segments.blocks(size, key // size, 1):
                    commits = segments.block_commits(size, key // size, data)
                    if commits:
                        return data, commits
        return None

    def _compact_soon(self, key: int) -> None:
        """Whoever creates the last commit of a block makes its segment, and nobody waits for that.

        Half a block later somebody looks again: that process may have ended meanwhile.
        """
        count = key + 1
        if self._segments is None or count < COMMITS or count % (COMMITS // 2):
            return
        with self._state:
            if self._compactor is None or not self._compactor.is_alive():
                block = count // COMMITS - 1
                self._compactor = threading.Thread(target=self._try_to_compact, args=(block,), daemon=True)
                self._compactor.start()

    def _try_to_compact(self, block: int) -> None:
        try:
            self._make_segment(block)
        except (EventStoreError, UnclearError) as error:
            _tell_not_made(segment_name(block), error)

    def _is_complete(self, block: int) -> bool:
        return bool(self._read((block + 1) * COMMITS - 1, 1, "compact the log"))

    def _make_segment(self, block: int) -> bool:
        segments = self._segments
        if segments is None or self._ask(lambda: segments.is_there(block), "compact the log"):
            return False
        if segments.has_blocks:
            segments.keep(block, self._joined(segments, COMMITS, block, SEGMENT_BYTES_MAX))
            return True
        objects: list[bytes] = []
        before: StoredCommit | None = None
        key = block * COMMITS
        while len(objects) < COMMITS:
            wanted = min(_MANY, COMMITS - len(objects))
            found = self._read(key, wanted, "compact the log")
            for data in found:
                commit = decode_commit(data, key=key, name=self._name(key))
                self._check(commit, before)
                before, key = commit, key + 1
                objects.append(data)
            if not found:
                raise damaged(self._name(key), 0, 0, "nothing stands, although commits follow")
        segments.keep(block, compacted(objects, name=segment_name(block)))
        return True


def _continues(commit: StoredCommit, before: StoredCommit | None) -> bool:
    return before is None or (commit.first_position, commit.first_chain) == (
        before.next_position,
        before.chain,
    )


def _folder_of_log(cache: Path | None, log_id: bytes) -> Path | None:
    """A folder of this host that belongs to the log; None where there can be none."""
    if cache is None:
        return None
    folder = cache / log_id.hex()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("%s cannot be made (%s): what is read of the log is not kept.", folder, error)
        return None
    return folder


def _tell_not_made(what: str, error: Exception) -> None:
    """A store that does not answer now is the weather: the next who passes makes it."""
    is_weather = isinstance(error, StorageUnavailableError | UnclearError)
    logger.log(
        logging.INFO if is_weather else logging.WARNING, "%s was not made: %s. It is derived.", what, error
    )
