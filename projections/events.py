"""The read model of every event: ``events``, the log as a table, known types or not.

It folds without fail, so that there is always a place to look: text that is no JSON, which the log
does not write, is shown as a JSON string. The bulk columns are left to the read models that know
their meaning.
"""

from __future__ import annotations

from projections.projection import Projection, Table, View, step

_INSERT_EVENTS = """
    INSERT INTO tail.events
    SELECT position, event_id::UUID, recorded_at, stream, stream_version, type, schema_version,
        coalesce(try_cast(data AS JSON), to_json(data)),
        coalesce(try_cast(metadata AS JSON), to_json(metadata))
    FROM batch"""

EVENTS = Projection(
    name="events",
    tables=(
        Table(
            "events",
            {
                "position": "UBIGINT NOT NULL",
                "event_id": "UUID NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
                "stream": "VARCHAR NOT NULL",
                "stream_version": "UBIGINT NOT NULL",
                "type": "VARCHAR NOT NULL",
                "schema_version": "USMALLINT NOT NULL",
                "data": "JSON NOT NULL",
                "metadata": "JSON NOT NULL",
            },
        ),
    ),
    steps=(step(_INSERT_EVENTS),),
    views=(View("events", "SELECT * FROM history.events WHERE position < as_of"),),
)
