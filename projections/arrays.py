"""The read model of arrays: ``recorded_arrays``, and ``array_removals``, what each was before it went.

A removed array's ``shape``, ``dtype`` and ``chunks`` are NULL for a group. ``files`` counts the listing,
which itself stays in the event's data, for it can be long. An array on record stays in view until it,
or a group that it is in, is removed; that it was written to shows nowhere, for no event says so.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.projection import Projection, Table, View, fields, step

_REMOVED = (
    '{"container":"VARCHAR","dataset":"VARCHAR","shape":["BIGINT"],"dtype":"VARCHAR","chunks":["BIGINT"],'
    '"bytes":"BIGINT","listing":["JSON"],"listing_digest":"VARCHAR"}'
)

_INSERT_ARRAY_REMOVALS = f"""
    INSERT INTO tail.array_removals
    SELECT fields.container, fields.dataset, fields.shape, fields.dtype, fields.chunks, fields.bytes,
        len(fields.listing), fields.listing_digest, position, recorded_at
    FROM ({fields("ArrayRemoved", _REMOVED, extra=", recorded_at")})"""

_RECORDED = (
    '{"container":"VARCHAR","dataset":"VARCHAR","shape":["BIGINT"],"dtype":"VARCHAR","chunks":["BIGINT"],'
    '"bytes":"BIGINT","files":"BIGINT","digest":"VARCHAR"}'
)

_INSERT_ARRAY_RECORDS = f"""
    INSERT INTO tail.array_records
    SELECT fields.container, fields.dataset, fields.shape, fields.dtype, fields.chunks, fields.bytes,
        fields.files, fields.digest, position, recorded_at
    FROM ({fields("ArrayRecorded", _RECORDED, extra=", recorded_at")})"""

ARRAYS = Projection(
    name="arrays",
    tables=(
        Table(
            "array_removals",
            {
                "container": "VARCHAR NOT NULL",
                "dataset": "VARCHAR NOT NULL",
                "shape": "BIGINT[]",
                "dtype": "VARCHAR",
                "chunks": "BIGINT[]",
                "bytes": "BIGINT NOT NULL",
                "files": "BIGINT NOT NULL",
                "listing_digest": "VARCHAR NOT NULL",
                "position": "UBIGINT NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
            },
        ),
        Table(
            "array_records",
            {
                "container": "VARCHAR NOT NULL",
                "dataset": "VARCHAR NOT NULL",
                "shape": "BIGINT[] NOT NULL",
                "dtype": "VARCHAR NOT NULL",
                "chunks": "BIGINT[] NOT NULL",
                "bytes": "BIGINT NOT NULL",
                "files": "BIGINT NOT NULL",
                "digest": "VARCHAR",
                "position": "UBIGINT NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
            },
        ),
    ),
    steps=(
        step(_INSERT_ARRAY_REMOVALS, "ArrayRemoved"),
        step(_INSERT_ARRAY_RECORDS, "ArrayRecorded"),
    ),
    views=(
        View("array_removals", "SELECT * FROM history.array_removals WHERE position < as_of"),
        View(
            "recorded_arrays",
            """
            SELECT container, dataset, shape, dtype, chunks, bytes, files, digest, position, recorded_at
            FROM (
                FROM history.array_records WHERE position < as_of
                QUALIFY row_number() OVER (PARTITION BY container, dataset ORDER BY position DESC) = 1
            ) AS latest
            WHERE NOT EXISTS (
                FROM history.array_removals AS removed
                WHERE removed.container = latest.container
                    AND starts_with(latest.dataset || '/', removed.dataset || '/')
                    AND removed.position > latest.position AND removed.position < as_of
            )""",
        ),
    ),
)
