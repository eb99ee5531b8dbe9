"""Engines for tests of numbered commits: one in memory, and one that makes any engine unreliable."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from eventstore.storage.numbered import (
    CommitStore,
    DerivedObjects,
    RefusedError,
    UnclearError,
)
from eventstore.storage.protocol import SharedFiles


class MemoryCommitStore:
    """Objects in this process's memory, created once each.

    Args:
        keys: What they are numbered by; see ``CommitStore``.
    """

    def __init__(self, keys: Literal["numbers", "positions"] = "numbers") -> None:
        self.keys = keys
        self.address = "memory://"
        self.objects: dict[int, bytes] = {}
        self.derived: _MemoryObjects | None = _MemoryObjects() if keys == "numbers" else None
        self.shared_files: SharedFiles | None = None
        self.requests = 0
        self._turn = threading.Lock()

    def check(self) -> None:
        """A dictionary does."""

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        with self._turn:
            self.requests += 1
            return self.objects.setdefault(key, data) is data

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``."""
        with self._turn:
            self.requests += 1
            if self.keys == "positions":
                if key not in self.objects:
                    return []
                return [self.objects[each] for each in sorted(self.objects) if each >= key][:count]
            found: list[bytes] = []
            while len(found) < count and key in self.objects:
                found.append(self.objects[key])
                key += 1
            return found

    def settle(self) -> None:
        """Memory is as durable as it gets."""

    def wait(self, seconds: float) -> bool:
        """Sleep a little."""
        time.sleep(min(seconds, 0.01))
        return True

    def after_fork(self) -> None:
        """A child has a copy of its own."""
        self._turn = threading.Lock()

    def close(self) -> None:
        """Nothing is held."""


class _MemoryObjects(dict[str, bytes]):
    """Derived objects in memory."""

    has_blocks = True

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See ``DerivedObjects.get_many``."""
        return [self.get(name) for name in names]

    def put(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.put``."""
        self.setdefault(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """See ``DerivedObjects.replace``."""
        self[name] = data


class FaultyCommitStore:
    """An engine on a bad network: answers are lost, requests are lost, refused for now, or come late.

    Args:
        store: The engine behind it.
        seed: Of the dice.
        share: How many of the requests meet a fault, 0 to 1.
        late_seconds: Up to how long a request that its sender has given up may take to arrive.
    """

    def __init__(self, store: CommitStore, *, seed: int, share: float, late_seconds: float = 0.02) -> None:
        self._store = store
        self._dice = random.Random(seed)  # noqa: S311 - dice
        self._share = share
        self._late_seconds = late_seconds
        self._late: list[threading.Thread] = []
        self.address = store.address
        self.keys = store.keys
        self.derived: DerivedObjects | None = None
        if store.derived is not None:
            self.derived = _FaultyObjects(store.derived, self._fault)
        self.shared_files: SharedFiles | None = None

    def check(self) -> None:
        """See ``CommitStore.check``."""
        self._store.check()

    def create(self, key: int, data: bytes) -> bool:
        """As the engine does; or not, or unseen, or later."""
        fault = self._fault("unanswered", "unsent", "late", "conflict")
        if fault == "unsent":
            raise UnclearError("503 Slow Down")
        if fault == "conflict":
            return False
        if fault == "late":
            sender = threading.Thread(target=self._create_late, args=(key, data), daemon=True)
            self._late.append(sender)
            sender.start()
            raise UnclearError("the request timed out")
        created = self._store.create(key, data)
        if fault == "unanswered":
            raise UnclearError("the connection was reset")
        return created

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """As the engine does, or not."""
        if self._fault("unanswered", "ok", "ok"):
            raise UnclearError("the connection was reset")
        return self._store.read(key, count)

    def arrive(self) -> None:
        """Wait until nothing is on its way any more."""
        for sender in self._late:
            sender.join()

    def settle(self) -> None:
        """See ``CommitStore.settle``."""
        self._store.settle()

    def wait(self, seconds: float) -> bool:
        """See ``CommitStore.wait``."""
        return self._store.wait(seconds)

    def after_fork(self) -> None:
        """See ``CommitStore.after_fork``."""
        self._late = []
        self._store.after_fork()

    def close(self) -> None:
        """The engine is its owner's."""

    def _create_late(self, key: int, data: bytes) -> None:
        time.sleep(self._dice.uniform(0, self._late_seconds))
        self._store.create(key, data)

    def _fault(self, *kinds: str) -> str | None:
        kind = self._dice.choice(kinds) if self._dice.random() < self._share else None
        return None if kind == "ok" else kind


class _FaultyObjects:
    """Derived objects on a bad network: requests and answers are lost, and what comes may be wrong."""

    def __init__(self, objects: DerivedObjects, fault: Callable[..., str | None]) -> None:
        self._objects = objects
        self._fault = fault
        self.has_blocks = objects.has_blocks

    def get(self, name: str) -> bytes | None:
        """As they are; or not, or not what was put there."""
        fault = self._fault("unanswered", "missing", "flipped", "cut", "another")
        data = self._objects.get(name)
        match fault:
            case "unanswered":
                raise UnclearError("the connection was reset")
            case "missing":
                return None
            case "another":
                first, _, last = name.rpartition("/")
                return self._objects.get(f"{first}/{'0' * 12}.arrow") if last.endswith(".arrow") else data
        if data is None or fault is None:
            return data
        return data[:-9] if fault == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """See ``DerivedObjects.get_many``."""
        return [self.get(name) for name in names]

    def put(self, name: str, data: bytes) -> None:
        """As they do; or not, or unseen."""
        self._changed(lambda: self._objects.put(name, data))

    def replace(self, name: str, data: bytes) -> None:
        """As they do; or not, or unseen."""
        self._changed(lambda: self._objects.replace(name, data))

    def _changed(self, change: Callable[[], None]) -> None:
        fault = self._fault("unanswered", "unsent", "refused")
        if fault == "refused":
            raise RefusedError("403 Forbidden")
        if fault != "unsent":
            change()
        if fault is not None:
            raise UnclearError("the connection was reset")
