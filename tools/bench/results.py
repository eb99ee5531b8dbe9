"""What benchmarks have to say: goals, tables of rows, series for plots; to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from tools.bench.measure import Row, Rows

Bound = Literal["at least", "at most"]


@dataclass(frozen=True)
class Goal:
    """What must be reached, and what was.

    Attributes:
        what: What is judged, in words: ``commits/s over SQLite WAL FULL``.
        value: What was measured; None where it could not be.
        bound: Whether the target is a floor or a ceiling.
        target: The target.
        unit: What both are counted in; ``×`` for ratios.
        why_not: Why there is no value.
    """

    what: str
    value: float | None
    bound: Bound
    target: float
    unit: str = "×"
    why_not: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None when nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target


@dataclass(frozen=True)
class Series:
    """One line of a plot: y over x."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Plot:
    """A plot of some lines.

    Attributes:
        name: The name of its file.
        title: What it shows.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        lines: The lines.
        logarithmic: Whether both axes are.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: list[Series]
    logarithmic: bool = True


@dataclass
class Section:
    """The outcome of one benchmark.

    Attributes:
        key: ``B1`` and so on.
        title: The work, in words.
        goals: What must be reached, and what was.
        rows: Who measured what.
        plots: What is better seen than read.
        notes: What a reader must know of how it was measured.
        failure: The traceback, when it broke off.
        load: The machine's load of the last minute when it began.
        seconds: How long it took.
    """

    key: str
    title: str
    goals: list[Goal] = field(default_factory=list)
    rows: Rows = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: str = ""
    load: float = 0.0
    seconds: float = 0.0

    def as_document(self) -> dict[str, Any]:
        """The section as JSON can hold it."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Self:
        """The section that a document was made of."""
        return cls(
            **{
                **document,
                "goals": [Goal(**goal) for goal in document["goals"]],
                "rows": {name: Row(**row) for name, row in document["rows"].items()},
                "plots": [
                    Plot(**{**plot, "lines": [Series(**line) for line in plot["lines"]]})
                    for plot in document["plots"]
                ],
            }
        )
