"""The rows of a run's stats as columns: out of events, into events, compared bit by bit.

Owns how the numbers of ``TrainingStatsRecorded`` and ``ValidationScoresRecorded`` lie in ``index``
and ``values``; ``events`` documents that layout. What a store call does with rows is ``history``'s.

Equal means equal bits: NaN equals itself, payload and all, -0.0 is not 0.0, and a scalar that is
absent is not a NaN. The names that validation scores carry for people are no part of it: they
belong to how scores were shown, not to what was measured, and may differ between two programs.

Values here are immutable: nothing writes into an array after it was handed to one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dacapo_store.events import EVENT_TYPES, TrainingStatsRecorded, ValidationScoresRecorded

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from eventstore import Event

    Iterations = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scalar:
    """One named scalar of all rows: ``values`` are 0.0 where ``present`` is False."""

    values: Numbers
    present: Flags

    @classmethod
    def of(cls, values: Numbers, present: Flags) -> Self:
        """A scalar out of its values and where they count; the others may be anything."""
        values = np.ascontiguousarray(values, dtype=np.float64)
        present = np.ascontiguousarray(present, dtype=np.bool_)
        return cls(values if present.all() else np.where(present, values, 0.0), present)

    @classmethod
    def absent(cls, count: int) -> Self:
        """A scalar that none of ``count`` rows has."""
        return cls(np.zeros(count), np.zeros(count, dtype=np.bool_))


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Iterations with named scalars, in the order in which they were given."""

    iterations: Iterations
    scalars: Mapping[str, Scalar]

    def __len__(self) -> int:
        return len(self.iterations)

    @property
    def are_blank(self) -> bool:
        """Whether others, behind them, are the same without them: no row, and no scalar's name."""
        return not len(self) and not self.scalars

    @classmethod
    def fits(
        cls, fact: TrainingStatsRecorded, index: pa.Int64Array | None, values: pa.DoubleArray | None
    ) -> bool:
        """Whether there is one number for each of the iterations and columns, all of other names."""
        width = len(fact.columns)
        return _fits(index, values, width) and len(set(fact.columns)) == width

    @classmethod
    def of_event(cls, fact: TrainingStatsRecorded, index: pa.Int64Array, values: pa.DoubleArray) -> Self:
        """The rows that an event recorded."""
        count = len(index)
        numbers, present = _numbers(values), _present(values)
        places = [slice(place * count, (place + 1) * count) for place in range(len(fact.columns))]
        made = Scalar if present.all() else Scalar.of
        scalars = {
            name: made(numbers[place], present[place])
            for name, place in zip(fact.columns, places, strict=True)
        }
        return cls(_numbers(index), scalars)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part behind the other."""
        names = dict.fromkeys(name for part in parts for name in part.scalars)
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.iterations for part in parts)]),
            {name: _joined_scalar([part.scalar(name) for part in parts]) for name in names},
        )

    def scalar(self, name: str) -> Scalar:
        """The scalar of this name; absent throughout when no row has it."""
        return self.scalars[name] if name in self.scalars else Scalar.absent(len(self))

    def take(self, selection: slice | Flags) -> Self:
        """The selected rows, in their order."""
        return type(self)(
            self.iterations[selection],
            {
                name: Scalar(scalar.values[selection], scalar.present[selection])
                for name, scalar in self.scalars.items()
            },
        )

    def common_prefix(self, other: Self) -> int:
        """How many rows in front are the same in both."""
        length = min(len(self), len(other))
        length = _equal_in_front(self.iterations[:length], other.iterations[:length])
        for name in dict.fromkeys([*self.scalars, *other.scalars]):
            mine, others = self.scalar(name), other.scalar(name)
            length = _equal_in_front(mine.present[:length], others.present[:length])
            length = _equal_in_front(_bits(mine.values[:length]), _bits(others.values[:length]))
        return length

    def recorded(self, run: str, epoch: int) -> list[Event]:
        """The event that records these rows for ``run`` in ``epoch``; none for no rows."""
        if not len(self):
            return []
        columns = {name: scalar for name, scalar in self.scalars.items() if scalar.present.any()}
        values = np.concatenate([np.empty(0), *(scalar.values for scalar in columns.values())])
        present = np.concatenate([np.empty(0, np.bool_), *(scalar.present for scalar in columns.values())])
        fact = TrainingStatsRecorded(run=run, epoch=epoch, columns=list(columns))
        return [EVENT_TYPES.event(fact, index=self.iterations, values=_with_nulls(values, present))]


@dataclass(frozen=True)
class Structure:
    """What scores of one iteration are scores of: numbers of criteria, and names for people."""

    lengths: tuple[tuple[int, ...], ...]
    datasets: tuple[str, ...]
    parameters: tuple[str, ...]
    criteria: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """The scores of one iteration: ``bits`` are its doubles, in the order that ``events`` says."""

    structure: Structure
    bits: bytes

    def same_as(self, other: Self) -> bool:
        """True when structure and scores agree, whatever the names."""
        return self.bits == other.bits and self.structure.lengths == other.structure.lengths


@dataclass(frozen=True, eq=False)
class ValidationRows:
    """Iterations with their scores, in the order in which they were given."""

    iterations: Iterations
    scores: tuple[Scores, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def are_blank(self) -> bool:
        """Whether others, behind them, are the same without them."""
        return not len(self)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[int, Scores]]) -> Self:
        """Rows out of pairs of iteration and scores."""
        pairs = list(pairs)
        iterations = np.array([iteration for iteration, _ in pairs], dtype=np.int64)
        return cls(iterations, tuple(scores for _, scores in pairs))

    @classmethod
    def fits(
        cls, fact: ValidationScoresRecorded, index: pa.Int64Array | None, values: pa.DoubleArray | None
    ) -> bool:
        """Whether there is one number, and no null, for each of the iterations and lengths."""
        lengths = list(itertools.chain.from_iterable(fact.lengths))
        return _fits(index, values, sum(lengths)) and not _nulls(values) and min(lengths, default=0) >= 0

    @classmethod
    def of_event(cls, fact: ValidationScoresRecorded, index: pa.Int64Array, values: pa.DoubleArray) -> Self:
        """The rows that an event recorded."""
        structure = Structure(
            lengths=tuple(tuple(lengths) for lengths in fact.lengths),
            datasets=tuple(fact.datasets),
            parameters=tuple(fact.parameters),
            criteria=tuple(fact.criteria),
        )
        table = _numbers(values).reshape(len(index), _width(structure))
        return cls(_numbers(index), tuple(Scores(structure, row.tobytes()) for row in table))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part behind the other."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.iterations for part in parts)]),
            tuple(itertools.chain.from_iterable(part.scores for part in parts)),
        )

    def take(self, selection: slice | Flags) -> Self:
        """The selected rows, in their order."""
        places = np.arange(len(self))[selection]
        return type(self)(self.iterations[places], tuple(self.scores[place] for place in places))

    def common_prefix(self, other: Self) -> int:
        """How many rows in front are the same in both."""
        length = min(len(self), len(other))
        length = _equal_in_front(self.iterations[:length], other.iterations[:length])
        pairs = zip(self.scores[:length], other.scores[:length], strict=True)
        return next((place for place, (mine, others) in enumerate(pairs) if not mine.same_as(others)), length)

    def recorded(self, run: str, epoch: int) -> list[Event]:
        """The events that record these rows for ``run`` in ``epoch``.

        There is one for each stretch of iterations that share structure and names.
        """
        stretches = itertools.groupby(range(len(self)), key=lambda place: self.scores[place].structure)
        return [
            self._recorded_stretch(run, epoch, structure, list(places)) for structure, places in stretches
        ]

    def _recorded_stretch(self, run: str, epoch: int, structure: Structure, places: list[int]) -> Event:
        fact = ValidationScoresRecorded(
            run=run,
            epoch=epoch,
            datasets=list(structure.datasets),
            parameters=list(structure.parameters),
            criteria=list(structure.criteria),
            lengths=[list(lengths) for lengths in structure.lengths],
        )
        values = np.frombuffer(b"".join(self.scores[place].bits for place in places), dtype=np.float64)
        return EVENT_TYPES.event(fact, index=self.iterations[places], values=values)


def _joined_scalar(parts: Sequence[Scalar]) -> Scalar:
    return Scalar(
        np.concatenate([part.values for part in parts]), np.concatenate([part.present for part in parts])
    )


def _bits(values: Numbers) -> npt.NDArray[np.uint64]:
    return values.view(np.uint64)


def _equal_in_front(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> int:
    differs = first != second
    return int(differs.argmax()) if differs.any() else len(first)


# Between Arrow and numpy by their buffers: ``pa.array`` and ``to_numpy`` load pandas where that is
# installed, which takes half a second of each process that stores.


def _numbers(array: pa.Int64Array | pa.DoubleArray | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The items of a bulk column, NaN where they are null."""
    if isinstance(array, np.ndarray):
        return array
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.empty(0, dtype)
    numbers = np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
    return np.where(_present(array), numbers, np.nan) if array.null_count else numbers


def _present(array: pa.Array | npt.NDArray[Any]) -> Flags:
    """Which items of a bulk column are no nulls."""
    if isinstance(array, np.ndarray):
        return np.ones(len(array), np.bool_)
    bits = array.buffers()[0]
    if bits is None or not array.null_count:
        return np.ones(len(array), np.bool_)
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return flags[array.offset : array.offset + len(array)].astype(np.bool_)


def _with_nulls(values: Numbers, present: Flags) -> Any:
    if present.all():
        return values
    import pyarrow as pa

    buffers = [pa.py_buffer(np.packbits(present, bitorder="little")), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.float64(), len(values), buffers)


def _fits(index: Any, values: Any, width: int) -> bool:
    return (
        index is not None and values is not None and not _nulls(index) and len(values) == len(index) * width
    )


def _nulls(array: Any) -> int:
    return int(getattr(array, "null_count", 0))


def _width(structure: Structure) -> int:
    return sum(itertools.chain.from_iterable(structure.lengths))
