"""``shared://`` on a real NFS: three kernels, of which one serves. `make test-nfs`; see tools/nfs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from eventstore import EventLog, verify_log
from tools.nfs.machine import Machine, Running, unavailable
from tools.nfs.service import MOUNTS, Service, nfs
from tools.stores.writers import failures_of, notes_of
from tools.torture import engines

_REASON = unavailable() if os.environ.get("DACAPO_STORE_NFS") == "1" else "`make test-nfs` makes machines"
pytestmark = [
    pytest.mark.skipif(_REASON is not None, reason=str(_REASON)),
    pytest.mark.timeout(900),
]

_WRITERS = 3
_LOOK = """
import json, sys
from eventstore import EventLog, verify_log
with EventLog.open(sys.argv[1]) as log:
    texts = [event.data["text"] for event in log.read()]
print(json.dumps([texts, [str(one) for one in verify_log(sys.argv[1]).findings]]))
"""


@pytest.fixture(scope="module", params=["4.2", "3"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Start a server and two hosts."""
    with nfs(request.param, hosts=2) as service:
        yield service


def _passes(running: Running) -> None:
    status = running.wait()
    print(running.output.decode())  # noqa: T201 - shown where it fails
    assert status == 0


def test_the_contract_holds_through_two_mounts(service: Service) -> None:
    mounts = {"DACAPO_STORE_MOUNTS": ":".join(MOUNTS)}
    _passes(service.hosts[0].python("-m", "pytest", "-q", "-s", "tests/nfs/test_on_mounts.py", **mounts))


@pytest.mark.parametrize(
    "suite", ["tests/eventstore/test_shared_storage.py", "tests/dacapo_store/test_shared_base.py"]
)
def test_what_holds_on_a_local_file_system_holds_there(service: Service, suite: str) -> None:
    # Some begin with a log of one host, which there is warned of.
    quiet = "ignore::eventstore.storage.local.filesystem.NetworkFileSystemWarning"
    _passes(
        service.hosts[0].python("-m", "pytest", "-q", "-W", quiet, f"--basetemp={MOUNTS[0]}/suite", suite)
    )


def test_histories_are_clean(service: Service) -> None:
    """Processes of a host that see the server through different mounts, and are judged as elsewhere."""
    mounts = {"DACAPO_STORE_MOUNTS": ":".join(MOUNTS)}
    command = ("-m", "tools.torture.engines", "shared:// on mounts", "--count", str(engines.SHORT))
    _passes(service.hosts[0].python(*command, **mounts))


class _Writers:
    """Writers on all hosts."""

    def __init__(self, hosts: Sequence[Machine], folder: str, count: int) -> None:
        self.count = count
        self.running = [
            host.python(
                "-m",
                "tools.stores.writers",
                f"shared://{MOUNTS[number % 2]}/{folder}",
                str(number),
                str(count),
                "/proc/self/fd/1",
            )
            for number, host in enumerate([*hosts] * _WRITERS)
        ]

    def some_more(self, of: Sequence[int], share: int) -> None:
        """Wait until each of these has so many acknowledged."""
        while min(len(self.running[number].lines) for number in of) < share:
            for number in of:
                assert self.running[number].status in (None, 0), self.running[number].output[-2000:].decode()
            time.sleep(0.05)

    def failures(self, there: Sequence[str]) -> list[str]:
        """What is wrong with these texts of the log."""
        noted = [notes_of(running.lines) for running in self.running]
        counts = [self.count if running.status == 0 else None for running in self.running]
        return failures_of(there, noted, counts)


def _seen(host: Machine, address: str) -> Any:
    looking = host.python("-c", _LOOK, address)
    assert looking.wait() == 0, looking.output.decode()
    return json.loads(looking.output)


def test_the_server_is_killed_and_a_line_is_cut_while_two_hosts_write(service: Service) -> None:
    """Nothing is lost, nothing is there twice, everybody gets to the end, and both hosts see one order."""
    writers = _Writers(service.hosts, "killed", 400)
    everybody = range(2 * _WRITERS)
    writers.some_more(everybody, 10)
    service.restart_server()
    writers.some_more(everybody, 30)
    service.hosts[0].cut()
    writers.some_more(everybody[1::2], 100)
    service.hosts[0].mend()
    writers.some_more(everybody, 120)
    service.restart_server()
    assert [running.wait() for running in writers.running] == [0] * len(everybody)
    seen = [_seen(host, f"shared://{MOUNTS[0]}/killed") for host in service.hosts]
    assert seen[0] == seen[1]
    assert seen[0][1] == []
    assert writers.failures(seen[0][0]) == []


def test_a_host_and_then_the_server_lose_their_power(service: Service) -> None:
    """The other host goes on; what was acknowledged is on the disk of the server, which goes last."""
    writers = _Writers(service.hosts, "pulled", 100_000)
    writers.some_more(range(2 * _WRITERS), 10)
    service.hosts[0].kill()
    for running in writers.running[0::2]:
        running.forget()
    reached = max(len(running.lines) for running in writers.running[1::2])
    writers.some_more(range(1, 2 * _WRITERS, 2), reached + 20)
    with service.disk_of_a_dead_server() as disk:
        for running in writers.running[1::2]:
            running.forget()
        address = f"shared://{disk}/pulled"
        with EventLog.open(address, read_only=True) as log:
            there = [event.data["text"] for event in log.read()]
        assert verify_log(address).ok
        assert writers.failures(there) == []
