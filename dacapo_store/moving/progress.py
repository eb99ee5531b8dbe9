"""How far a move is, for those who watch it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Progress = Callable[[int, int, str], None]
"""Told how many bytes of all are done, how many there are, and what is being read."""


@dataclass
class Reading:
    """How far the reading is."""

    tell: Progress
    total: int = 0
    done: int = 0
    place: str = ""

    @contextlib.contextmanager
    def of(self, place: str, size: int) -> Iterator[None]:
        """Something of this size is read inside."""
        self.place, before = place, self.done
        self.tell(self.done, self.total, self.place)
        yield
        self.done = before + size
        self.tell(self.done, self.total, self.place)

    def read(self, count: int) -> None:
        """A part of it has been read."""
        self.done += count
        self.tell(self.done, self.total, self.place)
