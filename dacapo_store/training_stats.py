"""Training statistics as columns, behind the interface of DaCapo's ``TrainingStats``.

Owns the values that a trainer hands to the stats store and gets back. A run may have a million
iterations, so ``TrainingStats`` holds arrays, one for the iterations and one for each scalar,
and makes a ``TrainingIterationStats`` only for a row that somebody looks at.

Guarantees:

- Rows stay in the order given, repeated iterations included. Every float keeps its bits: NaN and
  its payload, infinities, -0.0.
- A scalar that a row does not have is *absent*, which is not the same as NaN.
- An array that was handed out never changes: appending writes behind it, deleting makes new arrays.

What replaces what when stats are stored is left to the stats store.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableSequence, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, overload

import numpy as np

from dacapo_store.scalars import as_float, as_iteration, describe

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

_CAPACITY_MIN: Final = 16
_ROWS_PER_STEP: Final = 4096
_ROWS_IN_REPR: Final = 6
_OWN_NAMES: Final = ("loss", "time")

# A row's own dict, for reading in bulk: without the read-only proxy, which makes a million rows slow.
_scalars_of: Final[Callable[[TrainingIterationStats], dict[str, float]]] = operator.attrgetter("_scalars")

# What numpy turns into float64 by itself, without parsing text and without asking for a None.
_NUMBERS: Final = frozenset({bool, int, float, np.float64, np.float32, np.int64, np.int32, np.bool_})


class TrainingIterationStats:
    """The scalars of one training iteration; a frozen value.

    Every scalar is an attribute. ``loss`` and ``time`` are None where they are absent; asking for
    any other absent scalar is an ``AttributeError``. A scalar whose name is no attribute
    (``"lr/encoder"``) is found in ``scalars``.

    Args:
        iteration: The iteration, an integer of 64 bits.
        loss: The loss, or None where there is none.
        time: How long the iteration took, in seconds, or None.
        scalars: Any further scalars by name, e.g. ``learning_rate=1e-4``; None is absent.

    Raises:
        TypeError: The iteration is no integer or a scalar is no number. Numpy scalars and
            tensors without dimensions are numbers; text is not.
        ValueError: A number is out of range, or a scalar's name is empty, starts with an
            underscore or is ``iteration``.

    Example:
        >>> TrainingIterationStats(7, loss=0.25, learning_rate=1e-4)
        TrainingIterationStats(iteration=7, loss=0.25, learning_rate=0.0001)
    """

    __slots__ = ("_scalars", "iteration")

    iteration: int
    _scalars: dict[str, float]

    def __init__(self, iteration: int, loss: Any = None, time: Any = None, **scalars: Any) -> None:
        iteration = as_iteration(iteration, where="training stats")
        object.__setattr__(self, "iteration", iteration)
        object.__setattr__(self, "_scalars", _checked(iteration, {"loss": loss, "time": time, **scalars}))

    @property
    def loss(self) -> float | None:
        """The loss, or None where it is absent."""
        return self._scalars.get("loss")

    @property
    def time(self) -> float | None:
        """The duration in seconds, or None where it is absent."""
        return self._scalars.get("time")

    @property
    def scalars(self) -> Mapping[str, float]:
        """All scalars that are present, ``loss`` and ``time`` among them, by name."""
        return MappingProxyType(self._scalars)

    def __getattr__(self, name: str) -> float:
        """Give a scalar; called only for names that are not the class's own."""
        # Before __init__ (copying, unpickling) there is no _scalars to look into.
        if not name.startswith("_") and name in self._scalars:
            return self._scalars[name]
        raise AttributeError(f"the stats of this iteration have no scalar {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a row is made from columns when asked for, a change would be lost in silence."""
        raise AttributeError(f"training stats are frozen: make new ones instead of setting {name!r}")

    def __eq__(self, other: object) -> bool:
        """Compare by value: NaN equals itself, and absent is not NaN."""
        if not isinstance(other, TrainingIterationStats):
            return NotImplemented
        return (
            self.iteration == other.iteration
            and self.scalars.keys() == other.scalars.keys()
            and all(_same(value, other.scalars[name]) for name, value in self.scalars.items())
        )

    def __hash__(self) -> int:
        return hash(self.iteration)

    def __reduce__(self) -> tuple[Any, ...]:
        return _row, (self.iteration, self._scalars)

    def __repr__(self) -> str:
        scalars = "".join(f", {name}={value!r}" for name, value in self._scalars.items())
        return f"TrainingIterationStats(iteration={self.iteration}{scalars})"


class TrainingStats:
    """What a run's training measured, one row an iteration, held as columns.

    Used like DaCapo's class: ``iteration_stats`` reads, and may be written, like a list of
    ``TrainingIterationStats``. For many rows take the columns: ``iterations`` and ``column()``.
    Two are equal if their rows are, NaN being equal to itself; ``identical`` compares bits.

    Args:
        iteration_stats: The first rows, ours or any objects with ``iteration``, ``loss`` and
            ``time`` (see ``as_training_stats``). They are copied.

    Raises:
        TypeError: A row has no iteration, or something that is no number; the message says which.
        ValueError: A number is out of range.

    Example:
        >>> stats = TrainingStats()
        >>> stats.add_iteration_stats(TrainingIterationStats(0, loss=0.5))
        >>> stats.add_iteration_stats(TrainingIterationStats(1, loss=0.25))
        >>> stats.trained_until(), stats.column("loss").tolist()
        (2, [0.5, 0.25])
    """

    __slots__ = ("_table",)

    _table: _Table

    def __init__(self, iteration_stats: Iterable[Any] = ()) -> None:
        if isinstance(iteration_stats, _Table):
            self._table = iteration_stats  # this module's own doing: taken over, not copied
        else:
            self._table = _table_of(iteration_stats).take(slice(None))

    @classmethod
    def from_columns(
        cls,
        iterations: ArrayLike,
        columns: Mapping[str, ArrayLike],
        *,
        present: Mapping[str, ArrayLike] | None = None,
    ) -> TrainingStats:
        """Make stats from arrays, which are copied.

        Absent are: masked elements of numpy's masked arrays, nulls of Arrow arrays, None, and
        what ``present`` says. NaN is a value.

        Args:
            iterations: Integers, one a row.
            columns: A scalar's values by its name, one a row.
            present: For scalars that some rows do not have: True where a row has it.

        Raises:
            TypeError: Iterations are not integers, or a column holds something that is no number.
            ValueError: An array has another length or more than one dimension, or a name is not
                allowed; the message names the column.
        """
        table = _Table(_iteration_array(iterations))
        for name, values in columns.items():
            _check_name(name)
            table.columns[name] = _given_column(name, values, (present or {}).get(name), table.iterations)
        table.drop_empty_columns()
        return cls(table)

    @property
    def iteration_stats(self) -> IterationStatsView:
        """The rows, as a list would show them; changing it changes these stats.

        Rows themselves are frozen. Assigning any iterable of rows replaces all of them.
        """
        return IterationStatsView(self._table)

    @iteration_stats.setter
    def iteration_stats(self, rows: Iterable[Any]) -> None:
        self._table.replace(_table_of(rows))

    @property
    def iterations(self) -> NDArray[np.int64]:
        """The iterations of all rows, in row order; read-only."""
        return _read_only(self._table.iterations[: len(self._table)])

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scalars that at least one row has, in order of appearance."""
        return tuple(self._table.columns)

    def column(self, name: str) -> NDArray[np.float64]:
        """Give one scalar of all rows; NaN where it is absent (``present`` tells); read-only.

        Raises:
            KeyError: No row has this scalar (but ``loss`` and ``time`` may always be asked for).
        """
        self._check_known(name)
        return _read_only(self._table.values(name))

    def present(self, name: str) -> NDArray[np.bool_]:
        """Tell for all rows whether they have this scalar; read-only.

        Raises:
            KeyError: No row has this scalar (but ``loss`` and ``time`` may always be asked for).
        """
        self._check_known(name)
        return _read_only(self._table.present(name))

    def add_iteration_stats(self, iteration_stats: Any) -> None:
        """Append one row.

        A row at or below the last one's iteration means that training went back: a warning is
        logged, and of the rows so far those below the new iteration stay, every one of them.

        Raises:
            TypeError: The row has no integer iteration, or something that is no number.
            ValueError: A number is out of range.
        """
        row = _as_row(iteration_stats)
        last = self._table.last_iteration
        if last is not None and row.iteration <= last:
            logger.warning(
                "training went back from iteration %d to %d: the rows from there on are dropped",
                last,
                row.iteration,
            )
            self.delete_after(row.iteration)
        self._table.append(row)

    def delete_after(self, iteration: int) -> None:
        """Keep the rows whose iteration is below this one, in their order."""
        keep = self.iterations < iteration
        if not keep.all():
            self._table.replace(self._table.take(keep))

    def trained_until(self) -> int:
        """Give the number of iterations trained for: the greatest iteration plus one, or 0."""
        return int(self.iterations.max()) + 1 if len(self._table) else 0

    def take(self, rows: slice | ArrayLike) -> TrainingStats:
        """Give some of the rows as stats of their own.

        Args:
            rows: What numpy takes as an index: a slice, booleans for all rows, or row numbers.

        Raises:
            IndexError: A row number is beyond the last row, or there are too few booleans.
        """
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(chosen, slice) and not chosen.size:
            chosen = slice(0)  # an empty list would be an array of floats
        return TrainingStats(self._table.take(chosen))

    def to_xarray(self, scalar: str = "loss") -> xr.DataArray:
        """Give one scalar as an ``xarray.DataArray`` over ``iterations``; NaN where it is absent.

        Raises:
            ImportError: xarray is not installed. Install it, or use ``iterations`` and ``column``.
            KeyError: No row has this scalar.
        """
        try:
            import xarray as xr
        except ImportError as error:
            raise ImportError(
                "to_xarray() needs xarray (pip install xarray); "
                "without it, use stats.iterations and stats.column('loss')"
            ) from error
        values, iterations = np.array(self.column(scalar)), np.array(self.iterations)
        return xr.DataArray(values, dims=("iterations",), coords={"iterations": iterations})

    def identical(self, other: TrainingStats) -> bool:
        """Tell whether both hold the same rows bit by bit: 0.0 is not -0.0, NaN is its payload."""
        return self._matches(other, lambda a, b: np.array_equal(a.view(np.int64), b.view(np.int64)))

    def __eq__(self, other: object) -> bool:
        """Compare by value: NaN equals itself, and absent is not NaN."""
        if not isinstance(other, TrainingStats):
            return NotImplemented
        return self._matches(other, lambda a, b: np.array_equal(a, b, equal_nan=True))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainingStats, (self._table.take(slice(None)),)

    def __repr__(self) -> str:
        return f"TrainingStats(iteration_stats={self.iteration_stats!r})"

    def _check_known(self, name: str) -> None:
        if name not in self._table.columns and name not in _OWN_NAMES:
            known = ", ".join(self.columns) or "none yet"
            raise KeyError(f"no row has a scalar {name!r}; there are: {known}")

    def _matches(self, other: TrainingStats, same: Callable[[Any, Any], bool]) -> bool:
        # Absent elements are NaN with the same bits everywhere, so whole columns compare.
        return (
            np.array_equal(self.iterations, other.iterations)
            and set(self.columns) == set(other.columns)
            and all(
                np.array_equal(self.present(name), other.present(name))
                and same(self.column(name), other.column(name))
                for name in self.columns
            )
        )


class IterationStatsView(MutableSequence[TrainingIterationStats]):
    """The rows of a ``TrainingStats``, read and changed like a list.

    Appending costs the same however many rows there are; any other change builds the columns
    anew. A slice is a list. Equal to any list, tuple or view that holds equal rows.
    """

    __slots__ = ("table",)

    def __init__(self, table: _Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: SupportsIndex) -> TrainingIterationStats: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingIterationStats]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self.table.take(index))
        position = range(len(self))[index]
        return self.table.rows(position, position + 1)[0]

    def __iter__(self) -> Iterator[TrainingIterationStats]:
        return iter(self.table)

    @overload
    def __setitem__(self, index: SupportsIndex, value: Any) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[Any]) -> None: ...
    def __setitem__(self, index: Any, value: Any) -> None:
        self._edit(lambda rows: rows.__setitem__(index, value))

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        self._edit(lambda rows: rows.__delitem__(index))

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Insert one row before the index."""
        self._edit(lambda rows: rows.insert(index, value))

    def append(self, value: Any) -> None:
        """Append one row as it is; ``TrainingStats.add_iteration_stats`` minds going back."""
        self.table.append(_as_row(value))

    def extend(self, values: Iterable[Any]) -> None:
        """Append rows as they are."""
        self.table.extend(_table_of(values))

    def clear(self) -> None:
        """Remove all rows."""
        self.table.replace(_Table())

    def reverse(self) -> None:
        """Turn the order of the rows round."""
        self._edit(lambda rows: rows.reverse())

    def sort(self, *, key: Callable[[TrainingIterationStats], Any], reverse: bool = False) -> None:
        """Sort the rows, e.g. with ``key=lambda row: row.iteration``; equal ones keep their order."""
        self._edit(lambda rows: rows.sort(key=key, reverse=reverse))

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, IterationStatsView):
            return TrainingStats(self.table) == TrainingStats(other.table)
        if not isinstance(other, list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        if len(self) <= _ROWS_IN_REPR:
            return repr(list(self))
        half = _ROWS_IN_REPR // 2
        shown = [*map(repr, self[:half]), f"... {len(self) - 2 * half} more ...", *map(repr, self[-half:])]
        return f"[{', '.join(shown)}]"

    def _edit(self, change: Callable[[list[Any]], None]) -> None:
        rows: list[Any] = list(self)
        change(rows)
        self.table.replace(_table_of(rows))


def as_training_stats(obj: Any) -> TrainingStats:
    """Read training stats of any make.

    Args:
        obj: A ``TrainingStats`` (given back as it is), DaCapo's own, or an iterable of rows. A
            row is ours or an object with ``iteration``, ``loss``, ``time`` and possibly further
            public attributes; each is a scalar, None an absent one.

    Raises:
        TypeError: The object holds no rows, a row has no integer iteration, or one of its
            attributes is no number; the message names iteration and attribute.
        ValueError: A number is out of range.
    """
    return obj if isinstance(obj, TrainingStats) else TrainingStats(_table_of(obj))


class _Table:
    """The rows as arrays; the arrays are longer than the table, so that there is room to grow.

    A column exists if and only if a row has its scalar.
    """

    __slots__ = ("columns", "iterations", "length")

    def __init__(self, iterations: NDArray[np.int64] | None = None) -> None:
        self.iterations = np.empty(0, dtype=np.int64) if iterations is None else iterations
        self.columns: dict[str, _Column] = {}
        self.length = len(self.iterations)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TrainingIterationStats]:
        start = 0
        while start < self.length:
            stop = min(start + _ROWS_PER_STEP, self.length)
            yield from self.rows(start, stop)
            start = stop

    @property
    def last_iteration(self) -> int | None:
        return int(self.iterations[self.length - 1]) if self.length else None

    def values(self, name: str) -> NDArray[np.float64]:
        column = self.columns.get(name)
        return np.full(self.length, np.nan) if column is None else column.values[: self.length]

    def present(self, name: str) -> NDArray[np.bool_]:
        column = self.columns.get(name)
        if column is None or column.mask is None:
            return np.full(self.length, column is not None)
        return column.mask[: self.length]

    def rows(self, start: int, stop: int) -> list[TrainingIterationStats]:
        """Make the objects for some rows."""
        scalars: list[dict[str, float]] = [{} for _ in range(start, stop)]
        for name, column in self.columns.items():
            values = column.values[start:stop].tolist()
            there = [True] * len(values) if column.mask is None else column.mask[start:stop].tolist()
            for row, value, is_there in zip(scalars, values, there, strict=True):
                if is_there:
                    row[name] = value
        return list(map(_row, self.iterations[start:stop].tolist(), scalars))

    def append(self, row: TrainingIterationStats) -> None:
        index = self.length
        self._reserve(index + 1)
        self.iterations[index] = row.iteration
        scalars = _scalars_of(row)
        for name, value in scalars.items():
            column = self.columns.get(name) or self._new_column(name)
            column.values[index] = value
            if column.mask is not None:
                column.mask[index] = True
        if len(scalars) != len(self.columns):
            self._leave_out(scalars, index, index + 1)
        self.length = index + 1

    def extend(self, new: _Table) -> None:
        start, stop = self.length, self.length + new.length
        self._reserve(stop)
        self.iterations[start:stop] = new.iterations[: new.length]
        for name in new.columns:
            column = self.columns.get(name) or self._new_column(name)
            column.write(start, stop, new.values(name), new.present(name))
        self._leave_out(new.columns, start, stop)
        self.length = stop

    def take(self, rows: slice | NDArray[Any]) -> _Table:
        """Copy some of the rows."""
        taken = _Table(self.iterations[: self.length][rows].copy())
        for name, column in self.columns.items():
            mask = None if column.mask is None else column.mask[: self.length][rows].copy()
            taken.columns[name] = _Column(column.values[: self.length][rows].copy(), mask)
        taken.drop_empty_columns()
        return taken

    def replace(self, other: _Table) -> None:
        """Hold copies of the other's rows instead; arrays handed out before stay as they are."""
        # `stats.iteration_stats += rows` assigns the view of the very table that it has changed.
        if other is not self:
            copy = other.take(slice(None))
            self.iterations, self.columns, self.length = copy.iterations, copy.columns, copy.length

    def drop_empty_columns(self) -> None:
        for name in [name for name in self.columns if not self.present(name).any()]:
            del self.columns[name]

    def _leave_out(self, given: Container[str], start: int, stop: int) -> None:
        """Mark the scalars that these new rows were not given as absent."""
        for name, column in self.columns.items():
            if name not in given and start < stop:
                column.leave_out(start, stop)

    def _new_column(self, name: str) -> _Column:
        """Add a column that the rows so far do not have."""
        capacity = len(self.iterations)
        mask = np.zeros(capacity, dtype=np.bool_) if self.length else None
        column = self.columns[name] = _Column(np.full(capacity, np.nan), mask)
        return column

    def _reserve(self, length: int) -> None:
        """Make room by doubling, so that a row costs the same however many there are."""
        capacity = len(self.iterations)
        if length > capacity:
            capacity = max(length, 2 * capacity, _CAPACITY_MIN)
            self.iterations = _grown(self.iterations, capacity)
            for column in self.columns.values():
                column.grow(capacity)


