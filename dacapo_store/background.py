"""Jobs that a caller begins and does not wait for: one thread, in order, few at a time, none forgotten.

A ``BackgroundWriter`` runs jobs one after the other, in the order in which they were begun. It keeps
these promises:

- Only so many jobs are under way at once; whoever begins one more waits for room. What a job needs
  (a copy of its data) is prepared once there is room, by the caller's own thread.
- A job's failure is logged at once and raised to whoever asks next: by the job's ``Pending``, or
  by ``tell_failures``.
- The interpreter does not end before the jobs have: their thread is no daemon. It exists only
  while there is work.
- A forked child has no part in its parent's jobs: its writer is empty, and asking its copy of a
  parent's ``Pending`` is an error instead of waiting for ever.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

logger = logging.getLogger(__name__)

Job = Callable[[], None]


class Pending:
    """Something that was begun and ends by itself.

    Attributes:
        key: What it concerns, by which others find it.
        subject: What it is, in words.
    """

    def __init__(self, key: Hashable, subject: str, owner: BackgroundWriter | None = None) -> None:
        self.key = key
        self.subject = subject
        self._owner = owner
        self._process = os.getpid()
        self._ended = threading.Event()
        self._error: Exception | None = None

    @classmethod
    def ended(cls, key: Hashable, subject: str) -> Pending:
        """Something that was done at once."""
        pending = cls(key, subject)
        pending.end()
        return pending

    def __repr__(self) -> str:
        how = "under way" if not self._ended.is_set() else "failed" if self._error else "done"
        return f"<{type(self).__name__} {self.subject}: {how}>"

    def done(self) -> bool:
        """True once it has ended, with success or not.

        Raises:
            RuntimeError: It was begun by the process that this one was forked from.
        """
        self._require_own_process()
        return self._ended.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Return once it has ended, or after this time; ``done()`` then. A failure is not raised here.

        Raises:
            RuntimeError: It was begun by the process that this one was forked from.
        """
        self._require_own_process()
        return self._ended.wait(timeout_seconds)

    def result(self, timeout_seconds: float | None = None) -> None:
        """Return once it has ended well.

        Raises:
            TimeoutError: It is still under way after this time, and goes on.
            RuntimeError: It was begun by the process that this one was forked from.
            Exception: What it failed with; nobody else is told of this failure any more.
        """
        if not self.wait(timeout_seconds):
            raise TimeoutError(f"{self.subject}: not done after {timeout_seconds} seconds; it goes on")
        if self._error is not None:
            if self._owner is not None:
                self._owner.forget(self)
            raise self._error

    def end(self, error: Exception | None = None) -> None:
        """Called by whoever does the work, once."""
        self._error = error
        self._ended.set()

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.subject}: begun by process {self._process}, which this one was forked from. Only "
                "that process knows how it ends; what is on record tells everybody"
            )


class BackgroundWriter:
    """Runs jobs in order in a thread of its own.

    Args:
        at_once_max: How many jobs may be under way, the one that is being prepared included.
    """

    _changed: threading.Condition
    _under_way: deque[Pending]
    _jobs: dict[Pending, Job]
    _failed: list[Pending]
    _thread: threading.Thread | None

    def __init__(self, at_once_max: int) -> None:
        self._at_once_max = at_once_max
        self.start_afresh()
        _writers.add(self)

    def begin(self, key: Hashable, subject: str, prepare: Callable[[], Job]) -> Pending:
        """Begin a job, as soon as there is room for it.

        Args:
            key: What it concerns.
            subject: What it is, in words.
            prepare: Called in this thread, in its turn; gives the job. What it raises is raised
                here, and nothing was begun.
        """
        pending = Pending(key, subject, self)
        with self._changed:
            self._changed.wait_for(lambda: len(self._under_way) < self._at_once_max)
            self._under_way.append(pending)
        try:
            job = prepare()
        except BaseException:
            with self._changed:
                self._under_way.remove(pending)
                self._changed.notify_all()
            raise
        with self._changed:
            self._jobs[pending] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dacapo-store background")
                self._thread.start()
            self._changed.notify_all()
        return pending

    def wait(self, concerns: Callable[[Any], bool] = lambda _: True) -> None:
        """Return once all that was begun before, and whose key ``concerns`` the caller, has ended.

        Whether it ended well is not told here.
        """
        with self._changed:
            begun = [pending for pending in self._under_way if concerns(pending.key)]
        for pending in begun:
            pending.wait()

    def tell_failures(self) -> None:
        """Raise what failed since anybody was told, if anything did; further failures are noted on it."""
        with self._changed:
            failed, self._failed = self._failed, []
        errors = [pending._error for pending in failed if pending._error is not None]  # noqa: SLF001 - its own
        if errors:
            for pending, error in zip(failed[1:], errors[1:], strict=True):
                errors[0].add_note(f"{pending.subject} failed as well: {error!r}")
            raise errors[0]

    def forget(self, pending: Pending) -> None:
        """Somebody was told of this failure."""
        with self._changed:
            if pending in self._failed:
                self._failed.remove(pending)

    def _run(self) -> None:
        while (next_one := self._next()) is not None:
            pending, job = next_one
            error: Exception | None = None
            try:
                job()
            except Exception as raised:
                logger.exception("%s failed in the background; the next call raises this.", pending.subject)
                raised.add_note(f"{pending.subject} failed in the background; nothing of it was stored.")
                error = raised
            # What the job holds (a copy of a model) goes before the next one takes its place.
            del job, next_one
            with self._changed:
                if error is not None:
                    self._failed.append(pending)
                pending.end(error)
                self._under_way.popleft()
                self._changed.notify_all()

    def _next(self) -> tuple[Pending, Job] | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way or self._under_way[0] in self._jobs)
            if not self._under_way:
                self._thread = None
                return None
            return self._under_way[0], self._jobs.pop(self._under_way[0])

    def start_afresh(self) -> None:
        """Be empty; also in a forked child, which has no other threads and must take no lock of theirs."""
        self._changed = threading.Condition()
        self._under_way = deque()
        self._jobs = {}
        self._failed = []
        self._thread = None


_writers: weakref.WeakSet[BackgroundWriter] = weakref.WeakSet()


def _start_afresh_in_child() -> None:
    for writer in list(_writers):
        writer.start_afresh()


os.register_at_fork(after_in_child=_start_afresh_in_child)
