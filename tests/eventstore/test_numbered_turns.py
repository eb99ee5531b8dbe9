"""Whoever wins place after place lets others in."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from eventstore import Event
from eventstore.storage.numbered import NumberedStorage, RefusedError
from eventstore.testing.commit_stores import MemoryCommitStore
from tests.eventstore.numbered_logs import log_on


class _Distant(MemoryCommitStore):
    """Every request takes 4 ms, half of it on the way there; who makes them is counted."""

    def __init__(self, *, hints: Literal["kept", "lost", "none"] = "kept") -> None:
        super().__init__()
        self.by: Counter[str] = Counter()
        derived = self.derived
        assert derived is not None
        if hints == "none":
            self.derived = None
        if hints == "lost":
            derived.replace = self._refuse  # type: ignore[method-assign]

    def create(self, key: int, data: bytes) -> bool:
        with self._request():
            return super().create(key, data)

    def read(self, key: int, count: int) -> Sequence[bytes]:
        with self._request():
            return super().read(key, count)

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        self.by[threading.current_thread().name] += 1
        time.sleep(0.002)
        yield
        time.sleep(0.002)

    def _refuse(self, name: str, data: bytes) -> None:
        raise RefusedError("no")


def _joins(store: _Distant, count: int) -> tuple[list[int], list[int]]:
    """While one writer commits all the time others join, one by one.

    For each, how many commits the first one made until theirs was made, and how many requests they made.
    """
    waited, requests = [], []
    with log_on(store) as busy:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                busy.append("busy", [Event("A")])

        assert isinstance(busy._storage, NumberedStorage)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(count):
                with log_on(store) as log:
                    busy._storage._turns._others_seen = -1e9  # as if nobody had been there for a while
                    first = len(store.objects)
                    while len(store.objects) < first + 10:
                        time.sleep(0.001)
                    log.next_position  # noqa: B018 - as every store call looks first
                    first, made = len(store.objects), store.by["MainThread"]
                    log.append("joining", [Event("B")])
                    waited.append(len(store.objects) - first)
                    requests.append(store.by["MainThread"] - made)
        finally:
            stop.set()
            writer.join()
    return waited, requests


def test_who_joins_a_busy_log_gets_a_turn_soon() -> None:
    """It asks for one by a hint, which the writer who has been alone looks at now and then."""
    waited, requests = _joins(_Distant(), 7)
    assert statistics.median(waited) <= 24
    assert statistics.median(requests) <= 30


@pytest.mark.parametrize("hints", ["lost", "none"])
def test_without_a_hint_a_gap_lets_others_in(hints: Literal["lost", "none"]) -> None:
    """It comes after 64 commits, and is long enough."""
    waited, _ = _joins(_Distant(hints=hints), 3)
    assert min(waited) <= 80


def test_a_hint_is_looked_at_only_by_who_has_no_time_to_lose() -> None:
    """A trainer that commits now and then leaves gaps as it is, and asks for nothing."""
    store = MemoryCommitStore()
    looks: list[str] = []
    assert store.derived is not None
    get = store.derived.get
    store.derived.get = lambda name, default=None: (looks.append(name), get(name, default))[1]  # type: ignore[method-assign,assignment]
    with log_on(store) as log:
        assert isinstance(log._storage, NumberedStorage)
        turns, contest = log._storage._turns, log._storage._contest
        for alone, expected in ((False, 0), (True, 10)):
            looks.clear()
            for _ in range(40):
                turns._others_seen = -1e9
                contest.latency = 1e6 if alone else 0.0  # it seems a short, or a long time since the last
                turns._wins = turns._wins % 60
                log.append("s", [Event("A")])
            for thread in [each for each in threading.enumerate() if each.name == "hint"]:
                thread.join()
            assert abs(looks.count("turn") - expected) <= 1
