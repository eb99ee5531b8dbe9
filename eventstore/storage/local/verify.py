"""A read-only check of a whole log folder, independent of the reader that programs use.

It walks every byte of every segment, checks each seal, computes the chain of hashes anew from the
events, checks that positions and stream versions are dense, and lists what it finds instead of
stopping at the first. Behind a damaged frame it goes on with the next segment.

Where events were lost and the log was repaired, the chain is a new one from there on. Their
placeholders say where the former one can be taken up again, so a chain value that somebody noted
before the repair is recognised, too. The index is compared with the events on the way; what is wrong
with it is no damage, since it is derived.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore import files, tagged_json
from eventstore import format as log_format
from eventstore.annex import checksums_hold
from eventstore.errors import DamagedLogError, LogNotFoundError
from eventstore.format import Flaw
from eventstore.index import IndexAudit, Place
from eventstore.lost_events import EVENT_LOST, FormerChain, former_chain_of
from eventstore.model import Finding, Progress, Verdict, no_progress
from eventstore.schema import clocks, content_digests
from eventstore.spool import left_over, parse
from eventstore.storage.local.directory import SegmentName, segment_names
from eventstore.storage.local.segment import FlawedFrameError, Frame, Segment, former_file, frames

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class _Walk:
    """What is known while walking."""

    position: int = 0
    chain: bytes = b""
    synced_position: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    trusted: bool = True
    findings: list[Finding] = field(default_factory=list)
    good_events: int = 0
    good_chain: bytes = b""
    expected: bytes | None = None
    expected_at: int | None = None
    former: dict[str, FormerChain] = field(default_factory=dict)
    audit: IndexAudit | None = None

    def copy(self) -> _Walk:
        """What is known so far, to go on from it in one of several ways."""
        return replace(
            self, versions=dict(self.versions), findings=list(self.findings), former=dict(self.former)
        )


def verify_log(
    path: str | os.PathLike[str], *, expect: str | None = None, progress: Progress = no_progress
) -> Verdict:
    """Check the log in a folder; also one that is too damaged to open.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        expect: A chain value that was noted earlier, as 64 hexadecimal digits. The verdict says at
            which position the history has it: ``Verdict.expected_at``.
        progress: Told of the segments that were read.

    Raises:
        LogNotFoundError: There is none.
        ValueError: ``expect`` is no chain value.
    """
    expected = None if expect is None else chain_value(expect)
    directory = Path(path)
    names = segment_names(directory) if directory.is_dir() else []
    if not names:
        raise LogNotFoundError(f"there is no log in {directory}", path=str(directory))
    walk = _Walk(expected=expected)
    for place in range(len(names)):
        walk = _checked(walk, directory, names[place:])
        progress(place + 1, len(names))
    walk.findings += map(_spool_note, left_over(directory))
    if walk.audit is not None:
        walk.findings += [Finding("note", path, None, None, text) for path, text in walk.audit.findings]
    return Verdict(
        walk.good_events,
        len(names),
        walk.bytes_read,
        walk.good_chain.hex(),
        tuple(walk.findings),
        walk.expected_at,
    )


def _spool_note(path: Path) -> Finding:
    try:
        spooled = parse(path.read_bytes())
    except OSError as error:
        message = f"a spool that cannot be read: {error.strerror}"
    else:
        message = "a spool without a good header: the next writer sets it aside, unless it is newer than this"
        if spooled is not None:
            message = f"rows of {spooled.stream} on their way into the log, {len(spooled.rows)} at most"
            message += ", and something that is no row" if spooled.flawed else ""
            message += "; if their process is gone, the next writer records them"
    return Finding("note", f"{path.parent.name}/{path.name}", None, None, message)


def chain_value(text: str) -> bytes:
    """The chain value that 64 hexadecimal digits say."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != log_format.CHAIN_BYTES:
        raise ValueError(f"a chain value has {2 * log_format.CHAIN_BYTES} hexadecimal digits, not {text!r}")
    return value


def _checked(walk: _Walk, directory: Path, names: Sequence[SegmentName]) -> _Walk:
    """The walk behind the first of these segments.

    A file that went away meanwhile has a successor with the same events.
    """
    name, *following = names
    limit = following[0].first_position if following else None
    while True:
        ahead = walk.copy()
        try:
            _check_segment(ahead, directory, name, limit)
        except FileNotFoundError:
            counting = {each.first_position: each for each in segment_names(directory)}
            if counting.get(name.first_position, name) == name:
                raise
            name = counting[name.first_position]
            continue
        if following and len(_damages(ahead)) > len(_damages(walk)):
            return _by_former_file(walk, directory, name, following) or ahead
        return ahead


