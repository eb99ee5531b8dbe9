"""A forked child that kills itself at one step of its work."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any


def killed_at(step: int, work: Callable[[], object], calls: Sequence[tuple[Any, str]]) -> bool:
    """Whether the child was killed: it had less than so many steps otherwise.

    Args:
        step: Each call takes two: in front of it, and behind it.
        work: What the child does.
        calls: What is counted: attributes of modules or classes.
    """
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL
    status = 1
    try:
        steps = itertools.count()

        def counted(call: Any) -> Any:
            def counting(*arguments: Any, **options: Any) -> Any:
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                outcome = call(*arguments, **options)
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return outcome

            return counting

        for owner, name in calls:
            setattr(owner, name, counted(getattr(owner, name)))
        work()
        status = 0
    finally:
        os._exit(status)
