"""A copy of a log while others write to it: committed, durable frames only, each checked on the way.

Rolled segments never change, so a copy that is brought up to date reads them only to check them; the
last segment of an earlier copy has a prefix of the events it has now, and is replaced by rename. What was
re-encoded is copied so, and takes the place of the former file in the copy, too.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eventstore import files
from eventstore.errors import DamagedLogError, LogNotFoundError
from eventstore.format import END_OF_STREAM, Flaw
from eventstore.index import forget_index
from eventstore.schema import folded_chain
from eventstore.storage.local.directory import TEMPORARY_SUFFIX, SegmentName, segment_names
from eventstore.storage.local.merging import Commits, merged_frame
from eventstore.storage.local.recovery import damage
from eventstore.storage.local.segment import FlawedFrameError, Frame, Segment, frames
from eventstore.storage.local.verify import verify_log


@dataclass(frozen=True)
class LogCopy:
    """What a copy of a log holds.

    Attributes:
        next_position: How many events.
        chain: The chain's value behind them, as 64 hexadecimal digits: it vouches for the copy.
        log_id: The log's id, as 32 hexadecimal digits.
        copied_bytes: How many bytes were written this time.
    """

    next_position: int
    chain: str
    log_id: str
    copied_bytes: int


def copy_log(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, next_position: int
) -> LogCopy:
    """Copy the events below a position into another folder, durably, while others may go on writing.

    Args:
        source: The log's folder.
        target: The folder of the copy: empty, missing, or an earlier copy, which is brought up to date.
        next_position: How many events to copy, at most: ``EventLog.durable_position`` leaves out what
            a power cut might still take. The copy ends with a whole commit.

    Raises:
        LogNotFoundError: There is no log in ``source``.
        ValueError: ``target`` holds something that is no earlier copy of this log; nothing was written.
        DamagedLogError: The source is damaged; what is in front of the damage may have been copied.
        OSError: The disk did not take the copy. It may be repeated.
    """
    origin, copy = Path(source).absolute(), Path(target).absolute()
    names = segment_names(origin) if origin.is_dir() else []
    if not names:
        raise LogNotFoundError(f"there is no log in {origin}", path=str(origin))
    _check_target(origin, copy)
    files.make_directories(copy, like=origin)
    copied = 0
    limits = [name.first_position for name in names[1:]]
    wanted = [name for name in names if name.first_position < next_position or name == names[0]]
    for name, limit in zip(names, [*limits, None], strict=True):
        if name in wanted:
            end = next_position if limit is None else min(limit, next_position)
            rolled = limit is not None and limit <= next_position
            copied += _copy_counting(origin, name, copy, end=end, rolled=rolled)
    _remove_earlier_generations(copy)
    verdict = verify_log(copy)
    if not verdict.ok:
        raise DamagedLogError(
            f"the copy in {copy} is not right: {verdict.findings[0].message}. Check that disk",
            path=str(copy / verdict.findings[0].path),
            offset=verdict.findings[0].offset or 0,
            position=verdict.findings[0].position or 0,
        )
    log_id = Segment(copy, segment_names(copy)[0]).log_id
    return LogCopy(verdict.events, verdict.chain, log_id.hex(), copied)


def _check_target(origin: Path, copy: Path) -> None:
    if not copy.is_dir() or not any(copy.iterdir()):
        return
    if not segment_names(copy):
        raise ValueError(f"{copy} is not empty and holds no log: give an empty folder or an earlier copy")
    held = verify_log(copy)
    if not held.ok or verify_log(origin, expect=held.chain).expected_at != held.events:
        raise ValueError(
            f"{copy} is damaged, or holds events that are not those of {origin}: keep it, and copy to "
            "another folder"
        )


def _copy_counting(origin: Path, name: SegmentName, copy: Path, *, end: int, rolled: bool) -> int:
    """Copy a segment, or the one that has taken its place meanwhile."""
    while True:
        try:
            return _copy_segment(Segment(origin, name), copy, end=end, rolled=rolled)
        except FileNotFoundError:
            counting = {each.first_position: each for each in segment_names(origin)}
            if counting.get(name.first_position, name) == name:
                raise
            name = counting[name.first_position]


def _copy_segment(segment: Segment, copy: Path, *, end: int, rolled: bool) -> int:
    path = copy / segment.name.text
    if rolled and path.exists() and path.stat().st_size == segment.path.stat().st_size:
        return 0
    temporary = copy / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    copied = 0
    with files.new_file(temporary, like=copy) as (descriptor, made):
        for data in _frames_below(segment, end):
            files.write(descriptor, data)
            copied += len(data)
        files.sync_file(descriptor)
        files.rename(made, path)
    return copied


def _frames_below(segment: Segment, end: int) -> Iterator[bytes | memoryview]:
    """The schema's frame, those of the events below a position, and the mark that ends a whole segment."""
    with segment.descriptor() as descriptor:
        yield next(frames(descriptor, 0, segment.end_offset)).data
    chain = segment.first_chain
    try:
        for frame in segment.frames_from(segment.name.first_position):
            if frame.seal.next_position > end:
                yield from _commits_below(segment, frame, end, chain)
                return
            yield frame.data
            chain = frame.seal.chain
    except FlawedFrameError as flawed:
        if segment.next_position < end:
            flaw, _ = segment.flaw_at(flawed.offset)
            raise damage(segment, flawed.offset, flaw or Flaw.WRONG) from None
    if segment.is_ended():
        yield END_OF_STREAM


def _commits_below(segment: Segment, frame: Frame, end: int, chain: bytes) -> Iterator[bytes]:
    """The whole commits in front of a position, of a frame that goes on behind it."""
    first, annex = frame.seal.first_position, segment.annex(frame)
    if annex is None or end <= first:
        return
    rows, _ = annex.commit_at(end - first)
    if rows:
        batch = segment.batch(frame).slice(0, rows)
        commits = Commits(first)
        behind = list(itertools.accumulate(annex.sizes()))
        sizes = itertools.islice(annex.sizes(), behind.index(rows) + 1)
        commits.take(batch, sizes, chain=folded_chain(chain, batch))
        yield merged_frame(commits, segment.schema, offset=frame.offset)


def _remove_earlier_generations(copy: Path) -> None:
    """What was copied before a segment was written anew is superseded in the copy, too."""
    counted = set(segment_names(copy))
    for path in sorted(copy.glob("*.arrows")):
        first, _, generation = path.name.removesuffix(".arrows").partition(".r")
        if first.isdigit() and SegmentName(int(first), int(generation or 0)) not in counted:
            files.unlink(path)
            forget_index(copy)
