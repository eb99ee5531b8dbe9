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
        for recorded in events:
            match EVENT_TYPES.decode(recorded):
                case WeightsStored() as stored:
                    history.stored[stored.iteration] = stored
                    history.iterations.add(stored.iteration)
                case WeightsRemoved(iteration=iteration):
                    history.stored.pop(iteration, None)
                    history.best = {key: best for key, best in history.best.items() if best != iteration}
                case WeightsRewound(keeps_until=kept):
                    history.stored = {key: each for key, each in history.stored.items() if key <= kept}
                    history.best = {key: best for key, best in history.best.items() if best <= kept}
                case BestWeightsChosen(dataset=dataset, criterion=criterion, iteration=iteration):
                    history.best[dataset, criterion] = iteration
                    history.choices.add((dataset, criterion))
        return history
