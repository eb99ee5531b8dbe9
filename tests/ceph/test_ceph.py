"""The log on a real Ceph with two S3 gateways. `make test-ceph`; needs Debian's packages of Ceph."""

from __future__ import annotations

import itertools
import os
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from dacapo_store import Base, LocalArrayStore, LocalWeightsStore
from dacapo_store.maintenance import collect_garbage
from dacapo_store.payloads import check_payloads
from eventstore import EventLog, examine, open_bucket
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
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


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


def test_weights_lie_in_it_and_outlive_a_gateway(ceph: Ceph, tmp_path: Path) -> None:
    """In parts and in one request, through either gateway; one of them is killed while weights are sent."""
    first, second = (LocalWeightsStore(ceph.address("weights", gateway=number)) for number in (0, 1))
    small, large = run_of(1, values=100), run_of(2, values=10_000_000)
    first.store_weights(small, 1)
    pending = second.store_weights(large, 2, wait=False)
    ceph.kill("rgw.1")
    time.sleep(2)
    ceph.start_gateway(1)
    pending.result()
    for store in (first, second):
        for iteration in (1, 2):
            weights = store.retrieve_weights("run_1", iteration).model["weight"]
            assert bool((weights == iteration).all())
    address = ceph.address("weights")
    assert check_payloads(address, Base.at(address).log, digests=True) == (2, [])
    first.remove("run_1", 2)
    collect_garbage(address, grace_seconds=-1e9)
    assert len(open_bucket(address).files("run_1")) == 1


def test_arrays_lie_in_it(ceph: Ceph) -> None:
    """Zarr writes and reads them, and a removal takes all of one away."""
    store = LocalArrayStore(ceph.address("arrays"))
    identifier = store.validation_prediction_array("run_1", 7, "crop (50%)")
    options = dict(identifier.container.storage_options)
    array: Any = zarr.open(
        str(identifier), mode="w", shape=(6, 4), chunks=(1, 4), dtype="uint8", storage_options=options
    )
    array[:] = 3
    read: Any = zarr.open(str(identifier), mode="r", storage_options=options)
    assert int(read[:].sum()) == 72
    store.remove(identifier)
    assert open_bucket(ceph.address("arrays")).files("run_1") == []


def run_of(number: int, *, values: int) -> Any:
    """A run whose weights are this number, many times."""
    model = types.SimpleNamespace(state_dict=lambda: {"weight": torch.full((values,), float(number))})
    return types.SimpleNamespace(name="run_1", model=model, optimizer=types.SimpleNamespace(state_dict=dict))
