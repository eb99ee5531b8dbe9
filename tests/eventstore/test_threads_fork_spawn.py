"""One log, used by threads, forked children and other processes at once.

The children here are made by ``os.fork`` and end by ``os._exit``, as a data loader's workers do; a
child that hangs is ended by an alarm, and so fails its test.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from eventstore import Event, EventLog
from eventstore.storage.local.storage import LocalStorage
from eventstore.testing import memory_log
from tests.children import HANG_SECONDS, Child


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    """A log on disk whose segments roll now and then."""
    with EventLog.open(tmp_path / "events", segment_bytes_max=20_000) as log:
        yield log


def _append_some(log: EventLog, stream: str, count: int) -> list[int]:
    return [log.append(stream, [Event("A", {"n": n})], durability="os").first_position for n in range(count)]


def _check_dense(log: EventLog, *, events: int) -> None:
    assert [event.position for event in log.read()] == list(range(events))
    assert log.verify().findings == ()


# --- threads


def test_threads_that_read_see_a_growing_prefix(log: EventLog) -> None:
    """No reader ever sees a gap, half of a commit, or less than before."""
    done = threading.Event()
    problems: list[str] = []

    def read() -> None:
        seen = 0
        while not done.is_set():
            positions = [event.position for event in log.read()]
            if positions != list(range(len(positions))) or len(positions) % 2 or len(positions) < seen:
                problems.append(f"after {seen}: {positions}")
            seen = len(positions)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(50):
        log.append("s", [Event("A"), Event("B")], durability="os")
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []


def test_a_commit_is_durable_when_its_thread_goes_on(log: EventLog) -> None:
    """Threads share their syncs; none returns before its own events are covered."""
    short: list[int] = []

    def write(stream: str) -> None:
        for _ in range(20):
            commit = log.append(stream, [Event("A")])
            if log.durable_position < commit.next_position:
                short.append(commit.first_position)

    threads = [threading.Thread(target=write, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert short == []
    _check_dense(log, events=80)


# --- fork


def test_a_forked_child_goes_on_with_the_log_that_it_inherited(log: EventLog) -> None:
    """It reads what was there and appends behind it; its parent sees that at once."""
    log.append("s", [Event("A")])
    child = Child(
        lambda: ([e.type for e in log.read()], log.append("s", [Event("B")], expected=0).first_position)
    )
    assert child.result() == (["A"], 1)
    assert [event.type for event in log.read()] == ["A", "B"]
    assert log.append("s", [Event("C")], expected=1).first_position == 2


def test_parent_and_children_append_at_the_same_time(log: EventLog) -> None:
    """Through one inherited object; everything is there once, and each one's events in order."""
    children = [Child(lambda name=f"child {n}": _append_some(log, name, 30)) for n in range(2)]  # type: ignore[misc]
    mine = _append_some(log, "parent", 30)
    positions = [mine, *(child.result() for child in children)]
    assert sorted(position for each in positions for position in each) == list(range(90))
    assert all(each == sorted(each) for each in positions)
    _check_dense(log, events=90)


def test_a_grandchild_goes_on_as_well(log: EventLog) -> None:
    """A fork of a fork, before and after the child has used the log."""
    log.append("s", [Event("A")])

    def use() -> list[int]:
        first = Child(lambda: _append_some(log, "first grandchild", 2)).result()
        mine = _append_some(log, "child", 2)
        return [*first, *mine, *Child(lambda: _append_some(log, "second grandchild", 2)).result()]

    assert Child(use).result() == [1, 2, 3, 4, 5, 6]
    _check_dense(log, events=7)


