"""What a run is and how far it is, put together from the views."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.audit import RUN_KINDS, stream_of
from dacapo_store.differences import ABSENT, Difference, laid_flat
from dacapo_store.errors import MissingError

if TYPE_CHECKING:
    import pyarrow as pa

    from dacapo_store.store import Store

LIST: Final = """
    WITH trained AS (
        SELECT run, count(*) AS iterations, max(iteration) AS last_iteration,
            arg_max(loss, (position, ordinal)) AS last_loss
        FROM training_stats GROUP BY run
    ), validated AS (
        SELECT run, max(iteration) AS last_validated FROM validation_iterations GROUP BY run
    ), stored AS (
        SELECT run, max(iteration) AS last_weights FROM weights GROUP BY run
    ), heard AS (
        SELECT regexp_extract(stream, '^(training|validation|weights|config/runs)/(.*)$', 2) AS run,
            max(recorded_at) AS last_heard
        FROM events GROUP BY run HAVING run <> ''
    ), named AS (
        SELECT name AS run FROM runs UNION SELECT run FROM trained
        UNION SELECT run FROM validated UNION SELECT run FROM stored
    )
    SELECT run, json_extract_string(document, '$.task_config.name') AS task,
        json_extract_string(document, '$.architecture_config.name') AS architecture,
        json_extract_string(document, '$.trainer_config.name') AS trainer,
        json_extract_string(document, '$.datasplit_config.name') AS datasplit,
        coalesce(iterations, 0) AS iterations, last_iteration, last_loss, last_validated, last_weights,
        last_heard
    FROM named LEFT JOIN runs ON name = run LEFT JOIN trained USING (run) LEFT JOIN validated USING (run)
        LEFT JOIN stored USING (run) LEFT JOIN heard USING (run)
    ORDER BY run"""

_NAMES: Final = """
    SELECT name FROM runs UNION SELECT run FROM training_stats UNION SELECT run FROM validation_iterations
    UNION SELECT run FROM weights ORDER BY 1"""

_TRAINED: Final = """
    SELECT count(*) AS iterations, min(iteration) AS first_iteration, max(iteration) AS last_iteration,
        min(loss) AS least_loss, arg_min(iteration, loss) AS least_loss_at,
        arg_max(loss, (position, ordinal)) AS last_loss, sum(time) AS seconds
    FROM training_stats WHERE run = $run"""

_PROCESSES: Final = """
    SELECT recorded_at, metadata FROM events
    WHERE stream IN ('training/' || $run, 'validation/' || $run, 'weights/' || $run)
        AND (metadata -> 'process') IS NOT NULL
    ORDER BY position"""

_OTHER_SCALARS: Final = """
    SELECT DISTINCT name FROM training_scalars
    WHERE run = ? AND name NOT IN ('loss', 'time') ORDER BY 1"""

_TABLE: Final = """
    SELECT iteration, loss, time, epoch{columns} FROM training_stats AS stats
    WHERE run = $run ORDER BY position, ordinal"""

_SCALAR: Final = """(
        SELECT any_value(value) FROM training_scalars AS scalars
        WHERE scalars.run = $run AND scalars.name = ${name}
            AND scalars.position = stats.position AND scalars.ordinal = stats.ordinal
    )"""

_ROWS: Final = """
    SELECT * FROM (
        SELECT recorded_at, run, iteration, loss, time, epoch, position, ordinal
        FROM training_stats JOIN events USING (position)
        WHERE position >= $start AND position < $end AND run GLOB $run
    ) WHERE {condition}
    ORDER BY position, ordinal"""


def require_run(store: Store, run: str) -> None:
    """Do nothing if there is such a run.

    Raises:
        MissingError: There is none; names that are close are suggested.
    """
    names = [name for (name,) in store.sql(_NAMES)]
    if run in names:
        return
    close = difflib.get_close_matches(run, names, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {len(names)} runs"
    raise MissingError(f"there is no run {run!r} in {store.shown}; {hint}")


def run_document(store: Store, run: str) -> dict[str, Any]:
    """All that is known of a run, as a document.

    Raises:
        MissingError: There is no such run.
    """
    require_run(store, run)
    stored = store.sql("SELECT document FROM runs WHERE name = ?", [run]).fetchone()
    (trained,) = store.sql(_TRAINED, {"run": run}).arrow().to_pylist()
    validated = store.sql(
        "SELECT count(*), max(iteration) FROM validation_iterations WHERE run = ?", [run]
    ).fetchone()
    weights = store.sql("SELECT iteration FROM weights WHERE run = ? ORDER BY 1", [run])
    best = store.sql(
        "SELECT dataset, criterion, iteration FROM best_weights WHERE run = ? ORDER BY ALL", [run]
    )
    heard = store.sql(
        "SELECT max(recorded_at) FROM events WHERE list_contains($streams, stream)",
        {"streams": [stream_of(kind, run) for kind in ("runs", *RUN_KINDS)]},
    ).fetchone()
    return {
        "run": run,
        "config": None if stored is None else json.loads(stored[0]),
        "training": trained if trained["iterations"] else None,
        "validation": {"validations": validated[0], "last_iteration": validated[1]} if validated else None,
        "weights": [iteration for (iteration,) in weights],
        "best": {f"{dataset}/{criterion}": iteration for dataset, criterion, iteration in best},
        "last_heard": heard[0] if heard else None,
        "processes": [_process(*row) for row in store.sql(_PROCESSES, {"run": run})],
    }


def _process(since: dt.datetime, text: str) -> dict[str, Any]:
    metadata = json.loads(text)
    where = {key: metadata[key] for key in ("user", "host", "pid") if key in metadata}
    return {"since": since, **where, **metadata["process"]}


def training_table(store: Store, run: str) -> pa.Table:
    """A run's training stats with all its scalars, a column each, one row an iteration."""
    names = [name for (name,) in store.sql(_OTHER_SCALARS, [run])]
    values = {f"name_{number}": name for number, name in enumerate(names)}
    columns = "".join(f", {_SCALAR.format(name=place)} AS {place}" for place in values)
    table = store.sql(_TABLE.format(columns=columns), {"run": run, **values}).arrow()
    return table.rename_columns(["iteration", "loss", "time", "epoch", *names])


