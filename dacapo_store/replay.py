"""A new base from an old one: the same events, with their ids and times, up to a moment.

So an experiment is branched from a past state, a base is made without what it must not hold (a
``transform`` leaves it out, the one way for a secret to leave the history), or a part is cut out.

1. The source is read up to a position that is durable there.
2. Events are appended in their order, with ids, clocks and metadata as they were; repeating the call
   writes nothing twice, so one that was interrupted is simply repeated.
3. The payloads that these events name are linked or copied, each checked.
4. ``replay.json`` in the new base says what it was made from: log id, position and chain value.

Where nothing is left out or changed, all read models have equal content: ``same_content`` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from dacapo_store.errors import DamagedArtifactError
from dacapo_store.location import LOG, Location
from dacapo_store.moments import Moment, position_of
from dacapo_store.payload_copies import copy_payload
from dacapo_store.payload_place import PayloadPlace, place_at
from dacapo_store.payloads import Payloads
from eventstore import Event, EventLog, StreamAppend, files, open_bucket
from eventstore.model import Progress, no_progress
from eventstore.past import PastLog

if TYPE_CHECKING:
    import os

    from eventstore import RecordedEvent

RECEIPT: Final = "replay.json"
_EVENTS_OF_A_COMMIT_MAX: Final = 1000

Transform = Callable[[str, Event], tuple[str, Event] | None]
"""Gets an event's stream and the event; gives what to write instead, or None to leave it out."""


