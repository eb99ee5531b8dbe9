"""The log's contract on object storage: on moto's S3, and on a store that honours what must be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import EventLog
from eventstore.testing.contract import LogContract, OpenLog
from tools.stores.faulty_server import FaultyServer
from tools.stores.moto_server import moto_server

_numbers = itertools.count()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve moto's S3."""
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    """Serve an unreliable store."""
    with FaultyServer(share=0.1) as server:
        yield server
        assert all(server.counts.values())


class _ObjectContract(LogContract):
    @pytest.fixture
    def address(self) -> str:
        """The address of an empty log."""
        raise NotImplementedError

    @pytest.fixture
    def open_log(self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLog]:
        """Every call opens the address anew."""
        monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(address))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()


class TestMotoLog(_ObjectContract):
    """moto, with signed requests."""

    @pytest.fixture
    def address(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """A prefix of its own for each test."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        return f"s3://bucket/log-{next(_numbers)}?endpoint={endpoint}&region=us-east-1"


class TestUnreliableObjectLog(_ObjectContract):
    """A store that loses requests and answers, and says 409, 429 and 503: nobody notices."""

    @pytest.fixture
    def address(self, server: FaultyServer) -> str:
        """A prefix of its own for each test."""
        return server.address(f"log-{next(_numbers)}")
