"""What follows for a base from something that was found: the events to append, or none.

What a stream holds and what was read go in, events come out. The rule that they all keep: an
import never takes anything out of view that it did not bring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from dacapo_store import converter
from dacapo_store.checkpoint_names import choice_file
from dacapo_store.events import EVENT_TYPES, ArrayRecorded, BestWeightsChosen, ConfigStored, WeightsStored
from dacapo_store.history import becoming, folded, storing
from dacapo_store.moving.found import (
    Found,
    FoundBest,
    FoundConfig,
    FoundContainer,
    FoundStats,
    FoundWeights,
    UnreadableError,
    digest_of,
    time_of,
)
from dacapo_store.moving.upstream_files import best_iteration
from dacapo_store.rows import TrainingRows, ValidationRows
from dacapo_store.weights_history import WeightsHistory
from eventstore import derived_id, tagged_json

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    import msgspec

    from dacapo_store.artifacts import Artifact
    from dacapo_store.moving.zarr_trees import ZarrArray
    from eventstore import Event, RecordedEvent

MARK: Final = "imported_from"
"""The key in an event's metadata that says which file it stands for."""


@dataclass
class Seen:
    """What a stream holds.

    Attributes:
        events: Its events, in order.
        ids: Their ids.
        weights: The fold of a stream of weights; empty for others.
        last: For each iteration and each choice of such a stream, the event that said so last.
        payloads: For each iteration, the paths of all its payloads.
    """

    events: list[RecordedEvent] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)
    weights: WeightsHistory = field(default_factory=WeightsHistory)
    last: dict[int | tuple[str, str], RecordedEvent] = field(default_factory=dict)
    payloads: dict[int, list[str]] = field(default_factory=dict)

    def add(self, events: Iterable[RecordedEvent]) -> Seen:
        """Take in the events that follow."""
        for event in events:
            self.events.append(event)
            self.ids.add(event.event_id)
            if event.stream.startswith("weights/"):
                self.weights.fold(event)
                match EVENT_TYPES.decode(event):
                    case WeightsStored(iteration=iteration, path=path):
                        self.last[iteration] = event
                        self.payloads.setdefault(iteration, []).append(path)
                    case BestWeightsChosen(dataset=dataset, criterion=criterion):
                        self.last[dataset, criterion] = event
        return self


Decision = Callable[[Seen], list["Event"]]


def is_imported(event: RecordedEvent) -> bool:
    """Whether an import has brought this event."""
    return MARK in event.metadata


def import_id(found: Found, *subject: str | int) -> UUID:
    """The id of the event that stands for this very find."""
    return derived_id("import", type(found).__name__, *subject)


def dated(fact: msgspec.Struct, event_id: UUID, time: datetime) -> Event:
    """The event that says this, with the time of the file."""
    return structs.replace(EVENT_TYPES.event(fact, event_id=event_id), recorded_at=time)


def storing_config(found: FoundConfig, document: Any) -> Decision:
    """Store a document under its name."""
    fact = ConfigStored(kind=found.kind, name=found.name, document=document)
    content = digest_of(tagged_json.encode_utf8(document))
    event_id = import_id(found, found.kind, found.name, content, found.origin.stamp_ns)

    def decide(seen: Seen) -> list[Event]:
        if event_id in seen.ids:
            return []
        last = EVENT_TYPES.decode(seen.events[-1]) if seen.events else None
        if isinstance(last, ConfigStored) and converter.documents_equal(last.document, document):
            return []
        if last is not None and not is_imported(seen.events[-1]):
            raise UnreadableError(
                "another config of this name is in the base"
                if isinstance(last, ConfigStored)
                else "a config of this name was deleted in the base"
            )
        return [dated(fact, event_id, found.origin.time)]

    return decide


def storing_stats(found: FoundStats, rows: Any) -> Decision:
    """Record the rows that the base has not; put the source's in the place of what it brought before."""
    content = rows_digest(rows)

    def decide(seen: Seen) -> list[Event]:
        def event_id(place: int) -> UUID:
            return import_id(found, found.kind.stream(found.run), content, found.origin.stamp_ns, place)

        history = folded(found.kind.unwritten(), seen.events)
        same = history.rows.common_prefix(rows)
        if event_id(0) in seen.ids or same == len(rows) == len(history.rows):
            return []
        if same == len(history.rows):
            new = storing(found.kind, found.run, history, rows)
        elif all(map(is_imported, seen.events)):
            new = becoming(found.kind, found.run, history, rows)
        else:
            raise UnreadableError(
                f"the base has other rows of this run: {len(history.rows):,} there, {len(rows):,} here, "
                f"the first {same:,} of them equal"
            )
        return [
            structs.replace(event, event_id=event_id(place), recorded_at=found.origin.time)
            for place, event in enumerate(new)
        ]

    return decide


