"""The log's contract on MongoDB, through the real pymongo; ``MONGODB_URI`` names a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import EventLog
from eventstore.storage.mongo import database_address
from eventstore.testing.contract import LogContract, OpenLog


class TestMongoLog(LogContract):
    """One document for each commit."""

    @pytest.fixture
    def open_log(
        self, mongodb: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
        address = database_address(*mongodb)
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(address))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()
