"""Moving in from DaCapo's database: the same as from its files, on a database in memory."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mongomock
import pytest
from bson import Binary, Int64, ObjectId

from dacapo_store import Base, FileConfigStore, FileStatsStore, LocalWeightsStore
from dacapo_store.cli import main
from dacapo_store.moving import import_base, upstream_mongo
from tests.dacapo_store.upstream_base import tree, write_config, write_stats, write_weights


@pytest.fixture
def database() -> Any:
    """What DaCapo's Mongo stores leave: documents by name, stats and scores by iteration."""
    database = mongomock.MongoClient()["dacapo"]
    run = {"name": "r", "repetition": 0, "task_config": {"__type__": "DummyTaskConfig", "name": "t"}}
    database["runs"].insert_one({**run, "num_iterations": Int64(100)})
    database["runs"].insert_one({"name": "r", "repetition": 1})
    database["tasks"].insert_one({"__type__": "DummyTaskConfig", "name": "t", "detection_threshold": 0.5})
    database["arrays"].insert_one({"name": "a/../b", "raw": Binary(b"\x00"), "limits": [float("inf")]})
    database["trainers"].insert_one({"no": "name"})
    rows = [{"iteration": n, "loss": 1 / (n + 1), "time": 0.5, "run_name": "r"} for n in range(30)]
    database["training_stats"].insert_many(rows)
    scores = [
        {"iteration": n, "scores": [[[0.5, float("nan")]]], "run_name": run} for run in "rs" for n in (10, 20)
    ]
    database["validation_scores"].insert_many(scores)
    return database


def test_configs_stats_and_scores_come_from_the_database(database: Any, tmp_path: Path) -> None:
    """Weights and arrays come from the files, and files of stats count nothing."""
    source = tmp_path / "source"
    write_weights(source, "r", 10)
    write_stats(source, "ignored", range(3))
    write_config(source, "tasks", "ignored", "{name: ignored}")
    report = import_base(source, mongo=database)
    assert report.imported == {"configs": 3, "training stats": 1, "validation scores": 2, "weights": 1}
    ((second, reason), (nameless, _)) = report.problems
    assert (second, "another config" in reason) == ("runs/r", True)
    assert nameless.startswith("trainers/")
    configs, stats = FileConfigStore(source / "configs"), FileStatsStore(source / "stats")
    run = configs.retrieve_run_config("r", raw=True)
    assert (run["num_iterations"], type(run["num_iterations"]), run["repetition"]) == (100, int, 0)
    assert configs.retrieve_array_config("a/../b") == {
        "name": "a/../b",
        "raw": b"\x00",
        "limits": [float("inf")],
    }
    assert stats.retrieve_training_stats("r").trained_until() == 30
    assert stats.retrieve_training_stats("ignored").trained_until() == 0
    assert [each.iteration for each in stats.retrieve_validation_iteration_scores("s")] == [10, 20]
    assert LocalWeightsStore(source).latest_iteration("r") == 10


def test_a_second_import_adds_what_has_come_since(database: Any, tmp_path: Path) -> None:
    """And nothing else; without a folder of files, too."""
    first = import_base(None, into=tmp_path, mongo=database)
    again = import_base(None, into=tmp_path, mongo=database)
    assert (again.imported, again.known, again.position) == ({}, first.imported, first.position)
    database["training_stats"].insert_one({"iteration": 30, "loss": 2.0, "time": 0.5, "run_name": "r"})
    more = import_base(None, into=tmp_path, mongo=database)
    assert (more.imported, more.position) == ({"training stats": 1}, first.position + 1)  # type: ignore[operator]
    assert FileStatsStore(tmp_path / "stats").retrieve_training_stats("r").trained_until() == 31


def test_events_have_the_times_of_the_documents(tmp_path: Path) -> None:
    """To the second, which is what an ObjectId keeps; another kind of key has none."""
    database = mongomock.MongoClient()["dacapo"]
    then = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    database["tasks"].insert_one({"_id": ObjectId.from_datetime(then), "name": "t"})
    database["tasks"].insert_one({"_id": "mine", "name": "u"})
    import_base(None, into=tmp_path, mongo=database)
    times = Base.at(tmp_path).query("SELECT name, recorded_at FROM tasks").fetchall()
    assert dict(times) == {"t": then, "u": datetime(1970, 1, 1, tzinfo=UTC)}


def test_a_dry_run_writes_nothing(database: Any, tmp_path: Path) -> None:
    """It says the same."""
    planned = import_base(None, into=tmp_path / "base", mongo=database, dry_run=True)
    assert not (tmp_path / "base").exists()
    assert import_base(None, into=tmp_path / "base", mongo=database).imported == planned.imported


def test_what_is_no_plain_value_is_named(tmp_path: Path) -> None:
    """The rest is imported."""
    database = mongomock.MongoClient()["dacapo"]
    database["tasks"].insert_many([{"name": "odd", "key": ObjectId()}, {"name": "plain"}])
    report = import_base(None, into=tmp_path, mongo=database)
    assert report.problems == (("tasks/odd", "it holds a ObjectId, which is no plain value"),)
    assert report.imported == {"configs": 1}


def test_the_command_connects_and_imports(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--from-mongo URI DB``; without a folder of files, ``--into`` says where to."""
    asked: list[tuple[str, ...]] = []

    def connected(*names: str) -> Any:
        asked.append(names)
        return contextlib.nullcontext(database)

    monkeypatch.setattr(upstream_mongo, "connected", connected)
    command = ["dacapo-store", "import", "--from-mongo", "mongodb://lab", "dacapo", "--into", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, asked) == (1, [("mongodb://lab", "dacapo")])
    assert "runs/r\tanother config" in capsys.readouterr().out
    assert len(tree(tmp_path)) > 0


def test_a_server_that_is_not_there_is_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors end up in logs."""
    monkeypatch.setattr(upstream_mongo, "_PATIENCE_MS", 50)
    database = upstream_mongo.connected("mongodb://ada:secret@localhost:1", "dacapo")
    with pytest.raises(OSError, match="localhost:1") as failure, database:
        pass
    assert "secret" not in str(failure.value)


def test_an_address_that_is_none_is_an_error_of_the_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As is a client that is not installed."""
    with (
        pytest.raises(ValueError, match="no address"),
        upstream_mongo.connected("nonsense://x", "dacapo"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "pymongo", None)
    monkeypatch.setattr(
        sys, "argv", ["dacapo-store", "import", "--from-mongo", "mongodb://x", "y", "--into", "z"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "dacapo-store[mongo]" in capsys.readouterr().err
