"""The read model of validation: ``validation_iterations`` and ``validation_scores``.

``validation_iterations`` has one row an iteration with its scores as one list, as they were given,
and the structure to read them by: ``lengths[d][p]`` criteria for dataset d under parameters p. It is
exact: ragged structures and iterations without a score are in it. ``validation_scores`` is the long
form, one row a score, each with names and indices of dataset, parameters and criterion; a name that
is missing reads as its index.

``ordinal`` is the place in the event: of the iteration in the first view, of the score in the
second. A null item of ``values`` is NULL in both.

A *shape* is one such structure with its names, stored once and named by the position of the first
event that had it; its leaves, one for each score, carry the indices and names.

An event whose ``values`` do not fit its ``index`` and lengths is malformed and stops this read model.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.epochs import IS_LIVE, epoch_steps, epoch_tables, lives_as_of
from projections.projection import Projection, Table, View, fields, step

_FIELDS = (
    '{"run":"VARCHAR","epoch":"BIGINT","datasets":["VARCHAR"],"parameters":["VARCHAR"],'
    '"criteria":["VARCHAR"],"lengths":[["BIGINT"]]}'
)

# The checks hang on a column that every statement uses, as in training_stats.
_RECORDED = f"""
    SELECT position, index, values, leaves, run, datasets, parameters, criteria, lengths,
        CASE
            WHEN len(list_filter(lengths, lambda inner_lengths: inner_lengths IS NULL)) > 0
                OR len(list_filter(flatten(lengths), lambda length: coalesce(length, -1) < 0)) > 0
                THEN error('a length is negative or null')
            WHEN coalesce(len(values), 0) IS DISTINCT FROM coalesce(len(index), 0) * leaves
                THEN error('values do not hold one number for each of index and lengths')
            ELSE epoch
        END AS epoch
    FROM (
        SELECT position, index, values, coalesce(list_sum(flatten(fields.lengths)), 0)::BIGINT AS leaves,
            fields.run AS run, fields.epoch AS epoch, fields.datasets AS datasets,
            fields.parameters AS parameters, fields.criteria AS criteria, fields.lengths AS lengths
        FROM ({fields("ValidationScoresRecorded", _FIELDS, extra=", index, values")})
    )"""

_SHAPES = f"""
    INSERT INTO tail.validation_shapes
    SELECT min(position), datasets, parameters, criteria, lengths FROM ({_RECORDED}) AS recorded
    WHERE NOT EXISTS (
        FROM history.validation_shapes AS shapes
        WHERE shapes.datasets = recorded.datasets AND shapes.parameters = recorded.parameters
            AND shapes.criteria = recorded.criteria AND shapes.lengths = recorded.lengths
    )
    GROUP BY datasets, parameters, criteria, lengths"""

_LEAVES = """
    INSERT INTO tail.validation_leaves
    SELECT shape,
        row_number() OVER (PARTITION BY shape ORDER BY dataset_index, parameters_index, criterion_index) - 1,
        dataset_index, parameters_index, criterion_index,
        coalesce(datasets[dataset_index + 1], dataset_index::VARCHAR),
        coalesce(parameters[parameters_index + 1], parameters_index::VARCHAR),
        coalesce(criteria[criterion_index + 1], criterion_index::VARCHAR)
    FROM (
        SELECT *, unnest(range(lengths[dataset_index + 1][parameters_index + 1])) AS criterion_index
        FROM (
            SELECT *, unnest(range(len(lengths[dataset_index + 1]))) AS parameters_index
            FROM (
                SELECT *, unnest(range(len(lengths))) AS dataset_index
                FROM tail.validation_shapes WHERE shape >= (SELECT min(position) FROM batch)
            )
        )
    )"""

# The scores of all iterations are unnested and gathered again, rather than cut out of the event's list:
# a list that stands beside an unnested one is copied for each of its rows.
_ROWS = f"""
    INSERT INTO tail.validation_rows
    SELECT life, shape, iteration, coalesce(scores, []), position, ordinal
    FROM (
        SELECT life, shape, position, unnest(range(len(index))) AS ordinal, unnest(index) AS iteration
        FROM ({_RECORDED}) AS recorded
            JOIN history.validation_lives AS lives USING (run, epoch)
            JOIN history.validation_shapes AS shapes USING (datasets, parameters, criteria, lengths)
    ) LEFT JOIN (
        SELECT position, place // leaves AS ordinal, list(score ORDER BY place) AS scores
        FROM (
            SELECT position, leaves, unnest(values) AS score, unnest(range(len(values))) AS place
            FROM ({_RECORDED})
        )
        GROUP BY ALL
    ) USING (position, ordinal)"""

_LIVES = lives_as_of("validation")

VALIDATION_SCORES = Projection(
    name="validation_scores",
    tables=(
        *epoch_tables("validation"),
        Table(
            "validation_shapes",
            {
                "shape": "UBIGINT NOT NULL",
                "datasets": "VARCHAR[] NOT NULL",
                "parameters": "VARCHAR[] NOT NULL",
                "criteria": "VARCHAR[] NOT NULL",
                "lengths": "BIGINT[][] NOT NULL",
            },
            key=("shape",),
        ),
        Table(
            "validation_leaves",
            {
                "shape": "UBIGINT NOT NULL",
                "leaf": "BIGINT NOT NULL",
                "dataset_index": "BIGINT NOT NULL",
                "parameters_index": "BIGINT NOT NULL",
                "criterion_index": "BIGINT NOT NULL",
                "dataset": "VARCHAR NOT NULL",
                "parameters": "VARCHAR NOT NULL",
                "criterion": "VARCHAR NOT NULL",
            },
            key=("shape", "leaf"),
        ),
        Table(
            "validation_rows",
            {
                "life": "UBIGINT NOT NULL",
                "shape": "UBIGINT NOT NULL",
                "iteration": "BIGINT NOT NULL",
                "scores": "DOUBLE[] NOT NULL",
                "position": "UBIGINT NOT NULL",
                "ordinal": "BIGINT NOT NULL",
            },
            key=("position", "ordinal"),
            sorted_by=("life", "iteration", "position", "ordinal"),
        ),
    ),
    steps=(
        *epoch_steps(
            "validation",
            recorded_type="ValidationScoresRecorded",
            recorded=_RECORDED,
            begun_type="ValidationEpochBegun",
            deleted_type="ValidationScoresDeleted",
        ),
        step(_SHAPES, "ValidationScoresRecorded"),
        step(_LEAVES, "ValidationScoresRecorded"),
        step(_ROWS, "ValidationScoresRecorded"),
    ),
    views=(
        View(
            "validation_scores",
            f"""
            SELECT run, iteration, dataset, parameters, criterion, score,
                dataset_index, parameters_index, criterion_index, epoch, position, ordinal
            FROM (
                SELECT run, iteration, epoch, position, shape, unnest(scores) AS score,
                    unnest(range(len(scores))) AS leaf,
                    unnest(range(ordinal * len(scores), (ordinal + 1) * len(scores))) AS ordinal
                FROM history.validation_rows JOIN ({_LIVES}) USING (life)
                WHERE {IS_LIVE}
            ) JOIN history.validation_leaves USING (shape, leaf)""",
        ),
        View(
            "validation_iterations",
            f"""
            SELECT run, iteration, lengths, scores, datasets, parameters, criteria, epoch, position, ordinal
            FROM history.validation_rows
                JOIN ({_LIVES}) USING (life)
                JOIN history.validation_shapes USING (shape)
            WHERE {IS_LIVE}""",
        ),
    ),
)
