"""What the log says of a run's weights, as the fold of its stream. Pure: events in, state out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dacapo_store.events import (
    EVENT_TYPES,
    BestWeightsChosen,
    WeightsRemoved,
    WeightsRewound,
    WeightsStored,
)

if TYPE_CHECKING:
    from eventstore import RecordedEvent


def weights_stream(run: str) -> str:
    """The stream of a run's weights."""
    return f"weights/{run}"


@dataclass
class WeightsHistory:
    """What a run's stream says: the fold of its events.

    Attributes:
        stored: The present weights, by iteration.
        best: The present choices, by dataset and criterion.
        iterations: Every iteration that ever had weights.
        choices: Every dataset and criterion that ever had a choice.
    """

    stored: dict[int, WeightsStored] = field(default_factory=dict)
    best: dict[tuple[str, str], int] = field(default_factory=dict)
    iterations: set[int] = field(default_factory=set)
    choices: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, events: Iterable[RecordedEvent]) -> WeightsHistory:
        """The fold of these events."""
        history = cls()
        for event in events:
            history.fold(event)
        return history

    def fold(self, event: RecordedEvent) -> None:
        """Take the stream's next event into account."""
        match EVENT_TYPES.decode(event):
            case WeightsStored() as stored:
                self.stored[stored.iteration] = stored
                self.iterations.add(stored.iteration)
            case WeightsRemoved(iteration=iteration):
                self.stored.pop(iteration, None)
                self.best = {key: best for key, best in self.best.items() if best != iteration}
            case WeightsRewound(keeps_until=kept):
                self.stored = {key: each for key, each in self.stored.items() if key <= kept}
                self.best = {key: best for key, best in self.best.items() if best <= kept}
            case BestWeightsChosen(dataset=dataset, criterion=criterion, iteration=iteration):
                self.best[dataset, criterion] = iteration
                self.choices.add((dataset, criterion))
