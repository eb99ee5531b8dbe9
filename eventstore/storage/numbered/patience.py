"""``PatientStore``: an engine that is asked until it answers, or for as long as the address says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from eventstore.errors import StorageUnavailableError
from eventstore.storage.numbered.commit_bytes import StoredCommit, decode_commit
from eventstore.storage.numbered.commit_store import CommitStore, UnclearError

PATIENCE_SECONDS: Final = 60.0

PAUSE_SECONDS: Final = 0.1
"""Up to so long is waited before something is tried again: at random, so that not all try at one moment."""

COMMITS_AT_ONCE: Final = 64
"""So many are asked for together, at the most."""

_Answer = TypeVar("_Answer")


class PatientStore:
    """An engine, its keys, and the patience that is had with it.

    Args:
        engine: The engine.
        patience_seconds: For so long it is asked again where it does not answer.

    Attributes:
        engine: The engine.
        patience_seconds: As above.
        address: Where it is, for people.
        first_key: The key of the log's head.
        is_closed: True once nobody waits for an answer any more.
    """

    def __init__(self, engine: CommitStore, patience_seconds: float) -> None:
        self.engine = engine
        self.patience_seconds = patience_seconds
        self.address = engine.address
        self.first_key = 0 if engine.keys == "numbers" else -1
        self.is_closed = False

    def key_behind(self, commit: StoredCommit) -> int:
        """The key of the commit that follows on this one."""
        return commit.key + 1 if self.engine.keys == "numbers" else commit.next_position

    def name(self, key: int) -> str:
        """What the commit at a key is called in errors."""
        return f"{self.address}, commit {key}"

    def decoded(self, key: int, data: bytes) -> StoredCommit:
        """The commit at a key, every byte of it checked; see ``decode_commit``."""
        return decode_commit(data, key=key, name=self.name(key))

    def read(self, key: int, count: int, purpose: str) -> Sequence[bytes]:
        """As ``CommitStore.read``.

        Raises:
            StorageUnavailableError: The store has not answered in the time that there is.
        """
        return self.ask(lambda: self.engine.read(key, count), purpose)

    def ask(self, question: Callable[[], _Answer], purpose: str) -> _Answer:
        """Ask until there is an answer.

        Args:
            question: What is to be asked; raises ``UnclearError`` where it may be asked again.
            purpose: What for: behind "does not answer, to".

        Raises:
            StorageUnavailableError: There was none in the time that there is.
        """
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                return question()
            except UnclearError as error:
                if self.is_closed or time.monotonic() >= deadline:
                    raise StorageUnavailableError(
                        f"{self.address} does not answer, to {purpose}: {error}. Try again", path=self.address
                    ) from error
            time.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 - no secret

    def close(self) -> None:
        """Release the engine."""
        self.is_closed = True
        self.engine.close()