def test_children_that_are_forked_while_threads_append_do_not_hang(log: EventLog) -> None:
    """A lock that a thread of the parent held does not exist in the child."""
    done = threading.Event()

    def write(stream: str) -> None:
        while not done.is_set():
            log.append(stream, [Event("A")])

    threads = [threading.Thread(target=write, args=(f"s{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        counts = [len(Child(lambda n=n: _append_some(log, f"child {n}", 2)).result()) for n in range(10)]  # type: ignore[misc]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert counts == [2] * 10
    assert all(log.stream_version(f"child {n}") == 1 for n in range(10))
    _check_dense(log, events=log.next_position)


def test_a_child_that_is_forked_within_a_turn_does_not_hold_the_lock(log: EventLog) -> None:
    """It begins outside; the turn is its parent's alone, and it waits for its end."""
    with log._turn():
        child = Child(lambda: _append_some(log, "child", 1))
        log.append("parent", [Event("A")])
    assert child.result() == [1]


def test_a_child_that_closes_the_log_leaves_its_parents_lock_alone(log: EventLog, tmp_path: Path) -> None:
    """Closing an inherited descriptor must not let others in while the parent writes."""
    with log._turn():
        assert Child(log.close).result() is None
        descriptor = os.open(tmp_path / "events" / "lock", os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    log.append("s", [Event("A")])
    _check_dense(log, events=1)


def test_a_read_in_progress_goes_on_in_a_child(log: EventLog) -> None:
    """An iterator over the log is inherited, too; it gives the rest, once."""
    for _ in range(40):
        log.append("s", [Event("A", {"text": "x" * 10_000})])
    reading = log.read()
    assert [next(reading).position for _ in range(5)] == [0, 1, 2, 3, 4]
    assert Child(lambda: [event.position for event in reading]).result() == list(range(5, 40))
    assert [event.position for event in reading] == list(range(5, 40))


def test_a_child_of_multiprocessing_uses_the_log(log: EventLog) -> None:
    """The way data loaders fork."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_some, args=(log, f"worker {n}", 10)) for n in range(2)]
    for worker in workers:
        worker.start()
    _append_some(log, "parent", 10)
    for worker in workers:
        worker.join(HANG_SECONDS)
    assert [worker.exitcode for worker in workers] == [0, 0]
    _check_dense(log, events=30)


def test_a_child_takes_no_harm_from_files_that_were_closed_behind_a_logs_back(
    log: EventLog, tmp_path: Path
) -> None:
    """Programs that become daemons close every descriptor; no log is to suffer in the child."""
    with EventLog.open(tmp_path / "other") as other:
        for one in (other, log):
            one.append("s", [Event("A")])
        storage = log._storage
        assert isinstance(storage, LocalStorage)
        held = [segment for segment in storage._folder.segments if segment._descriptor is not None]
        for segment in held:
            os.close(cast("int", segment._descriptor))
        child = os.fork()
        if child == 0:
            try:
                os._exit([one.append("s", [Event("B")]).first_position for one in (other, log)] != [1, 1])
            finally:
                os._exit(2)
        for segment in held:
            segment._descriptor = None
        assert held
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_gets_a_memory_log_of_its_own() -> None:
    """Memory is not shared over a fork; nobody is surprised by half of a log."""
    with memory_log() as log:
        log.append("s", [Event("A")])
        assert Child(lambda: _append_some(log, "s", 1)).result() == [1]
        assert log.next_position == 1


# A trainer that is killed in the middle of an append while a worker that it forked lives on.
_KILLED_PARENT = """
import os, signal, sys, time
from eventstore import Event, EventLog

log = EventLog.open(sys.argv[1])
log.append("s", [Event("A")])
with log._turn():
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(600)
        os._exit(0)
    print(child, flush=True)
    sys.stdout.close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_outlives_a_killed_trainer_keeps_no_lock(tmp_path: Path) -> None:
    """Others append as soon as the holder is dead, though its child inherited the lock's file."""
    command = [sys.executable, "-c", _KILLED_PARENT, str(tmp_path / "events")]
    parent = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    child = int(parent.stdout)
    try:
        assert parent.returncode == -signal.SIGKILL
        os.kill(child, 0)
        positions: list[int] = []

        def append() -> None:
            with EventLog.open(tmp_path / "events") as log:
                positions.append(log.append("s", [Event("B")], expected=0).first_position)

        appending = threading.Thread(target=append, daemon=True)
        appending.start()
        appending.join(HANG_SECONDS)
        assert positions == [1]
    finally:
        os.kill(child, signal.SIGKILL)


# --- other processes

_WRITER = """
import sys
from eventstore import NO_STREAM, Event, EventLog

with EventLog.open(sys.argv[1], segment_bytes_max=20_000) as log:
    for n in range(30):
        log.append(sys.argv[2], [Event("A", {"n": n})], expected=n - 1 if n else NO_STREAM)
"""


def test_processes_of_their_own_share_a_log(log: EventLog, tmp_path: Path) -> None:
    """Started afresh, as spawn does; each trusts that nobody else extends its stream."""
    names = ["one", "two", "three"]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "events"), name]) for name in names
    ]
    followed = [event.position for event in itertools.islice(log.follow(timeout=HANG_SECONDS), 90)]
    assert [writer.wait(HANG_SECONDS) for writer in writers] == [0, 0, 0]
    assert followed == list(range(90))
    for name in names:
        assert [event.data["n"] for event in log.read_stream(name)] == list(range(30))
    _check_dense(log, events=90)


_LOADING = """
import importlib.abc, os, signal, sys, threading
import pyarrow as pa
from eventstore import Event, EventLog

begun, may_end = threading.Event(), threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            begun.set()
            may_end.wait()

log = EventLog.open(sys.argv[1])
log.append("s", [Event("A", {"n": 0})])
sys.meta_path.insert(0, Slow())
loading = threading.Thread(target=pa.array, args=([1],))
loading.start()
begun.wait()
threading.Timer(0.5, may_end.set).start()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(7 if len(list(log.read(stream="s"))) == len(pa.array([1])) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
loading.join()
"""


def test_a_child_that_is_forked_while_a_thread_loads_pandas_can_read(tmp_path: Path) -> None:
    """Arrow loads it under a lock, which the child would find held for ever."""
    command = [sys.executable, "-W", "ignore", "-c", _LOADING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"