def training_rows(
    store: Store, start: int, end: int, *, run: str = "*", where: str | None = None
) -> list[dict[str, Any]]:
    """The training stats that the events from one position up to another recorded and that are in view.

    Args:
        store: The base.
        start: The first position.
        end: The position behind the last.
        run: A run, or a pattern.
        where: A condition in SQL on the columns run, iteration, loss, time, epoch, recorded_at.

    Raises:
        duckdb.Error: The condition is wrong; the text points at the place.
    """
    query = _ROWS.format(condition=f"({where})" if where else "true")
    rows: list[dict[str, Any]] = (
        store.sql(query, {"start": start, "end": end, "run": run}).arrow().to_pylist()
    )
    return rows


def compared(store: Store, one: str, other: str) -> list[Difference]:
    """Every field of two runs' configs and outcomes, and what it is in each; the same ones, too.

    Raises:
        MissingError: There is no such run.
    """
    first, second = (_comparable(run_document(store, name)) for name in (one, other))
    places = dict.fromkeys([*first, *second])
    return [Difference(place, first.get(place, ABSENT), second.get(place, ABSENT)) for place in places]


def _comparable(document: dict[str, Any]) -> dict[str, Any]:
    left_out = {"run", "last_heard", "processes"}
    document = {key: value for key, value in document.items() if key not in left_out}
    if isinstance(document["config"], dict):
        document["config"] = {key: value for key, value in document["config"].items() if key != "name"}
    return laid_flat(document)
