"""One SELECT over several bases: each row says whose it is, and nothing but the views can be asked."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import dacapo_store
from dacapo_store import FileStatsStore, TrainingIterationStats
from dacapo_store.cli import main
from eventstore import LogNotFoundError
from projections import QueryRefusedError


@pytest.fixture
def bases(tmp_path: Path) -> list[Path]:
    """Three bases, of one, two and no runs, each with 10 iterations; ``a`` is in two of them."""
    runs = {"one": ["a"], "two": ["a", "b"], "none": []}
    for place, (name, names) in enumerate(runs.items()):
        store = FileStatsStore(tmp_path / name / "stats")
        for run in names:
            rows = [TrainingIterationStats(i, loss=place + 1 / (i + 1)) for i in range(10)]
            store.store_training_stats(run, rows)
    return [tmp_path / name for name in runs]


def test_each_row_says_whose_it_is(bases: list[Path]) -> None:
    """Runs of one name in two bases are two runs; a base without rows is no obstacle."""
    answer = dacapo_store.sql(
        bases, "SELECT base, run, count(*), min(loss) FROM training_stats GROUP BY ALL ORDER BY ALL"
    )
    assert answer.fetchall() == [
        (str(bases[0]), "a", 10, 0.1),
        (str(bases[1]), "a", 10, 1.1),
        (str(bases[1]), "b", 10, 1.1),
    ]
    assert answer.positions == {str(bases[0]): 1, str(bases[1]): 2, str(bases[2]): 0}
    assert f"as of {bases[0]}@1" in repr(answer)
    assert f"{bases[1]}@2" in answer._repr_html_()


def test_views_join_and_parameters_have_names(bases: list[Path]) -> None:
    """A copy can be read as often as the query names it."""
    sql = """SELECT count(*) FROM training_stats AS s JOIN events AS e USING (base, position)
        JOIN training_stats AS other USING (base, run, iteration) WHERE s.loss < $loss"""
    assert dacapo_store.sql(bases, sql, {"loss": 1.0}).fetchone() == (9 + 0 + 0,)


def test_a_time_is_resolved_for_each_base(bases: list[Path]) -> None:
    """A position is not: it would be another time in each."""
    before = datetime.now(UTC)
    FileStatsStore(bases[0] / "stats").store_training_stats("later", [TrainingIterationStats(0, loss=9.0)])
    sql = "SELECT max(loss) FROM training_stats WHERE base = ?"
    assert dacapo_store.sql(bases[:2], sql, [str(bases[0])], as_of=before).fetchone() == (1.0,)
    assert dacapo_store.sql(bases[:2], sql, [str(bases[0])]).fetchone() == (9.0,)
    for position in (1, "1"):
        with pytest.raises(ValueError, match="is a time"):
            dacapo_store.sql(bases, sql, as_of=position)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM training_stats_at(1)",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM tail.checkpoints",
        "SELECT * FROM rows_of_one_log",
        "DROP TABLE training_stats",
    ],
)
def test_nothing_but_the_views_can_be_asked(bases: list[Path], sql: str) -> None:
    """The macros of the past are not there, and neither is anything else."""
    with pytest.raises(QueryRefusedError):
        dacapo_store.sql(bases, sql)


def test_a_base_is_named_once_and_must_be_there(bases: list[Path], tmp_path: Path) -> None:
    """Its rows would count twice."""
    with pytest.raises(ValueError, match="twice"):
        dacapo_store.sql([bases[0], bases[0]], "FROM runs")
    with pytest.raises(LogNotFoundError, match="there is no log"):
        dacapo_store.sql([bases[0], tmp_path / "nowhere"], "FROM runs")
    assert not (tmp_path / "nowhere").exists()


def test_the_command_takes_several_bases(
    bases: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is --base, the others are given --with."""
    query = "SELECT base, count(*) AS rows FROM training_stats GROUP BY ALL ORDER BY ALL"
    arguments = ["--base", str(bases[0]), "--with", str(bases[1]), "--json"]
    monkeypatch.setattr(sys, "argv", ["dacapo-store", "sql", query, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert [row["rows"] for row in json.loads(capsys.readouterr().out)] == [10, 20]
