"""The log's contract on a disk, on a disk with segments that roll all the time, and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import Event, EventLog
from eventstore.storage.memory import MemoryStorage
from eventstore.testing import memory_log
from eventstore.testing.contract import LogContract, OpenLog


class _DiskContract(LogContract):
    segment_bytes_max: int

    @pytest.fixture
    def open_log(self, tmp_path: Path) -> Iterator[OpenLog]:
        """Every call opens the folder anew."""
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            log = EventLog.open(tmp_path / "events", segment_bytes_max=self.segment_bytes_max)
            opened.append(log)
            return log

        yield open_log
        for log in opened:
            log.close()


class TestDiskLog(_DiskContract):
    """One segment holds everything."""

    segment_bytes_max = 64 << 20


class TestRollingDiskLog(_DiskContract):
    """A segment takes a commit or two: whatever spans segments is met."""

    segment_bytes_max = 3000

    def test_it_does_roll(self, log: EventLog, tmp_path: Path) -> None:
        """Otherwise this class would test the same as the one before."""
        for _ in range(20):
            log.append("s", [Event("A")])
        assert len(list((tmp_path / "events").glob("*.arrows"))) > 3
        assert log.verify().segments > 3


class TestMemoryLog(LogContract):
    """Handles of one memory share what is in it."""

    @pytest.fixture
    def open_log(self) -> OpenLog:
        """Every call gives a log over the same storage."""
        storage = MemoryStorage()
        return lambda: EventLog(storage)

    def test_each_memory_log_is_a_log_of_its_own(self) -> None:
        """Tests that use one do not meet in it."""
        with memory_log() as one, memory_log() as other:
            one.append("s", [Event("A")])
            assert other.next_position == 0
            assert one.log_id != other.log_id
