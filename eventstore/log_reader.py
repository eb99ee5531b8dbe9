"""``LogReader``: the events of a log, at any positions, as batches or one by one.

What it is asked for is there: whoever asks has looked how far the log reaches. Many small commits are
given as fewer batches, and what lies close together is read together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventstore import format as log_format
from eventstore.errors import DamagedLogError, EventStoreError
from eventstore.log_state import LogState
from eventstore.model import RecordedEvent
from eventstore.schema import clocks, folded_chain, recorded_events, text_array
from eventstore.storage.protocol import Storage, StoredBatch

_NEAR_POSITIONS = 64
_JOINED_COMMITS = 1024
_JOINED_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LogReader:
    """Reads a log.

    Args:
        state: What is known of it.
        adapter: Gives the storage, or raises when the log was closed.
    """

    def __init__(self, state: LogState, adapter: Callable[[], Storage]) -> None:
        self._state = state
        self._adapter = adapter

    def batches(
        self, start: int, stop: int, *, stream: str | None = None, types: Collection[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The events from one position up to another, those that are wanted; no batch is empty.

        Raises:
            DamagedLogError: The log is damaged here; what is in front was given.
        """
        for batch in _joined(self._parts(start, stop)):
            wanted = batch
            if stream is not None:
                wanted = wanted.filter(pc.equal(wanted.column("stream"), text_array([stream])[0]))
            if types is not None:
                wanted = wanted.filter(pc.is_in(wanted.column("type"), text_array(list(types))))
            if wanted.num_rows:
                yield wanted

    def batches_of_stream(self, stream: str, positions: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """The events of a stream, which are at these positions; read together where they lie close."""
        start = 0
        for place, position in enumerate(positions):
            last = place + 1 == len(positions)
            if last or positions[place + 1] - position > _NEAR_POSITIONS:
                if position - positions[start] == place - start:
                    # All of them are the stream's: to join commits and look for it would take longer.
                    yield from (part.batch for part in self._parts(positions[start], position + 1))
                else:
                    yield from self.batches(positions[start], position + 1, stream=stream)
                start = place + 1

    def chain_at(self, position: int) -> bytes:
        """The chain's value behind the events below a position, which the log has."""
        if position == 0:
            return log_format.first_chain(self._adapter().log_id)
        stored = next(self._state.stored(position - 1, position))
        if stored.next_position == position:
            return stored.chain
        # It is within a frame, of many commits as a rule: the chain goes on from where that begins.
        start = stored.first_position if stored.frame_position is None else stored.frame_position
        chain = self.chain_at(start)
        for part in self._parts(start, position):
            chain = folded_chain(chain, part.batch)
        return chain

    def position_at(self, time: datetime) -> int:
        """The position of the first event whose clock, or one in front of it, is behind a moment.

        The length of the log when there is none.
        """
        moment = (time - _EPOCH) // timedelta(microseconds=1)
        with self._state.lock:
            self._state.catch_up(anew=False)
            around = self._state.around(moment)
            if around is None:
                return self._state.next_position
        start, stop = around
        times = (clock for part in self._parts(start, stop) for clock in clocks(part.batch))
        return next((position for position, clock in enumerate(times, start) if clock > moment), stop)

    def _parts(self, start: int, stop: int) -> Iterator[StoredBatch]:
        if start >= stop:
            return
        reached = start
        for stored in self._state.stored(start, stop):
            reached = stored.next_position
            if stored.first_position >= start and reached <= stop:
                yield stored
            else:
                yield msgspec.structs.replace(stored, batch=_part(stored, start, stop))
            if reached < stop:
                self._adapter()  # closed meanwhile: say so; forked meanwhile: open anew
        if reached < stop:
            raise DamagedLogError(
                f"events from position {reached} on were there a moment ago and are gone: a file of the log "
                "was deleted or replaced. Restore it from a copy and open the log again",
                path="",
                offset=0,
                position=reached,
            )


def events_in(batches: Iterator[pa.RecordBatch]) -> Iterator[RecordedEvent]:
    """The events of batches, one by one."""
    return (event for batch in batches for event in recorded_events(batch))


def _part(stored: StoredBatch, start: int, stop: int) -> pa.RecordBatch:
    """The rows of a batch whose positions are in [start, stop)."""
    first = max(start - stored.first_position, 0)
    return stored.batch.slice(first, min(stop, stored.next_position) - stored.first_position - first)


def _joined(parts: Iterator[StoredBatch]) -> Iterator[pa.RecordBatch]:
    """Many small commits as fewer batches: what follows costs as much for a row as for a thousand."""
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    try:
        for part in parts:
            waiting.append(part.batch)
            waiting_bytes += part.place.size
            if len(waiting) == _JOINED_COMMITS or waiting_bytes >= _JOINED_BYTES:
                yield from _one_batch(waiting)
                waiting, waiting_bytes = [], 0
    except EventStoreError:
        # What came before the damage, or before the log was closed, is given first.
        yield from _one_batch(waiting)
        raise
    yield from _one_batch(waiting)


def _one_batch(parts: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(parts) < 2:  # noqa: PLR2004 - one is there already
        return parts
    batches: list[pa.RecordBatch] = pa.Table.from_batches(parts).combine_chunks().to_batches()
    return batches
