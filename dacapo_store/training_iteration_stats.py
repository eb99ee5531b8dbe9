"""The scalars of one training iteration, the row that trainers and people look at.

Owns what a scalar may be called and that a row is a frozen value. Many rows are columns; see
``training_table``.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from types import MappingProxyType
from typing import Any, Final

from dacapo_store.scalars import as_float, as_iteration

OWN_NAMES: Final = ("loss", "time")
"""The scalars that every row has as attributes, present or not."""


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

    __slots__ = ("_others", "iteration", "loss", "time")

    iteration: int
    loss: float | None
    time: float | None
    _others: dict[str, float]  # further scalars; not set where there are none

    def __init__(self, iteration: int, loss: Any = None, time: Any = None, **scalars: Any) -> None:
        iteration = as_iteration(iteration, where="training stats")
        _fill(self, iteration, checked_scalars(iteration, {"loss": loss, "time": time, **scalars}))

    @property
    def scalars(self) -> Mapping[str, float]:
        """All scalars that are present, ``loss`` and ``time`` among them, by name."""
        return MappingProxyType(scalars_of(self))

    def __getattr__(self, name: str) -> float:
        """Give a scalar; called only for names that are not the class's own."""
        if not name.startswith("_"):
            others = others_of(self)
            if name in others:
                return others[name]
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
            and all(same_value(value, other.scalars[name]) for name, value in self.scalars.items())
        )

    def __hash__(self) -> int:
        return hash(self.iteration)

    def __reduce__(self) -> tuple[Any, ...]:
        return known_row, (self.iteration, scalars_of(self))

    def __repr__(self) -> str:
        scalars = "".join(f", {name}={value!r}" for name, value in self.scalars.items())
        return f"TrainingIterationStats(iteration={self.iteration}{scalars})"


# A slot is set through its descriptor: __setattr__ refuses, and this is called from C a million times.
_set_iteration, _set_loss, _set_time, _set_others = (
    TrainingIterationStats.__dict__[name].__set__ for name in ("iteration", "loss", "time", "_others")
)
_NO_SCALARS: Final[Mapping[str, float]] = MappingProxyType({})


def known_row(iteration: int, scalars: Mapping[str, float]) -> TrainingIterationStats:
    """Make a row of values that are known to be right."""
    row = TrainingIterationStats.__new__(TrainingIterationStats)
    _fill(row, iteration, scalars)
    return row


def known_rows(
    iterations: Sequence[int],
    loss: Iterable[float | None],
    time: Iterable[float | None],
    others: Iterable[dict[str, float]] | None,
) -> list[TrainingIterationStats]:
    """Make many rows of values that are known to be right.

    Args:
        iterations: Their iterations.
        loss: Their losses, None where one is absent.
        time: Their times, likewise.
        others: Their further scalars; None where no row has any.
    """
    with no_garbage():
        rows = list(map(object.__new__, repeat(TrainingIterationStats, len(iterations))))
        _set_each(_set_iteration, rows, iterations)
        _set_each(_set_loss, rows, loss)
        _set_each(_set_time, rows, time)
        if others is not None:
            _set_each(_set_others, rows, others)
    return rows


@contextmanager
def no_garbage() -> Iterator[None]:
    """Make many objects that all stay: the collector would go through all that there is for them, often.

    For 200,000 rows that is the half of the time, and more in a process as large as a trainer's.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def scalars_of(row: TrainingIterationStats) -> dict[str, float]:
    """A row's scalars by name, in a dict of its own."""
    scalars = {name: value for name in OWN_NAMES if (value := getattr(row, name)) is not None}
    scalars.update(others_of(row))
    return scalars


def others_of(row: TrainingIterationStats) -> Mapping[str, float]:
    """A row's scalars besides loss and time."""
    return getattr(row, "_others", _NO_SCALARS)


def _fill(row: TrainingIterationStats, iteration: int, scalars: Mapping[str, float]) -> None:
    others = {name: value for name, value in scalars.items() if name not in OWN_NAMES}
    _set_iteration(row, iteration)
    _set_loss(row, scalars.get("loss"))
    _set_time(row, scalars.get("time"))
    if others:
        _set_others(row, others)


def _set_each(setter: Any, rows: Iterable[Any], values: Iterable[Any]) -> None:
    deque(map(setter, rows, values), maxlen=0)


def check_name(name: Any) -> None:
    """Refuse a name that cannot be a scalar's."""
    if not isinstance(name, str) or not name or name.startswith("_") or name == "iteration":
        raise ValueError(
            f"{name!r} cannot name a scalar: expected text that is not empty, "
            "does not start with an underscore and is not 'iteration'"
        )


def checked_scalars(iteration: int, given: Mapping[str, Any]) -> dict[str, float]:
    """The scalars that are present, as floats."""
    scalars = {}
    for name, value in given.items():
        if value is not None:
            check_name(name)
            scalars[name] = as_float(value, where=f"iteration {iteration}, {name}")
    return scalars


def same_value(a: float, b: float) -> bool:
    """Equal, with NaN equal to itself."""
    return a == b or (a != a and b != b)  # noqa: PLR0124  # only NaN differs from itself
