"""The log on Azurite, which speaks as Azure Blob Storage does. `make test-emulators` gets it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import Event, EventLog, UnsuitableStorageError, examine
from eventstore.storage.addresses import Address, open_store
from eventstore.testing.contract import LogContract, OpenLog
from eventstore.testing.witness import check_late_requests
from tests.children import in_child
from tools.stores.emulators import Azurite, missing
from tools.stores.writers import Writers
from tools.tcp_proxy import TcpProxy

_MISSING = missing("azurite-blob")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))
_numbers = itertools.count()


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    """Serve a container."""
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


class TestAzureLog(LogContract):
    """A prefix of its own for each test."""

    @pytest.fixture
    def open_log(self, azurite: Azurite) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        address = azurite.address(f"log-{next(_numbers)}")
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(address))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()


def test_it_is_fit(azurite: Azurite) -> None:
    """Of those who create one blob at once, one wins."""
    found = examine(azurite.address("base"))
    assert found.problem is None
    assert found.races > 0


def test_objects_lie_where_the_address_says(azurite: Azurite) -> None:
    """An emulator that is not where emulators are by default; a prefix that a URL must write otherwise."""
    with EventLog.open(azurite.address("a%20b/ü")) as log:
        log.append("s", [Event("A")])
    with EventLog.open(azurite.address("a%20b"), read_only=False) as other:
        assert other.next_position == 0
    with EventLog.open(azurite.address("a%20b/ü"), read_only=True) as log:
        assert [event.type for event in log.read()] == ["A"]


def test_a_container_that_is_not_there_is_named(azurite: Azurite) -> None:
    nowhere = azurite.address("log").replace("az://bucket/", "az://nowhere/")
    with pytest.raises(UnsuitableStorageError, match="ContainerNotFound"):
        EventLog.open(nowhere)
    with pytest.raises(FileNotFoundError, match="ContainerNotFound"):
        EventLog.open(nowhere, read_only=True)
    assert "ContainerNotFound" in (examine(nowhere).problem or "")


def test_a_wrong_key_is_named(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    address = f"az://bucket/log?endpoint={azurite.endpoint}/devstoreaccount1&account=devstoreaccount1"
    with pytest.raises(UnsuitableStorageError, match="403 Forbidden"):
        EventLog.open(address)
    with pytest.raises(PermissionError, match="403 Forbidden"):
        EventLog.open(address, read_only=True)


def test_a_forked_child_goes_on(azurite: Azurite) -> None:
    address = azurite.address("forked")
    with EventLog.open(address) as log:
        log.append("s", [Event("A")])
        assert in_child(lambda: log.append("s", [Event("B")]).first_position) == 1
        log.append("s", [Event("C")])
        assert [event.type for event in log.read()] == ["A", "B", "C"]


@pytest.mark.parametrize(("seed", "share", "patience"), [(1, 0.1, 30.0), (2, 0.4, 0.05), (3, 0.4, 0.0)])
def test_requests_that_come_late_are_decided_by_the_store(
    azurite: Azurite, seed: int, share: float, patience: float
) -> None:
    """What was given up may arrive, and never stands where another does."""
    parsed = Address.parse(azurite.address(f"late-{seed}"))
    store = open_store(parsed, read_only=False)
    check_late_requests(store, seed=seed, share=share, patience=patience)


def test_writers_are_killed_and_the_store_pauses_and_starts_again(azurite: Azurite, tmp_path: Path) -> None:
    """Six processes on a bad line; two are killed, the server stands still for a while and is restarted."""
    with TcpProxy(azurite.port, lost_answers=0.03, lost_requests=0.02, seed=5) as proxy:
        address = f"{azurite.address('killed', port=proxy.port)}&timeout_seconds=5"
        writers = Writers([address] * 6, [100_000, 100_000, *[40] * 4], tmp_path)

        def some_more(share: int) -> None:
            while min(writers.acknowledged(number) for number in range(6)) < share:
                time.sleep(0.05)

        some_more(4)
        azurite.pause()
        time.sleep(1)  # requests pile up
        azurite.go_on()
        some_more(8)
        writers.kill(0)
        writers.kill(1)
        azurite.stop()
        azurite.start()
        assert writers.wait() == [-9, -9, 0, 0, 0, 0]
        assert proxy.losses > 10
    assert writers.failures(azurite.address("killed")) == []
