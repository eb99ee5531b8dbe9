"""Forked children that run a function and hand its result over."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, Final

HANG_SECONDS: Final = 60


class Child:
    """A forked child that runs a function; one that hangs is killed by an alarm.

    It ends by ``os._exit``, as a data loader's worker does.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(HANG_SECONDS)
            try:
                result = pickle.dumps(function())
            except BaseException as error:  # noqa: BLE001 - whatever it was, the parent shows it
                result = pickle.dumps(repr(error))
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(result)
            os._exit(0)
        os.close(write_end)

    def result(self) -> Any:
        """Wait for the child; what it returned, or its error's text."""
        with os.fdopen(self._read_end, "rb") as pipe:
            text = pipe.read()
        assert os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) == 0
        return pickle.loads(text)


def in_child(function: Callable[[], Any]) -> Any:
    """What a function gives in a forked child, or its error's text."""
    return Child(function).result()
