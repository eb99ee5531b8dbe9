"""The errors of the read models: one class for each thing a caller would do differently.

A mistake in somebody's SQL is not among them: DuckDB's own error, which points at the place in the
text, passes through. Every error here carries its facts as attributes and survives pickling.
"""

from __future__ import annotations

from typing import Any


class ProjectionError(Exception):
    """Base of every error that the read models raise."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(error_type: type[ProjectionError], message: str, facts: dict[str, Any]) -> ProjectionError:
    return error_type(message, **facts)


class ReadModelStoppedError(ProjectionError):
    """A read model met an event that it cannot fold, and its views are gone; the others go on.

    Mend the program (or upgrade it) and open the base again: nothing is lost, the log holds the
    event as it was written, and ``events`` shows it.

    Attributes:
        read_model: The name of the read model.
        position: The event that it stopped at.
        cause: What went wrong with it.
    """

    read_model: str
    position: int
    cause: str


class CatchUpError(ProjectionError):
    """The events could not be applied, for a reason that lies outside them; the log is untouched.

    Memory or disk ran out, or the log skipped a position. The next query begins again: give
    ``ReadModels`` a greater ``memory_limit``, make room in the temporary folder, or verify the log.
    """


class QueryRefusedError(ProjectionError, ValueError):
    """The text is not exactly one SELECT: the read models are derived, and only the log is written."""


class QueryTimeoutError(ProjectionError):
    """The query took longer than it was given: give it more time, or ask for less."""


class ReadModelsClosedError(ProjectionError, ValueError):
    """The read models were closed: make new ones."""
