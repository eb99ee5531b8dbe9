"""What happened, in a few words: one line for each event type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dacapo_store import events
from dacapo_store.history import KEEPS_NOTHING
from eventstore import Event, EventStoreError

if TYPE_CHECKING:
    from eventstore import RecordedEvent


def summary_of(event: RecordedEvent | Event) -> str:
    """An event, recorded or to be appended, in a few words."""
    types = events.EVENT_TYPES
    try:
        fact = types.fact(event) if isinstance(event, Event) else types.decode(event)
    except EventStoreError:
        return f"{event.type} (version {event.schema_version}), which this program does not know"
    tell = _SUMMARIES.get(type(fact))
    return event.type if tell is None else tell(fact, event.index)


def _epoch_begun(fact: Any, _: Any) -> str:
    kept = "nothing" if fact.keeps_below == KEEPS_NOTHING else f"what is below {fact.keeps_below}"
    return f"epoch {fact.epoch} begins and keeps {kept}"


def _deleted(fact: Any, _: Any) -> str:
    return f"deleted; epoch {fact.epoch} begins"


def _spanned(index: Any) -> str:
    if index is None or not len(index):
        return "no iterations"
    first, last = int(index[0]), int(index[-1])
    return f"iteration {first}" if len(index) == 1 else f"{len(index):,} iterations {first} to {last}"


_SUMMARIES: Final[dict[type, Callable[[Any, Any], str]]] = {
    events.ConfigStored: lambda *_: "stored",
    events.ConfigDeleted: lambda *_: "deleted",
    events.TrainingStatsRecorded: lambda fact, index: (
        f"{_spanned(index)} of {', '.join(fact.columns)} (epoch {fact.epoch})"
    ),
    events.TrainingEpochBegun: _epoch_begun,
    events.TrainingStatsDeleted: _deleted,
    events.ValidationScoresRecorded: lambda fact, index: f"{_spanned(index)} of scores (epoch {fact.epoch})",
    events.ValidationEpochBegun: _epoch_begun,
    events.ValidationScoresDeleted: _deleted,
    events.WeightsStored: lambda fact, _: (
        f"weights of iteration {fact.iteration} stored, {fact.bytes:,} bytes"
    ),
    events.WeightsRemoved: lambda fact, _: f"weights of iteration {fact.iteration} removed",
    events.WeightsRewound: lambda fact, _: f"weights of iterations above {fact.keeps_until} left the view",
    events.WeightsPayloadDropped: lambda fact, _: (
        f"file of earlier weights of iteration {fact.iteration} deleted"
    ),
    events.BestWeightsChosen: lambda fact, _: (
        f"iteration {fact.iteration} is best for {fact.dataset} by {fact.criterion}"
    ),
    events.ArrayRecorded: lambda fact, _: f"array {fact.dataset or '/'} on record, {fact.bytes:,} bytes",
    events.ArrayRemoved: lambda fact, _: f"array {fact.dataset or '/'} removed, {fact.bytes:,} bytes",
    events.EventLost: lambda *_: "lost to damage",
}
