"""What a suite of torture has to say: how much was done, what was found, how long it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Figure = int | float | str


@dataclass(frozen=True)
class Report:
    """The outcome of one suite.

    Attributes:
        name: The suite.
        figures: What was done, counted: a name in words and a number (or a short text) each.
        failures: Everything that broke a promise, each with what is needed to see it again (the
            seed at least). None is a clean run.
        seconds: How long it took.
    """

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not self.failures

    def as_document(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)

    def as_text(self) -> str:
        """The report for a terminal: one line a figure, one a failure."""
        width = max(map(len, self.figures), default=0)
        lines = [f"{self.name}: {'clean' if self.ok else 'FAILED'} after {self.seconds:.0f} s"]
        lines += [f"  {name:<{width}}  {shown(figure)}" for name, figure in self.figures.items()]
        lines += [f"  FAILED: {failure}" for failure in self.failures]
        return "\n".join(lines)


def shown(figure: Figure) -> str:
    """A figure as people read it."""
    match figure:
        case int():
            return f"{figure:,}"
        case float() if abs(figure) >= 100:  # noqa: PLR2004 - three digits say enough
            return f"{figure:,.0f}"
        case float():
            return f"{figure:.3g}"
    return figure
