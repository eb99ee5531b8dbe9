"""Jobs in the background: in order, bounded, none forgotten, and no business of forked children."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from dacapo_store.background import BackgroundWriter, Pending


class Gate:
    """A job that waits until it may go on."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.open, self._error = threading.Event(), threading.Event(), error

    def __call__(self) -> None:
        """Wait, and fail if so told."""
        self.begun.set()
        assert self.open.wait(60)
        if self._error is not None:
            raise self._error


def begin(writer: BackgroundWriter, job: Callable[[], None], key: str = "job") -> Pending:
    """Begin a job that needs no preparation."""
    return writer.begin(key, key, lambda: job)


def fail(error: Exception) -> Callable[[], None]:
    """A job that fails."""

    def job() -> None:
        raise error

    return job


def in_a_child(look: Callable[[], None]) -> int:
    """The exit status of a forked child that does this and ends as an interpreter does."""
    child = os.fork()
    if child == 0:
        try:
            look()
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_jobs_run_in_the_order_in_which_they_were_begun() -> None:
    """One at a time, whoever is slow."""
    writer, done = BackgroundWriter(10), list[int]()
    gate = Gate()
    begin(writer, gate)
    pending = [begin(writer, lambda number=number: done.append(number)) for number in range(9)]
    assert done == []
    gate.open.set()
    pending[-1].result()
    assert done == list(range(9))


def test_whoever_begins_one_too_many_waits_for_room() -> None:
    """The third job of two is not even prepared before one has ended."""
    writer, gates = BackgroundWriter(2), [Gate(), Gate(), Gate()]
    prepared: list[int] = []

    def begin_all() -> None:
        for number, gate in enumerate(gates):
            writer.begin(number, "job", lambda number=number, gate=gate: prepared.append(number) or gate)

    thread = threading.Thread(target=begin_all)
    thread.start()
    assert gates[0].begun.wait(60)
    thread.join(0.05)
    assert thread.is_alive()
    assert prepared == [0, 1]
    gates[0].open.set()
    thread.join(60)
    assert prepared == [0, 1, 2]
    for gate in gates:
        gate.open.set()
    writer.wait()


def test_failure_is_told_once_to_whoever_asks_next() -> None:
    """The next job is none the worse for it."""
    writer, done = BackgroundWriter(2), list[int]()
    begin(writer, fail(OSError(28, "full")), "first")
    begin(writer, lambda: done.append(1), "second")
    writer.wait()
    with pytest.raises(OSError, match="full") as raised:
        writer.tell_failures()
    assert raised.value.__notes__ == ["first failed in the background; nothing of it was stored."]
    writer.tell_failures()
    assert done == [1]


def test_several_failures_are_told_together() -> None:
    """The first is raised, the others are noted on it."""
    writer = BackgroundWriter(2)
    begin(writer, fail(OSError(28, "full")), "first")
    begin(writer, fail(ValueError("wrong")), "second")
    writer.wait()
    with pytest.raises(OSError, match="full") as raised:
        writer.tell_failures()
    assert "second failed as well: ValueError('wrong')" in raised.value.__notes__


def test_failure_that_its_own_result_told_is_not_told_again() -> None:
    """``result`` tells it as often as it is asked."""
    writer = BackgroundWriter(2)
    pending = begin(writer, fail(OSError(28, "full")))
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            pending.result()
    writer.tell_failures()


def test_failing_preparation_is_the_caller_s_and_leaves_room() -> None:
    """Nothing was begun, and nothing is told later."""
    writer = BackgroundWriter(1)

    def prepare() -> Callable[[], None]:
        raise MemoryError

    for _ in range(3):
        with pytest.raises(MemoryError):
            writer.begin("job", "job", prepare)
    begin(writer, lambda: None).result()
    writer.tell_failures()


def test_waiting_is_for_what_concerns_the_caller() -> None:
    """Others may still be under way."""
    writer, gate = BackgroundWriter(2), Gate()
    pending = begin(writer, gate, "mine")
    writer.wait(lambda key: key == "another")
    assert not pending.done()
    assert not pending.wait(0)
    with pytest.raises(TimeoutError, match="it goes on"):
        pending.result(0)
    gate.open.set()
    writer.wait(lambda key: key == "mine")
    assert pending.done()


def test_forked_child_has_no_part_in_its_parent_s_jobs() -> None:
    """It waits for none of them, can begin its own, and is told that it asks the wrong process."""
    writer, gate = BackgroundWriter(1), Gate()
    pending = begin(writer, gate)
    assert gate.begun.wait(60)

    def look() -> None:
        writer.wait()
        begin(writer, lambda: None).result()
        with pytest.raises(RuntimeError, match="forked from"):
            pending.result()
        with pytest.raises(RuntimeError, match="forked from"):
            pending.done()

    assert in_a_child(look) == 0
    gate.open.set()
    pending.result()


def test_interpreter_waits_for_what_is_under_way() -> None:
    """Also when the program ends with an error."""
    program = """
import sys, time
from dacapo_store.background import BackgroundWriter
def job():
    time.sleep(0.2)
    print("done", flush=True)
BackgroundWriter(1).begin("job", "job", lambda: job)
sys.exit("error")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("done\n", 1)


def test_failure_at_the_end_of_the_interpreter_is_at_least_printed() -> None:
    """Nobody is left to be told."""
    program = """
from dacapo_store.background import BackgroundWriter
BackgroundWriter(1).begin("job", "storing", lambda: lambda: 1 / 0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "storing failed in the background" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
