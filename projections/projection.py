"""What a read model is: tables that only grow, steps that fill them, views on top.

A projection is a pure function from events to rows, written in SQL over whole batches. Three
schemas keep it apart from where the rows happen to lie:

- ``tail.<table>`` is where the rows of newly applied events go; only INSERT touches it.
- ``history.<table>`` is every row there is: the tail's and those of the snapshot file that it goes on
  from, if there is one. Views, and steps that must know earlier rows, read it and nothing else.
- ``main`` holds what people use: for each view ``x`` the view itself and the macro ``x_at(as_of)``.

Each row carries the position of the event that made it. What ends a row's life is a row as well, so
the state as of N is the same query over the rows with ``position < N``.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from projections.database import parsed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

POSITION_MAX = 2**64 - 1
"""The greatest ``UBIGINT``: the present view is the state as of it."""


@dataclass(frozen=True)
class Table:
    """An append-only table of a read model.

    Attributes:
        name: Its name within ``tail`` and ``history``.
        columns: The SQL type of each column, with ``NOT NULL`` where an absence is a malformed event.
        key: The columns that tell its rows apart; rows in this order make up the digest.
        sorted_by: The columns by which a snapshot file sorts its rows, so that what is read together
            lies together; none for the order of ``key``.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...] = ("position",)
    sorted_by: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """How a snapshot file sorts the rows."""
        return self.sorted_by or self.key

    def definition(self, schema: str) -> str:
        """The DDL of the table in a schema."""
        columns = ", ".join(f'"{name}" {sql_type}' for name, sql_type in self.columns.items())
        return f"CREATE TABLE {schema}.{self.name} ({columns})"


@dataclass(frozen=True)
class View:
    """A public view and its macro for the past.

    Attributes:
        name: The view's name; its macro is ``<name>_at``.
        query: A SELECT over ``history.<table>`` and macros of earlier views, in which ``as_of``
            stands for the position: it must see nothing of the events from there on.
    """

    name: str
    query: str


@dataclass(frozen=True)
class Step:
    """One INSERT of a fold.

    It is skipped where a batch holds nothing for it: planning it costs more than running it on a few
    events.

    Attributes:
        event_types: The event types that it reads from ``batch``; empty for all of them.
        statement: The INSERT into ``tail``.
        condition: A SELECT of one boolean, in front of a statement that seldom finds anything; the
            statement is skipped where it says no. Empty for always.
    """

    event_types: frozenset[str]
    statement: str
    condition: str = ""

    def concerns(self, event_types: frozenset[str]) -> bool:
        """Whether a batch with events of these types holds anything for this step."""
        return not self.event_types or not self.event_types.isdisjoint(event_types)


class FewEvents(Protocol):
    """A shorter way than the steps for a few events, in one database."""

    def rows(self, batch: pa.Table, connection: duckdb.DuckDBPyConnection) -> pa.Table | None:
        """What the steps would insert, which is into one table only; None where it takes them to say.

        Args:
            batch: The events, in the envelope's columns.
            connection: A connection that sees all rows so far.
        """


@dataclass(frozen=True)
class Shortcut:
    """What a read model does with a few events.

    Attributes:
        table: The table of ``tail`` into which the rows go.
        made: Makes what finds them, for each database anew.
    """

    table: str
    made: Callable[[], FewEvents]


