"""What a repair does: which history it keeps, and which segments must be written anew for it.

Nothing is written here. What can be proven good is told by ``reconstruction``; this divides it into
segments, compares these with the files that are there, and says in people's words what is to happen.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore import format as log_format
from eventstore.errors import DamagedLogError, LogNotFoundError
from eventstore.format import Flaw
from eventstore.lost_events import LostRange
from eventstore.schema import decoded_batch, envelope_schema, folded_chain
from eventstore.storage.local.directory import SegmentName, all_names, former_names, segment_names
from eventstore.storage.local.reconstruction import History, Kept, reconstructed
from eventstore.storage.local.repair_folder import unfinished
from eventstore.storage.local.segment import Segment, former_file
from eventstore.storage.local.survey import GoodFrame, Survey, Unreadable, survey

if TYPE_CHECKING:
    import pyarrow as pa

_HEX_ID = re.compile(rb"(?=([0-9a-f]{32}))")
_HEAD_BYTES = 4096


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


@dataclass(frozen=True)
class Part:
    """A segment as it shall be: its first position, and what is in it.

    ``name`` is the present one of this first position, or None when its file is gone.
    """

    first_position: int
    name: SegmentName | None
    items: tuple[Kept | LostRange, ...]


@dataclass(frozen=True)
class Work:
    """A plan, with what is needed to do it."""

    plan: RepairPlan
    directory: Path
    schema: pa.Schema
    log_id: bytes
    history: History
    parts: tuple[Part, ...]
    rewritten: tuple[Part, ...]
    set_aside: tuple[SegmentName, ...]


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a log, or ``LogNotFoundError``."""
    directory = Path(path).expanduser().absolute()
    if not directory.is_dir() or not segment_names(directory):
        raise LogNotFoundError(f"there is no log in {directory}", path=str(directory))
    return directory


def planned_work(directory: Path, copy: str | os.PathLike[str] | None) -> Work:
    """What a repair does; see ``repair.plan_repair``."""
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
    return Work(plan, directory, schema, log_id, history, parts, rewritten, set_aside)


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
    directory = existing_folder(copy)
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


def _parts(names: Sequence[SegmentName], history: History) -> tuple[Part, ...]:
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
        parts.append(Part(first, by_first.get(first), items))
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
    parts: Sequence[Part],
    surveys: Mapping[str, Survey],
    history: History,
    torn: Unreadable | None,
    chain: bytes,
) -> Iterator[Part]:
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


def _is_whole(part: Part, found: Survey, chain: bytes, torn: Unreadable | None, *, last: bool) -> bool:
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
    rewritten: Sequence[Part],
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
        unfinished=next((folder.name for folder in unfinished(directory)), None),
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
