"""The answer to one query, read in the form that suits: rows, NumPy, Arrow or pandas.

The statement has been checked and bound, and runs, when the answer is there; since DuckDB hands out
rows as it finds them, an error in the data (a division, a cast) may still come with a later row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import duckdb

from projections.content import Content
from projections.errors import CatchUpError, QueryRefusedError, ReadModelStoppedError

if TYPE_CHECKING:
    import pyarrow as pa

Parameters = Sequence[Any] | Mapping[str, Any]

_MISSING = re.compile(r"with name \"?(\w+)\"? does not exist")
T = TypeVar("T")


class Answers(Protocol):
    """What a result needs of the read models."""

    def answer(self, ask: Callable[[Content], T], *, of: str | None = None) -> T:
        """Ask the caught up read models something: what this SQL asks for, or anything."""

    def gave_up(self, content: Content, error: duckdb.Error) -> bool:
        """Whether an error lies in the snapshot of this content; if so, it is not used any more."""


@dataclass(frozen=True)
class Query:
    """One SELECT and its parameters, by place or by name."""

    sql: str
    parameters: Parameters | None

    def run(self, content: Content) -> tuple[Content, duckdb.DuckDBPyConnection]:
        """Let it run on a cursor of its own.

        Raises:
            duckdb.Error: The SQL is wrong; the text points at the place.
            QueryRefusedError: The text is no SELECT, or more than one statement.
            ReadModelStoppedError: It asks for a view whose read model is stopped.
        """
        cursor = content.database.cursor()
        statement = one_select(cursor, self.sql)
        with missing_views_explained(content):
            cursor.execute(statement, self.parameters)
        return content, cursor

    def arrow(self, content: Content) -> pa.Table:
        """Run it with Arrow for its output; the errors are those of ``run``."""
        cursor = content.database.cursor()
        statement = one_select(cursor, self.sql)
        with missing_views_explained(content):
            return cursor.sql(statement, params=self.parameters).to_arrow_table()


class QueryResult:
    """Rows of one query, which has begun to run: to be read once, by one thread.

    Args:
        read_models: Whom to ask.
        query: The query.

    Raises:
        duckdb.Error: The SQL is wrong; the text points at the place.
        QueryRefusedError: The text is no SELECT, or more than one statement.
        ReadModelStoppedError: It asks for a view whose read model is stopped.
    """

    def __init__(self, read_models: Answers, query: Query) -> None:
        self._read_models = read_models
        self._query = query
        self._content, self._cursor = read_models.answer(query.run, of=query.sql)
        self._begun = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [column[0] for column in self._cursor.description or []]

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None behind the last."""
        return self._read(lambda cursor: cursor.fetchone())

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        """The next rows, ``size`` at most; empty behind the last."""
        return self._read(lambda cursor: cursor.fetchmany(size))

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return self._read(lambda cursor: cursor.fetchall())

    def fetchnumpy(self) -> dict[str, Any]:
        """All rows that are left: an array for each column, masked where it holds NULL."""
        return self._read(lambda cursor: cursor.fetchnumpy())

    def df(self) -> Any:
        """All rows that are left, as a pandas ``DataFrame``; pandas must be installed."""
        return self._read(lambda cursor: cursor.df())

    def arrow(self) -> pa.Table:
        """All rows, as an Arrow table, whatever was fetched before.

        The query runs once more for it, since DuckDB decides on Arrow before it runs: it sees what
        it saw, or later commits as well. ``ReadModels.arrow`` runs it just once.
        """
        return self._read_models.answer(self._query.arrow, of=self._query.sql)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def _read(self, fetch: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        while True:
            try:
                rows = fetch(self._cursor)
            except duckdb.Error as error:
                if not self._read_models.gave_up(self._content, error):
                    raise
                if self._begun:
                    raise CatchUpError(
                        "A snapshot file turned out to be damaged after the first rows of this result were "
                        f"read ({error}). It is not used any more: query again."
                    ) from error
                self._content, self._cursor = self._read_models.answer(self._query.run, of=self._query.sql)
            else:
                self._begun = True
                return rows


def one_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one SELECT that a text is.

    Raises:
        duckdb.Error: It is no SQL; the text points at the place.
        QueryRefusedError: It is no SELECT, or more than one statement.
    """
    statements = cursor.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise QueryRefusedError(
            f"Expected one SELECT, got {' and '.join(kinds) or 'an empty text'}. The views are "
            "derived from the log and cannot be changed; results leave through fetchall, arrow or df.",
            kinds=kinds,
        )
    return statements[0]


@contextmanager
def missing_views_explained(content: Content) -> Iterator[None]:
    """Tell an error about a view that is gone as the reason why it is gone."""
    try:
        yield
    except duckdb.CatalogException as error:
        missing = _MISSING.search(str(error))
        why = content.stopped_views.get(missing[1].lower()) if missing else None
        if why is None:
            raise
        # A new one: an error that is raised in several threads would mix their tracebacks.
        raise ReadModelStoppedError(why.message, **why.facts) from why.__cause__
