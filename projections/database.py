"""The in-memory DuckDB that holds the read models: opening it, transactions, cursors, forks.

DuckDB runs inside trainers here, so it gets few threads and little memory, loads nothing from the
network, and never mistakes a Python variable for a table. What does not fit into its memory goes to
a folder below the system's temporary one, which DuckDB makes when it needs it and removes at close.

A forked child must not touch an inherited DuckDB: its threads exist in the parent only, and already
a destructor that waits for them crashes or hangs. So the child gives every inherited connection one
reference that is never returned, and opens a database of its own.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

_NO_ROWS = pa.table({"nothing": pa.nulls(0, pa.int64())})
_connections: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
_parsed: dict[str, duckdb.Statement] = {}


class Database:
    """One in-memory DuckDB with the schemas of ``projection``; a connection for writing, cursors for reading.

    Args:
        threads: How many threads a statement may use.
        memory_limit: How much memory DuckDB may use, e.g. ``"1GB"``, before it turns to the disk.
        temporary: The folder for what does not fit into memory; one below the system's by default.
    """

    def __init__(self, *, threads: int, memory_limit: str, temporary: Path | None = None) -> None:
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": memory_limit,
                "temp_directory": str(temporary or _new_temporary()),
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
            },
        )
        _connections.add(self._connection)
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # Under an interactive Python, catching up with a long history would draw one on stdout.
        self._connection.execute("SET enable_progress_bar = false")
        self._connection.execute("CREATE SCHEMA tail")
        self._connection.execute("CREATE SCHEMA history")
        self._few_rows = _Rows()
        self._planned: set[str] = set()
        self._connection.register("few_rows", self._few_rows)

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The writing connection, for one thread at a time: all that is done with it, or nothing."""
        self._connection.begin()
        try:
            yield self._connection
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    @contextmanager
    def batch(self, events: pa.Table) -> Iterator[None]:
        """Events as the relation ``batch`` of the writing connection, without a copy."""
        self._connection.register("batch", events)
        try:
            yield
        finally:
            self._connection.unregister("batch")

    def insert(self, table: str, rows: pa.Table) -> None:
        """Put rows into a table of ``tail``, in the order of its columns: all of them or none.

        Always of one schema: the statement is planned once, which takes longer than to run it on a few rows.
        """
        self._few_rows.table = rows
        try:
            if table not in self._planned:
                self._connection.execute(f"PREPARE few_{table} AS INSERT INTO tail.{table} FROM few_rows")
                self._planned.add(table)
            self._connection.execute(parsed(self._connection, f"EXECUTE few_{table}"))
        finally:
            self._few_rows.table = _NO_ROWS

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same data, for one query of one thread."""
        cursor = self._connection.cursor()
        _connections.add(cursor)
        return cursor

    def attach(self, path: Path, catalog: str) -> None:
        """Add a DuckDB file under this name, read-only."""
        place = str(path).replace("'", "''")
        self._connection.execute(f"ATTACH '{place}' AS {catalog} (READ_ONLY)")

    def detach(self, catalog: str) -> None:
        """Let go of a file."""
        self._connection.execute(f"DETACH {catalog}")

    def close(self) -> None:
        """Close it and its cursors: the memory is freed, and results not yet read are gone."""
        self._connection.close()


class _Rows:
    """A relation whose rows may be others each time. To register a table takes as long as to insert it."""

    def __init__(self) -> None:
        self.table = _NO_ROWS

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.table.schema.__arrow_c_schema__()


def parsed(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    """The statement of a constant text, parsed once in the life of a process.

    A fold of few events takes as long as its statements take to plan, and a fifth of that was to read them.
    """
    statement = _parsed.get(text)
    if statement is None:
        (statement,) = connection.extract_statements(text)
        _parsed[text] = statement
    return statement


def _new_temporary() -> Path:
    return Path(tempfile.gettempdir(), f"projections-{uuid.uuid4().hex}")


def _keep_inherited_connections() -> None:
    # A reference from a module would be returned when the interpreter of the child ends, and the
    # destructor would run after all.
    for connection in _connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _connections.clear()


os.register_at_fork(after_in_child=_keep_inherited_connections)
