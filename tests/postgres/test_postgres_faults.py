"""Many writers while the server is killed, lines are cut and answers are lost: one history, and all of it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventstore import (
    Event,
    EventLog,
)
from eventstore.storage.addresses import Address as ParsedAddress
from eventstore.storage.postgres import PostgresTable, open_store
from eventstore.testing.witness import check_late_requests
from tools.postgres import PASSWORD, PostgresServer
from tools.tcp_proxy import TcpProxy

Address = Callable[..., str]

_WRITER = """
import itertools, sys
from eventstore import Event, EventLog, ExpectedVersionError

name, address = sys.argv[1:]
log = EventLog.open(address)
print("ready", flush=True)
for number in itertools.count():
    text = f"{name}.{number}"
    if number % 3:
        commit = log.append(name, [Event("A", {"text": text})])
    else:  # all of them want this stream
        while True:
            version = log.stream_version("all")
            try:
                expected = -1 if version is None else version
                commit = log.append("all", [Event("A", {"text": text, "behind": expected})],
                                    **({} if version is None else {"expected": version}))
                break
            except ExpectedVersionError:
                pass
    print(commit.first_position, text, flush=True)
"""


def _check(log: EventLog, acknowledged: list[tuple[int, str]]) -> list[str]:
    """What was acknowledged is where it was said to be, and nothing is there twice; gives the texts."""
    events = list(log.read())
    assert [event.position for event in events] == list(range(len(events)))
    texts = [event.data["text"] for event in events]
    assert len(set(texts)) == len(texts)
    assert [texts[position] for position, _ in acknowledged] == [text for _, text in acknowledged]
    for stream in {event.stream for event in events}:
        versions = [event.stream_version for event in events if event.stream == stream]
        assert versions == list(range(len(versions)))
    for event in events:
        if event.data.get("behind", -1) >= 0:
            assert event.data["behind"] == event.stream_version - 1
    assert log.verify().ok
    return texts


class _Writers:
    """Processes that append until they are ended."""

    def __init__(self, address: str, count: int, *, name: str = "w") -> None:
        self.acknowledged: list[tuple[int, str]] = []
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, f"{name}{number}", address], stdout=subprocess.PIPE, text=True
            )
            for number in range(count)
        ]
        self._readers = [
            threading.Thread(target=self._listen, args=(process,)) for process in self._processes
        ]
        for process in self._processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for reader in self._readers:
            reader.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            position, text = line.split()
            self.acknowledged.append((int(position), text))
        process.stdout.close()

    def wait_for(self, count: int) -> None:
        """Return when so many more were acknowledged."""
        until = len(self.acknowledged) + count
        while len(self.acknowledged) < until:
            assert all(process.poll() is None for process in self._processes)
            threading.Event().wait(0.01)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()


@pytest.mark.parametrize("way", ["all processes", "one backend"])
def test_a_server_that_is_killed_under_load_loses_nothing(tmp_path: Path, way: str) -> None:
    """Four writers, several deaths by SIGKILL; a reader that follows all along sees one order."""
    dice = random.Random(way)  # noqa: S311 - dice
    with (
        PostgresServer() as server,
        EventLog.open(server.address(), options={"patience_seconds": "120"}) as log,
    ):
        followed: list[tuple[int, str]] = []
        stop = threading.Event()

        def follow() -> None:
            with EventLog.open(server.address(patience_seconds="120"), read_only=True) as reader:
                followed.extend((event.position, event.data["text"]) for event in reader.follow(0, stop=stop))

        follower = threading.Thread(target=follow)
        writers = _Writers(server.address(patience_seconds="120"), 4)
        follower.start()
        try:
            for _ in range(4):
                writers.wait_for(dice.randint(10, 40))
                if way == "all processes":
                    server.kill()
                    server.start()
                else:
                    server.kill_one(dice)
            writers.wait_for(20)
        finally:
            writers.end()
            stop.set()
            follower.join()
        texts = _check(log, writers.acknowledged)
        assert followed == list(enumerate(texts[: len(followed)]))
        assert len(writers.acknowledged) >= 60
        assert "not properly shut down" in server.log_text()


def test_answers_and_requests_that_are_lost_change_nothing(
    server: PostgresServer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few packets a line breaks, in the middle of whatever it carries."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    acknowledged: list[tuple[int, str]] = []
    with TcpProxy(server.port, lost_answers=0.04, lost_requests=0.02, seed=3) as proxy:

        def write(name: str) -> None:
            with EventLog.open(address(port=proxy.port)) as log:
                for number in range(40):
                    text = f"{name}.{number}"
                    commit = log.append(name if number % 2 else "all", [Event("A", {"text": text})])
                    acknowledged.append((commit.first_position, text))

        threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.losses > 10
    assert len(acknowledged) == 160
    with EventLog.open(address(), read_only=True) as log:
        assert len(_check(log, acknowledged)) == 160


def test_a_line_that_was_cut_and_mended_loses_nothing(
    server: PostgresServer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers behind the line wait, one in front of it goes on; afterwards there is one order."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with TcpProxy(server.port) as proxy:
        far = _Writers(address(port=proxy.port), 2)
        near = _Writers(address(), 1, name="near")
        try:
            for _ in range(3):
                far.wait_for(10)
                proxy.cut()
                near.wait_for(20)
                proxy.mend()
            far.wait_for(10)
        finally:
            far.end()
            near.end()
    with EventLog.open(address(), read_only=True) as log:
        _check(log, far.acknowledged + near.acknowledged)


@pytest.fixture
def tables(server: PostgresServer) -> Iterator[Callable[[], PostgresTable]]:
    """Give a function that gives an engine on a table of its own."""
    opened: list[PostgresTable] = []

    def open_one() -> PostgresTable:
        parsed = ParsedAddress.parse(server.address(table=f"faulty_{random.getrandbits(60)}"))
        opened.append(open_store(parsed.location, options=parsed.options, read_only=False))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.mark.parametrize(("seed", "share", "patience"), [(1, 0.1, 30.0), (2, 0.4, 0.05), (3, 0.4, 0.0)])
def test_requests_that_come_late_are_decided_by_the_table(
    tables: Callable[[], PostgresTable], seed: int, share: float, patience: float
) -> None:
    """As on the engine in memory: what was given up may arrive, and never stands where another does."""
    store = tables()
    check_late_requests(store, seed=seed, share=share, patience=patience)
