"""``docs/scale.md`` is what the program makes of the data, and the simulation does what the storage does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from eventstore import Event, EventLog
from eventstore.storage.numbered import NumberedStorage, patience, reading, segments, turns
from eventstore.testing.commit_stores import MemoryCommitStore
from tools.scale import simulation
from tools.scale.page import DATA, PAGE, page_of
from tools.scale.prices import Prices
from tools.scale.simulation import Engine, simulated


@pytest.fixture(scope="module")
def data() -> Any:
    """The committed figures."""
    return json.loads(DATA.read_text())


def test_the_page_is_made_of_the_data(data: Any) -> None:
    """``python -m tools.scale`` makes it."""
    assert PAGE.read_text() == page_of(data)
    assert "{" not in PAGE.read_text()


def test_the_simulation_says_what_was_measured(data: Any) -> None:
    """Several writers on PostgreSQL behind a long line, on a machine that had other work."""
    assert len(data["compared"]) >= 8
    for row in data["compared"]:
        ratio = row["simulated_per_second"] / row["measured_per_second"]
        assert 1 / 3 < ratio < 3, row


def test_the_simulation_has_the_constants_of_the_storage() -> None:
    """What it follows has not moved on."""
    assert simulation.COMPANY_SECONDS == turns._COMPANY_SECONDS
    assert simulation.WINS_MAX == turns._WINS_MAX
    assert simulation.PAUSE_SECONDS == patience.PAUSE_SECONDS
    assert simulation._MANY == patience.COMMITS_AT_ONCE
    assert simulation.SEGMENT_FROM == reading._SEGMENT_FROM
    assert simulation.GAP == turns._GAP
    assert simulation.AFTER_KEPT == reading._AFTER_KEPT
    assert simulation.COMMITS == segments.COMMITS
    assert simulation.BLOCKS == segments.BLOCKS


class _SlowStore(MemoryCommitStore):
    """Requests take a while, half of it on the way there; how long they really took is kept."""

    def __init__(self) -> None:
        super().__init__("positions")
        self.took: dict[str, list[float]] = {"create": [], "read": []}

    def create(self, key: int, data: bytes) -> bool:
        """As ever, later."""
        begun = time.monotonic()
        time.sleep(0.02)
        created = super().create(key, data)
        time.sleep(0.02)
        self.took["create"].append(time.monotonic() - begun)
        return created

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """As ever, later."""
        begun = time.monotonic()
        time.sleep(0.01)
        found = super().read(key, count)
        time.sleep(0.01)
        self.took["read"].append(time.monotonic() - begun)
        return found


@pytest.mark.parametrize("writers", [1, 2, 4])
def test_the_simulation_does_what_the_storage_does(writers: int) -> None:
    """Side by side, with the latencies that requests had; a busy machine slows down both."""
    store = _SlowStore()
    logs = [EventLog(NumberedStorage(store, read_only=False)) for _ in range(writers)]
    begun, count = time.monotonic(), 24

    def write(log: EventLog, name: str) -> None:
        while len(store.objects) <= count:
            log.append(name, [Event("A")])

    threads = [threading.Thread(target=write, args=(log, f"w{place}")) for place, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = (len(store.objects) - 1) / (time.monotonic() - begun)
    create, read = (sum(took) / len(took) for took in store.took.values())
    engine = Engine(create, read, spread=0.05, reads_many=True)
    ratio = simulated(engine, writers=writers, seconds=60).commit_rate / rate
    assert 1 / 3 < ratio < 3


def test_one_writer_alone_needs_one_request_a_commit() -> None:
    """And makes 1 / latency of them, but for the gaps that it leaves."""
    outcome = simulated(Engine(0.04, 0.02, spread=0), writers=1, seconds=60)
    assert outcome.creates == pytest.approx(sum(outcome.commits), abs=1)
    assert outcome.reads == 0
    assert 0.8 / 0.04 < outcome.commit_rate <= 1 / 0.04


@pytest.mark.parametrize("latency", [0.005, 0.04])
def test_a_log_makes_half_a_commit_in_the_time_of_a_request(latency: float) -> None:
    """With a few writers, and every one of them gets its turn."""
    outcome = simulated(Engine(latency, latency / 2), writers=4, seconds=60)
    assert 0.35 < outcome.commit_rate * latency < 0.9
    assert min(outcome.commits) > 0.5 * max(outcome.commits)


def test_a_fleet_that_wants_little_gets_it_and_one_that_wants_too_much_waits() -> None:
    """What falls behind still commits everything that waits with each turn."""
    engine = Engine(0.04, 0.02)
    calm = simulated(engine, writers=100, seconds=60, every=60)
    assert len(calm.waits) == pytest.approx(100, abs=3)
    assert calm.wait(0.99) < 2
    crowded = simulated(engine, writers=300, seconds=60, every=1)
    assert crowded.append_rate > 2 * crowded.commit_rate
    assert crowded.median_wait > 10 * calm.median_wait


def test_a_simulation_is_repeated_by_its_seed() -> None:
    """A figure on the page can be made again."""
    first, again, other = (
        simulated(Engine(0.01, 0.01), writers=5, seconds=10, seed=seed) for seed in (1, 1, 2)
    )
    assert (first.waits, first.creates) == (again.waits, again.creates)
    assert first.waits != other.waits


def test_a_month_of_requests_is_priced() -> None:
    """One of each a second."""
    cost = Prices(0.005, 0.0004, "").a_month(creates_per_second=1, reads_per_second=1)
    assert cost == pytest.approx(13.9968)
