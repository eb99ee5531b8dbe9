"""The read model of removed arrays: ``array_removals``, what each was before it went.

``shape``, ``dtype`` and ``chunks`` are NULL for a group. ``files`` counts the listing, which itself
stays in the event's data, for it can be long.
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
    ),
    steps=(step(_INSERT_ARRAY_REMOVALS, "ArrayRemoved"),),
    views=(View("array_removals", "SELECT * FROM history.array_removals WHERE position < as_of"),),
)
