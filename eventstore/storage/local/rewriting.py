"""Segments that a repair writes anew: what is kept as it was sealed before, what is lost as placeholders.

Behind the first lost event the chain is another one, so all frames from there on get new seals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eventstore import files
from eventstore import format as log_format
from eventstore.encoding import encode_events
from eventstore.lost_events import LostRange, placeholders
from eventstore.message import BatchMessage
from eventstore.schema import decoded_batch, folded_chain
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.reconstruction import Kept
from eventstore.storage.local.repair_plan import Part, Work

_PLACEHOLDERS_PER_FRAME = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Repair:
    """What the placeholders say of the repair."""

    name: str
    at: datetime
    metadata: Mapping[str, Any]


def write_segments(work: Work, folder: Path, repair: Repair, *, generation: int) -> None:
    """Write the segments that must be written anew, durably.

    Args:
        work: What is to be done.
        folder: Where they are put, under the names that they will have.
        repair: What the placeholders say of it.
        generation: That of the new files.
    """
    clocks = [item.clock for item in work.history.items if isinstance(item, Kept)]
    ink = _Ink(log_format.first_chain(work.log_id), clocks[0] if clocks else 0)
    for part in work.parts:
        if part not in work.rewritten:
            ink.pass_over(part.items)
            continue
        path = folder / SegmentName(part.first_position, generation).text
        with files.new_file(path, like=work.directory) as (descriptor, _):
            for frame in ink.frames(part, work, repair):
                files.write(descriptor, frame)
            files.sync_file(descriptor)
    files.sync_directory(folder)


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

    def frames(self, part: Part, work: Work, repair: Repair) -> Iterator[bytes]:
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

    def _kept(self, item: Kept, work: Work) -> Iterator[tuple[int, int, int, bytes]]:
        data, seal = item.frame.read(), item.frame.seal
        self.chain = folded_chain(self.chain, decoded_batch(data, work.schema, event_count=seal.event_count))
        self._note(item)
        yield seal.first_position, seal.event_count, seal.synced_position, log_format.unseal(data, seal)

    def _lost(self, lost: LostRange, work: Work, repair: Repair) -> Iterator[tuple[int, int, int, bytes]]:
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