def rows_digest(rows: TrainingRows | ValidationRows) -> str:
    """A digest of all numbers, bit by bit, and of what they are numbers of."""
    if isinstance(rows, TrainingRows):
        scalars = (
            part
            for name, scalar in rows.scalars.items()
            for part in (name.encode(), scalar.values.tobytes(), scalar.present.tobytes())
        )
        return digest_of(rows.iterations.tobytes(), *scalars)
    scores = (part for each in rows.scores for part in (repr(each.structure.lengths).encode(), each.bits))
    return digest_of(rows.iterations.tobytes(), *scores)


def storing_weights(
    found: FoundWeights,
    *,
    is_own: Callable[[Seen], bool],
    read: Callable[[int | None], Artifact],
    bring: Callable[[Artifact], WeightsStored],
) -> Decision:
    """Make a file the weights of its iteration.

    Args:
        found: The file.
        is_own: Whether it is one that the base itself has made.
        read: Looks at the file; told the size of the weights that are in view, if there are any.
        bring: Makes it a payload of the base, once that is decided.
    """
    event_id = import_id(found, found.run, found.iteration, found.origin.bytes, found.origin.stamp_ns)

    def decide(seen: Seen) -> list[Event]:
        if event_id in seen.ids or is_own(seen):
            return []
        present = seen.weights.stored.get(found.iteration)
        artifact = read(None if present is None else present.bytes)
        if present is not None and (present.bytes, present.digest) == (artifact.bytes, artifact.digest):
            return []
        if present is not None and not is_imported(seen.last[found.iteration]):
            raise UnreadableError("the base has other weights of this iteration")
        return [dated(bring(artifact), event_id, found.origin.time)]

    return decide


def choosing(found: FoundBest, iteration: int, *, expected: Callable[[int], bool]) -> Decision:
    """Choose an iteration as the best, when its weights are there or are ``expected`` to be."""
    fact = BestWeightsChosen(found.run, found.dataset, found.criterion, iteration)
    subject = (found.run, found.dataset, found.criterion, iteration, found.origin.stamp_ns)
    event_id = import_id(found, *subject)

    def decide(seen: Seen) -> list[Event]:
        history = seen.weights
        # In a base that is in use this may be what its own store has derived of a choice.
        own = {choice_file(*choice): choice for choice in history.choices}
        choice = own.get(Path(found.dataset, f"{found.criterion}.json"), (found.dataset, found.criterion))
        if event_id in seen.ids or history.best.get(choice) == iteration:
            return []
        if iteration not in history.stored and not expected(iteration):
            raise UnreadableError(f"it names iteration {iteration}, of which there are no weights")
        if choice in history.best and not is_imported(seen.last[choice]):
            raise UnreadableError(f"the base has chosen iteration {history.best[choice]} since")
        return [dated(fact, event_id, found.origin.time)]

    return decide


def recording(found: FoundContainer, array: ZarrArray, *, digest: Callable[[], str | None]) -> Decision:
    """Put an array on record as it is now."""
    event_id = import_id(found, found.container, array.dataset, array.identity)

    def decide(seen: Seen) -> list[Event]:
        if event_id in seen.ids:
            return []
        shape, dtype, chunks = array.description()
        fact = ArrayRecorded(
            container=found.container,
            dataset=array.dataset,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            bytes=array.bytes,
            files=len(array.files),
            digest=digest(),
        )
        return [dated(fact, event_id, time_of(array.stamp_ns))]

    return decide


def in_order(found: Iterable[Found]) -> list[Found]:
    """By time, and a choice of weights behind the weights, whatever a copy has made of the times."""
    found = list(found)
    stamps = {
        (each.run, each.iteration): each.origin.stamp_ns for each in found if isinstance(each, FoundWeights)
    }

    def key(each: Found) -> tuple[int, bool, str]:
        stamp = each.origin.stamp_ns
        if isinstance(each, FoundBest):
            with contextlib.suppress(UnreadableError):
                stamp = max(stamp, stamps.get((each.run, best_iteration(each)[0]), stamp))
        return stamp, isinstance(each, FoundBest), each.origin.place

    return sorted(found, key=key)
