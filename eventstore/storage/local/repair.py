"""Repair: an operator's decision about a damaged log, never taken by the log itself.

What can be proven good is kept, at its positions and stream versions; what is lost is said exactly, and
a ``$EventLost`` stands in each of its places. Nothing is thrown away: every file that is replaced
goes to ``quarantine/repair-<name>/``, with a report. See ``docs/decisions/0006-repair.md``.

1. Under the lock, find the history that loses least (``reconstruction``), and which segments must be
   written anew for it: the damaged ones and, when events are lost, all behind them, because their
   chain is another one then.
2. Write them to ``quarantine/repair-<name>/new/`` and sync them. Link the old ones beside them.
3. Link the new ones to their names, ``<first>.r<g>.arrows`` with a generation that no file ever had:
   the last segment first, so that whoever writes from then on writes behind the new chain, and the
   damaged one last, so that a log that did not open does not open before it is whole.
4. Take the old names away, then ``new/``.

A crash during 2 leaves the log as it was; the next repair throws the new files away. A crash during
3 or 4 leaves a repair that the next one completes. Which of them it was is told by the last segment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventstore import files
from eventstore import format as log_format
from eventstore.encoding import encode_events
from eventstore.errors import DamagedLogError, LogNotFoundError
from eventstore.format import Flaw
from eventstore.index import forget_index
from eventstore.lost_events import LostRange, placeholders
from eventstore.message import BatchMessage
from eventstore.schema import decoded_batch, envelope_schema, folded_chain
from eventstore.storage.local.directory import SegmentName, all_names, former_names, segment_names
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.reconstruction import History, Kept, reconstructed
from eventstore.storage.local.segment import Segment, former_file
from eventstore.storage.local.survey import GoodFrame, Survey, Unreadable, survey

if TYPE_CHECKING:
    import pyarrow as pa

_PLACEHOLDERS_PER_FRAME = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEX_ID = re.compile(rb"(?=([0-9a-f]{32}))")
_HEAD_BYTES = 4096
_QUARANTINE, _REPAIR, _NEW = "quarantine", "repair-", "new"
_GENERATION = re.compile(r"\.r(\d+)\.arrows$")


@dataclass(frozen=True)
class MendedFrame:
    """A frame of which one bit had flipped, found again by its SHA-256: nothing of it is lost."""

    path: str
    offset: int
    first_position: int
    next_position: int


@dataclass(frozen=True)
class PositionRange:
    """Positions from one up to, not including, another."""

    first_position: int
    next_position: int


@dataclass(frozen=True)
class RepairPlan:
    """What a repair does, or did.

    Attributes:
        path: The log's folder.
        events: How many positions the log has afterwards, lost ones included.
        lost: Events that are lost.
        mended: Frames in which a flipped bit was put right.
        from_copy: Events that the log has lost and that the copy, or a former file of the segment, holds.
        unvouched: Events that stand behind lost ones and of which only their own seal says that they
            are right: the chain value in front of them is lost, too.
        chain_breaks: Positions at which nothing is missing, and yet the chain does not go on.
        rewritten: Segments that are written anew.
        set_aside: Segments that go to quarantine without a successor.
        torn: Where the unfinished tail begins that a crash left, as file and byte, if there is one and
            it is in a segment that is written anew.
        unfinished: An earlier repair that was cut off; it is completed, or undone, first.
        quarantine: The folder, relative to the log's, that holds what was replaced; None in a plan.
    """

    path: str
    events: int
    lost: tuple[LostRange, ...]
    mended: tuple[MendedFrame, ...]
    from_copy: tuple[PositionRange, ...]
    unvouched: tuple[PositionRange, ...]
    chain_breaks: tuple[int, ...]
    rewritten: tuple[str, ...]
    set_aside: tuple[str, ...]
    torn: tuple[str, int] | None
    unfinished: str | None
    quarantine: str | None

    @property
    def needed(self) -> bool:
        """True when there is something to repair."""
        return bool(self.rewritten or self.set_aside or self.unfinished)

    @property
    def events_lost(self) -> int:
        """How many positions are lost."""
        return sum(lost.next_position - lost.first_position for lost in self.lost)


def plan_repair(path: str | os.PathLike[str], *, copy: str | os.PathLike[str] | None = None) -> RepairPlan:
    """Say what a repair would do; nothing is written, and no lock is taken.

    Restoring a damaged file from a copy is better than any repair that loses events: give the copy, and
    the plan takes from it what the log has lost.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        copy: The folder of a copy of the log, of any age.

    Raises:
        LogNotFoundError: There is no log in one of the folders.
        DamagedLogError: Nothing can be done without a copy: not even the log's id can be told, or what
            is left contradicts itself.
        ValueError: ``copy`` is a copy of another log.
    """
    return _work(_folder(path), copy).plan


def repair_log(
    path: str | os.PathLike[str],
    *,
    copy: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> RepairPlan:
    """Do what ``plan_repair`` says. End all processes that use the log first.

    Afterwards the log opens and ``verify_log`` finds no damage. A process that had it open all the
    while cannot write to it any more: its next append says so. A log that needs no repair is left alone.

    Args:
        path: The log's folder.
        copy: The folder of a copy of the log, of any age.
        metadata: Who and where, for the events that stand for lost ones.

    Raises:
        LogNotFoundError: There is no log in one of the folders.
        DamagedLogError: As for ``plan_repair``; nothing was changed.
        ValueError: ``copy`` is a copy of another log.
        OSError: The disk did not take the new files. The log is as it was; make room and repeat.
    """
    directory = _folder(path)
    lock = Lock(directory)
    try:
        with lock:
            _complete_earlier(directory, lock)
            work = _work(directory, copy)
            if not work.plan.needed:
                return work.plan
            return _apply(work, lock, metadata or {})
    finally:
        lock.close()


def _folder(path: str | os.PathLike[str]) -> Path:
    directory = Path(path).expanduser().absolute()
    if not directory.is_dir() or not segment_names(directory):
        raise LogNotFoundError(f"there is no log in {directory}", path=str(directory))
    return directory


# --- the plan


@dataclass(frozen=True)
class _Part:
    """A segment as it shall be: its first position, and what is in it.

    ``name`` is the present one of this first position, or None when its file is gone.
    """

    first_position: int
    name: SegmentName | None
    items: tuple[Kept | LostRange, ...]


@dataclass(frozen=True)
class _Work:
    """A plan, with what is needed to do it."""

    plan: RepairPlan
    directory: Path
    schema: pa.Schema
    log_id: bytes
    history: History
    parts: tuple[_Part, ...]
    rewritten: tuple[_Part, ...]
    set_aside: tuple[SegmentName, ...]


def _work(directory: Path, copy: str | os.PathLike[str] | None) -> _Work:
    names = _best_names(directory)
    surveys = [survey(directory / name.text) for name in names]
    log_id = _log_id(surveys)
    schema = envelope_schema(log_id)
    foreign = [name for name, each in zip(names, surveys, strict=True) if each.log_id not in (None, log_id)]
    own = [each for each in surveys if each.log_id in (None, log_id)]
    torn = _torn_tail(own)
    others = [*_former_files(directory, names, surveys, log_id), *_copies(copy, log_id)]
    history = reconstructed(own, others, schema=schema, log_id=log_id, torn=torn)
    parts = _parts([name for name in names if name not in foreign], history)
    by_name = {each.path.name: each for each in own}
    rewritten = tuple(_to_rewrite(parts, by_name, history, torn, log_format.first_chain(log_id)))
    placed = {part.name for part in parts}
    stays = {name.first_position: name for name in placed if name is not None}
    stale = {part.first_position for part in rewritten}
    set_aside = tuple(
        name
        for name in all_names(directory)
        if name not in placed
        # What counts is written anew or comes behind a damaged one: others of its place must not count.
        and (name in names or name.first_position in stale or name > stays.get(name.first_position, name))
    )
    plan = _plan(directory, history, rewritten, set_aside, torn)
    return _Work(plan, directory, schema, log_id, history, parts, rewritten, set_aside)


def _best_names(directory: Path) -> list[SegmentName]:
    """The segments that count, or the former file of one that is damaged, if it has all of its events."""
    names = segment_names(directory)
    for place in reversed(range(len(names) - 1)):
        if former_names(directory, names[place]):
            with contextlib.suppress(DamagedLogError):
                names[place] = _best_name(directory, names[place], names[place + 1])
    return names


def _best_name(directory: Path, name: SegmentName, following_name: SegmentName) -> SegmentName:
    following = Segment(directory, following_name)
    with contextlib.suppress(DamagedLogError):
        if Segment(directory, name).holds_exactly(following.name.first_position, following.first_chain):
            return name
    former = former_file(directory, name, following)
    return name if former is None else former.name


def _former_files(
    directory: Path, names: Sequence[SegmentName], surveys: Sequence[Survey], log_id: bytes
) -> Iterator[Survey]:
    """What former files of damaged segments still hold; it fills what is missing, as a copy does.

    Not those of the last segment: a sync of it had failed, and nobody was told what is in there.
    """
    for name, following, found in zip(names, names[1:], surveys, strict=False):
        if found.schema is not None and not found.unreadable:
            continue
        for former in former_names(directory, name):
            each = survey(directory / former.text)
            if each.log_id == log_id:
                limit = following.first_position
                frames = (frame for frame in each.frames if frame.seal.next_position <= limit)
                yield replace(each, frames=tuple(frames))


def _log_id(surveys: Sequence[Survey]) -> bytes:
    """The log's id: that of most segments, or one in a damaged schema that the chain proves right."""
    known = [each.log_id for each in surveys if each.log_id is not None]
    if known:
        return Counter(known).most_common(1)[0][0]
    for each in surveys:
        with each.path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        for match in _HEX_ID.finditer(head):
            log_id = bytes.fromhex(match[1].decode())
            if _proves(log_id, each):
                return log_id
    first = surveys[0].path
    raise DamagedLogError(
        f"the log's id cannot be told from what is left in {first.parent}: restore a segment from a copy",
        path=str(first),
        offset=0,
        position=0,
    )


