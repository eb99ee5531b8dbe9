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
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, overload

import numpy as np

from dacapo_store.scalars import as_iteration, describe
from dacapo_store.training_iteration_stats import (
    OWN_NAMES,
    TrainingIterationStats,
    check_name,
    checked_scalars,
    known_row,
)
from dacapo_store.training_table import (
    StatsTable,
    fields_of,
    given_column,
    iteration_array,
    iteration_of,
    read_only,
    tabulated,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

_ROWS_IN_REPR: Final = 6


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

    __slots__ = ("__weakref__", "_table")

    _table: StatsTable

    def __init__(self, iteration_stats: Iterable[Any] = ()) -> None:
        if isinstance(iteration_stats, StatsTable):
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
        table = StatsTable(iteration_array(iterations))
        for name, values in columns.items():
            check_name(name)
            table.columns[name] = given_column(name, values, (present or {}).get(name), table.iterations)
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
        return read_only(self._table.iterations[: len(self._table)])

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
        return read_only(self._table.values(name))

    def present(self, name: str) -> NDArray[np.bool_]:
        """Tell for all rows whether they have this scalar; read-only.

        Raises:
            KeyError: No row has this scalar (but ``loss`` and ``time`` may always be asked for).
        """
        self._check_known(name)
        return read_only(self._table.present(name))

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

    def to_arrow(self) -> pa.Table:
        """Give all rows as an Arrow table, without a copy: ``iteration`` (int64), then each scalar (double).

        ``loss`` and ``time`` are always there. A scalar that a row does not have is null.
        """
        import pyarrow as pa

        count, columns = len(self._table), dict.fromkeys([*OWN_NAMES, *self.columns])
        # Not pa.array, which loads pandas where that is installed.
        arrays = [pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(self.iterations)])]
        for name in columns:
            present = self._table.present(name)
            mask = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
            values = pa.py_buffer(self._table.values(name))
            arrays.append(pa.Array.from_buffers(pa.float64(), count, [mask, values]))
        return pa.Table.from_arrays(arrays, names=["iteration", *columns])

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
        if name not in self._table.columns and name not in OWN_NAMES:
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

    def __init__(self, table: StatsTable) -> None:
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
        self.table.replace(StatsTable())

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


def _as_row(obj: Any) -> TrainingIterationStats:
    if isinstance(obj, TrainingIterationStats):
        return obj
    iteration = as_iteration(iteration_of(obj, 0), where="training stats")
    return known_row(iteration, checked_scalars(iteration, fields_of(obj)))


def _table_of(rows: Any) -> StatsTable:
    """The rows' own table where they have one, else a new one."""
    rows = getattr(rows, "iteration_stats", rows)
    if isinstance(rows, IterationStatsView):
        return rows.table
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise TypeError(f"expected training stats or an iterable of their rows, not {describe(rows)}")
    return tabulated(list(rows))
