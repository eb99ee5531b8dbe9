"""Weights in a bucket on a bad network, and processes that are killed while they store them.

Nothing that was acknowledged is lost, and no event is there without its content, whatever happens.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dacapo_store.base import Base
from dacapo_store.maintenance import collect_garbage, plan_gc
from dacapo_store.payloads import check_payloads
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import CommitUnknownError, StorageUnavailableError, open_bucket
from eventstore.storage.bucket import PART_BYTES, Bucket
from tools.stores.faulty_server import FaultyServer

VALUES = PART_BYTES // 4 + 1000
"""So many numbers make a payload of two parts."""


@pytest.fixture(autouse=True)
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")  # what is retrieved comes from the store
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """Serve a bucket that behaves until it is told not to."""
    with FaultyServer() as server:
        yield server


def run_of(number: int, name: str = "run_1", values: int = VALUES) -> Any:
    """A run whose weights are this number, many times."""
    model = types.SimpleNamespace(state_dict=lambda: {"weight": torch.full((values,), float(number))})
    return types.SimpleNamespace(name=name, model=model, optimizer=types.SimpleNamespace(state_dict=dict))


def require_whole(address: str, acknowledged: dict[str, list[int]]) -> None:
    """All that was acknowledged is there, all that is on record is whole, and the rest is garbage."""
    store = LocalWeightsStore(address)
    for name, iterations in acknowledged.items():
        for iteration in iterations:
            weights = store.retrieve_weights(name, iteration).model["weight"]
            assert bool((weights == iteration).all())
    count, findings = check_payloads(address, Base.at(address).log, digests=True)
    assert findings == []
    assert count >= sum(map(len, acknowledged.values()))
    collect_garbage(address, grace_seconds=-1e9)
    assert plan_gc(address, grace_seconds=-1e9).garbage == ()
    objects = [file for name in acknowledged for file in open_bucket(address).files(name)]
    assert len(objects) == count


@pytest.mark.parametrize("how", ["waiting", "in the background"])
def test_a_bad_network_loses_nothing(server: FaultyServer, how: str) -> None:
    """Answers and requests are lost, 409, 429 and 503 are said: each store is acknowledged all the same."""
    address = server.address("base")
    names = ("run_1", "run_2")
    server.share = 0.35

    def train(name: str) -> list[int]:
        store = LocalWeightsStore(address)
        for iteration in range(8):
            run = run_of(iteration, name, VALUES if iteration % 2 else 100)
            store.store_weights(run, iteration, wait=how == "waiting")
        store.wait()
        return list(range(8))

    with ThreadPoolExecutor(len(names)) as trainers:
        acknowledged = dict(zip(names, trainers.map(train, names), strict=True))
    server.share = 0.0
    assert all(server.counts.values()), server.counts
    require_whole(address, acknowledged)


def test_a_store_that_does_not_answer_takes_no_weights(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so, the log says nothing of them, and later they are stored."""
    address = f"{server.address('base')}&patience_seconds=1"
    store = LocalWeightsStore(address)
    store.store_weights(run_of(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr(server, "fault", lambda: "lost request")
        with pytest.raises(StorageUnavailableError, match="does not answer, to write run_1/"):
            store.store_weights(run_of(2), 2)
    assert store.latest_iteration("run_1") == 1
    store.store_weights(run_of(2), 2)
    require_whole(address, {"run_1": [1, 2]})


def test_an_event_whose_fate_is_unknown_keeps_its_content(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may yet arrive; so what it names must be there."""
    address = server.address("base")
    store = LocalWeightsStore(address)
    append = Base.append

    def lost(*arguments: Any, **options: Any) -> Any:
        append(*arguments, **options)
        raise CommitUnknownError("no answer", commit_id="", position=0, next_position=1, group_position=0)

    with monkeypatch.context() as patch:
        patch.setattr(Base, "append", lost)
        with pytest.raises(CommitUnknownError):
            store.store_weights(run_of(1), 1)
    require_whole(address, {"run_1": [1]})


def test_a_process_that_is_killed_at_a_step(server: FaultyServer) -> None:
    """In front of the content, behind it, in front of the event, behind it."""
    address = server.address("base")
    LocalWeightsStore(address).store_weights(run_of(1), 1)
    seen = set()
    for step in itertools.count():
        steps = _Steps(step)
        connections = server.connections
        if not killed(lambda steps=steps: _store_in_steps(address, steps)):  # type: ignore[misc]
            break
        _until_gone(server, connections)
        latest = LocalWeightsStore(address).latest_iteration("run_1")
        seen.add(latest)
        require_whole(address, {"run_1": [1, 2] if latest == 2 else [1]})
        if latest == 2:
            LocalWeightsStore(address).remove("run_1", 2)
    assert step == 4
    assert seen == {1, 2}


@pytest.mark.parametrize("part", [1, 2])
def test_a_process_that_is_killed_while_it_sends(server: FaultyServer, part: int) -> None:
    """What has arrived of an upload is no object."""
    address = server.address("base")
    LocalWeightsStore(address).store_weights(run_of(1), 1)
    child = 0
    arrived = itertools.count(1)
    put_part = server.put_part

    def put_part_and_kill(*arguments: Any) -> bool:
        kept = put_part(*arguments)
        if next(arrived) == part:
            os.kill(child, signal.SIGKILL)
        return kept

    server.put_part = put_part_and_kill  # type: ignore[method-assign]
    connections = server.connections
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.read(ready, 1)  # until its parent knows its number
        _end(lambda: LocalWeightsStore(address).store_weights(run_of(2), 2))
    os.write(go, b"x")
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    _until_gone(server, connections)
    assert LocalWeightsStore(address).latest_iteration("run_1") == 1
    require_whole(address, {"run_1": [1]})


@pytest.mark.parametrize("requests", [14, 22])
def test_a_trainer_that_is_killed_on_a_bad_network(
    server: FaultyServer, tmp_path: Path, requests: int
) -> None:
    """A process of its own, which does its requests itself and notes what was acknowledged."""
    address, notes = server.address("base"), tmp_path / "notes"
    LocalWeightsStore(address)
    connections = server.connections
    program = (
        "import sys; sys.path[:0] = sys.argv[3:]; import tests_run; tests_run.train(sys.argv[1], sys.argv[2])"
    )
    (tmp_path / "tests_run.py").write_text(_TRAINER)
    trainer = subprocess.Popen(
        [sys.executable, "-c", program, address, str(notes), str(tmp_path), str(Path.cwd())]
    )
    counted, fault = itertools.count(), server.fault
    over = threading.Event()

    def count() -> str | None:
        if not over.is_set() and next(counted) == requests:
            over.set()
            trainer.kill()
        return fault()

    server.share = 0.15
    server.fault = count  # type: ignore[method-assign]
    assert trainer.wait() == -signal.SIGKILL
    server.share = 0.0
    _until_gone(server, connections)
    noted = [int(line) for line in notes.read_text().split("\n")[:-1]] if notes.is_file() else []
    require_whole(address, {"run_1": noted})


_TRAINER = f"""
import torch
from types import SimpleNamespace
from dacapo_store import LocalWeightsStore

def train(address, notes):
    store = LocalWeightsStore(address)
    with open(notes, "a", buffering=1) as file:
        for number in range(1000):
            values = {VALUES} if number % 2 else 100
            model = SimpleNamespace(state_dict=lambda: {{"weight": torch.full((values,), float(number))}})
            optimizer = SimpleNamespace(state_dict=dict)
            store.store_weights(SimpleNamespace(name="run_1", model=model, optimizer=optimizer), number)
            print(number, file=file)
"""


class _Steps:
    """Kills the process at one of the steps that it counts: each call has one before and one behind."""

    def __init__(self, deadly: int) -> None:
        self._deadly = deadly
        self._count = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            self._step()
            outcome = call(*arguments, **options)
            self._step()
            return outcome

        return counting

    def _step(self) -> None:
        if self._count == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1


def _store_in_steps(address: str, steps: _Steps) -> None:
    Bucket.put_file = steps.around(Bucket.put_file)  # type: ignore[method-assign]
    Base.append = steps.around(Base.append)  # type: ignore[method-assign]
    LocalWeightsStore(address).store_weights(run_of(2), 2)


def killed(work: Callable[[], None]) -> bool:
    """Whether a forked child that does this was killed."""
    child = os.fork()
    if not child:
        _end(work)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def _end(work: Callable[[], object]) -> None:
    status = 1
    try:
        # The parent's threads for large tensors are not here, and would be waited for.
        torch.set_num_threads(1)
        work()
        status = 0
    finally:
        os._exit(status)


def _until_gone(server: FaultyServer, connections: int) -> None:
    """What a killed process had on its way may arrive after it, also by a helper that did its requests."""
    while server.connections > connections:
        time.sleep(0.02)
