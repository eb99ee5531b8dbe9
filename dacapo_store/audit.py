"""Who changed what, and when: the log as people read it, versions of a thing, and their differences.

A *thing* has a kind and a name. Kinds are those of configs (``runs``, ``tasks``, …), and for each run
``training``, ``validation`` and ``weights``. Its state at any moment is a document, so that all of them
are compared in one way.
"""

from __future__ import annotations

import difflib
import fnmatch
import html
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.config_store import KINDS
from dacapo_store.differences import Difference, differences, laid_flat
from dacapo_store.errors import MissingError
from dacapo_store.events import EVENT_TYPES, ConfigStored
from dacapo_store.history import TRAINING, VALIDATION, Kind, folded
from dacapo_store.moments import Moment, position_of
from dacapo_store.summaries import summary_of
from dacapo_store.weights_history import WeightsHistory

if TYPE_CHECKING:
    from datetime import datetime

    from dacapo_store.base import Base
    from eventstore import EventLog, RecordedEvent

RUN_KINDS: Final = ("training", "validation", "weights")
ALL_KINDS: Final = (*KINDS, *RUN_KINDS)


@dataclass(frozen=True)
class Entry:
    """One event as people read it.

    Attributes:
        position: Its place in the log.
        recorded_at: The writer's clock, UTC.
        actor: In whose name it was written.
        host: Where.
        kind: What kind of thing it is about.
        name: The thing's name.
        summary: What happened, in a few words.
        event: The event itself.
    """

    position: int
    recorded_at: datetime
    actor: str
    host: str
    kind: str
    name: str
    summary: str
    event: RecordedEvent = field(repr=False, compare=False)

    def __str__(self) -> str:
        when = self.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
        return f"{self.position:>8}  {when}  {self.actor}  {self.kind}/{self.name}  {self.summary}"


class Entries(tuple[Entry, ...]):
    """Entries in the order of the log; prints itself a line each, and as a table in notebooks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no entries"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{each}</th>" for each in ("position", "time", "actor", "thing", "what"))
        body = "".join(_row(entry) for entry in self)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(entry: Entry) -> str:
    when = entry.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
    cells = (entry.position, when, entry.actor, f"{entry.kind}/{entry.name}", entry.summary)
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


@dataclass(frozen=True)
class Change:
    """A difference, and the entry that made it last."""

    difference: Difference
    entry: Entry

    def __str__(self) -> str:
        when = self.entry.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
        return f"{self.difference}   ({self.entry.actor}, {when}, position {self.entry.position})"


class Changes(tuple[Change, ...]):
    """What differs between two states of a thing; empty when nothing does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no difference"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def entries(
    log: EventLog,
    *,
    run: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    actor: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    types: Collection[str] | None = None,
) -> Iterator[Entry]:
    """The events that match all of this, oldest first.

    Args:
        log: The log.
        run: A run's name, or a pattern with ``*`` and ``?``: its config, stats, scores, weights, arrays.
        kind: One of ``ALL_KINDS``, or ``containers``.
        name: The thing's name, or a pattern.
        actor: Whoever wrote it, or a pattern.
        since: From this position or time on.
        until: Up to, not including, this position or time.
        types: Only events of these types.
    """
    start = 0 if since is None else position_of(log, since)
    events = log.read(start, position_of(log, until), types=types)
    return matching(map(entry_of, events), run=run, kind=kind, name=name, actor=actor)


def matching(
    found: Iterable[Entry],
    *,
    run: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    actor: str | None = None,
) -> Iterator[Entry]:
    """Those entries that fit all patterns that are given."""
    for entry in found:
        if (
            _fits(kind, entry.kind)
            and _fits(name, entry.name)
            and _fits(actor, entry.actor)
            and _fits(run, _run_of(entry))
        ):
            yield entry


def entry_of(event: RecordedEvent) -> Entry:
    """An event as people read it."""
    kind, name = _thing(event.stream)
    metadata = event.metadata
    return Entry(
        position=event.position,
        recorded_at=event.recorded_at,
        actor=str(metadata.get("actor", metadata.get("user", "?"))),
        host=str(metadata.get("host", "?")),
        kind=kind,
        name=name,
        summary=summary_of(event),
        event=event,
    )


def history(base: Base, kind: str, name: str) -> Entries:
    """Everything that ever happened to a thing, oldest first.

    Raises:
        MissingError: Nothing of this kind ever had this name; close names are suggested.
        ValueError: There is no such kind.
    """
    found = Entries(entry_of(event) for event in base.log.read_stream(stream_of(kind, name)))
    if not found:
        raise MissingError(_never_there(base, kind, name))
    return found