def _by_former_file(
    walk: _Walk, directory: Path, name: SegmentName, following: Sequence[SegmentName]
) -> _Walk | None:
    """The walk behind a damaged file, if a lower generation has all of its events, as readers use it."""
    former = _former(directory, name, following)
    if former is None:
        return None
    ahead = walk.copy()
    message = f"damaged, but {former.name.text} has the same events and is read instead; re-encode it again"
    _find(ahead, "note", name, 0, name.first_position, message)
    _check_segment(ahead, directory, former.name, following[0].first_position)
    return ahead if len(_damages(ahead)) == len(_damages(walk)) else None


def _former(directory: Path, name: SegmentName, following: Sequence[SegmentName]) -> Segment | None:
    """A lower generation of a segment, by the word of the next one, or of that one's lower generation."""
    if not following:
        return None
    vouching = Segment(directory, following[0])
    try:
        vouching.read_head()
    except FileNotFoundError:
        return None
    except DamagedLogError:
        former = _former(directory, following[0], following[1:])
        if former is None:
            return None
        vouching = former
    return former_file(directory, name, vouching)


def _damages(walk: _Walk) -> list[Finding]:
    return [finding for finding in walk.findings if finding.severity == "damage"]


def _check_segment(walk: _Walk, directory: Path, name: SegmentName, limit: int | None) -> None:
    try:
        segment = Segment(directory, name)
        segment.read_head()
    except DamagedLogError as error:
        _find(walk, "damage", name, 0, name.first_position, str(error))
        walk.trusted = False
        return
    if name.first_position == 0 and not walk.chain:
        walk.chain = walk.good_chain = log_format.first_chain(segment.log_id)
        walk.audit = IndexAudit(directory, log_id=segment.log_id, first_chain=walk.chain)
        _compare(walk, 0)
    if name.first_position != walk.position:
        missing = (
            f"positions {walk.position} to {name.first_position - 1} are missing in front of this segment"
        )
        _find(walk, "damage", name, 0, walk.position, missing)
        walk.trusted = False
    if walk.trusted and segment.first_chain != walk.chain:
        _find(
            walk,
            "damage",
            name,
            0,
            name.first_position,
            "the segment does not continue the chain in front of it",
        )
        walk.trusted = False
    walk.position, walk.chain = name.first_position, segment.first_chain
    walk.synced_position = max(walk.synced_position, segment.synced_position)
    with segment.descriptor() as descriptor:
        offset: int | None = segment.end_offset
        while offset is not None:
            size = files.size(descriptor)
            offset = _check_frames(walk, segment, limit, frames(descriptor, offset, size))
        walk.bytes_read += size


def _check_frames(walk: _Walk, segment: Segment, limit: int | None, found: Iterator[Frame]) -> int | None:
    """Check frames up to the first flaw; the offset to go on at when that flaw was a write in progress."""
    try:
        for frame in found:
            if limit is not None and frame.seal.first_position >= limit:
                note = "from here on, a later segment holds these events"
                _find(walk, "note", segment.name, frame.offset, frame.seal.first_position, note)
                return None
            _check_frame(walk, segment, frame)
    except FlawedFrameError as flawed:
        flaw, rest = segment.flaw_at(flawed.offset)
        if flaw is None:
            return flawed.offset
        if rest:
            _judge_flaw(walk, segment, limit, flawed.offset, flaw, rest)
    return None


def _judge_flaw(
    walk: _Walk, segment: Segment, limit: int | None, offset: int, flaw: Flaw, rest: bytes
) -> None:
    durable = max(walk.synced_position, log_format.greatest_synced_position(rest))
    superseded = limit is not None and walk.position >= limit
    if superseded:
        _find(
            walk,
            "note",
            segment.name,
            offset,
            walk.position,
            f"{flaw.value}; a later segment holds these events",
        )
    elif limit is None and flaw is not Flaw.WRONG and walk.position >= durable:
        message = (
            f"{flaw.value}: a crash left {len(rest)} bytes that were never acknowledged; the next writer "
        )
        _find(walk, "torn", segment.name, offset, walk.position, message + "moves them to quarantine/")
    else:
        _find(
            walk, "damage", segment.name, offset, walk.position, f"{flaw.value}; restore the file from a copy"
        )
        walk.trusted = False


