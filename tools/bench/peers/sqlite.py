"""SQLite, of the standard library, with its write-ahead log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import ClassVar

from tools.bench.peers.ours import as_arrays
from tools.bench.peers.peer import Commit, Durability, LogRow, Peer, document
from tools.bench.workloads import Curve


class Sqlite(Peer):
    """A table of events, a transaction a commit; ``synchronous`` says what a commit waits for."""

    synchronous: ClassVar[str]

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(
            sqlite3.connect(self.folder / "events.db", timeout=30, isolation_level=None)
        ) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {self.synchronous}")
            yield database

    @contextmanager
    def commits(self, durability: Durability) -> Iterator[Commit]:
        """Rows of stream, type and JSON; many in one transaction."""
        assert durability == ("commit" if self.synchronous == "FULL" else "os")
        with self._database() as database:
            database.execute("CREATE TABLE events (position INTEGER PRIMARY KEY, stream, type, data)")

            def commit(first: int, count: int) -> None:
                rows = [("notes", "Noted", json.dumps(document(n))) for n in range(first, first + count)]
                database.execute("BEGIN")
                database.executemany("INSERT INTO events (stream, type, data) VALUES (?, ?, ?)", rows)
                database.execute("COMMIT")

            yield commit

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """A transaction a row, so that a kill loses none."""
        with self._database() as database:
            database.execute("CREATE TABLE stats (iteration INTEGER PRIMARY KEY, loss REAL, time REAL)")

            def log_row(iteration: int, loss: float, time: float) -> None:
                database.execute("INSERT INTO stats VALUES (?, ?, ?)", (iteration, loss, time))

            yield log_row

    def logged(self) -> Curve:
        """The rows of the table."""
        with self._database() as database:
            return as_arrays(database.execute("SELECT iteration, loss, time FROM stats").fetchall())


class SqliteFull(Sqlite):
    """A commit waits for the disk."""

    name = "SQLite WAL FULL"
    synchronous = "FULL"


class SqliteNormal(Sqlite):
    """A commit waits for the operating system."""

    name = "SQLite WAL NORMAL"
    synchronous = "NORMAL"
