"""Digests of read models: equal content, equal digest, on any machine and however the events came."""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from projections.projection import Projection, Table

if TYPE_CHECKING:
    import duckdb

_DIGEST_ROWS = 65536


def digest(cursor: duckdb.DuckDBPyConnection, projection: Projection) -> str:
    """The SHA-256 over the rows of a read model, table by table, in the order of each one's key."""
    hasher = hashlib.sha256()
    for table in projection.tables:
        hasher.update(f"{table.name}\n".encode())
        cursor.execute(_lines(table))
        while rows := cursor.fetchmany(_DIGEST_ROWS):
            hasher.update("".join(line for (line,) in rows).encode())
    return hasher.hexdigest()


def _lines(table: Table) -> str:
    """A query for the rows of a table, in order, each as a line of JSON."""
    columns = ", ".join(_as_text(name, sql_type) for name, sql_type in table.columns.items())
    order = ", ".join(table.key)
    return f"SELECT json_array({columns})::VARCHAR || chr(10) FROM history.{table.name} ORDER BY {order}"


def _as_text(column: str, sql_type: str) -> str:
    # JSON has no NaN and would lose the sign of a zero; a time's text depends on settings.
    plain_type = sql_type.removesuffix(" NOT NULL")
    casts = {"DOUBLE": "VARCHAR", "DOUBLE[]": "VARCHAR[]", "UUID": "VARCHAR", "JSON": "VARCHAR"}
    if plain_type == "TIMESTAMPTZ":
        return f'epoch_us("{column}")'
    return f'"{column}"::{casts[plain_type]}' if plain_type in casts else f'"{column}"'
