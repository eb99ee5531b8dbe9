"""What the read models need of a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from eventstore.storage.protocol import SharedFiles


class EventSource(Protocol):
    """A log to follow. Where there are no snapshots, only its length and its events are asked for."""

    @property
    def next_position(self) -> int:
        """The position that the next event will get, with every commit acknowledged so far below it."""

    def read_batches(self, from_position: int) -> Iterable[pa.RecordBatch]:
        """All events from a position on, in order and without gaps, in the envelope's columns."""

    @property
    def log_id(self) -> bytes:
        """The log's random id."""

    @property
    def durable_position(self) -> int:
        """Everything below this position is known to survive a power cut."""

    @property
    def shared_files(self) -> SharedFiles | None:
        """Where files lie beside the log that are derived from it; None where there is no such place."""

    def chain_at(self, position: int) -> bytes:
        """The hash that vouches for every event below a position, which is not beyond the log's end."""


class Prefix:
    """The first events of a log, as if there were no others.

    Args:
        log: The log.
        next_position: How many of its events to show; it has them.
    """

    def __init__(self, log: EventSource, next_position: int) -> None:
        self._log = log
        self.next_position = next_position
        self.durable_position = next_position
        self.log_id = log.log_id
        self.shared_files = log.shared_files

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        """See ``EventSource``."""
        position = from_position
        for batch in self._log.read_batches(from_position):
            if position + batch.num_rows >= self.next_position:
                yield batch.slice(0, self.next_position - position)
                return
            yield batch
            position += batch.num_rows

    def chain_at(self, position: int) -> bytes:
        """See ``EventSource``."""
        return self._log.chain_at(position)
