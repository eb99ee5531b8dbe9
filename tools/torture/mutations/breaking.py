"""Code that is broken on purpose, and what tells that a suite has noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock


class Patch(ExitStack):
    """Puts broken code in the place of sound code until its end."""

    def set(self, owner: object, name: str, broken: object) -> None:
        """Let ``owner.name`` be something else."""
        self.enter_context(mock.patch.object(owner, name, broken))


Breaks = Callable[[Patch], None]


@dataclass(frozen=True)
class Noticed:
    """How a suite noticed.

    Attributes:
        after: What it took, counted as the family says.
        says: What it found, in its own words.
    """

    after: int
    says: str


Hunt = Callable[[str], Noticed | None]
"""Breaks the code as the mutation of this name does, lets the suite look, and mends the code."""


@dataclass(frozen=True)
class Family:
    """Mutations that one suite is to notice.

    Attributes:
        suite: The suite's name.
        counts: What ``Noticed.after`` counts.
        mutations: What is broken, in words, and how; each module knows its own.
        ready: What the hunts share, made once.
    """

    suite: str
    counts: str
    mutations: Mapping[str, Any]
    ready: Callable[[], AbstractContextManager[Hunt]]


def nothing(*_: Any, **__: Any) -> None:
    """What is put in the place of work that is left out."""
