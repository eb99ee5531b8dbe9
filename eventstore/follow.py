"""Following a log: catch up, then wait for what comes next.

The file watcher is only a hint to wake up early: the log is looked at at least once a second,
because watchers miss things and see nothing on network file systems.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from eventstore.model import RecordedEvent

_POLL_SECONDS = 1.0
_WATCH_MILLISECONDS = 50


class Stop(Protocol):
    """Anything like ``threading.Event``."""

    def is_set(self) -> bool:
        """True when following should end."""


def follow(
    read: Callable[[int], Iterator[RecordedEvent]],
    from_position: int,
    *,
    watched: Path | None,
    wait: Callable[[float], bool] | None = None,
    timeout: float | None,
    stop: Stop | None,
) -> Iterator[RecordedEvent]:
    """See ``EventLog.follow``.

    Args:
        read: Gives all events from a position on, up to now.
        from_position: The first position wanted.
        watched: A folder that changes when an event comes; None polls.
        wait: Waits so many seconds at most, and says whether an event may have come; instead of a folder.
        timeout: Seconds of silence after which to end; None waits for ever.
        stop: Ends the following soon after it is set.
    """
    if from_position < 0:
        raise ValueError(f"positions count from 0, so not {from_position}")
    hints = _hints(watched) if wait is None else _waited(wait)
    last_heard = time.monotonic()
    position = from_position
    while stop is None or not stop.is_set():
        for event in read(position):
            yield event
            position = event.position + 1
            last_heard = time.monotonic()
            if stop is not None and stop.is_set():
                return
        if timeout is not None and time.monotonic() - last_heard >= timeout:
            return
        _wait(hints, until=None if timeout is None else last_heard + timeout, stop=stop)


def _wait(hints: Iterator[bool], *, until: float | None, stop: Stop | None) -> None:
    """Return when something may have come, when it is time to look anyway, or when to end."""
    look_again = time.monotonic() + _POLL_SECONDS
    deadline = look_again if until is None else min(look_again, until)
    while time.monotonic() < deadline:
        if next(hints) or (stop is not None and stop.is_set()):
            return


def _waited(wait: Callable[[float], bool]) -> Iterator[bool]:
    while True:
        yield wait(_WATCH_MILLISECONDS / 1000)


def _hints(watched: Path | None) -> Iterator[bool]:
    """True soon after the folder changed, False every few milliseconds otherwise."""
    if watched is None:
        while True:
            time.sleep(_WATCH_MILLISECONDS / 1000)
            yield True
    import watchfiles

    changes = watchfiles.watch(
        watched,
        watch_filter=None,
        debounce=20,
        step=5,
        rust_timeout=_WATCH_MILLISECONDS,
        yield_on_timeout=True,
        raise_interrupt=True,
        recursive=False,
        ignore_permission_denied=True,
    )
    for change in changes:
        yield bool(change)
    while True:
        time.sleep(_WATCH_MILLISECONDS / 1000)
        yield True