@dataclass(frozen=True)
class Projection:
    """One read model: a pure function from events to rows, and the views on these rows.

    Attributes:
        name: The read model's name, in digests, checkpoints and errors.
        tables: Its tables; the digest covers them all.
        steps: INSERTs from the relation ``batch``, which has the envelope's columns, run in this
            order. They skip what they do not know (other types, newer schema versions) and fail on
            what they know and cannot read. How events are cut into batches must not show in the rows.
        views: Its public views, each on the tables and on the views before it.
        scratch: Tables that an earlier step of a fold fills for later ones, in ``tail`` only; they are
            emptied behind the last step.
        shortcut: A shorter way for a few events, to the same rows.
    """

    name: str
    tables: tuple[Table, ...]
    steps: tuple[Step, ...]
    views: tuple[View, ...]
    scratch: tuple[Table, ...] = ()
    shortcut: Shortcut | None = None

    def apply(self, connection: duckdb.DuckDBPyConnection, event_types: frozenset[str]) -> None:
        """Fold the events of the relation ``batch`` into this read model.

        The runner calls this inside a transaction and advances the checkpoint when that has ended well,
        so each event counts exactly once. After a failure in between nothing of the database is used any
        more. Any exception stops this projection at its checkpoint; the others go on.

        The result depends on the events alone: no clock, no randomness, no other read model.

        Args:
            connection: A connection in a transaction, on which ``batch`` is registered.
            event_types: The types of the events in it.

        Raises:
            duckdb.Error: An event of a known type and version is malformed.
        """
        steps = [step for step in self.steps if step.concerns(event_types)]
        for step in steps:
            if not step.condition or _says_yes(connection, step.condition):
                connection.execute(parsed(connection, step.statement))
        if steps:
            for table in self.scratch:
                connection.execute(parsed(connection, f"DELETE FROM tail.{table.name}"))

    @cached_property
    def public_names(self) -> frozenset[str]:
        """The names of its views and macros."""
        return frozenset(name for view in self.views for name in (view.name, f"{view.name}_at"))

    def table_definitions(self, snapshot: str | None) -> list[str]:
        """The DDL of the tables, and of the whole history of each.

        Args:
            snapshot: The catalog under which a snapshot file is attached, or None where none is.
        """
        scratch = [table.definition("tail") for table in self.scratch]
        return scratch + [text for table in self.tables for text in _table_definition(table, snapshot)]

    def snapshot_definitions(self) -> list[str]:
        """The DDL of the tables of a snapshot file, whose history is all that it holds."""
        return [table.definition("history") for table in self.tables]

    def view_definitions(self) -> list[str]:
        """The DDL of the views and macros."""
        return [text for view in self.views for text in _view_definition(view)]

    def view_removals(self) -> list[str]:
        """The DDL that takes them away."""
        return [text for view in self.views for text in _view_removal(view)]


def _says_yes(connection: duckdb.DuckDBPyConnection, condition: str) -> bool:
    return bool(connection.execute(parsed(connection, condition)).fetchall()[0][0])


def step(statement: str, *event_types: str, condition: str = "") -> Step:
    """A step for events of these types; for all events where none is named."""
    return Step(frozenset(event_types), statement, condition)


def fields(event_type: str, structure: str, *, extra: str = "") -> str:
    """A subquery of the events of one type with their data as one struct, ``fields``.

    The data are parsed once an event, strictly: a field that is missing, or cannot be cast, fails the
    statement. A field that is null passes, and is left to the NOT NULL of the column it goes to.

    Args:
        event_type: The type to take, in its first schema version.
        structure: The fields' names and SQL types, as ``json_transform`` takes them.
        extra: Further columns of the envelope, each with a comma in front.
    """
    return f"""
        SELECT position{extra}, json_transform_strict(data, '{structure}') AS fields
        FROM batch WHERE {of_type(event_type)}"""


def of_type(event_type: str) -> str:
    """The condition on a row of ``batch`` that holds for the events of a type in its first schema version."""
    return f"type = '{event_type}' AND schema_version = 1"


def _table_definition(table: Table, snapshot: str | None) -> list[str]:
    older = "" if snapshot is None else f"FROM {snapshot}.history.{table.name} UNION ALL "
    return [
        table.definition("tail"),
        f"CREATE VIEW history.{table.name} AS {older}FROM tail.{table.name}",
    ]


def _view_definition(view: View) -> list[str]:
    return [
        f"CREATE MACRO main.{view.name}_at(as_of) AS TABLE {view.query}",
        f"CREATE VIEW main.{view.name} AS FROM main.{view.name}_at({POSITION_MAX}::UBIGINT)",
    ]


def _view_removal(view: View) -> list[str]:
    return [f"DROP VIEW main.{view.name}", f"DROP MACRO TABLE main.{view.name}_at"]
