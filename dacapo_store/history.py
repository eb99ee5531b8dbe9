"""What a run's stats are, as the fold of its stream, and the rule by which new stats meet them.

Pure: events and rows in, rows out. Reading, writing and deciding again are the stats store's; the
SQL views say the same as this fold, and a test holds the two together.

The rule. S is stored, X is given; *begins* and *ends* mean the least and the greatest iteration.

1. X is empty: nothing happens.
2. X ends before S ends: X replaces S.
3. Otherwise: what S has below X's begin stays, then comes X.

Rows are never overwritten. The outcome differs from S from some row on; when that is behind S's
last row the new rows are recorded in the present *epoch*. Otherwise a new epoch begins that keeps
the rows below an iteration, and what the cut took away, but the outcome holds, is recorded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

import numpy as np

from dacapo_store.events import (
    EVENT_TYPES,
    TrainingEpochBegun,
    TrainingStatsDeleted,
    TrainingStatsRecorded,
    ValidationEpochBegun,
    ValidationScoresDeleted,
    ValidationScoresRecorded,
)
from dacapo_store.rows import TrainingRows, ValidationRows

if TYPE_CHECKING:
    import numpy.typing as npt

    from eventstore import Event, RecordedEvent

KEEPS_NOTHING: Final = int(np.iinfo(np.int64).min)
"""As ``keeps_below``: no iteration lies below it."""


class Rows(Protocol):
    """What the rule asks of rows; ``TrainingRows`` and ``ValidationRows`` are such."""

    @property
    def iterations(self) -> npt.NDArray[np.int64]:
        """The iteration of each row."""

    def __len__(self) -> int: ...

    @property
    def are_blank(self) -> bool:
        """Whether others, behind them, are the same without them."""

    def take(self, selection: slice | npt.NDArray[np.bool_]) -> Self:
        """The selected rows, in their order."""

    def common_prefix(self, other: Self) -> int:
        """How many rows in front are the same in both."""

    def recorded(self, run: str, epoch: int) -> list[Event]:
        """The events that record these rows; none for no rows."""

    @classmethod
    def fits(cls, fact: Any, index: Any, values: Any) -> bool:
        """Whether these lists are such as a store writes."""

    @classmethod
    def of_event(cls, fact: Any, index: Any, values: Any) -> Self:
        """The rows that an event recorded."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part behind the other."""


R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class History(Generic[R]):
    """The fold of a run's stream.

    Attributes:
        parts: What is in view, one part behind the other, in the order in which it was given; at least
            one. A call that adds rows makes a part of them, so it costs the same however many there are.
        ends: The greatest iteration in view, or None when nothing is.
        epoch: The run's epoch; rows are recorded in this one.
        cuts: Each epoch that has begun, with the iteration below which it kept earlier rows.
        events: How many events were folded: the stream version that the next one will get.
        as_viewed: Whether the SQL views are sure to show just these rows. They are where every event is
            such as a store writes; of others, what the views say counts.
    """

    parts: tuple[R, ...]
    ends: int | None = None
    epoch: int = 0
    cuts: tuple[tuple[int, int], ...] = ()
    events: int = 0
    as_viewed: bool = True

    @property
    def rows(self) -> R:
        """What is in view, as one."""
        if len(self.parts) > 1:
            # The same in another form, for whoever asks next.
            object.__setattr__(self, "parts", (type(self.parts[0]).joined(self.parts),))
        return self.parts[0]


@dataclass(frozen=True)
class Kind(Generic[R]):
    """One of the two histories that a run has: its rows, the names of its streams and events."""

    stream_prefix: str
    rows: type[R]
    epoch_begun: type[TrainingEpochBegun | ValidationEpochBegun]
    deleted: type[TrainingStatsDeleted | ValidationScoresDeleted]

    def stream(self, run: str) -> str:
        """The stream of this history of ``run``."""
        return f"{self.stream_prefix}/{run}"

    def unwritten(self) -> History[R]:
        """The history of a run of which nothing is known."""
        return History((self.rows.joined([]),))


TRAINING: Final = Kind("training", TrainingRows, TrainingEpochBegun, TrainingStatsDeleted)
VALIDATION: Final = Kind("validation", ValidationRows, ValidationEpochBegun, ValidationScoresDeleted)


def storing(kind: Kind[R], run: str, history: History[R], given: R) -> list[Event]:
    """The events that follow when ``given`` is stored: none when it brings nothing new."""
    # What lies behind all that is in view needs no comparing, nor the rows as one.
    if len(given) and (history.ends is None or given.iterations.min() > history.ends):
        return given.recorded(run, history.epoch)
    return _recording(kind, run, history, change(history.rows, given))


def becoming(kind: Kind[R], run: str, history: History[R], wanted: R) -> list[Event]:
    """The events after which exactly ``wanted`` is in view: none when it is already."""
    return _recording(kind, run, history, _towards(history.rows, wanted))


def rewinding(kind: Kind[R], run: str, history: History[R], keeps_below: int) -> list[Event]:
    """The events after which only rows below an iteration are in view: none when that is so."""
    if history.ends is None or history.ends < keeps_below:
        return []
    begun = kind.epoch_begun(run=run, epoch=history.epoch + 1, keeps_below=keeps_below)
    return [EVENT_TYPES.event(begun)]


def _recording(kind: Kind[R], run: str, history: History[R], wanted: Change[R] | None) -> list[Event]:
    if wanted is None:
        return []
    if wanted.keeps_below is None:
        return wanted.added.recorded(run, history.epoch)
    epoch = history.epoch + 1
    begun = kind.epoch_begun(run=run, epoch=epoch, keeps_below=wanted.keeps_below)
    return [EVENT_TYPES.event(begun), *wanted.added.recorded(run, epoch)]


