"""Winning the next place: a commit is created at its key, once, whatever becomes of requests and answers.

The rules, each of which stands for data that somebody has lost:

1. The bytes of a commit are fixed once, for one place: they hold position, chain value and event ids.
2. Create at N. Created: committed.
3. "Exists": read N. If it is mine, an earlier answer was lost and I had won. If nothing is there, the
   same bytes go to N again. If it is another's, its events count from now on; short jitter; next N.
4. Any other error: read N and decide in the same way. Never move past N while N is empty.
5. At the deadline the outcome is unknown, and is said to be. Whatever comes to stand at N settles it.

A commit is mine if it is these very bytes.
"""

from __future__ import annotations

import random
import time

from eventstore.errors import CommitUnknownError, StorageUnavailableError, WriteRefusedError
from eventstore.storage.numbered.commit_store import RefusedError, UnclearError
from eventstore.storage.numbered.patience import PAUSE_SECONDS, PatientStore
from eventstore.storage.protocol import NewCommit


class Contest:
    """The places of a log, which writers win from each other.

    Args:
        store: Where they are.

    Attributes:
        latency: How long the last creation took that the engine has answered, in seconds.
    """

    def __init__(self, store: PatientStore) -> None:
        self.latency = 0.0
        self._store = store

    def settled(self, key: int, data: bytes, first: NewCommit | None = None) -> bytes | None:
        """Create ``data`` at ``key`` and return when that is decided: None for mine, or another's bytes.

        Args:
            key: The place.
            data: The object.
            first: The first commit in it, or None for the head of a log.

        Raises:
            CommitUnknownError: It could not be decided in time.
            StorageUnavailableError: The same, for the head of a log.
            WriteRefusedError: Nothing was created, now or before.
        """
        deadline = time.monotonic() + self._store.patience_seconds
        may_be_on_its_way = False
        while True:
            refused: RefusedError | None = None
            problem: Exception | None = None
            begun = time.monotonic()
            try:
                created = self._store.engine.create(key, data)
                self.latency = time.monotonic() - begun
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
            time.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 - no secret

    def _look(self, key: int) -> bytes | None:
        """What is at ``key``; None also where the store does not answer."""
        try:
            found = self._store.engine.read(key, 1)
        except (UnclearError, OSError):
            return None
        return found[0] if found else None

    def _is_settled(self) -> bool:
        try:
            self._store.engine.settle()
        except UnclearError:
            return False
        return True

    def _unknown(self, first: NewCommit | None, problem: Exception | None) -> Exception:
        address, seconds = self._store.address, self._store.patience_seconds
        reason = "it says that something is there and shows nothing" if problem is None else str(problem)
        if first is None:
            return StorageUnavailableError(
                f"{address} does not answer ({reason}): the log could not be opened. Try again", path=address
            )
        return CommitUnknownError(
            f"{address} did not answer within {seconds:g} s ({reason}): whether the "
            f"commit at position {first.first_position} is there is not known yet. Ask with "
            "EventLog.resolve before repeating it",
            commit_id=first.chain.hex(),
            position=first.first_position,
            next_position=first.first_position + first.event_count,
            group_position=first.first_position,
        )