def _proves(log_id: bytes, survey_: Survey) -> bool:
    """Whether the chain that begins with this id is the one that the segment's first seals tell."""
    chain = log_format.first_chain(log_id)
    seals = [seal for each in survey_.unreadable for _, seal in each.seals]
    if any(seal.next_position == 0 and seal.chain == chain for seal in seals):
        return True
    first = next((frame for frame in survey_.frames if frame.seal.first_position == 0), None)
    if first is None:
        return False
    try:
        batch = decoded_batch(first.read(), envelope_schema(log_id), event_count=first.seal.event_count)
    except ValueError:
        return False
    return folded_chain(chain, batch) == first.seal.chain


def _copies(copy: str | os.PathLike[str] | None, log_id: bytes) -> list[Survey]:
    if copy is None:
        return []
    directory = _folder(copy)
    surveys = [survey(directory / name.text) for name in segment_names(directory)]
    others = [each for each in surveys if each.log_id not in (None, log_id)]
    if others:
        raise ValueError(f"{others[0].path} belongs to another log: give a copy of this one")
    return surveys


def _torn_tail(own: Sequence[Survey]) -> Unreadable | None:
    """What a crash left at the end of the last segment, as recovery would judge it."""
    last = own[-1]
    if last.schema is None or not last.unreadable:
        return None
    first = last.unreadable[0]
    in_front = [frame.seal.next_position for frame in last.frames if frame.offset < first.offset]
    position = max(in_front, default=last.schema.seal.first_position)
    synced = [frame.seal.synced_position for each in own for frame in each.frames]
    if first.offset == 0 or position < max([*synced, last.schema.seal.first_position]):
        return None
    with last.path.open("rb") as file:
        file.seek(first.offset)
        flaw = log_format.find_flaw(file.read(), first.offset)
    return None if flaw is Flaw.WRONG else first