def deleting(kind: Kind[R], run: str, history: History[R]) -> list[Event]:
    """The events that follow when everything is deleted: none when nothing is in view."""
    if history.ends is None:
        return []
    return [EVENT_TYPES.event(kind.deleted(run=run, epoch=history.epoch + 1))]


def folded(history: History[R], events: Iterable[RecordedEvent]) -> History[R]:
    """The history after ``events``, which follow it in the run's stream.

    Raises:
        UnknownEventTypeError: The stream holds an event of a newer program, so what is in view
            cannot be said: upgrade.
        SchemaVersionError: Likewise.
    """
    decoded = ((event, EVENT_TYPES.decode(event)) for event in events)
    return _folded(
        history, ((fact, event.index, event.values, _is_own(event, fact)) for event, fact in decoded)
    )


def appended(history: History[R], events: Iterable[Event]) -> History[R]:
    """As ``folded``, for events that the caller has just appended behind the history."""
    return _folded(history, ((EVENT_TYPES.fact(event), event.index, event.values, True) for event in events))


def _folded(history: History[R], told: Iterable[tuple[object, Any, Any, bool]]) -> History[R]:
    rows_type = type(history.parts[0])
    old, new = list(history.parts), list[R]()
    ends, epoch, cuts, count = history.ends, history.epoch, list(history.cuts), history.events
    as_viewed = history.as_viewed
    for fact, index, values, is_own in told:
        count += 1
        as_viewed = as_viewed and is_own
        match fact:
            case TrainingStatsRecorded() | ValidationScoresRecorded():
                as_viewed = as_viewed and rows_type.fits(fact, index, values)
                rows = rows_type.of_event(fact, index, values)
                # Only where the event that began it was lost is this epoch a new one.
                epoch = max(epoch, fact.epoch)
                new.append(_still_in_view(rows, fact.epoch, cuts))
            case TrainingEpochBegun(keeps_below=cut) | ValidationEpochBegun(keeps_below=cut):
                as_viewed = as_viewed and fact.epoch > epoch
                epoch = fact.epoch
                cuts.append((epoch, cut))
                old, new = ([_below(part, cut) for part in parts] for parts in (old, new))
                ends = _end([*old, *new])
            case TrainingStatsDeleted() | ValidationScoresDeleted():
                as_viewed = as_viewed and fact.epoch > epoch
                epoch = fact.epoch
                cuts.append((epoch, KEEPS_NOTHING))
                old, new, ends = [], [], None
    if count == history.events:
        return history
    last = rows_type.joined(new)
    ends = max((end for end in (ends, _end([last])) if end is not None), default=None)
    return History(_with(old, last), ends, epoch, tuple(cuts), count, as_viewed)


def _is_own(event: RecordedEvent, fact: Any) -> bool:
    """Whether the event is in the stream of the run that it names: views go by the name."""
    return bool(event.stream.partition("/")[2] == getattr(fact, "run", None))


def _with(parts: list[R], last: R) -> tuple[R, ...]:
    """The parts and one more behind them; each has more than twice the rows of those behind it.

    So there are few of them, and a row is copied few times while a run grows.
    """
    while parts and len(parts[-1]) <= 2 * len(last):
        before = parts.pop()
        last = last if before.are_blank else last.joined([before, last])
    return (*parts, last) if len(last) or not parts else tuple(parts)


def _end(parts: Iterable[Rows]) -> int | None:
    return max((int(part.iterations.max()) for part in parts if len(part)), default=None)


def _still_in_view(rows: R, epoch: int, cuts: Iterable[tuple[int, int]]) -> R:
    """Rows may be recorded after their epoch has ended: what later epochs cut is history at once."""
    keeps_below = min((cut for begun, cut in cuts if begun > epoch), default=None)
    return rows if keeps_below is None else _below(rows, keeps_below)


def _below(rows: R, iteration: int) -> R:
    return rows.take(rows.iterations < iteration)


@dataclass(frozen=True)
class Change(Generic[R]):
    """What a store call has to write.

    Attributes:
        keeps_below: None when the present epoch goes on; otherwise a new one begins, and this is
            the iteration below which earlier rows stay.
        added: The rows to record then; there may be none.
    """

    keeps_below: int | None
    added: R


def change(stored: R, given: R) -> Change[R] | None:
    """What turns ``stored`` into the outcome of the rule; None when it is that already."""
    if not len(given):
        return None
    return _towards(stored, _outcome(stored, given))


def _towards(stored: R, outcome: R) -> Change[R] | None:
    same = stored.common_prefix(outcome)
    if same < len(stored):
        kept, keeps_below = _cut(stored.iterations, same)
        return Change(keeps_below, outcome.take(slice(kept, None)))
    if same < len(outcome):
        return Change(None, outcome.take(slice(same, None)))
    return None


def _outcome(stored: R, given: R) -> R:
    if not len(stored) or given.iterations.max() < stored.iterations.max():
        return given
    below = stored.iterations < given.iterations.min()
    return type(given).joined([stored.take(below), given]) if below.any() else given


def _cut(iterations: npt.NDArray[np.int64], same: int) -> tuple[int, int]:
    """The cut that keeps most of the first ``same`` rows and nothing behind them.

    An epoch can only say "keep what is below this iteration", and iterations may go back and
    forth. So the cut is where every iteration in front of it is less than every one behind it.

    Returns:
        How many rows stay, and the iteration below which they lie.
    """
    greatest_in_front = np.maximum.accumulate(iterations)
    least_behind = np.minimum.accumulate(iterations[::-1])[::-1]
    places = np.flatnonzero(greatest_in_front[:same] < least_behind[1 : same + 1]) + 1
    if not len(places):
        return 0, KEEPS_NOTHING
    return int(places[-1]), int(least_behind[places[-1]])