def diff(
    base: Base, kind: str, name: str, before: Moment | None = None, after: Moment | None = None
) -> Changes:
    """What changed in a thing between two moments, by whom and when.

    Args:
        base: The base.
        kind: One of ``ALL_KINDS``.
        name: The thing's name.
        before: The earlier moment; None is just before its last change.
        after: The later moment; None is now.
    """
    events = [entry.event for entry in history(base, kind, name)]
    end = position_of(base.log, after)
    start = events[-1].position if before is None else position_of(base.log, before)
    if start > end:
        raise ValueError(f"the earlier moment, position {start}, comes after the later one, {end}")
    return Changes(_blamed(kind, events, start, end))


def _blamed(kind: str, events: Sequence[RecordedEvent], start: int, end: int) -> Iterator[Change]:
    before: Any = None
    earlier: Any = None
    touched: dict[str, RecordedEvent] = {}
    for event, later in _states(kind, [event for event in events if event.position < end]):
        if event.position < start:
            before = later
        else:
            touched.update((each.place, event) for each in differences(earlier, later))
        earlier = later
    for each in differences(before, earlier):
        related = [event for place, event in touched.items() if _overlap(place, each.place)]
        yield Change(each, entry_of(max(related, key=lambda event: event.position)))


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def blame(base: Base, kind: str, name: str) -> list[tuple[str, Any, Entry]]:
    """For each field of a config as it is now: its place, its value, and the entry that set it."""
    if kind not in KINDS:
        raise ValueError(f"blame is of configs: {', '.join(KINDS)}; not of {kind!r}")
    setters: dict[str, Entry] = {}
    earlier: dict[str, Any] = {}
    for event, document in _states(kind, [entry.event for entry in history(base, kind, name)]):
        later = laid_flat(document)
        setters.update((each.place, entry_of(event)) for each in differences(earlier, later))
        earlier = later
    return [(place, value, setters[place]) for place, value in earlier.items()]


def _states(kind: str, events: Iterable[RecordedEvent]) -> Iterator[tuple[RecordedEvent, Any]]:
    """A thing's events, each with what the thing is then, as a document; None where it is not there."""
    if kind in KINDS:
        return ((event, _config_document(event)) for event in events)
    if kind == "weights":
        return _weights_documents(events)
    return _rows_documents(TRAINING if kind == "training" else VALIDATION, events)


def _config_document(event: RecordedEvent) -> Any:
    fact = EVENT_TYPES.decode(event)
    return fact.document if isinstance(fact, ConfigStored) else None


def _weights_documents(events: Iterable[RecordedEvent]) -> Iterator[tuple[RecordedEvent, Any]]:
    history = WeightsHistory()
    for event in events:
        history.fold(event)
        stored = {str(iteration): stored.digest for iteration, stored in history.stored.items()}
        best = {f"{dataset}/{criterion}": best for (dataset, criterion), best in history.best.items()}
        yield event, {"iterations": stored, "best": best} if stored else None


def _rows_documents(kind: Kind[Any], events: Iterable[RecordedEvent]) -> Iterator[tuple[RecordedEvent, Any]]:
    state = kind.unwritten()
    for event in events:
        state = folded(state, [event])
        parts = [part.iterations for part in state.parts if len(part)]
        yield (
            event,
            {
                "rows": sum(map(len, parts)),
                "first_iteration": min(int(part.min()) for part in parts),
                "last_iteration": state.ends,
                "epoch": state.epoch,
            }
            if parts
            else None,
        )


def stream_of(kind: str, name: str) -> str:
    """The stream of a thing.

    Raises:
        ValueError: There is no such kind.
    """
    if kind in KINDS:
        return f"config/{kind}/{name}"
    if kind in RUN_KINDS:
        return f"{kind}/{name}"
    close = difflib.get_close_matches(str(kind), ALL_KINDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"there is no kind {kind!r}{hint} There are {', '.join(ALL_KINDS)}")


def _thing(stream: str) -> tuple[str, str]:
    prefix, _, rest = stream.partition("/")
    match prefix:
        case "config":
            kind, _, name = rest.partition("/")
            return kind, name
        case "arrays":
            return "containers", rest
    return prefix, rest


def _run_of(entry: Entry) -> str:
    """The run that an entry is about; empty where it is about none."""
    if entry.kind == "runs" or entry.kind in RUN_KINDS:
        return entry.name
    return entry.name.partition("/")[0] if entry.kind == "containers" else ""


def _fits(pattern: str | None, text: str) -> bool:
    return pattern is None or fnmatch.fnmatchcase(text, pattern)


def _never_there(base: Base, kind: str, name: str) -> str:
    streams = base.query("SELECT DISTINCT stream FROM events").fetchall()
    names = sorted({_thing(stream)[1] for (stream,) in streams if _thing(stream)[0] == kind})
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"there are {len(names)} names of this kind" if names else "there is none of this kind"
    return f"there never was a {name!r} of kind {kind!r} in this log; {hint}"