@dataclass(frozen=True)
class ReplayReceipt:
    """What a base was made from.

    Attributes:
        source: The base that was read.
        log_id: Its log's id.
        position: As of which position.
        chain: Its chain's value there, which ``verify --expect`` compares with the source.
        events: How many events the new base has.
        new_chain: The new log's chain value behind them.
        complete: True when no event was left out or changed.
        payloads: How many weights files were linked or copied.
        missing: Those that could not be, with the reason.
    """

    source: str
    log_id: str
    position: int
    chain: str
    events: int
    new_chain: str
    complete: bool
    payloads: int
    missing: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay would take.

    Attributes:
        position: As of which position.
        events: How many events.
        payloads: How many weights files they name.
        payload_bytes: Their size.
    """

    position: int
    events: int
    payloads: int
    payload_bytes: int


def plan_replay(
    base: str | os.PathLike[str],
    into: str | os.PathLike[str],
    *,
    until: Moment | None = None,
    types: Collection[str] | None = None,
) -> ReplayPlan:
    """Say what ``replay`` would take from a base; nothing is written.

    Raises:
        LogNotFoundError: There is no base to read.
        ValueError: ``into`` holds something else, or lies within the base.
    """
    old, new = Location.of(base), Location.of(into)
    _check_target(old, new)
    with EventLog.open(old.log, read_only=True) as source:
        position = position_of(source, until)
        events = sum(batch.num_rows for batch in source.read_batches(until=position, types=types))
        kept = Payloads.of(source.read(until=position, types=types)).kept()
    return ReplayPlan(position, events, len(kept), sum(payload.stored.bytes for payload in kept))


def replay(
    base: str | os.PathLike[str],
    into: str | os.PathLike[str],
    *,
    until: Moment | None = None,
    types: Collection[str] | None = None,
    transform: Transform | None = None,
    payloads: Literal["link", "copy", "none"] = "link",
    progress: Progress = no_progress,
) -> ReplayReceipt:
    """Make a new base from the events of another one.

    Args:
        base: The base to read.
        into: An empty or missing folder, an address of one, or one where the same replay was interrupted.
        until: As of which position or time; None is now.
        types: Take only events of these types.
        transform: Changes an event or leaves it out; called once for each, in order.
        payloads: Give weights files a second name in the new base, copy them, or leave them.
        progress: Told of the events that were written.

    Raises:
        LogNotFoundError: There is no base to read.
        ValueError: ``into`` holds something else, or lies within the base.
        DuplicateEventError: ``into`` holds another replay.
        DamagedLogError: The log to read is damaged.
        OSError: The disk did not take it; the call may be repeated.
    """
    old, new = Location.of(base), Location.of(into)
    _check_target(old, new)
    with EventLog.open(old.log, read_only=True) as source:
        position = position_of(source, until)
        chain = source.chain_at(position)
        taken = _changed(source.read(until=position, types=types), transform)
        if isinstance(new.payloads, Path):
            like = old.payloads if isinstance(old.payloads, Path) else _nearest_folder(new.payloads)
            files.make_directories(new.payloads, like=like)
        with EventLog.open(new.log) as log:
            for appends in _commits(taken):
                written = log.append_to_streams(appends, durability="os")
                progress(written.next_position, position)
            log.sync()
            events, new_chain = log.next_position, log.chain
            named = Payloads.of_log(log)
        count, missing = _bring(place_at(old.payloads), place_at(new.payloads), named, how=payloads)
        receipt = ReplayReceipt(
            source=old.name,
            log_id=source.log_id.hex(),
            position=position,
            chain=chain.hex(),
            events=events,
            new_chain=new_chain.hex(),
            complete=types is None and transform is None,
            payloads=count,
            missing=tuple(missing),
        )
    text = json.dumps(asdict(receipt), indent=1) + "\n"
    if isinstance(new.payloads, Path):
        files.replace_text(new.payloads / RECEIPT, text, like=new.payloads)
    else:
        open_bucket(new.payloads).put(RECEIPT, text.encode())
    return receipt


def same_content(base: str | os.PathLike[str], other: str | os.PathLike[str], *, position: int) -> bool:
    """Whether all read models of one base, as of a position, are equal to those of another as it is."""
    from projections import ReadModels

    digests = []
    for path, until in ((base, position), (other, None)):
        with EventLog.open(Location.of(path).log, read_only=True) as log:
            views = ReadModels(PastLog(log, log.next_position if until is None else until))
            digests.append(views.digests())
            views.close()
    return digests[0] == digests[1]


def _changed(events: Iterable[RecordedEvent], transform: Transform | None) -> Iterator[tuple[str, Event]]:
    for recorded in events:
        event = Event(
            recorded.type,
            recorded.data,
            schema_version=recorded.schema_version,
            index=recorded.index,
            values=recorded.values,
            event_id=recorded.event_id,
            metadata=recorded.metadata,
            recorded_at=recorded.recorded_at,
        )
        wanted = (recorded.stream, event) if transform is None else transform(recorded.stream, event)
        if wanted is not None:
            yield wanted


def _commits(events: Iterable[tuple[str, Event]]) -> Iterator[list[StreamAppend]]:
    """Events in their order, as few commits as that allows: a commit names each stream once."""
    parts: dict[str, list[Event]] = {}
    last, count = None, 0
    for stream, event in events:
        if count == _EVENTS_OF_A_COMMIT_MAX or (stream in parts and stream != last):
            yield _appends(parts)
            parts, count = {}, 0
        parts.setdefault(stream, []).append(event)
        last, count = stream, count + 1
    if parts:
        yield _appends(parts)


def _appends(parts: dict[str, list[Event]]) -> list[StreamAppend]:
    return [StreamAppend(stream, events) for stream, events in parts.items()]


def _bring(
    old: PayloadPlace, new: PayloadPlace, named: Payloads, *, how: str
) -> tuple[int, list[tuple[str, str]]]:
    missing: list[tuple[str, str]] = []
    if how == "none":
        return 0, missing
    count = 0
    for payload in named.kept():
        try:
            copy_payload(old, new, payload.artifact, link=how == "link")
        except (FileNotFoundError, DamagedArtifactError, ValueError) as error:
            reason = "the file is gone" if isinstance(error, FileNotFoundError) else str(error)
            missing.append((payload.stored.path, reason))
            continue
        count += 1
    return count, missing


def _check_target(old: Location, new: Location) -> None:
    root, target = (Path(location.shown) for location in (old, new))
    if target == root or root in target.parents or target in root.parents:
        raise ValueError(
            f"{new.shown} and the base {old.shown} lie within each other: give a place elsewhere"
        )
    if isinstance(new.payloads, Path):
        is_fit = not target.is_dir() or not any(target.iterdir()) or (target / LOG).is_dir()
    else:
        entries = open_bucket(new.payloads).entries()
        is_fit = not entries or f"{LOG}/" in entries
    if not is_fit:
        raise ValueError(f"{new.shown} is not empty: give an empty folder, or an empty place in a bucket")


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def receipt_of(base: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a base was made from, if a replay made it."""
    payloads = Location.of(base).payloads
    data: bytes | None
    if isinstance(payloads, Path):
        path = payloads / RECEIPT
        data = path.read_bytes() if path.is_file() else None
    else:
        data = open_bucket(payloads).get(RECEIPT)
    found: dict[str, Any] | None = None if data is None else json.loads(data)
    return found
