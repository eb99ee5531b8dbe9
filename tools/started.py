"""``Started``: what runs as long as a ``with`` block, such as a server for tests."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Self


class Started(ABC):
    """Starts with the block and ends with it; also where it does not come up."""

    def __enter__(self) -> Self:
        """Start it."""
        with contextlib.ExitStack() as undone:
            undone.callback(self.end)
            self.start()
            undone.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.end()

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it can be used."""

    @abstractmethod
    def end(self) -> None:
        """End it, however far it came, and remove what it has left."""
