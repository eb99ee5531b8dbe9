"""The folds of runs' streams that a process has made, and when a retrieval is answered by one.

Who stores folds the run's stream to decide (``history``). The folds of the last few runs are kept, and as
they are immutable values over an append-only stream, threads and forked children may share them.

The views say the same, of all runs and any past, and a process that has them asks them. One that has none
would start a database to be told of a single run: there the fold answers. It leaves to the views:

- a stream of which it cannot be sure that it reads it as they do,
- a run whose events lie scattered over a long log, where many small reads cost more than views,
- all runs, once a few have been read: whoever looks at many is better off with views.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dacapo_store.history import History, Kind, Rows, folded
from eventstore import EventStoreError

if TYPE_CHECKING:
    from dacapo_store.base import Base
    from eventstore import RecordedEvent

R = TypeVar("R", bound=Rows)

_KEPT_MAX: Final = 8
_FAR_POSITIONS: Final = 64
_JUMPS_MAX: Final = 32
"""Farther apart than ``_FAR_POSITIONS``, an event takes a read of its own: so many of them cost half of what
it costs to make views."""

_WHOLE_FOLDS_MAX: Final = 16
"""How many streams a process reads from their beginning to show them, before it makes views."""

Key = tuple[Path, bytes, str]
"""A stream, unlike any other of this process."""


def key_of(base: Base, kind: Kind[R], run: str) -> Key:
    """What tells a run's stream from others: the path as well, for a copy of a base has the log id of it."""
    return base.path, base.log.log_id, kind.stream(run)


def history_of(base: Base, kind: Kind[R], run: str) -> History[R]:
    """The run's history as of now; only what came since the last call is read."""
    known = _known(base, kind, run)
    history = folded(known, base.log.read_stream(kind.stream(run), from_version=known.events))
    keep(base, kind, run, history)
    return history


def keep(base: Base, kind: Kind[R], run: str, history: History[R]) -> None:
    """Have a history for the next call, which reads what came since."""
    _recent.put(key_of(base, kind, run), history)


def history_to_show(base: Base, kind: Kind[R], run: str) -> History[R] | None:
    """The run's history, with just the rows that the views show; None where they are to be asked."""
    if base.has_views:
        return None
    known = kind.unwritten() if base.as_of is not None else _known(base, kind, run)
    if not known.events:
        if base.present.whole_folds >= _WHOLE_FOLDS_MAX:
            return None
        base.present.whole_folds += 1
    try:
        events = base.log.read_stream(kind.stream(run), from_version=known.events)
        history = folded(known, _near_each_other(events))
    except (EventStoreError, _ScatteredError, TypeError, ValueError):
        # The views may have it all the same, from a snapshot, or say what is wrong.
        return None
    if base.as_of is None:
        keep(base, kind, run, history)
    return history if history.as_viewed else None


def _known(base: Base, kind: Kind[R], run: str) -> History[R]:
    known: History[R] | None = _recent.get(key_of(base, kind, run))
    if known is None or known.events > (base.log.stream_version(kind.stream(run)) or 0) + 1:
        return kind.unwritten()
    return known


class _ScatteredError(Exception):
    """Too many reads."""


def _near_each_other(events: Iterable[RecordedEvent]) -> Iterator[RecordedEvent]:
    jumps, before = 0, None
    for event in events:
        jumps += before is not None and event.position - before > _FAR_POSITIONS
        if jumps > _JUMPS_MAX:
            raise _ScatteredError
        before = event.position
        yield event


class _RecentFolds:
    """The last few histories that this process folded, of whatever base.

    The dict is replaced and never changed, so that threads need no lock here, and a fork in the
    middle of a call cannot leave one locked.
    """

    def __init__(self) -> None:
        self._folds: dict[Key, History[Any]] = {}

    def get(self, key: Key) -> History[Any] | None:
        return self._folds.get(key)

    def put(self, key: Key, history: History[Any]) -> None:
        others = [(other, fold) for other, fold in self._folds.items() if other != key]
        self._folds = dict([*others, (key, history)][-_KEPT_MAX:])


_recent = _RecentFolds()
