"""The answer to one query, read in the form that suits: rows, NumPy, Arrow or pandas.

The statement has been checked and bound, and runs, when the answer is there; since DuckDB hands out
rows as it finds them, an error in the data (a division, a cast) may still come with a later row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb

from projections.database import Database
from projections.errors import ReadModelStoppedError

if TYPE_CHECKING:
    import pyarrow as pa

Parameters = Sequence[Any] | Mapping[str, Any]
StoppedViews = Mapping[str, ReadModelStoppedError]
"""For each view and macro of a stopped read model, why it is gone."""

_MISSING = re.compile(r"with name \"?(\w+)\"? does not exist")


class QueryResult:
    """Rows of one query, which has begun to run: to be read once, by one thread.

    Args:
        database: Where to run it, on a cursor of its own.
        statement: The one statement to run.
        parameters: Its parameters, by place or by name.
        stopped: The views that are missing, and why.

    Raises:
        duckdb.Error: The SQL is wrong; the text points at the place.
        ReadModelStoppedError: It asks for a view whose read model is stopped.
    """

    def __init__(
        self,
        database: Database,
        statement: duckdb.Statement,
        parameters: Parameters | None,
        stopped: StoppedViews,
    ) -> None:
        self._database = database
        self._statement = statement
        self._parameters = parameters
        self._stopped = stopped
        self._cursor = database.cursor()
        with _missing_views_explained(stopped):
            self._cursor.execute(statement, parameters)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [column[0] for column in self._cursor.description or []]

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None behind the last."""
        return self._cursor.fetchone()

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        """The next rows, ``size`` at most; empty behind the last."""
        return self._cursor.fetchmany(size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return self._cursor.fetchall()

    def fetchnumpy(self) -> dict[str, Any]:
        """All rows that are left: an array for each column, masked where it holds NULL."""
        return self._cursor.fetchnumpy()

    def df(self) -> Any:
        """All rows that are left, as a pandas ``DataFrame``; pandas must be installed."""
        return self._cursor.df()

    def arrow(self) -> pa.Table:
        """All rows, as an Arrow table, whatever was fetched before.

        The query runs once more for it, since DuckDB decides on Arrow before it runs: it sees what
        it saw, or later commits as well. ``ReadModels.arrow`` runs it just once.
        """
        return run_to_arrow(self._database, self._statement, self._parameters, self._stopped)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row


def run_to_arrow(
    database: Database, statement: duckdb.Statement, parameters: Parameters | None, stopped: StoppedViews
) -> pa.Table:
    """Run a statement with Arrow for its output; arguments and errors are those of ``QueryResult``."""
    with _missing_views_explained(stopped):
        return database.cursor().sql(statement, params=parameters).to_arrow_table()


@contextmanager
def _missing_views_explained(stopped: StoppedViews) -> Iterator[None]:
    try:
        yield
    except duckdb.CatalogException as error:
        missing = _MISSING.search(str(error))
        why = stopped.get(missing[1].lower()) if missing else None
        if why is None:
            raise
        # A new one: an error that is raised in several threads would mix their tracebacks.
        raise ReadModelStoppedError(why.message, **why.facts) from why.__cause__
