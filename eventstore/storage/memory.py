"""A storage adapter that keeps commits in this process's memory, for tests and scratch work."""

from __future__ import annotations

import contextlib
import secrets
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventstore import format as log_format
from eventstore.index import Landmark, Mark, Place
from eventstore.model import Finding, Verdict
from eventstore.schema import content_digests, decoded_batch, envelope_schema
from eventstore.storage.protocol import Glimpse, StoredBatch


class MemoryStorage:
    """Commits in a list. A forked child gets a copy of its own."""

    read_only = False
    watched: Path | None = None
    index_folder: Path | None = None

    def __init__(self) -> None:
        self.log_id = secrets.token_bytes(16)
        self._schema = envelope_schema(self.log_id)
        self._batches: list[StoredBatch] = []
        self._size = 0
        self._turn = threading.RLock()

    @property
    def durable_position(self) -> int:
        """Nothing here outlives the process, so everything counts as durable."""
        return self._batches[-1].next_position if self._batches else 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the one lock."""
        with self._turn:
            yield

    def has_news(self, position: int) -> bool:
        """Whether something was kept there."""
        return self.durable_position > position

    def glance(self, position: int) -> Sequence[Glimpse]:
        """See ``Storage.glance``."""
        del position
        return ()

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """See ``Storage.read``."""
        del near
        stop = self.durable_position if until is None else until
        start = bisect_right(self._batches, from_position, key=lambda kept: kept.next_position)
        return (kept for kept in self._batches[start:] if kept.first_position < stop)

    def resume(self, mark: Mark) -> bool:
        """Nothing is in front of what is read, so nothing can be passed over."""
        del mark
        return False

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """Keep a commit, if the log ends where it begins."""
        if first_position != self.durable_position:
            return None
        batch = decoded_batch(message, self._schema, event_count=event_count)
        place = Place(0, 0, self._size, len(message))
        self._batches.append(StoredBatch(first_position, batch, chain, place))
        self._size += place.size
        return place

    def sync(self, next_position: int) -> None:
        """Nothing to do."""

    def recover(self) -> None:
        """Nothing to make up for."""

    def verify(self) -> Verdict:
        """Compute the chain again and compare it."""
        chain, findings = log_format.first_chain(self.log_id), []
        for kept in self._batches:
            for position, version, content in content_digests(kept.batch):
                chain = log_format.next_chain(
                    chain, position=position, stream_version=version, content=content
                )
            if chain != kept.chain:
                findings.append(
                    Finding("damage", "memory", None, kept.first_position, "the chain does not hold")
                )
        return Verdict(self.durable_position, len(self._batches), self._size, chain.hex(), tuple(findings))

    def after_fork(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._turn = threading.RLock()

    def reopen(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing is held."""
