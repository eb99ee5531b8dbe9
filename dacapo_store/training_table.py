"""Rows of training stats as growing columns, and rows of any make turned into them.

Owns the arrays behind ``TrainingStats``: one for the iterations and one for each scalar, with a mask
only where a row does not have it. An array that was handed out never changes: appending writes
behind it, deleting makes new arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dacapo_store.scalars import as_float, as_iteration, describe
from dacapo_store.training_iteration_stats import (
    OWN_NAMES,
    TrainingIterationStats,
    check_name,
    known_rows,
    scalars_of,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_CAPACITY_MIN: Final = 16
_ROWS_PER_STEP_MIN: Final = 4096
_ROWS_PER_STEP_MAX: Final = 131_072

# What numpy turns into float64 by itself, without parsing text and without asking for a None.
_NUMBERS: Final = frozenset({bool, int, float, np.float64, np.float32, np.int64, np.int32, np.bool_})


class StatsTable:
    """The rows as arrays; the arrays are longer than the table, so that there is room to grow.

    A column exists if and only if a row has its scalar.

    Attributes:
        generation: As long as it is the same object, nothing but appending has happened to the rows.
    """

    __slots__ = ("columns", "generation", "iterations", "length")

    def __init__(self, iterations: NDArray[np.int64] | None = None) -> None:
        self.iterations = np.empty(0, dtype=np.int64) if iterations is None else iterations
        self.columns: dict[str, Column] = {}
        self.length = len(self.iterations)
        self.generation = object()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TrainingIterationStats]:
        return chain.from_iterable(self._steps())

    def _steps(self) -> Iterator[list[TrainingIterationStats]]:
        """All rows, few at first, for whoever wants no more of them."""
        start, step = 0, _ROWS_PER_STEP_MIN
        while start < self.length:
            stop = min(start + step, self.length)
            yield self.rows(start, stop)
            start, step = stop, min(2 * step, _ROWS_PER_STEP_MAX)

    @property
    def last_iteration(self) -> int | None:
        """The iteration of the last row, or None."""
        return int(self.iterations[self.length - 1]) if self.length else None

    def values(self, name: str) -> NDArray[np.float64]:
        """A scalar of all rows; NaN where a row does not have it."""
        column = self.columns.get(name)
        return np.full(self.length, np.nan) if column is None else column.values[: self.length]

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which rows have a scalar."""
        column = self.columns.get(name)
        if column is None or column.mask is None:
            return np.full(self.length, column is not None)
        return column.mask[: self.length]

    def rows(self, start: int, stop: int) -> list[TrainingIterationStats]:
        """Make the objects for some rows."""
        loss, time = (self._items(name, start, stop) for name in OWN_NAMES)
        names = [name for name in self.columns if name not in OWN_NAMES]
        others = None
        if names:
            items = zip(*(self._items(name, start, stop) for name in names), strict=True)
            others = [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in items
            ]
        return known_rows(self.iterations[start:stop].tolist(), loss, time, others)

    def _items(self, name: str, start: int, stop: int) -> Iterable[float | None]:
        """A scalar of some rows; None where a row does not have it."""
        column = self.columns.get(name)
        if column is None:
            return repeat(None, stop - start)
        items: list[float | None] = column.values[start:stop].tolist()
        if column.mask is not None:
            for place in np.flatnonzero(~column.mask[start:stop]).tolist():
                items[place] = None
        return items

    def append(self, row: TrainingIterationStats) -> None:
        """Put a row behind the last."""
        index = self.length
        self._reserve(index + 1)
        self.iterations[index] = row.iteration
        scalars = scalars_of(row)
        for name, value in scalars.items():
            column = self.columns.get(name) or self._new_column(name)
            column.values[index] = value
            if column.mask is not None:
                column.mask[index] = True
        if len(scalars) != len(self.columns):
            self._leave_out(scalars, index, index + 1)
        self.length = index + 1

    def extend(self, new: StatsTable) -> None:
        """Put the rows of another table behind the last."""
        start, stop = self.length, self.length + new.length
        self._reserve(stop)
        self.iterations[start:stop] = new.iterations[: new.length]
        for name in new.columns:
            column = self.columns.get(name) or self._new_column(name)
            column.write(start, stop, new.values(name), new.present(name))
        self._leave_out(new.columns, start, stop)
        self.length = stop

    def take(self, rows: slice | NDArray[Any]) -> StatsTable:
        """Copy some of the rows."""
        taken = StatsTable(self.iterations[: self.length][rows].copy())
        for name, column in self.columns.items():
            mask = None if column.mask is None else column.mask[: self.length][rows].copy()
            taken.columns[name] = Column(column.values[: self.length][rows].copy(), mask)
        taken.drop_empty_columns()
        return taken

    def replace(self, other: StatsTable) -> None:
        """Hold copies of the other's rows instead; arrays handed out before stay as they are."""
        # `stats.iteration_stats += rows` assigns the view of the very table that it has changed.
        if other is not self:
            copy = other.take(slice(None))
            self.iterations, self.columns, self.length = copy.iterations, copy.columns, copy.length
            # Last: a thread that reads it first and then the rows takes none of them for the older ones.
            self.generation = object()

    def drop_empty_columns(self) -> None:
        """Forget scalars that no row has."""
        for name in [name for name in self.columns if not self.present(name).any()]:
            del self.columns[name]

    def _leave_out(self, given: Container[str], start: int, stop: int) -> None:
        """Mark the scalars that these new rows were not given as absent."""
        for name, column in self.columns.items():
            if name not in given and start < stop:
                column.leave_out(start, stop)

    def _new_column(self, name: str) -> Column:
        """Add a column that the rows so far do not have."""
        capacity = len(self.iterations)
        mask = np.zeros(capacity, dtype=np.bool_) if self.length else None
        column = self.columns[name] = Column(np.full(capacity, np.nan), mask)
        return column

    def _reserve(self, length: int) -> None:
        """Make room by doubling, so that a row costs the same however many there are."""
        capacity = len(self.iterations)
        if length > capacity:
            capacity = max(length, 2 * capacity, _CAPACITY_MIN)
            self.iterations = _grown(self.iterations, capacity)
            for column in self.columns.values():
                column.grow(capacity)