def _parts(names: Sequence[SegmentName], history: History) -> tuple[_Part, ...]:
    """The items of the history by segment; lost ranges are divided where a segment begins."""
    by_first = {name.first_position: name for name in names}
    beginnings = {_first(item) for item in history.items} | {0}
    lost = [item for item in history.items if isinstance(item, LostRange)]
    firsts = sorted(
        {0}
        | {
            first
            for first in by_first
            if first in beginnings
            or first == history.next_position
            or any(each.first_position < first < each.next_position for each in lost)
        }
    )
    parts = []
    for first, end in zip(firsts, [*firsts[1:], None], strict=True):
        items = tuple(_between(history.items, first, end))
        parts.append(_Part(first, by_first.get(first), items))
    return tuple(parts)


def _first(item: Kept | LostRange) -> int:
    return item.first_position if isinstance(item, LostRange) else item.frame.seal.first_position


def _next(item: Kept | LostRange) -> int:
    return item.next_position if isinstance(item, LostRange) else item.frame.seal.next_position


def _between(items: Sequence[Kept | LostRange], first: int, end: int | None) -> Iterator[Kept | LostRange]:
    for item in items:
        if _next(item) <= first or (end is not None and _first(item) >= end):
            continue
        yield item if isinstance(item, Kept) else _cut_to(item, first, end)


