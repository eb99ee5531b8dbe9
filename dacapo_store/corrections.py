"""Corrections: undoing mistakes by new events. History is never rewritten, so each can be undone as well.

``rewind`` brings a run back to an iteration; ``restore`` brings a thing back to what it was at a moment.
Each is decided on the state that was read and appended in one commit, all of it or nothing; somebody who
is faster makes it decide again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dacapo_store.audit import RUN_KINDS, history, stream_of
from dacapo_store.config_store import KINDS
from dacapo_store.errors import MissingError
from dacapo_store.events import (
    EVENT_TYPES,
    BestWeightsChosen,
    ConfigDeleted,
    ConfigStored,
    WeightsRewound,
    WeightsStored,
)
from dacapo_store.history import TRAINING, VALIDATION, Kind, becoming, folded, rewinding
from dacapo_store.moments import Moment, position_of
from dacapo_store.names import validate_run_name
from dacapo_store.scalars import as_iteration
from dacapo_store.summaries import summary_of
from dacapo_store.weights_history import WeightsHistory
from eventstore import NO_STREAM, Event, ExpectedVersionError, StreamAppend

if TYPE_CHECKING:
    from dacapo_store.base import Base
    from eventstore import RecordedEvent


@dataclass(frozen=True)
class Correction:
    """What a correction wrote, or would write.

    Attributes:
        steps: For each event its stream and what it says, in a few words.
        position: The position that the log has with it; None where nothing was written: there was
            nothing to do, or it was a dry run.
    """

    steps: tuple[tuple[str, str], ...]
    position: int | None

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __str__(self) -> str:
        return "\n".join(f"{stream}: {summary}" for stream, summary in self.steps) or "nothing to do"


def rewind(base: Base, run: str, iteration: int, *, dry_run: bool = False) -> Correction:
    """Bring a run back to what it was when it had trained so many iterations.

    Training stats below the iteration stay, scores and weights up to it. A choice of best weights that
    leaves the view gives way to the one before it. What leaves the view stays in the history, and its
    files stay on the disk: ``restore`` brings it back.

    Args:
        base: The base.
        run: The run's name.
        iteration: How many iterations it has trained then.
        dry_run: Only say what would be written.

    Raises:
        MissingError: Nothing was ever recorded of this run.
        ValueError: The iteration is negative, or the name cannot be a run's.
    """
    base.require_writable()
    validate_run_name(run)
    kept = as_iteration(iteration, where="rewind")
    if kept < 0:
        raise ValueError(f"iteration {kept} is impossible: iterations count from 0")

    def plan() -> list[StreamAppend]:
        streams = {kind: list(base.log.read_stream(stream_of(kind, run))) for kind in RUN_KINDS}
        if not any(streams.values()):
            history(base, "training", run)  # raises, and suggests names
        training = folded(TRAINING.unwritten(), streams["training"])
        validation = folded(VALIDATION.unwritten(), streams["validation"])
        return [
            _extending("training", run, streams["training"], rewinding(TRAINING, run, training, kept)),
            _extending(
                "validation", run, streams["validation"], rewinding(VALIDATION, run, validation, kept + 1)
            ),
            _extending("weights", run, streams["weights"], _rewinding_weights(run, streams["weights"], kept)),
        ]

    return _carried_out(base, plan, dry_run=dry_run)


def restore(
    base: Base, kind: str, name: str, *, at: Moment | None = None, dry_run: bool = False
) -> Correction:
    """Bring a thing back to what it was at a moment.

    Configs come back after a deletion, or as an earlier document; stats and scores as they were before
    they were replaced, deleted or rewound. Weights of then come back beside those of now, as long as
    their files are there, and so does what was best.

    Args:
        base: The base.
        kind: A kind of config, or ``training``, ``validation`` or ``weights`` of a run.
        name: Its name.
        at: When it was as it should be; None is just before its last change.
        dry_run: Only say what would be written.

    Raises:
        MissingError: It was not there at that moment, or files of its weights are gone.
        ValueError: There is no such kind or moment.
    """
    base.require_writable()
    base.settle()
    last = history(base, kind, name)[-1].position
    moment = last if at is None else position_of(base.log, at)

    def plan() -> list[StreamAppend]:
        events = list(base.log.read_stream(stream_of(kind, name)))
        then = [event for event in events if event.position < moment]
        if kind in KINDS:
            added = _restored_config(kind, name, events, then)
        elif kind == "weights":
            added = _restored_weights(base, name, events, then)
        else:
            added = _restored_rows(TRAINING if kind == "training" else VALIDATION, name, events, then)
        return [_extending(kind, name, events, added)]

    return _carried_out(base, plan, dry_run=dry_run)


def _carried_out(base: Base, plan: Callable[[], list[StreamAppend]], *, dry_run: bool) -> Correction:
    base.settle()  # rows that a killed logger left belong to what is corrected
    while True:
        appends = plan()
        steps = tuple((part.stream, summary_of(event)) for part in appends for event in part.events)
        if not steps or dry_run:
            return Correction(steps, None)
        try:
            commit = base.append_to_streams(appends)
        except ExpectedVersionError:
            continue
        for stream, _ in steps:
            if stream.startswith("weights/"):
                _mend_links(base, stream.removeprefix("weights/"))
        return Correction(steps, commit.next_position)


def _mend_links(base: Base, run: str) -> None:
    # Loads torch, so only where weights were concerned.
    from dacapo_store.weights_store import LocalWeightsStore

    LocalWeightsStore(base.location.name).repair_links(run)


def _extending(kind: str, name: str, known: list[RecordedEvent], added: list[Event]) -> StreamAppend:
    expected = known[-1].stream_version if known else NO_STREAM
    return StreamAppend(stream_of(kind, name), added, expected)


def _rewinding_weights(run: str, events: list[RecordedEvent], kept: int) -> list[Event]:
    weights = WeightsHistory.of(events)
    if not weights.stored or max(weights.stored) <= kept:
        return []
    added: list[Any] = [WeightsRewound(run, kept)]
    for choice, best in weights.best.items():
        if best > kept and (earlier := _earlier_best(events, choice, weights, kept)) is not None:
            added.append(BestWeightsChosen(run, *choice, earlier))
    return [EVENT_TYPES.event(each) for each in added]


def _earlier_best(
    events: list[RecordedEvent], choice: tuple[str, str], weights: WeightsHistory, kept: int
) -> int | None:
    """The last choice whose weights are there after the rewind."""
    for event in reversed(events):
        match EVENT_TYPES.decode(event):
            case BestWeightsChosen(dataset=dataset, criterion=criterion, iteration=iteration) if (
                (dataset, criterion) == choice and iteration <= kept and iteration in weights.stored
            ):
                return iteration
    return None


def _restored_config(
    kind: str, name: str, events: list[RecordedEvent], then: list[RecordedEvent]
) -> list[Event]:
    wanted, present = _stored_config(then), _stored_config(events)
    if wanted is None:
        raise MissingError(
            f"there was no {name!r} of kind {kind!r} at that moment: 'history' shows when there was"
        )
    if wanted == present:
        return []
    replaced = [] if present is None else [EVENT_TYPES.event(ConfigDeleted(kind, name))]
    return [*replaced, EVENT_TYPES.event(wanted)]


def _stored_config(events: list[RecordedEvent]) -> ConfigStored | None:
    fact = EVENT_TYPES.decode(events[-1]) if events else None
    return fact if isinstance(fact, ConfigStored) else None


def _restored_rows(
    kind: Kind[Any], run: str, events: list[RecordedEvent], then: list[RecordedEvent]
) -> list[Event]:
    wanted = folded(kind.unwritten(), then).rows
    return becoming(kind, run, folded(kind.unwritten(), events), wanted)


def _restored_weights(
    base: Base, run: str, events: list[RecordedEvent], then: list[RecordedEvent]
) -> list[Event]:
    wanted, present = WeightsHistory.of(then), WeightsHistory.of(events)
    added: list[WeightsStored | BestWeightsChosen] = [
        stored for iteration, stored in wanted.stored.items() if present.stored.get(iteration) != stored
    ]
    gone = [stored for stored in added if base.payload_place.size(stored.path) is None]  # type: ignore[union-attr]
    if gone:
        iterations = ", ".join(str(stored.iteration) for stored in gone)
        raise MissingError(
            f"the files of run {run!r}'s weights of iteration {iterations} are gone, so they cannot be "
            "restored; bring them back from a backup first"
        )
    present_best = {choice: best for choice, best in present.best.items() if best in present.stored}
    added += [
        BestWeightsChosen(run, *choice, best)
        for choice, best in wanted.best.items()
        if present_best.get(choice) != best
    ]
    return [EVENT_TYPES.event(each) for each in added]
