"""How far a command is, on a terminal: a bar on stderr, once it has taken longer than a second."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final, Protocol

_PATIENCE_SECONDS: Final = 1.0


class Report(Protocol):
    """Told how far the work is."""

    def __call__(self, done: int, of: int, place: str = "", /) -> None:
        """So much is done, of so much; and at which file or the like the work is."""


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Report]:
    """A function that is told how far the work is, if that can be told; where nobody looks, nothing is drawn.

    Args:
        doing: What is under way, e.g. ``verifying``.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(doing, total=None)
    patience = threading.Timer(_PATIENCE_SECONDS, bar.start)
    patience.start()

    def report(done: int, of: int, place: str = "", /) -> None:
        bar.update(task, completed=done, total=of, description=f"{doing} {escape(place)}")

    try:
        yield report
    finally:
        patience.cancel()
        patience.join()
        bar.stop()
