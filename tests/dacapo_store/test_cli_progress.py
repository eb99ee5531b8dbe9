"""How far a command is: drawn on a terminal, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest

from dacapo_store.cli import progress

SLOW_COMMAND = """
import time
from dacapo_store.cli import progress
progress._PATIENCE_SECONDS = 0.01
with progress.progress("copying weights") as report:
    for done in range(1, 6):
        time.sleep(0.1)
        report(done, 5)
print("5 files")
"""


def test_a_slow_command_draws_a_bar_on_a_terminal() -> None:
    """On stderr, so that the outcome on stdout is as it is without."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SLOW_COMMAND], stderr=end, stdout=subprocess.PIPE, env=environment, check=True
    )
    os.close(end)
    drawn = os.read(terminal, 1 << 20)
    os.close(terminal)
    assert b"copying weights" in drawn
    assert b"%" in drawn
    assert done.stdout == b"5 files\n"


def test_nothing_is_drawn_where_nobody_looks() -> None:
    """A pipe and a log file get what they would get without."""
    done = subprocess.run([sys.executable, "-c", SLOW_COMMAND], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"5 files\n", b"")


def test_a_quick_command_and_one_that_fails_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar waits for a second, and ends with the work."""
    terminal, end = pty.openpty()
    monkeypatch.setattr(sys, "stderr", os.fdopen(end, "w"))
    with progress.progress("copying weights") as report:
        report(1, 2)
    with pytest.raises(OSError, match="full"), progress.progress("copying weights"):
        raise OSError("the disk is full")
    sys.stderr.close()
    os.set_blocking(terminal, False)
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal says that nothing was written to it
        drawn = os.read(terminal, 1 << 20)
    os.close(terminal)
    assert drawn == b""
