"""From what can still be read of a damaged log to the one history that loses least. Reads only.

1. Every good frame is a candidate, wherever it lies: in the log's own segments, or in a copy's.
2. Candidates are linked where the chain says that one stands directly behind the other.
3. From position 0 on, the way leads along links. Where there is none, events are missing: the way
   goes on with the next candidates whose positions and stream versions fit what is known, preferring
   those that a seal vouches for. A copy fills what is missing as long as it does not contradict what
   the log itself holds: it may have gone its own way since.
4. What is missing in between becomes a ``LostRange``. Its length is known from what stands behind it.
   At the very end it may not be: then as many places are kept free as there can have been events.
5. Gaps in the versions of streams tell whose events were lost, as far as that can be told.

A chain value in a readable seal vouches even if the frame around it is damaged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.lost_events import LOST_STREAM, FormerChain, LostRange
from eventstore.schema import UnreadableBatchError, clocks, content_digests, decoded_batch
from eventstore.storage.local.survey import GoodFrame, Survey, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_BYTES_MIN = 71
"""No event takes less room in a frame: its fixed columns, its offsets, and one byte of each text."""


@dataclass(frozen=True)
class Kept:
    """A good frame that is part of the history.

    Attributes:
        frame: The frame.
        from_copy: True when the log itself has lost it.
        vouched: True when the chain in front of it, or a seal, says that it belongs here.
        streams: The first and the last version that it has of each of its streams.
        clock: The clock of its last event, in microseconds since 1970.
    """

    frame: GoodFrame
    from_copy: bool
    vouched: bool
    streams: dict[str, tuple[int, int]]
    clock: int


@dataclass(frozen=True)
class History:
    """The history that loses least.

    Attributes:
        items: Frames and lost ranges, in the order of positions, without gap.
        next_position: The position behind the last of them.
        broken_at: The first position from which on the chain is another one; None if it holds.
    """

    items: tuple[Kept | LostRange, ...]
    next_position: int
    broken_at: int | None


@dataclass
class _Candidate:
    """A good frame, and the frames that the chain says may stand directly behind it."""

    frame: GoodFrame
    from_copy: bool
    streams: dict[str, tuple[int, int]]
    clock: int
    vouched: bool
    followers: list[_Candidate] = field(default_factory=list)
    is_head: bool = True
    run_events: int = 0
    leads_to_own: bool = False

    @property
    def first_position(self) -> int:
        return self.frame.seal.first_position

    @property
    def next_position(self) -> int:
        return self.frame.seal.next_position

    def run(self) -> Iterator[_Candidate]:
        """The longest way along links that begins here."""
        at: _Candidate | None = self
        while at is not None:
            yield at
            at = max(at.followers, key=lambda each: (not each.from_copy, each.run_events), default=None)

    def kept(self, *, vouched: bool) -> Kept:
        return Kept(self.frame, self.from_copy, vouched, self.streams, self.clock)


@dataclass
class _Gap:
    """A stretch of positions without events, while the way is being found."""

    first_position: int
    next_position: int
    exact: bool
    former_chain: FormerChain | None


@dataclass
class _Deficit:
    """Versions that a stream lacks, and the gaps, by their number, in which they can have been lost."""

    stream: str
    count: int
    first_gap: int
    last_gap: int


def reconstructed(
    own: Sequence[Survey],
    copies: Sequence[Survey],
    *,
    schema: pa.Schema,
    log_id: bytes,
    torn: Unreadable | None,
) -> History:
    """Find the history that loses least.

    Args:
        own: The log's segments, in order.
        copies: Segments of a copy of the log; they only fill what is missing.
        schema: The log's schema.
        log_id: Its id.
        torn: The unfinished tail of the last segment, which was never acknowledged.

    Raises:
        DamagedLogError: What is left contradicts itself, so that no order of it is right.
    """
    chains = _readable_chains(own, log_id)
    candidates = _candidates(own, copies, schema, chains, torn)
    way = _Way(candidates, chains)
    way.walk()
    way.end(_tail(own, way, torn), _known_length(own, candidates))
    return way.history(own)


def _readable_chains(own: Sequence[Survey], log_id: bytes) -> dict[int, set[bytes]]:
    """Chain values by position, as readable seals say them."""
    chains: dict[int, set[bytes]] = defaultdict(set)
    chains[0].add(log_format.first_chain(log_id))
    for survey in own:
        if survey.schema is not None:
            chains[survey.schema.seal.first_position].add(survey.schema.seal.chain)
        for unreadable in survey.unreadable:
            for _, seal in unreadable.seals:
                chains[seal.next_position].add(seal.chain)
    return chains


def _candidates(
    own: Sequence[Survey],
    copies: Sequence[Survey],
    schema: pa.Schema,
    chains: dict[int, set[bytes]],
    torn: Unreadable | None,
) -> list[_Candidate]:
    """All good frames that hold events, linked, by their first position."""
    found = [(frame, False) for frame in _committed_frames(own, torn)]
    found += [(frame, True) for survey in copies for frame in survey.frames]
    found.sort(key=lambda each: (each[0].seal.first_position, each[1], each[0].mended is not None))
    candidates: list[_Candidate] = []
    ends: dict[int, list[_Candidate]] = defaultdict(list)
    known: set[tuple[int, int, bytes]] = set()
    for frame, from_copy in found:
        seal = frame.seal
        if (seal.first_position, seal.next_position, seal.chain) in known:
            continue
        candidate = _linked(frame, from_copy, schema, chains[seal.first_position], ends[seal.first_position])
        if candidate is not None:
            known.add((seal.first_position, seal.next_position, seal.chain))
            candidates.append(candidate)
            ends[seal.next_position].append(candidate)
    _measure_runs(candidates)
    own_firsts = [candidate.first_position for candidate in candidates if not candidate.from_copy]
    return [candidate for candidate in candidates if _agrees(candidate, own_firsts)]


def _measure_runs(candidates: Sequence[_Candidate]) -> None:
    own_firsts = [candidate.first_position for candidate in candidates if not candidate.from_copy]
    for candidate in reversed(candidates):
        candidate.followers = [each for each in candidate.followers if _agrees(each, own_firsts)]
        run = max(candidate.followers, key=lambda each: (not each.from_copy, each.run_events), default=None)
        candidate.run_events = candidate.frame.seal.event_count + (0 if run is None else run.run_events)
        candidate.leads_to_own = not candidate.from_copy or (run is not None and run.leads_to_own)


def _agrees(candidate: _Candidate, own_firsts: Sequence[int]) -> bool:
    """Whether a copy's frames lead to the log's own, or end in front of them."""
    place = bisect_left(own_firsts, candidate.first_position)
    return candidate.leads_to_own or place == len(own_firsts) or _run_end(candidate) <= own_firsts[place]


def _committed_frames(own: Sequence[Survey], torn: Unreadable | None) -> Iterator[GoodFrame]:
    """The frames that count: a segment ends where the next one begins, and the last at a torn tail."""
    firsts = [int(survey.path.name[:20]) for survey in own]
    for survey, limit in zip(own, [*firsts[1:], None], strict=True):
        for frame in survey.frames:
            superseded = limit is not None and frame.seal.first_position >= limit
            cut = torn is not None and torn.path == frame.path and frame.offset >= torn.offset
            if not superseded and not cut:
                yield frame


def _linked(
    frame: GoodFrame,
    from_copy: bool,  # noqa: FBT001 - a fact of the frame, handed on
    schema: pa.Schema,
    chains: set[bytes],
    in_front: list[_Candidate],
) -> _Candidate | None:
    """The candidate that a frame is, linked to those in front of it; None when it holds no events."""
    try:
        batch = decoded_batch(frame.read(), schema, event_count=frame.seal.event_count)
    except UnreadableBatchError:
        return None
    contents = list(content_digests(batch))
    streams = _streams(batch)
    if streams is None or [position for position, _, _ in contents] != list(
        range(frame.seal.first_position, frame.seal.next_position)
    ):
        return None

    def continues(chain: bytes) -> bool:
        for position, version, content in contents:
            chain = log_format.next_chain(chain, position=position, stream_version=version, content=content)
        return chain == frame.seal.chain

    candidate = _Candidate(frame, from_copy, streams, clocks(batch)[-1], any(map(continues, chains)))
    for each in in_front:
        if continues(each.frame.seal.chain):
            each.followers.append(candidate)
            candidate.is_head = False
    return candidate


def _streams(batch: pa.RecordBatch) -> dict[str, tuple[int, int]] | None:
    """First and last version of each stream; None where they are not dense."""
    streams: dict[str, tuple[int, int]] = {}
    versions = batch.column("stream_version").to_pylist()
    for stream, version in zip(batch.column("stream").to_pylist(), versions, strict=True):
        first, last = streams.get(stream, (version, version - 1))
        if version != last + 1:
            return None
        streams[stream] = (first, version)
    return streams


class _Way:
    """The way through the candidates, and what it has found so far."""

    def __init__(self, candidates: Sequence[_Candidate], chains: dict[int, set[bytes]]) -> None:
        self._heads = [candidate for candidate in candidates if candidate.is_head]
        self._chains = chains
        self._last: _Candidate | None = None
        self._kept: list[Kept | _Gap] = []
        self._versions: dict[str, int] = {}
        self._gaps_in_front: dict[str, int] = {}
        self._gaps: list[_Gap] = []
        self._deficits: list[_Deficit] = []
        self._broken_at: int | None = None
        self.position = 0

    def walk(self) -> None:
        """Step 3: go as far as there are candidates."""
        while (head := self._next_head()) is not None:
            if head.first_position > self.position:
                self._leave_gap(head.first_position, exact=True, former_chain=self._former_chain(head))
            at_start = head.first_position == 0 and head.vouched
            if not at_start and self._broken_at is None:
                self._broken_at = head.first_position
            for candidate in head.run():
                self._take(candidate, vouched=candidate is not head or head.vouched)

    def _next_head(self) -> _Candidate | None:
        """Where the way goes on, now that no link leads further."""
        fitting = [head for head in self._heads if head.first_position >= self.position and self._fits(head)]
        return next((head for head in fitting if not _outdone(head, fitting)), None)

    def _fits(self, head: _Candidate) -> bool:
        """Whether the versions of streams leave room for exactly what may be missing in front of it."""
        size = head.first_position - self.position
        if size == 0 and not head.vouched:
            # Right behind events that are sure, and not linked to them: this is another log's.
            return False
        room = size + sum(gap.next_position - gap.first_position for gap in self._gaps)
        room -= sum(deficit.count for deficit in self._deficits)
        versions: dict[str, int] = {}
        for candidate in head.run():
            for stream, (first, last) in candidate.streams.items():
                missing = first - 1 - versions.get(stream, self._versions.get(stream, -1))
                room -= missing
                versions[stream] = last
                if missing < 0 or room < 0:
                    return False
        return True

    def _former_chain(self, head: _Candidate) -> FormerChain:
        """Where the chain that the log had can be taken up behind a gap in front of ``head``."""
        chains = self._chains.get(head.first_position, set())
        if head.vouched and len(chains) == 1:
            return FormerChain(head.first_position, next(iter(chains)))
        return FormerChain(head.next_position, head.frame.seal.chain)

    def _leave_gap(self, next_position: int, *, exact: bool, former_chain: FormerChain | None) -> None:
        gap = _Gap(self.position, next_position, exact, former_chain)
        self._gaps.append(gap)
        self._kept.append(gap)
        if self._broken_at is None:
            self._broken_at = gap.first_position
        self.position = next_position

    def _take(self, candidate: _Candidate, *, vouched: bool) -> None:
        for stream, (first, last) in candidate.streams.items():
            missing = first - 1 - self._versions.get(stream, -1)
            if missing:
                since = self._gaps_in_front.get(stream, 0)
                self._deficits.append(_Deficit(stream, missing, since, len(self._gaps) - 1))
            self._versions[stream] = last
            self._gaps_in_front[stream] = len(self._gaps)
        self._kept.append(candidate.kept(vouched=vouched))
        self._last = candidate
        self.position = candidate.next_position

    def copied_bytes(self, from_position: int) -> int:
        """How long the frames are that a copy has given for positions from one on."""
        kept = (item for item in self._kept if isinstance(item, Kept) and item.from_copy)
        return sum(
            item.frame.seal.frame_bytes for item in kept if item.frame.seal.first_position >= from_position
        )

    def end(self, tail: tuple[int, bool, FormerChain | None], known_length: int) -> None:
        """Step 4: what was behind the last good frame."""
        next_position, exact, former_chain = tail
        if max(next_position, known_length) > self.position:
            exact = exact and next_position >= known_length
            self._leave_gap(max(next_position, known_length), exact=exact, former_chain=former_chain)

    def history(self, own: Sequence[Survey]) -> History:
        """Step 5, and the outcome."""
        streams = iter(_whose(self._gaps, self._deficits))
        items: list[Kept | LostRange] = []
        last: Kept | None = None
        for item in self._kept:
            if isinstance(item, Kept):
                items.append(item)
                last = item
            else:
                path, offset = _place_of_damage(own, item.first_position, last)
                items.append(
                    LostRange(
                        item.first_position,
                        item.next_position,
                        item.exact,
                        path,
                        offset,
                        tuple(next(streams)),
                        item.former_chain,
                    )
                )
        return History(tuple(items), self.position, self._broken_at)


def _outdone(head: _Candidate, others: Iterable[_Candidate]) -> bool:
    """Whether another run covers the same positions and has more to say for itself."""
    worth = (head.vouched, not head.from_copy, head.run_events)
    end = _run_end(head)
    return any(
        other is not head
        and other.first_position < end
        and head.first_position < _run_end(other)
        and (other.vouched, not other.from_copy, other.run_events) > worth
        for other in others
    )


def _run_end(head: _Candidate) -> int:
    return head.first_position + head.run_events


def _whose(gaps: Sequence[_Gap], deficits: Iterable[_Deficit]) -> list[list[str]]:
    """For each gap, a stream for each of its places: those that must be lost soonest come first.

    Raises:
        DamagedLogError: More versions are missing than positions.
    """
    waiting = [replace(deficit) for deficit in deficits]
    whose = []
    for number, gap in enumerate(gaps):
        places: list[str] = []
        room = gap.next_position - gap.first_position
        open_now = [each for each in waiting if each.first_gap <= number <= each.last_gap and each.count]
        for deficit in sorted(open_now, key=lambda each: each.last_gap):
            taken = min(deficit.count, room - len(places))
            places += [deficit.stream] * taken
            deficit.count -= taken
        whose.append(places + [LOST_STREAM] * (room - len(places)))
    if any(deficit.count for deficit in waiting):
        raise DamagedLogError(
            "what is left of the log contradicts itself: more versions of streams are missing than "
            "positions. Restore the log from a copy",
            path="",
            offset=0,
            position=gaps[0].first_position if gaps else 0,
        )
    return whose


def _place_of_damage(
    own: Sequence[Survey], position: int, last: Kept | None
) -> tuple[str | None, int | None]:
    """The file and the byte where the events from a position on were."""
    holders = [survey for survey in own if int(survey.path.name[:20]) <= position]
    if not holders:
        return None, None
    survey = holders[-1]
    end = 0
    if last is not None and last.frame.path == survey.path:
        end = last.frame.offset + last.frame.seal.frame_bytes
    offsets = [each.offset for each in survey.unreadable if each.end_offset > end]
    return survey.path.name, min(offsets, default=min(end, survey.file_bytes))


def _tail(own: Sequence[Survey], way: _Way, torn: Unreadable | None) -> tuple[int, bool, FormerChain | None]:
    """Up to where events may have been behind the last good one, and whether that is exact."""
    last = own[-1]
    behind = [each for each in last.unreadable if _is_last(each, last) and each is not torn]
    if not behind:
        return way.position, True, None
    lost = behind[-1]
    in_front = [frame.seal.next_position for frame in last.frames]
    next_position = max(in_front, default=int(last.path.name[:20]))
    possible = next_position + (lost.end_offset - lost.offset) // EVENT_BYTES_MIN
    offset, former = lost.offset, None
    for start, seal in lost.seals:
        if seal.event_count and next_position <= seal.first_position and seal.next_position <= possible:
            next_position, former = seal.next_position, FormerChain(seal.next_position, seal.chain)
            offset = start + seal.frame_bytes
    unknown = lost.end_offset - offset - way.copied_bytes(next_position)
    if unknown >= EVENT_BYTES_MIN:
        return max(way.position, next_position) + unknown // EVENT_BYTES_MIN, False, None
    return max(way.position, next_position), True, former


def _is_last(unreadable: Unreadable, survey: Survey) -> bool:
    """Whether no good frame stands behind these bytes."""
    return all(frame.offset < unreadable.offset for frame in survey.frames)


def _known_length(own: Sequence[Survey], candidates: Sequence[_Candidate]) -> int:
    """At least so many events there were: a frame stands there, though it be a wrong one, or a segment."""
    ends = [candidate.next_position for candidate in candidates if not candidate.from_copy]
    return max([*ends, *(int(survey.path.name[:20]) for survey in own)], default=0)
