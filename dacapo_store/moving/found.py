"""What there is to import, wherever it was found: values with a place, a time and a way to read them.

Finding is cheap: nothing is read that takes longer than a listing. Reading raises
``UnreadableError`` with the reason, in words for the person whose data it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dacapo_store.history import Kind
    from dacapo_store.moving.zarr_trees import ZarrArray
    from dacapo_store.rows import TrainingRows, ValidationRows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableError(Exception):
    """Something cannot be read, or not taken over; the text says why."""


@dataclass(frozen=True)
class Origin:
    """Where something was found.

    Attributes:
        place: What reports call it: a path relative to the source, or a collection and a name.
        stamp_ns: When it was last changed, in nanoseconds since 1970.
        bytes: How much there is to read, as far as that is known.
    """

    place: str
    stamp_ns: int
    bytes: int = 0

    @property
    def time(self) -> datetime:
        """When it was last changed."""
        return time_of(self.stamp_ns)


@dataclass(frozen=True)
class FoundConfig:
    """A config and its document."""

    origin: Origin
    kind: str
    name: str
    read: Callable[[], Any]


@dataclass(frozen=True)
class FoundStats:
    """The training stats or the validation scores of a run."""

    origin: Origin
    kind: Kind[Any]
    run: str
    read: Callable[[], TrainingRows | ValidationRows]


@dataclass(frozen=True)
class FoundWeights:
    """A file of weights."""

    origin: Origin
    run: str
    iteration: int
    file: Path


@dataclass(frozen=True)
class FoundBest:
    """The choice of an iteration as the best; ``link`` is where a link of it leads, if there is one."""

    origin: Origin
    run: str
    dataset: str
    criterion: str
    file: Path
    link: Path


@dataclass(frozen=True)
class FoundContainer:
    """A zarr container, relative to the source, and the arrays in it."""

    origin: Origin
    run: str
    container: str
    folder: Path
    arrays: tuple[ZarrArray, ...]


Found = FoundConfig | FoundStats | FoundWeights | FoundBest | FoundContainer


def time_of(stamp_ns: int) -> datetime:
    """A time of the file system, with the microseconds that an event keeps."""
    return _EPOCH + timedelta(microseconds=stamp_ns // 1000)


def stamp_of(time: datetime) -> int:
    """The other way."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def digest_of(*parts: bytes) -> str:
    """One digest for several pieces of content."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
