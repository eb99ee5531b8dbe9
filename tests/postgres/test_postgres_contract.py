"""The log's contract on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from eventstore import EventLog
from eventstore.testing.contract import LogContract, OpenLog


class TestPostgresLog(LogContract):
    """One row for each commit."""

    @pytest.fixture
    def open_log(self, address: Callable[..., str]) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(address()))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()
