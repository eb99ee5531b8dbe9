"""How far a command is, on a terminal: a bar on stderr, once it has taken longer than a second."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventstore.model import Progress

_PATIENCE_SECONDS: Final = 1.0


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Progress]:
    """A function that is told how far the work is, if that can be told; where nobody looks, nothing is drawn.

    Args:
        doing: What is under way, e.g. ``verifying``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(doing, total=None)
    patience = threading.Timer(_PATIENCE_SECONDS, bar.start)
    patience.start()
    try:
        yield lambda done, of: bar.update(task, completed=done, total=of)
    finally:
        patience.cancel()
        patience.join()
        bar.stop()
