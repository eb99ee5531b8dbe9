"""The scalars of one training iteration, the row that trainers and people look at.

Owns what a scalar may be called and that a row is a frozen value. Many rows are columns; see
``training_table``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from dacapo_store.scalars import as_float, as_iteration

OWN_NAMES: Final = ("loss", "time")
"""The scalars that every row has as attributes, present or not."""

# A row's own dict, for reading in bulk: without the read-only proxy, which makes a million rows slow.
scalars_of: Final[Callable[[TrainingIterationStats], dict[str, float]]] = operator.attrgetter("_scalars")


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
        object.__setattr__(
            self, "_scalars", checked_scalars(iteration, {"loss": loss, "time": time, **scalars})
        )

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
            and all(same_value(value, other.scalars[name]) for name, value in self.scalars.items())
        )

    def __hash__(self) -> int:
        return hash(self.iteration)

    def __reduce__(self) -> tuple[Any, ...]:
        return known_row, (self.iteration, self._scalars)

    def __repr__(self) -> str:
        scalars = "".join(f", {name}={value!r}" for name, value in self._scalars.items())
        return f"TrainingIterationStats(iteration={self.iteration}{scalars})"


def known_row(iteration: int, scalars: dict[str, float]) -> TrainingIterationStats:
    """Make a row of values that are known to be right."""
    row = TrainingIterationStats.__new__(TrainingIterationStats)
    object.__setattr__(row, "iteration", iteration)
    object.__setattr__(row, "_scalars", scalars)
    return row


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
