"""The log on a real Ceph with two S3 gateways. `make test-ceph`; needs Debian's packages of Ceph."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import EventLog, examine
from eventstore.testing.contract import LogContract, OpenLog
from tools.stores.ceph import Ceph, is_installed
from tools.stores.writers import Writers

pytestmark = [
    pytest.mark.skipif(os.environ.get("DACAPO_STORE_CEPH") != "1", reason="`make test-ceph` starts a Ceph"),
    pytest.mark.skipif(not is_installed(), reason="Ceph is not installed"),
    pytest.mark.timeout(600),
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def ceph() -> Iterator[Ceph]:
    """Start a cluster for all tests."""
    with Ceph() as ceph, pytest.MonkeyPatch.context() as patch:
        for name, value in ceph.variables.items():
            patch.setenv(name, value)
        yield ceph


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


class TestCephLog(LogContract):
    """Each handle goes through the other gateway than the one before."""

    @pytest.fixture
    def open_log(self, ceph: Ceph) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        prefix = f"log-{next(_numbers)}"
        gateways = itertools.cycle((0, 1))
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(ceph.address(prefix, gateway=next(gateways))))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()


def test_it_is_fit(ceph: Ceph) -> None:
    """Of those who create one object at once, one wins, through whichever gateway."""
    found = examine(ceph.address("base"))
    assert found.problem is None
    print(found)  # noqa: T201 - shown with -s


def test_an_osd_and_a_gateway_are_killed_while_eight_write(ceph: Ceph, tmp_path: Path) -> None:
    """Nothing is lost, nothing is there twice, and everybody gets to the end."""
    addresses = [ceph.address("killed", gateway=number % 2) for number in range(8)]
    writers = Writers(addresses, [80] * 8, tmp_path)

    def some_more(share: int) -> None:
        while min(writers.acknowledged(number) for number in range(0, 8, 2)) < share:
            time.sleep(0.05)

    some_more(10)
    ceph.kill("rgw.1")
    ceph.kill("osd.0")
    some_more(20)
    ceph.start_osd(0)
    ceph.start_gateway(1)
    some_more(40)
    ceph.kill("osd.2")
    some_more(60)
    ceph.start_osd(2)
    assert writers.wait() == [0] * 8
    assert writers.failures(addresses[0]) == []
