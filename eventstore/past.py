"""A log as it was at a position: it reads like the log, ends there, and does not change."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from eventstore.log import EventLog
    from eventstore.model import RecordedEvent
    from eventstore.storage.protocol import SharedFiles


class PastLog:
    """The first events of a log.

    Args:
        log: The log.
        position: How many of its events there are here.

    Raises:
        ValueError: The log does not have so many.
    """

    def __init__(self, log: EventLog, position: int) -> None:
        end = log.next_position
        if not 0 <= position <= end:
            raise ValueError(f"position {position} is not in this log: it has the positions 0 to {end}")
        self._log = log
        self.next_position = position

    @property
    def durable_position(self) -> int:
        """Everything below this position is known to survive a power cut."""
        return min(self._log.durable_position, self.next_position)

    @property
    def log_id(self) -> bytes:
        """The log's random id, 16 bytes."""
        return self._log.log_id

    @property
    def shared_files(self) -> SharedFiles | None:
        """See ``EventLog.shared_files``."""
        return self._log.shared_files

    @property
    def chain(self) -> bytes:
        """The 32-byte hash that vouches for every event here."""
        return self._log.chain_at(self.next_position)

    def chain_at(self, position: int) -> bytes:
        """See ``EventLog.chain_at``."""
        if position > self.next_position:
            raise ValueError(f"the log has positions 0 to {self.next_position}, and not {position}")
        return self._log.chain_at(position)

    def one_look(self) -> AbstractContextManager[None]:
        """See ``EventLog.one_look``."""
        return self._log.one_look()

    def read(
        self,
        from_position: int = 0,
        until: int | None = None,
        *,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[RecordedEvent]:
        """See ``EventLog.read``."""
        return self._log.read(from_position, self._end(until), stream=stream, types=types)

    def read_batches(
        self,
        from_position: int = 0,
        until: int | None = None,
        *,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """See ``EventLog.read_batches``."""
        return self._log.read_batches(from_position, self._end(until), stream=stream, types=types)

    def read_stream(self, stream: str, from_version: int = 0) -> Iterator[RecordedEvent]:
        """See ``EventLog.read_stream``."""
        events = self._log.read_stream(stream, from_version)
        return takewhile(lambda event: event.position < self.next_position, events)

    def stream_version(self, stream: str) -> int | None:
        """See ``EventLog.stream_version``."""
        version = None
        for event in self.read_stream(stream):
            version = event.stream_version
        return version

    def position_at(self, time: datetime) -> int:
        """See ``EventLog.position_at``."""
        return min(self._log.position_at(time), self.next_position)

    def sync(self) -> None:
        """There is nothing to wait for that was not there before."""
        self._log.sync()

    def _end(self, until: int | None) -> int:
        return self.next_position if until is None else min(until, self.next_position)
