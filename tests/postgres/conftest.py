"""A PostgreSQL server for the tests of this folder, and a table of its own for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.postgres import MISSING, PostgresServer, binaries

_tables = itertools.count()

Address = Callable[..., str]


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """Give a server that runs."""
    if binaries() is None:
        pytest.skip(MISSING)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def address(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    """Give a function that gives the address of one log of this test's own, as ``PostgresServer.address``."""
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
    table = f"log_{next(_tables)}"
    return lambda **options: server.address(**{"table": table, **options})
