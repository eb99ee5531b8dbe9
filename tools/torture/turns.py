"""Threads that take turns: one runs at a time, and dice decide which, so a run can be repeated.

Each thread belongs to a process, which can be killed: its threads then stop at their next step, and
nothing that they do on the way out (``finally`` and the like) reaches the disk. Locks that would
block a whole turn are replaced: ``taking_turns`` puts cooperative ones into the modules of the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace, TracebackType
from typing import Any, Final
from unittest import mock

_STEPS_MAX: Final = 50_000


class KilledError(BaseException):
    """The process was killed. No ``except Exception`` may stop it."""


class StuckError(Exception):
    """Nobody can go on, or nobody comes to an end."""


@dataclass(eq=False)
class Process:
    """A process as the scheduler sees it: alive or not."""

    name: str
    alive: bool = True


@dataclass(eq=False)
class _Turn:
    """One thread: the process that it is a part of, and the signal that it may go on."""

    work: Callable[[], None]
    process: Process
    go: threading.Event = field(default_factory=threading.Event)
    can_go: Callable[[], bool] = lambda: True
    error: BaseException | None = None


class Turns:
    """Runs pieces of work, each in a thread of its own, one at a time.

    Args:
        dice: They decide who goes on.
        switching: How often, at a step, another one does.
    """

    def __init__(self, dice: Random, *, switching: float) -> None:
        self._dice = dice
        self._switching = switching
        self._waiting: list[_Turn] = []
        self._current: _Turn | None = None
        self._steps = 0
        self._stuck = False
        self.urgent: Process | None = None
        """A process that goes first, undisturbed: what it is about to do takes no time."""

    @property
    def running(self) -> bool:
        """Whether the caller is a part of the work."""
        return self._current is not None

    @property
    def process(self) -> Process:
        """The process of the thread whose turn it is."""
        assert self._current is not None
        return self._current.process

    @process.setter
    def process(self, process: Process) -> None:
        assert self._current is not None
        self._current.process = process

    def run(self, works: list[tuple[Process, Callable[[], None]]]) -> None:
        """Run all of it to its end, and raise the first error.

        Raises:
            StuckError: It does not come to an end.
        """
        turns = [_Turn(work, process) for process, work in works]
        self._waiting = list(turns)
        threads = [threading.Thread(target=self._do, args=(turn,), daemon=True) for turn in turns]
        for thread in threads:
            thread.start()
        self._give_turn()
        for thread in threads:
            thread.join()
        errors = [turn.error for turn in turns if turn.error is not None]
        # When one thread fails the others are told that they are stuck: what failed comes first.
        for error in sorted(errors, key=lambda error: isinstance(error, StuckError)):
            raise error

    def step(self) -> None:
        """Let another one go first, perhaps; a killed process ends here."""
        self._check()
        if self._waiting and self.urgent is None and self._dice.random() >= 1 - self._switching:
            self._pause(lambda: True)

    def wait_until(self, can_go: Callable[[], bool]) -> None:
        """Let others go on until something is true."""
        self._check()
        while not can_go():
            self._pause(can_go)

    def _check(self) -> None:
        self._steps += 1
        if self._steps > _STEPS_MAX:
            self._stuck = True
        if self._stuck:
            raise StuckError("some thread waits for ever, or never comes to an end")
        if not self.process.alive:
            raise KilledError

    def _pause(self, can_go: Callable[[], bool]) -> None:
        turn = self._current
        assert turn is not None
        turn.can_go = can_go
        turn.go.clear()
        self._waiting.append(turn)
        self._give_turn()
        turn.go.wait()
        self._check()

    def _give_turn(self) -> None:
        """Choose who goes on: somebody who can, or, when all are stuck, anybody, to be told so."""
        ready = [turn for turn in self._waiting if not turn.process.alive or turn.can_go()]
        if not self._waiting:
            self._current = None
            return
        if not ready:
            self._stuck = True
        urgent = [turn for turn in ready if turn.process is self.urgent]
        chosen = self._dice.choice(urgent or ready or self._waiting)
        self._waiting.remove(chosen)
        self._current = chosen
        chosen.go.set()

    def _do(self, turn: _Turn) -> None:
        turn.go.wait()
        try:
            turn.work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by ``run``
            turn.error = error
            self._stuck = True
        self._give_turn()


class _Lock:
    """A lock that lets others take their turns while it waits; reentrant, as the log's are."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._owner: int | None = None
        self._depth = 0

    def acquire(self) -> bool:
        me = threading.get_ident()
        if self._owner != me:
            if self._owner is not None:
                self._turns.wait_until(lambda: self._owner is None)
            self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None

    @property
    def is_free(self) -> bool:
        return self._owner is None

    def let_go(self) -> int:
        """Release it however often it was acquired, and say how often that was."""
        depth, self._depth, self._owner = self._depth, 0, None
        return depth

    def take_back(self, depth: int) -> None:
        """Undo ``let_go``."""
        self._depth, self._owner = depth, threading.get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Condition:
    """A condition variable on a lock."""

    def __init__(self, turns: Turns, lock: _Lock) -> None:
        self._turns = turns
        self._lock = lock
        self._calls = 0

    def wait(self) -> None:
        depth, called = self._lock.let_go(), self._calls
        try:
            self._turns.wait_until(lambda: self._calls != called and self._lock.is_free)
        finally:
            self._lock.take_back(depth)

    def notify_all(self) -> None:
        self._calls += 1


@contextlib.contextmanager
def taking_turns(turns: Turns, *modules: Any) -> Iterator[None]:
    """Inside, what these modules lock and wait for is done in turns."""
    locks = SimpleNamespace(
        Lock=lambda: _Lock(turns),
        RLock=lambda: _Lock(turns),
        Condition=lambda lock: _Condition(turns, lock),
        local=threading.local,
    )
    flocks = SimpleNamespace(
        LOCK_EX=fcntl.LOCK_EX, LOCK_UN=fcntl.LOCK_UN, flock=lambda *call: _flock(turns, *call)
    )
    with contextlib.ExitStack() as patches:
        for module in modules:
            for name, replacement in (("threading", locks), ("fcntl", flocks)):
                if hasattr(module, name):
                    patches.enter_context(mock.patch.object(module, name, replacement))
        yield


def _flock(turns: Turns, descriptor: int, operation: int) -> None:
    if operation == fcntl.LOCK_EX and turns.running:
        turns.step()
        turns.wait_until(lambda: _is_free(descriptor))
    fcntl.flock(descriptor, operation)


def _is_free(descriptor: int) -> bool:
    """Whether a lock can be had; it is not taken, as who asks may be killed before going on."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
