"""``LogState``: what one process knows of a log: how far it has read, and where events are.

It catches up with the storage and folds what is new into the index (``eventstore.index``), which
answers from files what was there before. Where such a file turns out to be damaged, it is done without,
and the log is read instead.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.index import DamagedIndexError, HistoryIndex
from eventstore.keys import EventKeys
from eventstore.schema import column_of
from eventstore.storage.protocol import Glimpse, Storage, StoredBatch

_GROUP_COMMITS = 256
_LOOK_BEHIND_EVENTS = 2048
_Answer = TypeVar("_Answer")


class LogState:
    """The state of one log object. Several questions that belong together are asked under ``lock``.

    Args:
        adapter: Gives the storage, or raises when the log was closed.

    Attributes:
        index: What is known of the log's history. A commit that was put is added to its tail.
        looked_at: When the last look for news began, by the monotonic clock.
    """

    def __init__(self, adapter: Callable[[], Storage]) -> None:
        self.lock = threading.RLock()
        self._adapter = adapter
        self._scope = threading.local()
        self.looked_at = -math.inf
        storage = adapter()
        self.index = HistoryIndex(
            storage.index_folder,
            log_id=storage.log_id,
            first_chain=log_format.first_chain(storage.log_id),
            read_only=storage.read_only,
        )

    @property
    def next_position(self) -> int:
        """How far the log was read."""
        return self.index.tail.next_position

    @property
    def chain(self) -> bytes:
        """The chain's value there."""
        return self.index.tail.chain

    def begin(self) -> None:
        """Take the index as it is on the disk; what comes behind it is read by ``catch_up``."""
        self.index.load(self._adapter().resume)

    def catch_up(self, *, anew: bool = True) -> bool:
        """Read what was committed since, by whatever process. True if there was anything.

        Args:
            anew: False where ``one_look`` lets it be enough that somebody has looked since it began.
        """
        with self.lock:
            if not anew and self.looked_at > getattr(self._scope, "began", math.inf):
                return False
            return self.read_on(self._adapter())

    def read_on(self, storage: Storage) -> bool:
        """As ``catch_up``, for who holds ``lock`` and has the storage at hand."""
        began, index = time.monotonic(), self.index
        start = index.tail.next_position
        while storage.has_news(before := index.tail.next_position):
            if self._glance(storage):
                self._look_behind(before - start, index.tail.next_position - start)
            elif self._fold_new():
                break
        self.looked_at = began
        return index.tail.next_position != start

    @contextlib.contextmanager
    def one_look(self) -> Iterator[None]:
        """In this thread, and within this, what was read since it began counts as up to date."""
        outer = getattr(self._scope, "began", math.inf)
        self._scope.began = min(outer, time.monotonic())
        try:
            yield
        finally:
            self._scope.began = outer

    def stored(self, start: int, stop: int | None) -> Iterator[StoredBatch]:
        """The batches that hold these positions; see ``Storage.read``."""
        near = self._ask(HistoryIndex.near, start)
        return self._adapter().read(start, stop, near=near)

    # --- questions

    def stream_version(self, stream: str) -> int | None:
        """The version of a stream's last event, or None."""
        with self.lock:
            version = self.index.tail.last_version(stream)
        return self._ask(HistoryIndex.stream_version, stream) if version is None else version

    def stream_positions(self, stream: str, from_version: int) -> Sequence[int]:
        """The positions of a stream's events, from a stream version on."""
        return self._ask(HistoryIndex.stream_positions, stream, from_version)

    def id_position(self, event_id: bytes) -> int | None:
        """The position of the event with this id, or None."""
        return self._ask(HistoryIndex.id_position, event_id)

    def around(self, clock: int) -> tuple[int, int] | None:
        """Positions between which the running maximum of the clocks first exceeds ``clock``, or None."""
        return self._ask(HistoryIndex.around, clock)

    def _ask(self, question: Callable[..., _Answer], *arguments: Any) -> _Answer:
        with self.lock:
            while True:
                try:
                    return question(self.index, *arguments)
                except DamagedIndexError as damaged:
                    self.index.drop(damaged, self._adapter().resume)
                    self.catch_up()

    # --- reading on

    def _glance(self, storage: Storage) -> bool:
        """Take note of some small commits; False when they have to be read."""
        glimpses = storage.glance(self.index.tail.next_position)
        for glimpse in glimpses:
            self._note(glimpse)
        if self.index.needs_writing:
            self.keep_index()
        return bool(glimpses)

    def _fold_new(self) -> bool:
        """Read what is new; False when the index has gone on without, and reading begins anew there."""
        start, folded = self.next_position, 0
        stored = self.stored(start, None)
        if self.next_position != start:
            return False
        for group in _grouped(stored):
            self._fold(group)
            if self.index.needs_writing:
                self.keep_index()
                return False
            before, folded = folded, folded + sum(each.batch.num_rows for each in group)
            if self._look_behind(before, folded):
                return False
        return True

    def _look_behind(self, before: int, read: int) -> bool:
        """After so many events read, another process may have indexed what comes next; True if it has."""
        return before < _LOOK_BEHIND_EVENTS <= read and self.index.refresh(self._adapter().resume)

    def _fold(self, group: Sequence[StoredBatch]) -> None:
        """Take note of commits, together: Arrow takes as long for one row as for a hundred."""
        batches = [stored.batch for stored in group]
        columns = [
            pa.chunked_array([column_of(batch, name) for batch in batches])
            for name in ("stream", "stream_version", "event_id", "recorded_at")
        ]
        columns[-1] = columns[-1].cast(pa.int64())
        streams, versions, ids, times = (column.to_pylist() for column in columns)
        start = 0
        for stored in group:
            stop = start + stored.batch.num_rows
            keys = EventKeys(
                streams[start:stop], versions[start:stop], b"".join(ids[start:stop]), max(times[start:stop])
            )
            self._note(Glimpse(stored.first_position, keys, stored.chain, stored.place))
            start = stop

    def _note(self, commit: Glimpse) -> None:
        if commit.first_position != self.next_position:
            raise DamagedLogError(
                f"position {self.next_position} is followed by position {commit.first_position}: "
                "a part of the log is missing. Run verify()",
                path="",
                offset=0,
                position=self.next_position,
            )
        keys = commit.keys
        self.index.tail.add(
            zip(keys.streams, keys.versions, itertools.repeat(1), strict=False),
            ids=keys.ids,
            clock=keys.clock,
            chain=commit.chain,
            place=commit.place,
        )

    # --- life

    def keep_index(self) -> None:
        """Write index files when there is enough to write. Nobody's commit waits for this."""
        if self.index.wants_writing:
            storage = self._adapter()
            self.index.write(storage.resume, self.lock, durable_position=storage.durable_position)

    def close(self) -> None:
        """Let go of all files."""
        self.index.close()

    def after_fork(self) -> None:
        """Called in a forked child: a thread of the parent may have held the lock."""
        self.lock = threading.RLock()
        self.index.after_fork()


def _grouped(batches: Iterator[StoredBatch]) -> Iterator[list[StoredBatch]]:
    while group := list(itertools.islice(batches, _GROUP_COMMITS)):
        yield group