def _cut_to(lost: LostRange, first: int, end: int | None) -> LostRange:
    """The part of a lost range that lies within a segment."""
    start = max(first, lost.first_position)
    stop = lost.next_position if end is None else min(end, lost.next_position)
    streams = lost.streams[start - lost.first_position : stop - lost.first_position]
    former = lost.former_chain if stop == lost.next_position else None
    return LostRange(start, stop, lost.exact, lost.path, lost.offset, streams, former)


def _to_rewrite(
    parts: Sequence[_Part],
    surveys: Mapping[str, Survey],
    history: History,
    torn: Unreadable | None,
    chain: bytes,
) -> Iterator[_Part]:
    """The segments that are damaged, and those behind the place from which on the chain is another one."""
    for part in parts:
        last = part is parts[-1]
        ends_behind_break = history.broken_at is not None and (
            last or (part.items and _next(part.items[-1]) > history.broken_at)
        )
        found = None if part.name is None else surveys[part.name.text]
        if found is None or ends_behind_break or not _is_whole(part, found, chain, torn, last=last):
            yield part
        kept = [item for item in part.items if isinstance(item, Kept)]
        if kept:
            chain = kept[-1].frame.seal.chain


def _is_whole(part: _Part, found: Survey, chain: bytes, torn: Unreadable | None, *, last: bool) -> bool:
    """Whether a segment's file holds exactly what the segment shall hold."""
    schema = found.schema
    if schema is None or schema.mended is not None or schema.offset:
        return False
    if schema.seal.first_position != part.first_position or schema.seal.chain != chain:
        return False
    offset = schema.seal.frame_bytes
    for item in part.items:
        if not isinstance(item, Kept) or item.frame != GoodFrame(found.path, offset, item.frame.seal):
            return False
        offset += item.frame.seal.frame_bytes
    end_offset = torn.offset if torn is not None and torn.path == found.path else found.end_offset
    return not last or offset == end_offset


def _plan(
    directory: Path,
    history: History,
    rewritten: Sequence[_Part],
    set_aside: Sequence[SegmentName],
    torn: Unreadable | None,
) -> RepairPlan:
    kept = [item for item in history.items if isinstance(item, Kept)]
    written_anew = {part.name.text for part in rewritten if part.name is not None}
    return RepairPlan(
        path=str(directory),
        events=history.next_position,
        lost=tuple(item for item in history.items if isinstance(item, LostRange)),
        mended=tuple(_mended(item.frame) for item in kept if item.frame.mended is not None),
        from_copy=_ranges(item for item in kept if item.from_copy),
        unvouched=_ranges(item for item in kept if not item.vouched),
        chain_breaks=tuple(_chain_breaks(history)),
        rewritten=tuple(
            SegmentName(part.first_position).text if part.name is None else part.name.text
            for part in rewritten
        ),
        set_aside=tuple(name.text for name in set_aside),
        torn=(torn.path.name, torn.offset) if torn is not None and torn.path.name in written_anew else None,
        unfinished=next((folder.name for folder in _unfinished(directory)), None),
        quarantine=None,
    )


