"""Writers in processes of their own append to one log, and their commits are counted.

Each appends one small event after the other, as fast as it is acknowledged: the worst that several
writers can do to each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

from tools.postgres import PASSWORD, PostgresServer, binaries
from tools.tcp_proxy import TcpProxy

WRITERS: Final = (1, 2, 4, 8)
ROUND_TRIPS: Final = (0.01, 0.04)

_WRITER: Final = """
import json, sys, time
from eventstore import Event, EventLog

address, name, seconds, events = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
log = EventLog.open(address)
batch = [Event("Measured", {"loss": 0.5, "iteration": n}) for n in range(events)]
print("ready", flush=True)
sys.stdin.readline()
waits, begun, cpu = [], time.monotonic(), time.process_time()
while time.monotonic() - begun < seconds:
    before = time.monotonic()
    log.append(name, batch)
    waits.append(time.monotonic() - before)
took = time.monotonic() - begun
print(json.dumps({"waits": waits, "seconds": took, "cpu_seconds": time.process_time() - cpu}))
"""


@dataclass(frozen=True)
class Case:
    """What was measured of one storage with so many writers.

    Attributes:
        storage: Where the log was.
        writers: How many processes.
        events: How many events each commit has.
        commits_per_second: Of all together.
        fewest_per_second: Of the writer that made the fewest.
        median_wait_seconds: Of an append.
        longest_wait_seconds: Of an append.
        cpu_milliseconds: Of the writers' processors, a commit.
    """

    storage: str
    writers: int
    events: int
    commits_per_second: float
    fewest_per_second: float
    median_wait_seconds: float
    longest_wait_seconds: float
    cpu_milliseconds: float


def measured_case(storage: str, address: str, *, writers: int, seconds: float, events: int = 1) -> Case:
    """Let so many processes append to the log at an address, which is empty or new."""
    processes = [
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _WRITER, address, f"w{number}", str(seconds), str(events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(writers)
    ]
    for process in processes:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"a writer of {storage} did not begin")
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    reports: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in processes]
    rates = [len(report["waits"]) / report["seconds"] for report in reports]
    waits = [wait for report in reports for wait in report["waits"]]
    cpu = sum(report["cpu_seconds"] for report in reports)
    return Case(
        storage,
        writers,
        events,
        sum(rates),
        min(rates),
        statistics.median(waits),
        max(waits),
        1000 * cpu / len(waits),
    )


def measured_cases(*, seconds: float) -> Iterator[Case]:
    """Measure every storage that can be had on this machine, each with all numbers of writers."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, contextlib.ExitStack() as stack:
        os.environ["DACAPO_STORE_CACHE"] = "off"
        places = {"a path": f"{folder}/path", "shared://": f"shared://{folder}/shared"}
        for storage, address in places.items():
            for writers in WRITERS:
                yield measured_case(storage, f"{address}-{writers}", writers=writers, seconds=seconds)
        if binaries() is None:
            return
        server = stack.enter_context(PostgresServer())
        os.environ["PGPASSWORD"] = PASSWORD
        ports: dict[str, int | None] = {"postgresql://, Unix socket": None}
        for trip in ROUND_TRIPS:
            ports[round_trip_name(trip)] = stack.enter_context(_far(server.port, trip))
        for place, (storage, port) in enumerate(ports.items()):
            for writers in WRITERS:
                address = server.address(port=port, table=f"log_{place}_{writers}")
                yield measured_case(storage, address, writers=writers, seconds=seconds)
            address = server.address(port=port, table=f"log_{place}_many")
            yield measured_case(storage, address, writers=4, seconds=seconds, events=1000)


def round_trip_name(seconds: float) -> str:
    """What PostgreSQL behind so long a line is called."""
    return f"postgresql://, {1000 * seconds:g} ms away"


@contextlib.contextmanager
def _far(port: int, trip: float) -> Iterator[int]:
    """A port of a server that is a round trip of so many seconds away; a process of its own delays."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_delay, args=(port, trip, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.close()
        theirs.close()
        process.terminate()
        process.join()


def _delay(port: int, trip: float, reported: Connection) -> None:
    with TcpProxy(port, delay_seconds=trip / 2) as proxy:
        reported.send(proxy.port)
        while True:
            time.sleep(60)


def as_data(cases: Iterator[Case]) -> list[dict[str, Any]]:
    """The cases as JSON has them, printed as they come."""
    found = []
    for case in cases:
        found.append(asdict(case))
        print(
            f"{case.storage}, {case.writers} writers, {case.events} events: "
            f"{case.commits_per_second:.1f} commits/s, median {1000 * case.median_wait_seconds:.1f} ms",
            flush=True,
        )
    return found
