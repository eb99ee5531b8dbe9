"""One SELECT over the views of several logs: each view with one column more, ``base``, and all their rows.

The views that the query asks for are copied into a DuckDB of its own, one log after the other, and what
does not fit into its memory lies in a temporary folder until the answer is there. So a query costs the
views that it names, whole, however few rows it wants of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from projections.answer import AnswerAcross
from projections.database import Database
from projections.guarded_sql import guarded, within
from projections.read_models import PROJECTIONS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from projections.query_result import Parameters
    from projections.read_models import ReadModels


@dataclass(frozen=True)
class PinnedViews:
    """The views of one log as of a position.

    Attributes:
        read_models: Where the views are.
        position: As of which position.
    """

    read_models: ReadModels
    position: int


def select_across(
    logs: Mapping[str, PinnedViews],
    sql: str,
    parameters: Parameters | None = None,
    *,
    seconds: float | None = None,
    threads: int = 2,
    memory_limit: str = "1GB",
) -> AnswerAcross:
    """Run one SELECT over the public views of several logs, which is trusted with nothing else.

    Args:
        logs: The logs, by the name that the column ``base`` shows.
        sql: One SELECT over the public views, without the macros of the past: positions of one log
            say nothing of another.
        parameters: As for ``ReadModels.query``.
        seconds: How long the query may take, once the views are copied; None sets no limit.
        threads: How many threads it may use.
        memory_limit: How much memory the copies may use.

    Raises:
        duckdb.Error: The SQL is wrong; the text points at the place.
        QueryRefusedError: It is no single SELECT, or wants more than the views.
        QueryTimeoutError: It took too long.
        ReadModelStoppedError: It asks for a view whose read model is stopped in one of the logs.
    """
    views = [view.name for projection in PROJECTIONS for view in projection.views]
    database = Database(threads=threads, memory_limit=memory_limit)
    try:
        cursor = database.cursor()
        statement, used = guarded(cursor, sql, views=views, past=False)
        for view in sorted(used):
            for name, pinned in logs.items():
                rows = pinned.read_models.select(f'FROM "{view}"', position=pinned.position).arrow()
                _add(cursor, view, name, rows)
        with within(cursor, seconds):
            table = cursor.sql(statement, params=parameters).to_arrow_table()
    finally:
        database.close()
    return AnswerAcross(table, {name: pinned.position for name, pinned in logs.items()})


def _add(cursor: duckdb.DuckDBPyConnection, view: str, name: str, rows: pa.Table) -> None:
    cursor.register("rows_of_one_log", rows)
    try:
        taken = "SELECT ?::VARCHAR AS base, * FROM rows_of_one_log"
        cursor.execute(f'CREATE TABLE IF NOT EXISTS main."{view}" AS {taken} LIMIT 0', [name])
        cursor.execute(f'INSERT INTO main."{view}" BY NAME {taken}', [name])
    finally:
        cursor.unregister("rows_of_one_log")