class Column:
    """One scalar of all rows; ``mask`` (True: present) exists only if a row does not have it."""

    __slots__ = ("mask", "values")

    def __init__(self, values: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> None:
        self.values = values
        self.mask = mask

    def write(self, start: int, stop: int, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        """Put the scalar of some rows, and whether they have it."""
        self.values[start:stop] = values
        if self.mask is None and not present.all():
            self.mask = np.ones(len(self.values), dtype=np.bool_)
        if self.mask is not None:
            self.mask[start:stop] = present

    def leave_out(self, start: int, stop: int) -> None:
        """Say that some rows do not have the scalar."""
        self.values[start:stop] = np.nan
        if self.mask is None:
            self.mask = np.ones(len(self.values), dtype=np.bool_)
        self.mask[start:stop] = False

    def grow(self, capacity: int) -> None:
        """Make room for more rows."""
        self.values = _grown(self.values, capacity)
        if self.mask is not None:
            self.mask = _grown(self.mask, capacity)


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    grown = np.empty(capacity, dtype=array.dtype)
    grown[: len(array)] = array
    return grown


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array, made so that nobody writes into it."""
    array.flags.writeable = False
    return array


def tabulated(rows: list[Any]) -> StatsTable:
    """Rows of any make as a table."""
    table = StatsTable(_iterations_of(rows))
    fields = _all_fields(rows)
    shapes = dict.fromkeys(map(tuple, fields))
    for name in dict.fromkeys(name for shape in shapes for name in shape if _is_public(name)):
        # One shape is the usual case, and a plain look-up is what makes a million rows bearable.
        values = [row[name] for row in fields] if len(shapes) == 1 else [row.get(name) for row in fields]
        check_name(name)
        table.columns[name] = _column_of(name, values, table.iterations)
    table.drop_empty_columns()
    return table


def _is_public(name: str) -> bool:
    return name != "iteration" and not name.startswith("_")


def iteration_of(row: Any, index: int) -> Any:
    """What a row says its iteration is."""
    try:
        return row.iteration
    except AttributeError:
        raise TypeError(
            f"row {index}: expected an object with iteration, loss and time, not {describe(row)}"
        ) from None


def _iterations_of(rows: list[Any]) -> NDArray[np.int64]:
    try:
        iterations = [row.iteration for row in rows]
    except AttributeError:
        iterations = [iteration_of(row, index) for index, row in enumerate(rows)]
    if set(map(type, iterations)) != {int}:
        iterations = [as_iteration(value, where=f"row {index}") for index, value in enumerate(iterations)]
    try:
        return np.array(iterations, dtype=np.int64)
    except OverflowError:
        for index, value in enumerate(iterations):
            as_iteration(value, where=f"row {index}")  # raises at the one that is too large
        raise


def _all_fields(rows: list[Any]) -> Sequence[Mapping[str, Any]]:
    """Each row's scalars by name, as they are; names that are not public may be among them."""
    kinds = set(map(type, rows))
    if kinds == {TrainingIterationStats}:
        return list(map(scalars_of, rows))
    if len(kinds) == 1 and all(name in getattr(rows[0], "__dict__", {}) for name in OWN_NAMES):
        return list(map(vars, rows))
    return [fields_of(row) for row in rows]


def fields_of(row: Any) -> Mapping[str, Any]:
    """The public scalars of a row of any make, by name."""
    if isinstance(row, TrainingIterationStats):
        return scalars_of(row)
    names = dict.fromkeys([*OWN_NAMES, *_declared_names(row.__class__), *getattr(row, "__dict__", {})])
    values = {name: getattr(row, name, None) for name in names if _is_public(name)}
    return {name: value for name, value in values.items() if value is not None}


@lru_cache(maxsize=64)
def _declared_names(kind: type) -> tuple[str, ...]:
    """The fields of a class whose instances may have no ``__dict__``."""
    names: list[str] = [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    for attribute in ("__dataclass_fields__", "__struct_fields__", "_fields"):
        names.extend(getattr(kind, attribute, ()))
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names.extend([slots] if isinstance(slots, str) else slots)
    return tuple(names)


def _column_of(name: str, values: list[Any], iterations: NDArray[np.int64]) -> Column:
    if _NUMBERS.issuperset(map(type, values)):
        try:
            return Column(np.array(values, dtype=np.float64), None)
        except OverflowError:
            pass  # an int beyond floats: found and named below
    mask = np.array([value is not None for value in values], dtype=np.bool_)
    numbers = [
        np.nan if value is None else as_float(value, where=f"iteration {iteration}, {name}")
        for value, iteration in zip(values, iterations.tolist(), strict=True)
    ]
    return Column(np.array(numbers, dtype=np.float64), None if mask.all() else mask)


def iteration_array(given: ArrayLike) -> NDArray[np.int64]:
    """Iterations as int64, checked."""
    array = np.asarray(given)
    if array.ndim != 1:
        raise ValueError(f"iterations: expected one dimension, not {array.ndim}")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or _is_masked(given) or _nulls_of(given) is not None:
        raise TypeError(f"iterations: expected integers, one for each row, not {array.dtype} or missing ones")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"iterations: {array.max()} does not fit 64 bits (-2**63 to 2**63 - 1)")
    return array.astype(np.int64)  # a copy


def given_column(
    name: str, given: ArrayLike, present: ArrayLike | None, iterations: NDArray[np.int64]
) -> Column:
    """A column out of what a caller gave: numpy masks, Arrow nulls and None are absent."""
    array = np.asarray(given)
    _check_length(f"column {name!r}", array, iterations)
    if array.dtype.kind not in "biuf":
        if array.dtype.kind != "O":
            raise TypeError(f"column {name!r}: expected numbers, not {array.dtype}")
        column = _column_of(name, array.tolist(), iterations)
    else:
        column = Column(array.astype(np.float64), None)
    masks = [column.mask, _nulls_of(given), None if present is None else np.asarray(present, dtype=np.bool_)]
    if _may_be_masked() and np.ma.isMaskedArray(given):
        masks.append(~np.ma.getmaskarray(given))
    for mask in masks:
        if mask is not None:
            _check_length(f"present[{name!r}]", mask, iterations)
            column.mask = mask.copy() if column.mask is None else column.mask & mask
    return _without_needless_mask(column)


def _check_length(what: str, array: NDArray[Any], iterations: NDArray[np.int64]) -> None:
    if array.shape != iterations.shape:
        raise ValueError(
            f"{what}: expected {len(iterations)} values, one for each iteration, not {array.shape}"
        )


def _is_masked(given: Any) -> bool:
    return _may_be_masked() and bool(np.ma.is_masked(given))


def _may_be_masked() -> bool:
    """Whether anybody has loaded numpy's masked arrays, which takes a while."""
    return "numpy.ma" in sys.modules


def _nulls_of(given: Any) -> NDArray[np.bool_] | None:
    """Where an Arrow array holds a value; None if everywhere, or if it is no Arrow array."""
    return np.asarray(given.is_valid(), dtype=np.bool_) if getattr(given, "null_count", 0) else None


def _without_needless_mask(column: Column) -> Column:
    if column.mask is not None:
        column.values[~column.mask] = np.nan
        if column.mask.all():
            column.mask = None
    return column
