"""The read model of training: ``training_stats`` (wide) and ``training_scalars`` (long).

``training_stats`` has one row an iteration with the two scalars that every trainer has, loss and
time; ``training_scalars`` has one row for each scalar that an iteration has, those two included.
``ordinal`` is the row's place in its event, the same in both, so ``ORDER BY position, ordinal`` is
the order in which the rows were given and ``(position, ordinal)`` brings a row's scalars together.

Loss and time lie in the wide table only and other scalars in the long one only: each number once,
and a curve is a scan of two columns. A null item of ``values`` is an absent scalar: NULL in the wide
view, no row in the long one. NaN, -0.0 and repeated iterations stay as they were given.

An event whose ``values`` do not fit its ``index`` and columns, or that names a column twice, is
malformed and stops this read model.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.epochs import IS_LIVE, epoch_steps, epoch_tables, lives_as_of
from projections.few_rows import FewRows
from projections.projection import Projection, Shortcut, Table, View, of_type, step

_FIELDS = '{"run":"VARCHAR","epoch":"BIGINT","columns":["VARCHAR"]}'

_OF_TYPE = of_type("TrainingStatsRecorded")

# What an event says of its lists, taken apart once for all that follows, and once for all events that say
# the same: a run's do. Of the lists, which are what is large, nothing is touched.
_TEXTS = f"""
    INSERT INTO tail.training_texts
    SELECT data, fields.run, fields.columns,
        list_position(fields.columns, 'loss'), list_position(fields.columns, 'time'),
        CASE
            WHEN len(list_distinct(fields.columns)) IS DISTINCT FROM len(fields.columns)
                THEN error('a column is named twice, or is null')
            ELSE fields.epoch
        END
    FROM (
        SELECT data, json_transform_strict(data, '{_FIELDS}') AS fields
        FROM (SELECT DISTINCT data FROM batch WHERE {_OF_TYPE})
    )"""

# The check is in a CASE, not in a WHERE, whose conditions DuckDB may take in any order: it must see events
# of this type only.
_RECORDED = f"""
    SELECT position, run,
        CASE
            WHEN coalesce(len(values), 0) IS DISTINCT FROM coalesce(len(index), 0) * len(columns)
                THEN error('values do not hold one number for each of index and columns')
            ELSE epoch
        END AS epoch
    FROM batch JOIN tail.training_texts USING (data)
    WHERE {_OF_TYPE}"""

_LISTS = f"""
    (
        SELECT life, position, index, values, coalesce(len(index), 0) AS rows, columns, loss_place, time_place
        FROM batch JOIN (
            FROM tail.training_texts JOIN history.training_lives USING (run, epoch)
        ) USING (data)
        WHERE {_OF_TYPE}
    )"""


def _column(place: str) -> str:
    """The numbers of the column at a place (from 1) of ``columns``; NULL where the place is."""
    return f"values[({place} - 1) * rows + 1 : {place} * rows]"


_ROWS = f"""
    INSERT INTO tail.training_rows
    SELECT life, unnest(index), unnest({_column("loss_place")}), unnest({_column("time_place")}),
        position, unnest(range(rows))
    FROM {_LISTS}"""

# No column is named twice.
_HAS_OTHERS = "len(columns) > (loss_place IS NOT NULL)::INTEGER + (time_place IS NOT NULL)::INTEGER"

# All lists of an event are unnested side by side, once: a list that stood beside an unnested one would
# be copied for each of its rows.
_OTHER_SCALARS = f"""
    INSERT INTO tail.training_other_scalars
    SELECT life, iteration, columns[place // rows + 1] AS name, value, position, place % rows AS ordinal
    FROM (
        SELECT life, position, rows, columns, unnest(values) AS value, unnest(range(len(values))) AS place,
            unnest(flatten(list_transform(columns, lambda name: index))) AS iteration
        FROM {_LISTS}
        WHERE {_HAS_OTHERS}
    )
    WHERE value IS NOT NULL AND name NOT IN ('loss', 'time')"""
_ANY_HAS_OTHERS = f"SELECT count(*) > 0 FROM tail.training_texts WHERE {_HAS_OTHERS}"

_LIVES = lives_as_of("training")

_SCALARS = f"""
    SELECT run, iteration, name, value, epoch, position, ordinal
    FROM (
        SELECT life, iteration, 'loss' AS name, loss AS value, position, ordinal FROM history.training_rows
        WHERE loss IS NOT NULL
        UNION ALL
        SELECT life, iteration, 'time' AS name, time AS value, position, ordinal FROM history.training_rows
        WHERE time IS NOT NULL
        UNION ALL
        SELECT life, iteration, name, value, position, ordinal FROM history.training_other_scalars
    ) JOIN ({_LIVES}) USING (life)
    WHERE {IS_LIVE}"""

TRAINING_STATS = Projection(
    name="training_stats",
    tables=(
        *epoch_tables("training"),
        Table(
            "training_rows",
            {
                "life": "UBIGINT NOT NULL",
                "iteration": "BIGINT NOT NULL",
                "loss": "DOUBLE",
                "time": "DOUBLE",
                "position": "UBIGINT NOT NULL",
                "ordinal": "BIGINT NOT NULL",
            },
            key=("position", "ordinal"),
            sorted_by=("life", "iteration", "position", "ordinal"),
        ),
        Table(
            "training_other_scalars",
            {
                "life": "UBIGINT NOT NULL",
                "iteration": "BIGINT NOT NULL",
                "name": "VARCHAR NOT NULL",
                "value": "DOUBLE NOT NULL",
                "position": "UBIGINT NOT NULL",
                "ordinal": "BIGINT NOT NULL",
            },
            key=("position", "ordinal", "name"),
            sorted_by=("life", "name", "iteration", "position", "ordinal"),
        ),
    ),
    steps=(
        step(_TEXTS, "TrainingStatsRecorded"),
        *epoch_steps(
            "training",
            recorded_type="TrainingStatsRecorded",
            recorded=_RECORDED,
            begun_type="TrainingEpochBegun",
            deleted_type="TrainingStatsDeleted",
        ),
        step(_ROWS, "TrainingStatsRecorded"),
        step(_OTHER_SCALARS, "TrainingStatsRecorded", condition=_ANY_HAS_OTHERS),
    ),
    views=(
        View(
            "training_stats",
            f"""
            SELECT run, iteration, loss, time, epoch, position, ordinal
            FROM history.training_rows JOIN ({_LIVES}) USING (life)
            WHERE {IS_LIVE}""",
        ),
        View("training_scalars", _SCALARS),
    ),
    scratch=(
        Table(
            "training_texts",
            {
                "data": "VARCHAR",
                "run": "VARCHAR",
                "columns": "VARCHAR[]",
                "loss_place": "INTEGER",
                "time_place": "INTEGER",
                "epoch": "BIGINT",
            },
        ),
    ),
    shortcut=Shortcut("training_rows", FewRows),
)
