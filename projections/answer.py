"""The answer to a query as a whole: an Arrow table that knows which state of the log it is of.

It has the methods of DuckDB's relations (``df``, ``arrow``, ``pl``, ``fetchall``, ``fetchnumpy``), shows
itself as text and in notebooks as a table, and never changes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SHOWN: Final = 20
_CHARACTERS_SHOWN: Final = 60


class Rows:
    """Rows and columns, and the state that they are of.

    Attributes:
        table: The rows.
    """

    table: pa.Table

    @property
    def state(self) -> str:
        """What the rows are of, in words."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.column_names)

    def arrow(self) -> pa.Table:
        """An Arrow table."""
        return self.table

    def df(self) -> Any:
        """A pandas ``DataFrame``; pandas must be installed."""
        return self.table.to_pandas()

    def pl(self) -> Any:
        """A polars ``DataFrame``; polars must be installed."""
        return self.relation().pl()

    def fetchnumpy(self) -> dict[str, Any]:
        """A NumPy array for each column, masked where it holds NULL."""
        return self.relation().fetchnumpy()

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows, as tuples; times have a time zone."""
        return list(self)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row, or None."""
        return next(iter(self), None)

    def relation(self) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over these rows, in a DuckDB of its own: to filter, join and plot further."""
        connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
        connection.execute("SET TimeZone = 'UTC'")
        return connection.from_arrow(self.table)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return _rows_of(self.table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        """The rows as DuckDB draws them: the first and the last ones of many."""
        return f"{self.relation()}{self.state}"

    def _repr_html_(self) -> str:
        """The first rows, for notebooks; everything is escaped."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row) + "</tr>"
            for row in _rows_of(self.table.slice(0, ROWS_SHOWN))
        )
        shown = f"first {ROWS_SHOWN} of " if len(self) > ROWS_SHOWN else ""
        caption = html.escape(f"{shown}{len(self):,} rows, {self.state}")
        return (
            f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Rows):
    """Rows and columns of one log, as of a position.

    Attributes:
        table: The rows.
        position: The state that they are of: the fold of the events below this position.
        citing: Makes a citation of a position, where the log is known.
    """

    table: pa.Table
    position: int
    citing: Callable[[int], str] | None = None

    @property
    def state(self) -> str:
        """What the rows are of, in words."""
        return f"as of position {self.position}"

    def cite(self) -> str:
        """``base@position#chain``: with it, and the base, anybody gets the same answer to the same query.

        Raises:
            ValueError: The answer does not know its base.
        """
        if self.citing is None:
            raise ValueError("this answer does not know its base: ask through dacapo_store.open(base).sql")
        return self.citing(self.position)


@dataclass(frozen=True, eq=False, repr=False)
class AnswerAcross(Rows):
    """Rows and columns of several logs, each as of a position of its own.

    Attributes:
        table: The rows.
        positions: The state of each log that they are of, by the log's name in the column ``base``.
    """

    table: pa.Table
    positions: Mapping[str, int]

    @property
    def state(self) -> str:
        """What the rows are of, in words."""
        states = ", ".join(f"{name}@{position}" for name, position in self.positions.items())
        return f"as of {states}"


def _rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _shown(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _CHARACTERS_SHOWN else text[: _CHARACTERS_SHOWN - 1] + "…"