class _Column:
    """One scalar of all rows; ``mask`` (True: present) exists only if a row does not have it."""

    __slots__ = ("mask", "values")

    def __init__(self, values: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> None:
        self.values = values
        self.mask = mask

    def write(self, start: int, stop: int, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        self.values[start:stop] = values
        if self.mask is None and not present.all():
            self.mask = np.ones(len(self.values), dtype=np.bool_)
        if self.mask is not None:
            self.mask[start:stop] = present

    def leave_out(self, start: int, stop: int) -> None:
        self.values[start:stop] = np.nan
        if self.mask is None:
            self.mask = np.ones(len(self.values), dtype=np.bool_)
        self.mask[start:stop] = False

    def grow(self, capacity: int) -> None:
        self.values = _grown(self.values, capacity)
        if self.mask is not None:
            self.mask = _grown(self.mask, capacity)


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    grown = np.empty(capacity, dtype=array.dtype)
    grown[: len(array)] = array
    return grown


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)  # noqa: PLR0124  # only NaN differs from itself


def _row(iteration: int, scalars: dict[str, float]) -> TrainingIterationStats:
    """Make a row of values that are known to be right."""
    row = TrainingIterationStats.__new__(TrainingIterationStats)
    object.__setattr__(row, "iteration", iteration)
    object.__setattr__(row, "_scalars", scalars)
    return row


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name.startswith("_") or name == "iteration":
        raise ValueError(
            f"{name!r} cannot name a scalar: expected text that is not empty, "
            "does not start with an underscore and is not 'iteration'"
        )


def _checked(iteration: int, given: Mapping[str, Any]) -> dict[str, float]:
    """The scalars that are present, as floats."""
    scalars = {}
    for name, value in given.items():
        if value is not None:
            _check_name(name)
            scalars[name] = as_float(value, where=f"iteration {iteration}, {name}")
    return scalars


# --- rows of any make to columns ---------------------------------------------------------------


def _as_row(obj: Any) -> TrainingIterationStats:
    if isinstance(obj, TrainingIterationStats):
        return obj
    iteration = as_iteration(_iteration_of(obj, 0), where="training stats")
    return _row(iteration, _checked(iteration, _fields_of(obj)))


def _table_of(rows: Any) -> _Table:
    """The rows' own table where they have one, else a new one."""
    rows = getattr(rows, "iteration_stats", rows)
    if isinstance(rows, IterationStatsView):
        return rows.table
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise TypeError(f"expected training stats or an iterable of their rows, not {describe(rows)}")
    return _tabulated(list(rows))


def _tabulated(rows: list[Any]) -> _Table:
    table = _Table(_iterations_of(rows))
    fields = _all_fields(rows)
    shapes = dict.fromkeys(map(tuple, fields))
    for name in dict.fromkeys(name for shape in shapes for name in shape if _is_public(name)):
        # One shape is the usual case, and a plain look-up is what makes a million rows bearable.
        values = [row[name] for row in fields] if len(shapes) == 1 else [row.get(name) for row in fields]
        _check_name(name)
        table.columns[name] = _column_of(name, values, table.iterations)
    table.drop_empty_columns()
    return table


def _is_public(name: str) -> bool:
    return name != "iteration" and not name.startswith("_")


def _iteration_of(row: Any, index: int) -> Any:
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
        iterations = [_iteration_of(row, index) for index, row in enumerate(rows)]
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
        return list(map(_scalars_of, rows))
    if len(kinds) == 1 and all(name in getattr(rows[0], "__dict__", {}) for name in _OWN_NAMES):
        return list(map(vars, rows))
    return [_fields_of(row) for row in rows]


def _fields_of(row: Any) -> Mapping[str, Any]:
    if isinstance(row, TrainingIterationStats):
        return _scalars_of(row)
    names = dict.fromkeys([*_OWN_NAMES, *_declared_names(row.__class__), *getattr(row, "__dict__", {})])
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


def _column_of(name: str, values: list[Any], iterations: NDArray[np.int64]) -> _Column:
    if _NUMBERS.issuperset(map(type, values)):
        try:
            return _Column(np.array(values, dtype=np.float64), None)
        except OverflowError:
            pass  # an int beyond floats: found and named below
    mask = np.array([value is not None for value in values], dtype=np.bool_)
    numbers = [
        np.nan if value is None else as_float(value, where=f"iteration {iteration}, {name}")
        for value, iteration in zip(values, iterations.tolist(), strict=True)
    ]
    return _Column(np.array(numbers, dtype=np.float64), None if mask.all() else mask)


# --- arrays to columns -------------------------------------------------------------------------


def _iteration_array(given: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(given)
    if array.ndim != 1:
        raise ValueError(f"iterations: expected one dimension, not {array.ndim}")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or np.ma.is_masked(given) or _nulls_of(given) is not None:
        raise TypeError(f"iterations: expected integers, one for each row, not {array.dtype} or missing ones")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"iterations: {array.max()} does not fit 64 bits (-2**63 to 2**63 - 1)")
    return array.astype(np.int64)  # a copy


def _given_column(
    name: str, given: ArrayLike, present: ArrayLike | None, iterations: NDArray[np.int64]
) -> _Column:
    array = np.asarray(given)
    _check_length(f"column {name!r}", array, iterations)
    if array.dtype.kind not in "biuf":
        if array.dtype.kind != "O":
            raise TypeError(f"column {name!r}: expected numbers, not {array.dtype}")
        column = _column_of(name, array.tolist(), iterations)
    else:
        column = _Column(array.astype(np.float64), None)
    masks = [column.mask, _nulls_of(given), None if present is None else np.asarray(present, dtype=np.bool_)]
    if np.ma.isMaskedArray(given):
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


def _nulls_of(given: Any) -> NDArray[np.bool_] | None:
    """Where an Arrow array holds a value; None if everywhere, or if it is no Arrow array."""
    return np.asarray(given.is_valid(), dtype=np.bool_) if getattr(given, "null_count", 0) else None


def _without_needless_mask(column: _Column) -> _Column:
    if column.mask is not None:
        column.values[~column.mask] = np.nan
        if column.mask.all():
            column.mask = None
    return column
