"""SQL that people write sees the public views as of one position, and can do nothing else."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from projections import Answer, QueryRefusedError, QueryTimeoutError, ReadModels
from projections.testing import ListedLog, event


def _config(name: str) -> dict[str, object]:
    return {"kind": "tasks", "name": name, "document": {"n": 1}}


@pytest.fixture
def views() -> ReadModels:
    """Three configs, the second of which is deleted at the end."""
    log = ListedLog()
    log.append(*(event("ConfigStored", _config(name)) for name in ("one", "two", "three")))
    log.append(event("ConfigDeleted", {"kind": "tasks", "name": "two"}))
    return ReadModels(log)


_COUNTING = """
    WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT max(n) FROM r"""
_JOINED = """
    SELECT t.name FROM tasks AS t JOIN tasks AS u USING (name)
    WHERE name IN (SELECT name FROM configs) ORDER BY 1"""


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name FROM tasks ORDER BY 1", [("one",), ("three",)]),
        ("FROM tasks SELECT count(*)", [(2,)]),
        ("SELECT name FROM tasks_at(1)", [("one",)]),
        ("WITH t AS (SELECT name FROM tasks), u AS (FROM t) SELECT count(*) FROM u", [(2,)]),
        (_COUNTING, [(3,)]),
        ("SELECT (SELECT count(*) FROM TASKS), 'a' || ?", [(2, "ab")]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT * FROM range(2)", [(0,), (1,)]),
        ("SELECT row_number() OVER (ORDER BY name) FROM tasks", [(1,), (2,)]),
        ("SELECT list_transform([1, 2], lambda x: x + 1)", [([2, 3],)]),
        (_JOINED, [("one",), ("three",)]),
    ],
)
def test_any_select_over_the_views_is_answered(
    views: ReadModels, sql: str, rows: list[tuple[object, ...]]
) -> None:
    """With whatever SQL has to offer for that."""
    assert views.select(sql, ["b"] if "?" in sql else None).fetchall() == rows


@pytest.mark.parametrize(("position", "names"), [(0, []), (1, ["one"]), (3, ["one", "three", "two"])])
def test_views_show_the_state_as_of_a_position(views: ReadModels, position: int, names: list[str]) -> None:
    """The same text, another state."""
    answer = views.select("SELECT name FROM tasks ORDER BY 1", position=position)
    assert [name for (name,) in answer] == names
    assert answer.position == position
    assert len(views.select("FROM tasks")) == 2  # and the next query sees the present again


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t (a INTEGER)",
        "COPY tasks TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "EXPLAIN SELECT 1",
        "CALL checkpoint()",
        "FROM '{folder}/secret.csv'",
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM glob('{folder}/*')",
        "FROM query('SELECT 1')",
        "SELECT * FROM duckdb_settings()",
        "SELECT current_setting('temp_directory')",
        "SELECT * FROM tail.checkpoints",
        "SELECT * FROM main.tasks",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM sqlite_master",
        "SHOW ALL TABLES",
        "SHOW DATABASES",
        "DESCRIBE '{folder}/secret.csv'",
        "SUMMARIZE '{folder}/secret.csv'",
        "SELECT (SELECT count(*) FROM '{folder}/secret.csv')",
        "SELECT 1 WHERE EXISTS (FROM read_csv('{folder}/secret.csv'))",
        "SELECT 1 ORDER BY (SELECT count(*) FROM read_csv('{folder}/secret.csv'))",
        "SELECT * FROM tasks JOIN '{folder}/secret.csv' ON true",
        "SELECT * FROM tasks UNION ALL BY NAME FROM '{folder}/secret.csv'",
        "WITH t AS (FROM '{folder}/secret.csv') FROM t",
        """WITH "{folder}/secret.csv" AS (SELECT 1) FROM "{folder}/secret.csv" """,
        """SELECT * FROM (WITH "secret.csv" AS (SELECT 1) FROM "secret.csv"), "secret.csv" """,
        "SELECT sleep_ms(1)",
        "SELECT main.sleep_ms(1)",
        "SELECT nextval('s')",
        "SELECT write_log('x')",
        "SELECT * FROM (PIVOT '{folder}/secret.csv' ON a USING count(*))",
        "FROM '{folder}/secret.csv' PIVOT (count(*) FOR a IN (1))",
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    ],
)
def test_what_is_no_select_over_the_views_is_refused(views: ReadModels, tmp_path: Path, sql: str) -> None:
    """Nothing is read, written or loaded, whatever the disguise."""
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises((QueryRefusedError, duckdb.Error)):
        views.select(sql.replace("{folder}", str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_a_refusal_names_what_there_is(views: ReadModels) -> None:
    """Who mistypes a view, or tries a file, learns what can be asked for."""
    with pytest.raises(QueryRefusedError, match=r"no view 'task'; there are .*tasks"):
        views.select("FROM task")


def test_a_query_that_takes_too_long_is_ended(views: ReadModels) -> None:
    """And the views go on."""
    with pytest.raises(QueryTimeoutError, match=r"longer than 0\.05 s"):
        views.select("SELECT count(*) FROM range(100_000_000_000)", seconds=0.05)
    assert len(views.select("FROM tasks", seconds=60)) == 2


def test_a_position_beyond_the_end_is_refused(views: ReadModels) -> None:
    """It says where the end is."""
    with pytest.raises(ValueError, match="which has 4 events"):
        views.select("FROM tasks", position=5)


def test_an_answer_has_the_forms_of_a_relation(views: ReadModels) -> None:
    """Rows, Arrow, pandas, polars, NumPy, a relation to go on with; times know their zone."""
    answer = views.select("SELECT name, recorded_at FROM tasks ORDER BY 1")
    assert answer.columns == ["name", "recorded_at"]
    assert answer.arrow().num_rows == len(answer.df()) == answer.pl().height == len(answer) == 2
    assert answer.fetchnumpy()["name"].tolist() == ["one", "three"]
    assert answer.relation().filter("name > 'p'").fetchall()[0][0] == "three"
    first = answer.fetchone()
    assert first is not None
    assert first[1].utcoffset().total_seconds() == 0
    assert "as of position 4" in repr(answer)


def test_an_answer_in_a_notebook_is_escaped() -> None:
    """Names come from people."""
    answer: Answer = ReadModels(ListedLog()).select("SELECT '<script>' AS \"<b>\", NULL AS n FROM range(30)")
    shown = answer._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "first 20 of 30 rows" in shown
