"""SQL of people: one SELECT over the public views, which can neither write nor look elsewhere.

DuckDB's own settings do not give that: even locked it lets a query write into allowed folders. So the
text is parsed first, by DuckDB itself, and its tree is walked:

1. It is exactly one SELECT (WITH, FROM, VALUES, DESCRIBE and SUMMARIZE included).
2. Every table in it is a public view or a name of its own WITH clauses. A file's name is neither.
3. Every table function is a macro of the past (``x_at``) or one of a few that only make rows.
4. No function in it has an effect outside, or waits.

What is left runs on a cursor of its own, with the views as of one position, and with a time limit.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import duckdb

from projections.errors import QueryRefusedError, QueryTimeoutError

ROW_FUNCTIONS: Final = frozenset({"unnest", "range", "generate_series", "repeat", "json_each", "json_tree"})
"""Table functions that make rows of their arguments alone."""

SQL_ERRORS: Final = (duckdb.Error, QueryTimeoutError)
"""What is raised where the fault is in somebody's SQL, besides ``QueryRefusedError``."""

_REFUSED_FUNCTIONS: Final = frozenset(
    {
        *("nextval", "currval", "setval", "setseed", "sleep_ms", "pg_sleep", "write_log", "error"),
        *("current_setting", "getvariable", "getenv", "current_query", "read_text", "read_blob"),
        *("query", "query_table", "json_execute_serialized_sql", "stats", "vector_type"),
    }
)
_TABLES: Final = frozenset(
    {
        *("BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY", "JOIN", "EMPTY", "EXPRESSION_LIST", "SHOW_REF"),
        *("PIVOT", "DELIM_GET", "COLUMN_DATA", "CTE"),
    }
)
_WORD: Final = re.compile(r"\w+")


def guarded(
    connection: duckdb.DuckDBPyConnection, sql: str, *, views: Collection[str], past: bool = True
) -> tuple[duckdb.Statement, frozenset[str]]:
    """Parse the text, and refuse it unless it is one SELECT over ``views`` and nothing else.

    Args:
        connection: Parses; nothing is run on it.
        sql: The text.
        views: The names of the public views; ``<view>_at`` is each one's macro.
        past: Whether these macros may be used.

    Returns:
        The statement, and the public views that it asks for.

    Raises:
        duckdb.Error: It is no SQL; the text points at the place.
        QueryRefusedError: It is not one SELECT, or wants what a query must not have.
    """
    statements = connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise QueryRefusedError(
            f"expected one SELECT, got {' and '.join(kinds) or 'an empty text'}: the log is the truth, and a "
            "query cannot write. The stores and commands change things",
            kinds=kinds,
        )
    try:
        ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        tree = json.loads(text)
        if tree["error"]:
            raise QueryRefusedError(
                f"this SELECT cannot be checked ({tree['error_message']}); write it plainly"
            )
        walk = _Walk({view.lower() for view in views}, past=past)
        walk.node(tree["statements"], frozenset())
    except RecursionError as error:
        raise QueryRefusedError("this SELECT is nested too deeply to be checked; write it flatter") from error
    return statements[0], frozenset(walk.used)


class _Walk:
    """One walk over a tree, which collects the views that it asks for."""

    def __init__(self, views: Collection[str], *, past: bool) -> None:
        self._views = views
        self._past = past
        self._row_functions = ROW_FUNCTIONS | {f"{view}_at" for view in views if past}
        self.used: set[str] = set()

    def node(self, node: Any, names: frozenset[str]) -> None:
        """Check a part of the tree, where ``names`` are those of the WITH clauses around it."""
        if isinstance(node, list):
            for each in node:
                self.node(each, names)
        elif isinstance(node, dict):
            names = self._with_clauses(node, names)
            if "from_table" in node:
                _check_table_kind(node["from_table"])
            self._table(node, names)
            self._function(node)
            for key, value in node.items():
                if key != "cte_map":
                    self.node(value, names)

    def _with_clauses(self, node: Mapping[str, Any], names: frozenset[str]) -> frozenset[str]:
        clauses = (node.get("cte_map") or {}).get("map", [])
        for clause in clauses:
            name = clause["key"].lower()
            if not _WORD.fullmatch(name):
                raise QueryRefusedError(f"the name {clause['key']!r} in WITH is not a plain word")
            query = clause["value"]["query_node"]
            recursive = query["type"] == "RECURSIVE_CTE_NODE"
            self.node(clause["value"], names | {name} if recursive else names)
            names |= {name}
        return names

    def _table(self, node: Mapping[str, Any], names: frozenset[str]) -> None:
        match node.get("type"):
            case "BASE_TABLE":
                path = [each.lower() for each in node["qualified_name"]["path"]]
                if len(path) == 1 and path[0] in names:
                    return
                if len(path) > 1 or path[0] not in self._views:
                    raise QueryRefusedError(
                        f"there is no view {'.'.join(path)!r}; there are {', '.join(sorted(self._views))}. "
                        "Files and DuckDB's own tables cannot be read from here",
                        table=".".join(path),
                    )
                self.used.add(path[0])
            case "TABLE_FUNCTION":
                path = [each.lower() for each in node["function"]["qualified_name"]["path"]]
                if len(path) > 1 or path[0] not in self._row_functions:
                    macros = ", and <view>_at(position) for each view" if self._past else ""
                    raise QueryRefusedError(
                        f"the table function {'.'.join(path)!r} cannot be used from here; those that can are "
                        f"{', '.join(sorted(ROW_FUNCTIONS))}{macros}",
                        function=".".join(path),
                    )
            case "SHOW_REF" if node.get("query") is None and node.get("table_name") != '"tables"':
                raise QueryRefusedError("of SHOW, only SHOW TABLES can be used from here")

    def _function(self, node: Mapping[str, Any]) -> None:
        if node.get("class") in ("FUNCTION", "WINDOW"):
            path = [each.lower() for each in node.get("qualified_name", {}).get("path", [])]
            name = path[-1] if path else str(node.get("function_name", "")).lower()
            if name in _REFUSED_FUNCTIONS:
                raise QueryRefusedError(f"the function {name!r} cannot be used from here", function=name)


def _check_table_kind(table: Any) -> None:
    kind = table.get("type") if isinstance(table, dict) else None
    if kind is not None and kind not in _TABLES:
        raise QueryRefusedError(f"a query from here cannot read from a {kind}")


@contextmanager
def as_of(cursor: duckdb.DuckDBPyConnection, views: Collection[str], position: int) -> Iterator[None]:
    """On this cursor alone, these views show the state as of a position."""
    for view in views:
        cursor.execute(f'CREATE TEMP VIEW "{view}" AS FROM main."{view}_at"({position}::UBIGINT)')
    try:
        yield
    finally:
        for view in views:
            cursor.execute(f'DROP VIEW temp."{view}"')


@contextmanager
def within(cursor: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    """Interrupt what runs on the cursor after so many seconds.

    Raises:
        QueryTimeoutError: It took longer.
    """
    if seconds is None:
        yield
        return
    expired = threading.Event()

    def interrupt() -> None:
        expired.set()
        cursor.interrupt()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        if expired.is_set():
            raise QueryTimeoutError(
                f"the query took longer than {seconds:g} s and was ended; give it more time, or ask for less",
                seconds=seconds,
            ) from error
        raise
    finally:
        timer.cancel()
