"""What an adapter may offer, and whether its packages are there."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from tools.bench.workloads import Curve

Durability = Literal["commit", "os"]


class Commit(Protocol):
    """Make one commit of some events; ``first`` numbers them."""

    def __call__(self, first: int, count: int) -> None:
        """Return when the commit is as safe as was asked for."""


class LogRow(Protocol):
    """Log the scalars of one iteration."""

    def __call__(self, iteration: int, loss: float, time: float) -> None:
        """Return when the logger has taken the row."""


class Peer:
    """A store in a folder of its own.

    Attributes:
        name: What its rows are called.
        packages: The distributions that it needs.
        python: The interpreter that has them.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    python: ClassVar[str] = sys.executable

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot take part, or None."""
        missing = [package for package in cls.packages if installed(package) is None]
        return f"not installed ({', '.join(missing)})" if missing else None

    def commits(self, durability: Durability) -> AbstractContextManager[Commit]:
        """Open it for commits of events, each a name and a small document."""
        raise NotImplementedError(f"{self.name}: commits")

    def logger(self) -> AbstractContextManager[LogRow]:
        """Open it as a logger of scalars for a hot loop; all rows are safe when it is closed."""
        raise NotImplementedError(f"{self.name}: logger")

    def logged(self) -> Curve:
        """What was logged: iterations, losses, times."""
        raise NotImplementedError(f"{self.name}: logged")

    def stats_store(self) -> Any:
        """A stats store with DaCapo's methods."""
        raise NotImplementedError(f"{self.name}: stats_store")

    def config_store(self) -> Any:
        """A config store with DaCapo's methods."""
        raise NotImplementedError(f"{self.name}: config_store")


def installed(package: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def document(number: int) -> dict[str, Any]:
    """The small document of an event."""
    return {"run": "run_7", "iteration": number, "loss": 0.25 + number * 1e-6, "host": "trainer-1"}
