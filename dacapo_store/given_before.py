"""What store calls were given before: a trainer's list that comes back grown is not read again.

A trainer stores its whole list after each interval, and turning 200,000 row objects into columns to find
out that a thousand of them are new takes longer than all else. So the stats store remembers, for the
object it was given (DaCapo's ``TrainingStats`` or ``ValidationScores``), the very rows that were in it
and what the run's stream had come to. When the same object holds the same rows and more, and nobody has
written to the stream since, only what is behind them can be new.

The same rows are the same objects in the same order: a list that was cut, reordered or refilled is read
in full. A row that was changed in place, after it was stored, is not noticed.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from operator import is_
from typing import Any, Final

_KEPT_MAX: Final = 8

Objects = tuple[Any, ...]
"""Rows as they were given, whatever they are."""


@dataclass(frozen=True)
class Given:
    """The rows that one call was given, all of which are in view at the end of a stream.

    Attributes:
        stream: The stream, unlike any other of this process.
        objects: The row objects, in order; one at least.
        begins: Their least iteration.
        epoch: The epoch that the stream was in then.
        events: How many events the stream had then.
    """

    stream: Hashable
    objects: Objects
    begins: int
    epoch: int
    events: int

    def grown(self, objects: Objects) -> bool:
        """Whether these begin with the very rows that were given."""
        return len(objects) >= len(self.objects) and all(map(is_, objects, self.objects))


class GivenBefore:
    """The last few objects that store calls were given, and what they held.

    The dict is replaced and never changed, so that threads need no lock here. What was remembered of an
    object goes when the object does.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[weakref.ref[Any], Given]] = {}

    def find(self, owner: Any, stream: Hashable) -> Given | None:
        """What the object held when it was last stored in this stream, or None."""
        found = self._given.get(id(owner))
        # Another object may have the number of one that is gone.
        return found[1] if found is not None and found[0]() is owner and found[1].stream == stream else None

    def put(self, owner: Any, given: Given) -> None:
        """Remember; what takes no weak reference, such as a list, is not remembered."""
        number = id(owner)
        try:
            reference = weakref.ref(owner, lambda _: self._forget(number))
        except TypeError:
            return
        others = [(key, each) for key, each in self._given.items() if key != number]
        self._given = dict([*others, (number, (reference, given))][-_KEPT_MAX:])

    def _forget(self, number: int) -> None:
        self._given = {key: each for key, each in self._given.items() if key != number}
