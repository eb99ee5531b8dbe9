"""Logs on engines in memory, for tests of numbered commits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from eventstore import Event, EventLog
from eventstore.storage.numbered import CommitStore, NumberedStorage
from eventstore.testing.commit_stores import MemoryCommitStore


def log_on(store: CommitStore, *, patience: float = 30, cache: Path | None = None) -> EventLog:
    """The log in a store, which is asked for so many seconds where it does not answer."""
    return EventLog(NumberedStorage(store, read_only=False, patience_seconds=patience, cache=cache))


class CountingStore(MemoryCommitStore):
    """Counts what is read, each object as one request; blocks are made where the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        derived = self.derived
        assert derived is not None
        get = derived.get

        def counted(name: str, default: bytes | None = None) -> bytes | None:
            self.reads += 1
            return get(name, default)

        derived.get = counted  # type: ignore[method-assign,assignment]

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """As ever, counted."""
        self.reads += count
        return super().read(key, count)


def wait_for_makers() -> None:
    """Wait until no block or segment is being made any more."""
    for thread in threading.enumerate():
        if thread.name == "compaction":
            thread.join()


def crowd(store: MemoryCommitStore, commits: int, writers: int = 3) -> None:
    """Several writers take turns until there are so many commits."""
    logs = [log_on(store) for _ in range(writers)]
    while len(store.objects) < commits:
        logs[len(store.objects) % writers].append(f"s{len(store.objects) % 5}", [Event("A")])
    wait_for_makers()
    for log in logs:
        log.close()
