"""What store calls were given before: a trainer's list that comes back grown is not read again.

A trainer stores its whole list after each interval, and turning 200,000 row objects into columns to find
out that a thousand of them are new takes longer than all else. So the stats store remembers, for the
object it was given (a ``TrainingStats`` or ``ValidationScores``), the very rows that were in it and what
the run's stream had come to. When the same object holds the same rows and more, and nobody has written
to the stream since, only what is behind them can be new.

The same rows are the same objects in the same order: a list that was cut, reordered or refilled is read
in full. A row that was changed in place, after it was stored, is not noticed. To compare 200,000 objects
one by one in Python takes longer than all else, too. ``list == list`` does not: it passes over what is
one and the same object, and asks only of the others whether they are equal. So it is used where equal
rows hold the same numbers: their class compares each field that is stored, and none of the numbers is a
zero, whose sign ``==`` does not see.

Tables of ours say by themselves whether anything but appending has happened to them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from operator import is_
from typing import Any, Final, Protocol

from dacapo_store.rows import TrainingRows
from dacapo_store.training_stats import IterationStatsView

_KEPT_MAX: Final = 8


class KnownRows(Protocol):
    """The rows that an object held when it was stored. They are asked once, and hand on what they hold."""

    def grown(self, held: Any) -> tuple[KnownRows, Any] | None:
        """What is known once ``held`` is stored, too, and the rows that are new in it.

        Returns:
            None when it does not begin with the known rows, or when these were asked before.
        """

    def read_as(self, rows: Any) -> None:
        """Take note of what the new rows were turned into."""


class ListedRows:
    """Rows in somebody's list.

    Args:
        objects: The rows, in a list that nobody else changes.
    """

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects
        self._new = objects
        self._equal_is_same = True
        # Two threads may store one object. Nobody waits for this: a child that is forked while it is taken
        # reads its list in full, once.
        self._asked = threading.Lock()

    def grown(self, held: Any) -> tuple[ListedRows, list[Any]] | None:
        """See ``KnownRows``."""
        if not isinstance(held, list) or not self._asked.acquire(blocking=False):
            return None
        count = len(self._objects)
        new = held[count:]
        self._objects.extend(new)
        if not self._are(held, count):
            return None
        known = ListedRows(self._objects)
        known._new, known._equal_is_same = new, self._equal_is_same
        return known, new

    def read_as(self, rows: Any) -> None:
        """See ``KnownRows``."""
        self._equal_is_same = self._equal_is_same and _equal_is_same(self._new, rows)

    def _are(self, held: list[Any], count: int) -> bool:
        """Whether a list holds these rows, of which those behind the first ones were just taken from it."""
        if self._equal_is_same:
            return self._objects == held
        return len(self._objects) == len(held) and all(map(is_, held, self._objects[:count]))


class TabledRows:
    """The first rows of a table of ours.

    Args:
        generation: The table's generation.
        count: How many rows.
    """

    def __init__(self, generation: object, count: int) -> None:
        self._generation = generation
        self._count = count

    def grown(self, held: Any) -> tuple[TabledRows, IterationStatsView] | None:
        """See ``KnownRows``."""
        if not isinstance(held, IterationStatsView) or held.table.generation is not self._generation:
            return None
        new = IterationStatsView(held.table.take(slice(self._count, None)))
        return TabledRows(self._generation, self._count + len(new)), new

    def read_as(self, rows: Any) -> None:
        """See ``KnownRows``; nothing depends on it."""


@dataclass(frozen=True)
class Given:
    """The rows that one call was given, all of which are in view at the end of a stream.

    Attributes:
        stream: The stream, unlike any other of this process.
        rows: The rows; one at least.
        begins: Their least iteration.
        epoch: The epoch that the stream was in then.
        events: How many events the stream had then.
    """

    stream: Hashable
    rows: KnownRows
    begins: int
    epoch: int
    events: int


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


def rows_held(held: Any) -> tuple[KnownRows, Any] | None:
    """What an object holds, to be known from now on, and a copy of it; None for what cannot be known.

    It may grow meanwhile, in another thread, and only what is in the copy is stored.
    """
    if isinstance(held, list):
        objects = held.copy()
        return ListedRows(objects), objects
    if isinstance(held, IterationStatsView):
        # In this order: if another thread replaces the rows in between, they are of another generation.
        generation = held.table.generation
        rows = IterationStatsView(held.table.take(slice(None)))
        return TabledRows(generation, len(rows)), rows
    return None


def _equal_is_same(objects: list[Any], rows: Any) -> bool:
    """Whether rows that equal these hold the same numbers, bit by bit, as these were read as."""
    kinds = set(map(type, objects))
    return (
        len(kinds) == 1
        and isinstance(rows, TrainingRows)
        and _compared_fields(*kinds).issuperset(["iteration", *rows.scalars])
        and all(scalar.values.all() for scalar in rows.scalars.values())
    )


@lru_cache(maxsize=64)
def _compared_fields(kind: type) -> frozenset[str]:
    """The fields that ``==`` compares, of a class whose ``==`` was made by attrs; otherwise none."""
    code = getattr(kind.__eq__, "__code__", None)
    fields = getattr(kind, "__attrs_attrs__", ())
    if code is None or not code.co_filename.startswith("<attrs generated"):
        return frozenset()
    return frozenset(field.name for field in fields if field.eq and field.eq_key is None)