def _check_frame(walk: _Walk, segment: Segment, frame: Frame) -> None:
    seal = frame.seal
    if seal.first_position != walk.position:
        message = f"a frame for position {seal.first_position} stands where {walk.position} belongs"
        _find(walk, "damage", segment.name, frame.offset, walk.position, message)
        walk.trusted = False
    wrong = None
    try:
        batch = segment.batch(frame)
    except DamagedLogError as error:
        wrong = str(error)
    else:
        wrong = _check_events(walk, segment, frame, batch)
    if walk.chain != seal.chain:
        wrong = wrong or "the chain of hashes does not hold"
    if seal.synced_position > seal.first_position:
        wrong = wrong or "it claims events as synced that are not in front of it"
    if wrong:
        _find(walk, "damage", segment.name, frame.offset, seal.first_position, wrong)
        walk.trusted = False
    wrong_annex = None if wrong else _wrong_annex(segment, frame)
    if wrong_annex:
        _find(walk, "damage", segment.name, frame.offset, seal.first_position, wrong_annex)
    walk.position, walk.chain = seal.next_position, seal.chain
    walk.synced_position = max(walk.synced_position, seal.synced_position)
    if walk.trusted:
        walk.good_events, walk.good_chain = walk.position, walk.chain


def _wrong_annex(segment: Segment, frame: Frame) -> str | None:
    """What a frame says of its commits that is not so."""
    try:
        annex = segment.annex(frame)
    except DamagedLogError as error:
        return str(error)
    if annex is not None and not checksums_hold(frame.data, frame.seal, annex):
        return "the frame's seal holds, but the checksums in it are not those of its bytes"
    return None


def _check_events(walk: _Walk, segment: Segment, frame: Frame, batch: pa.RecordBatch) -> str | None:
    """Fold the batch into the chain; say what is wrong with its events, if anything."""
    wrong = None
    streams = batch.column("stream").to_pylist()
    types = batch.column("type").to_pylist()
    ids = batch.column("event_id").to_pylist()
    times = clocks(batch)
    place_of_frame = Place(
        segment.name.first_position, segment.name.generation, frame.offset, frame.seal.frame_bytes
    )
    for place, (position, version, content) in enumerate(content_digests(batch)):
        stream = streams[place]
        if position != walk.position + place:
            wrong = wrong or f"position {position} stands where {walk.position + place} belongs"
        if walk.trusted and version != walk.versions.get(stream, -1) + 1:
            wrong = wrong or f"stream {stream!r} jumps to version {version}"
        walk.versions[stream] = version
        walk.chain = log_format.next_chain(
            walk.chain, position=position, stream_version=version, content=content
        )
        if walk.audit is not None and walk.trusted and not wrong:
            walk.audit.add(
                position=position,
                stream=stream,
                version=version,
                event_id=ids[place],
                clock=times[place],
                chain=walk.chain,
                place=place_of_frame,
            )
        if types[place] == EVENT_LOST:
            _note_loss(walk, segment, frame, position, batch.column("data")[place].as_py())
        if walk.expected is not None:
            _compare(walk, position + 1)
            _go_on_with_former_chains(walk, segment, frame, position, version, content)
    return wrong


def _note_loss(walk: _Walk, segment: Segment, frame: Frame, position: int, data_json: str) -> None:
    """Say what a repair says of lost events, at the first of them."""
    try:
        data = tagged_json.decode(data_json)
    except ValueError:
        return
    if not isinstance(data, dict) or data.get("first_position") != position:
        return
    message = (
        f"the events from position {position} up to {data.get('next_position')} were lost before a repair"
    )
    _find(walk, "note", segment.name, frame.offset, position, message)
    former = former_chain_of(data)
    if former is not None and walk.expected is not None:
        walk.former[former[0]] = former[1]
        _compare_former(walk, segment, frame, former[1])


def _compare(walk: _Walk, position: int) -> None:
    if walk.expected == walk.chain and walk.trusted:
        walk.expected_at = position


def _go_on_with_former_chains(
    walk: _Walk, segment: Segment, frame: Frame, position: int, version: int, content: bytes
) -> None:
    """Let the chains that the log had before it was repaired go on by one event."""
    for repair, former in walk.former.items():
        if former.position == position:
            value = log_format.next_chain(
                former.value, position=position, stream_version=version, content=content
            )
            walk.former[repair] = FormerChain(position + 1, value)
            _compare_former(walk, segment, frame, walk.former[repair])


def _compare_former(walk: _Walk, segment: Segment, frame: Frame, former: FormerChain) -> None:
    if former.value == walk.expected:
        message = (
            f"the expected chain value is that of position {former.position} before the log was repaired: "
            "the events that were lost are listed, and the others are as they were"
        )
        _find(walk, "note", segment.name, frame.offset, former.position, message)


def _find(walk: _Walk, severity: str, name: SegmentName, offset: int, position: int, message: str) -> None:
    walk.findings.append(Finding(severity, name.text, offset, position, message))