def _mended(frame: GoodFrame) -> MendedFrame:
    return MendedFrame(frame.path.name, frame.offset, frame.seal.first_position, frame.seal.next_position)


def _ranges(kept: Iterable[Kept]) -> tuple[PositionRange, ...]:
    ranges: list[PositionRange] = []
    for item in kept:
        if ranges and ranges[-1].next_position == _first(item):
            ranges[-1] = PositionRange(ranges[-1].first_position, _next(item))
        else:
            ranges.append(PositionRange(_first(item), _next(item)))
    return tuple(ranges)


def _chain_breaks(history: History) -> Iterator[int]:
    for in_front, item in zip([None, *history.items], history.items, strict=False):
        if isinstance(item, Kept) and not item.vouched and not isinstance(in_front, LostRange):
            yield _first(item)


# --- doing it


@dataclass
class _Ink:
    """What the next frame needs to know of all that is in front of it."""

    chain: bytes
    clock: int
    versions: dict[str, int] = field(default_factory=dict)

    def pass_over(self, items: Iterable[Kept | LostRange]) -> None:
        """Take note of a segment that stays as it is."""
        for item in items:
            assert isinstance(item, Kept), "a segment with lost events is written anew"
            self._note(item)
            self.chain = item.frame.seal.chain

    def frames(self, part: _Part, work: _Work, repair: _Repair) -> Iterator[bytes]:
        """The frames of a segment that is written anew."""
        offset = 0
        first = _seal(
            work.schema.serialize().to_pybytes(),
            self,
            offset=0,
            first_position=part.first_position,
            event_count=0,
            synced_position=part.first_position,
        )
        yield first
        offset += len(first)
        for item in part.items:
            batches = self._kept(item, work) if isinstance(item, Kept) else self._lost(item, work, repair)
            for position, count, synced, message in batches:
                frame = _seal(
                    message,
                    self,
                    offset=offset,
                    first_position=position,
                    event_count=count,
                    synced_position=max(synced, part.first_position),
                )
                yield frame
                offset += len(frame)

    def _kept(self, item: Kept, work: _Work) -> Iterator[tuple[int, int, int, bytes]]:
        data, seal = item.frame.read(), item.frame.seal
        self.chain = folded_chain(self.chain, decoded_batch(data, work.schema, event_count=seal.event_count))
        self._note(item)
        yield seal.first_position, seal.event_count, seal.synced_position, log_format.unseal(data, seal)

    def _lost(self, lost: LostRange, work: _Work, repair: _Repair) -> Iterator[tuple[int, int, int, bytes]]:
        encoded = [
            encoded
            for stream, event in placeholders(
                lost,
                log_id=work.log_id,
                repair=repair.name,
                repaired_at=repair.at,
                recorded_at=_moment(self.clock),
                metadata=repair.metadata,
            )
            for encoded in encode_events(stream, [event])
        ]
        for start in range(0, len(encoded), _PLACEHOLDERS_PER_FRAME):
            events = encoded[start : start + _PLACEHOLDERS_PER_FRAME]
            position = lost.first_position + start
            versions = [self._next_version(event.stream) for event in events]
            message = BatchMessage(events).at(position, versions)
            batch = decoded_batch(message, work.schema, event_count=len(events))
            self.chain = folded_chain(self.chain, batch)
            yield position, len(events), 0, message

    def _next_version(self, stream: str) -> int:
        self.versions[stream] = self.versions.get(stream, -1) + 1
        return self.versions[stream]

    def _note(self, item: Kept) -> None:
        self.clock = item.clock
        self.versions |= {stream: last for stream, (_, last) in item.streams.items()}


def _moment(clock: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=clock)
    except OverflowError:
        # Somebody has sealed a time that no calendar has; the placeholder need not repeat it.
        return _EPOCH


@dataclass(frozen=True)
class _Repair:
    """What the placeholders say of the repair."""

    name: str
    at: datetime
    metadata: Mapping[str, Any]


def _seal(
    message: bytes, ink: _Ink, *, offset: int, first_position: int, event_count: int, synced_position: int
) -> bytes:
    return log_format.seal_frame(
        message,
        first_position=first_position,
        event_count=event_count,
        synced_position=synced_position,
        chain=ink.chain,
        offset=offset,
    )


