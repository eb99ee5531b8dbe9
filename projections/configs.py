"""The read model of configs: ``configs`` and one view for each kind, e.g. ``runs``.

A view shows the last document of each name, unless the config was deleted after it. Documents stay
the JSON that was stored, with ``tagged_json``'s tags for what JSON has no word for.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.projection import Projection, Table, View, fields, step

KINDS = ("runs", "tasks", "architectures", "trainers", "datasplits", "datasets", "arrays")

_NAMED = '{"kind":"VARCHAR","name":"VARCHAR"}'
_DOCUMENT = ", recorded_at, data::JSON -> 'document' AS document"

_INSERT_CONFIG_DOCUMENTS = f"""
    INSERT INTO tail.config_documents
    SELECT fields.kind, fields.name, document, position, recorded_at
    FROM ({fields("ConfigStored", _NAMED, extra=_DOCUMENT)})"""

_INSERT_CONFIG_DELETIONS = f"""
    INSERT INTO tail.config_deletions
    SELECT fields.kind, fields.name, position FROM ({fields("ConfigDeleted", _NAMED)})"""

CONFIGS = Projection(
    name="configs",
    tables=(
        Table(
            "config_documents",
            {
                "kind": "VARCHAR NOT NULL",
                "name": "VARCHAR NOT NULL",
                "document": "JSON NOT NULL",
                "position": "UBIGINT NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
            },
        ),
        Table(
            "config_deletions",
            {"kind": "VARCHAR NOT NULL", "name": "VARCHAR NOT NULL", "position": "UBIGINT NOT NULL"},
        ),
    ),
    steps=(
        # The document is cut out by ->, for which a null is a document like any other.
        step(_INSERT_CONFIG_DOCUMENTS, "ConfigStored"),
        step(_INSERT_CONFIG_DELETIONS, "ConfigDeleted"),
    ),
    views=(
        View(
            "configs",
            """
            SELECT kind, name, document, position, recorded_at
            FROM (
                FROM history.config_documents WHERE position < as_of
                QUALIFY row_number() OVER (PARTITION BY kind, name ORDER BY position DESC) = 1
            ) AS stored
            WHERE NOT EXISTS (
                FROM history.config_deletions AS deleted
                WHERE deleted.kind = stored.kind AND deleted.name = stored.name
                    AND deleted.position > stored.position AND deleted.position < as_of
            )""",
        ),
        *(
            View(
                kind,
                f"""
                SELECT name, document, position, recorded_at FROM main.configs_at(as_of)
                WHERE kind = '{kind}'""",
            )
            for kind in KINDS
        ),
    ),
)
