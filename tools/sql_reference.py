"""``python -m tools.sql_reference``: docs/sql.md, made of the views themselves."""

# ruff: noqa: E501 - lines of the page are as wide as those of the other documents
from __future__ import annotations

from pathlib import Path
from typing import Final

from projections import PROJECTIONS, ReadModels
from projections.testing import ListedLog

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "sql.md"

_HEAD: Final = """# SQL reference

The public views. For each view `x` there is a macro `x_at(position)`: what `x` showed when the log held that many events. Ask with
`dacapo_store.open(base).sql(query)`, with `dacapo-store sql`, or in any DuckDB that opens a snapshot file. Views and columns are an
interface: they stay, and new ones are added behind. This page is made by `python -m tools.sql_reference`.

A query is one SELECT over these views. It cannot write, and reads nothing else unless it is trusted (`unsafe=True`).
Besides aggregates and scalar functions there are `unnest`, `range`, `generate_series`, `repeat`, `json_each` and `json_tree`.

What all views mean by their columns:

| column | meaning |
| --- | --- |
| `position` | the event that made the row: its place in the log |
| `ordinal` | the row's place in that event; `ORDER BY position, ordinal` is the order in which rows were given |
| `recorded_at` | the writer's clock, UTC |
| `run` | the run's name |
| `epoch` | grows when stats that were there are replaced, rewound or deleted |
"""

_ABOUT: Final = {
    "events": (
        "Every event: what happened, in order. `data` and `metadata` (who and where) are JSON.",
        "SELECT position, type, metadata ->> 'actor' AS actor FROM events ORDER BY position DESC LIMIT 5",
    ),
    "configs": (
        "Every config in view, by kind and name; `document` is JSON.",
        "SELECT name, document ->> '$.task_config.name' AS task FROM configs WHERE kind = 'runs'",
    ),
    "training_stats": (
        "One row an iteration, with the two scalars that every trainer has.",
        "SELECT run, arg_min(iteration, loss) AS iteration, min(loss) AS loss FROM training_stats GROUP BY run",
    ),
    "training_scalars": (
        "One row a scalar: loss, time and every other one that was stored.",
        "SELECT run, name, avg(value) FROM training_scalars GROUP BY ALL ORDER BY ALL",
    ),
    "validation_scores": (
        "One row a score. A name that was not given is its index, as text.",
        "SELECT run, dataset, criterion, max(score) FROM validation_scores GROUP BY ALL ORDER BY ALL",
    ),
    "validation_iterations": (
        "One row a validated iteration; `lengths[d][p]` says how many scores dataset d has under parameters p.",
        "SELECT run, count(*) AS validations, max(iteration) AS last FROM validation_iterations GROUP BY run",
    ),
    "weights": (
        "Every iteration that a run has weights of; `path` is relative to the base.",
        "SELECT run, max(iteration) AS latest, sum(bytes) AS bytes FROM weights GROUP BY run",
    ),
    "best_weights": (
        "The iteration that was chosen as best, for each run, dataset and criterion.",
        "SELECT * FROM best_weights ORDER BY dataset, criterion, run",
    ),
    "array_removals": (
        "Every zarr array or group that was removed, and what it was.",
        "SELECT container, dataset, shape, bytes FROM array_removals ORDER BY position",
    ),
    "recorded_arrays": (
        "Every zarr array that was put on record (by an import) and not removed since: what it was then.",
        "SELECT container, dataset, shape, dtype, digest FROM recorded_arrays ORDER BY container, dataset",
    ),
}
_OF_A_KIND: Final = "The configs of this kind; the columns of `configs` without `kind`."


def page() -> str:
    """The page as text.

    Raises:
        KeyError: A view has no text yet.
    """
    views = ReadModels(ListedLog())
    names = [view.name for projection in PROJECTIONS for view in projection.views]
    kinds = [name for name in names if name not in _ABOUT]
    parts = [_HEAD]
    for name in names:
        if name in kinds:
            continue
        text, example = _ABOUT[name]
        columns = views.select(f"DESCRIBE {name}").fetchall()
        parts.append(f"## {name}\n\n{text}\n\n| column | type |\n| --- | --- |")
        parts.append("\n".join(f"| `{column}` | {kind} |" for column, kind, *_ in columns))
        parts.append(f"\n```sql\n{example}\n```\n")
        if name == "configs":
            parts.append(f"`{'`, `'.join(kinds)}`: {_OF_A_KIND[0].lower()}{_OF_A_KIND[1:]}\n")
    views.close()
    return "\n".join(parts)


def examples() -> list[str]:
    """The queries on the page."""
    return [example for _, example in _ABOUT.values()]


if __name__ == "__main__":
    PAGE.write_text(page())