def _apply(work: _Work, lock: Lock, metadata: Mapping[str, Any]) -> RepairPlan:
    now = datetime.now(UTC)
    repair = _Repair(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}", now, metadata)
    folder = work.directory / _QUARANTINE / f"{_REPAIR}{repair.name}"
    plan = replace(work.plan, quarantine=folder.relative_to(work.directory).as_posix())
    files.make_directories(folder / _NEW, like=work.directory)
    try:
        _write_new(work, folder, repair)
        _write_report(plan, folder)
        for name in [*work.set_aside, *(part.name for part in work.rewritten)]:
            if name is not None:
                files.link(work.directory / name.text, folder / name.text)
    except BaseException:
        _discard(folder)
        raise
    _switch(work.directory, folder, lock)
    return plan


def _write_new(work: _Work, folder: Path, repair: _Repair) -> None:
    """Step 2."""
    generation = 1 + _greatest_generation(work.directory)
    clocks = [item.clock for item in work.history.items if isinstance(item, Kept)]
    ink = _Ink(log_format.first_chain(work.log_id), clocks[0] if clocks else 0)
    for part in work.parts:
        if part not in work.rewritten:
            ink.pass_over(part.items)
            continue
        path = folder / _NEW / SegmentName(part.first_position, generation).text
        with files.new_file(path, like=work.directory) as (descriptor, _):
            for frame in ink.frames(part, work, repair):
                files.write(descriptor, frame)
            files.sync_file(descriptor)
    files.sync_directory(folder / _NEW)


def _greatest_generation(directory: Path) -> int:
    """The greatest generation that any file of this log has, those in quarantine too."""
    names = [*directory.glob("*.arrows"), *directory.glob(f"{_QUARANTINE}/{_REPAIR}*/*.arrows")]
    found = [_GENERATION.search(path.name) for path in names]
    return max((int(match[1]) for match in found if match is not None), default=0)


def _write_report(plan: RepairPlan, folder: Path) -> None:
    text = json.dumps(asdict(plan), indent=1, default=lambda value: value.hex())
    with files.new_file(folder / "report.json", like=folder) as (descriptor, _):
        files.write(descriptor, text.encode())
        files.sync_file(descriptor)
        files.sync_directory(folder)


def _switch(directory: Path, folder: Path, lock: Lock) -> None:
    """Steps 3 and 4, from wherever an earlier attempt was cut off."""
    forget_index(directory)
    made = sorted((folder / _NEW).iterdir(), reverse=True)
    generation, failed_at = lock.state()
    lock.write_state(generation=generation | 1, failed_at=failed_at)
    for path in made:
        if not (directory / path.name).exists():
            files.link(path, directory / path.name)
    for path in sorted(folder.glob("*.arrows")):
        if (directory / path.name).exists():
            files.unlink(directory / path.name)
    # What a failed sync may have dropped from the last segment is written and synced anew by now.
    if made and made[0].name == segment_names(directory)[-1].text:
        failed_at = None
    lock.write_state(generation=(generation | 1) + 1, failed_at=failed_at)
    _remove_new(folder)


def _unfinished(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob(f"{_QUARANTINE}/{_REPAIR}*/{_NEW}"))


def _complete_earlier(directory: Path, lock: Lock) -> None:
    """Bring a repair that was cut off to its end, or undo it if it never came into force."""
    for folder in _unfinished(directory):
        made = sorted((folder / _NEW).iterdir())
        if made and not (directory / made[-1].name).exists():
            _discard(folder)
        else:
            _switch(directory, folder, lock)


def _discard(folder: Path) -> None:
    """Take away what a repair has made that never came into force; the originals have their own names."""
    for path in sorted(folder.iterdir()):
        if path.name != _NEW:
            files.unlink(path)
    _remove_new(folder)
    files.remove_directory(folder)


def _remove_new(folder: Path) -> None:
    for path in sorted((folder / _NEW).iterdir()):
        files.unlink(path)
    files.remove_directory(folder / _NEW)
