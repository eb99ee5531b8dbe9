"""The read model of weights: ``weights``, and ``best_weights`` for each dataset and criterion.

Weights are there from their last storing until a removal or a rewind behind it. A choice of best
weights holds until another is made for the same dataset and criterion, or until the weights of the
chosen iteration leave the view; storing that iteration again does not bring the choice back.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.projection import Projection, Table, View, fields, step

_STORED = (
    '{"run":"VARCHAR","iteration":"BIGINT","path":"VARCHAR",'
    '"bytes":"BIGINT","chunk_bytes":"BIGINT","digest":"VARCHAR"}'
)
_REMOVED = '{"run":"VARCHAR","iteration":"BIGINT"}'
_REWOUND = '{"run":"VARCHAR","keeps_until":"BIGINT"}'
_CHOSEN = '{"run":"VARCHAR","dataset":"VARCHAR","criterion":"VARCHAR","iteration":"BIGINT"}'

_STILL_THERE = """
    NOT EXISTS (
        FROM history.weights_removed AS removed
        WHERE removed.run = latest.run AND removed.iteration = latest.iteration
            AND removed.position > latest.position AND removed.position < as_of
    ) AND NOT EXISTS (
        FROM history.weights_rewound AS rewound
        WHERE rewound.run = latest.run AND rewound.keeps_until < latest.iteration
            AND rewound.position > latest.position AND rewound.position < as_of
    )"""

_INSERT_WEIGHTS_STORED = f"""
    INSERT INTO tail.weights_stored
    SELECT fields.run, fields.iteration, fields.path, fields.bytes, fields.chunk_bytes, fields.digest,
        position, recorded_at
    FROM ({fields("WeightsStored", _STORED, extra=", recorded_at")})"""

_INSERT_WEIGHTS_REMOVED = f"""
    INSERT INTO tail.weights_removed
    SELECT fields.run, fields.iteration, position FROM ({fields("WeightsRemoved", _REMOVED)})"""

_INSERT_WEIGHTS_REWOUND = f"""
    INSERT INTO tail.weights_rewound
    SELECT fields.run, fields.keeps_until, position FROM ({fields("WeightsRewound", _REWOUND)})"""

_INSERT_BEST_WEIGHTS_CHOSEN = f"""
    INSERT INTO tail.best_weights_chosen
    SELECT fields.run, fields.dataset, fields.criterion, fields.iteration, position, recorded_at
    FROM ({fields("BestWeightsChosen", _CHOSEN, extra=", recorded_at")})"""

WEIGHTS = Projection(
    name="weights",
    tables=(
        Table(
            "weights_stored",
            {
                "run": "VARCHAR NOT NULL",
                "iteration": "BIGINT NOT NULL",
                "path": "VARCHAR NOT NULL",
                "bytes": "BIGINT NOT NULL",
                "chunk_bytes": "BIGINT NOT NULL",
                "digest": "VARCHAR NOT NULL",
                "position": "UBIGINT NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
            },
        ),
        Table(
            "weights_removed",
            {"run": "VARCHAR NOT NULL", "iteration": "BIGINT NOT NULL", "position": "UBIGINT NOT NULL"},
        ),
        Table(
            "weights_rewound",
            {"run": "VARCHAR NOT NULL", "keeps_until": "BIGINT NOT NULL", "position": "UBIGINT NOT NULL"},
        ),
        Table(
            "best_weights_chosen",
            {
                "run": "VARCHAR NOT NULL",
                "dataset": "VARCHAR NOT NULL",
                "criterion": "VARCHAR NOT NULL",
                "iteration": "BIGINT NOT NULL",
                "position": "UBIGINT NOT NULL",
                "recorded_at": "TIMESTAMPTZ NOT NULL",
            },
        ),
    ),
    steps=(
        step(_INSERT_WEIGHTS_STORED, "WeightsStored"),
        step(_INSERT_WEIGHTS_REMOVED, "WeightsRemoved"),
        step(_INSERT_WEIGHTS_REWOUND, "WeightsRewound"),
        step(_INSERT_BEST_WEIGHTS_CHOSEN, "BestWeightsChosen"),
    ),
    views=(
        View(
            "weights",
            f"""
            SELECT run, iteration, path, bytes, chunk_bytes, digest, position, recorded_at
            FROM (
                FROM history.weights_stored WHERE position < as_of
                QUALIFY row_number() OVER (PARTITION BY run, iteration ORDER BY position DESC) = 1
            ) AS latest
            WHERE {_STILL_THERE}""",
        ),
        View(
            "best_weights",
            f"""
            SELECT run, dataset, criterion, iteration, position, recorded_at
            FROM (
                FROM history.best_weights_chosen WHERE position < as_of
                QUALIFY row_number() OVER (PARTITION BY run, dataset, criterion ORDER BY position DESC) = 1
            ) AS latest
            WHERE {_STILL_THERE}""",
        ),
    ),
)
