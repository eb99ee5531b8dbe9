"""The log's contract on a folder that hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import EventLog
from eventstore.testing.contract import LogContract, OpenLog


class TestSharedLog(LogContract):
    """One file for each commit."""

    @pytest.fixture
    def open_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(f"shared://{tmp_path}/events"))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()
