"""What DaCapo's dashboards read in MongoDB: the collections, whoever writes, fails, or is interrupted."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo_store import (
    Base,
    MongoConfigStore,
    MongoStatsStore,
    Options,
    TrainingIterationStats,
    TrainingStats,
    UnimportedDatabaseError,
    ValidationIterationScores,
    create_config_store,
    create_stats_store,
    create_weights_store,
    mongo_views,
)
from dacapo_store.cli import main
from dacapo_store.events import EVENT_TYPES, TrainingStatsRecorded
from dacapo_store.mongo_stores import base_address
from dacapo_store.mongo_views import CHECKPOINTS, COLLECTIONS, MongoViews

Mongo = tuple[str, str]


@pytest.fixture
def configs(mongodb: Mongo) -> MongoConfigStore:
    return MongoConfigStore(*mongodb)


@pytest.fixture
def stats(mongodb: Mongo) -> MongoStatsStore:
    return MongoStatsStore(*mongodb)


@pytest.fixture
def views(stats: MongoStatsStore) -> MongoViews:
    return stats._mongo


def losses(*pairs: tuple[int, float]) -> TrainingStats:
    return TrainingStats(
        [TrainingIterationStats(iteration, loss=loss, time=0.5) for iteration, loss in pairs]
    )


def documents(collection: Any) -> list[dict[str, Any]]:
    """What is in a collection, without the ids of the database."""
    return [{key: value for key, value in each.items() if key != "_id"} for each in collection.find()]


def shown(stats: MongoStatsStore) -> dict[tuple[str, int], float]:
    """The losses that dashboards see."""
    return {(each["run_name"], each["iteration"]): each["loss"] for each in stats.training_stats.find()}


def in_view(stats: MongoStatsStore) -> dict[tuple[str, int], float]:
    """The losses that the store gives; of one iteration the last."""
    rows = stats._base.query("SELECT run, iteration, loss FROM training_stats ORDER BY position, ordinal")
    return {(run, iteration): loss for run, iteration, loss in rows.fetchall()}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dacapo-store", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    output, errors = capsys.readouterr()
    return int(ended.value.code or 0), output, errors


def checkpoint(views: MongoViews) -> dict[str, Any]:
    found: dict[str, Any] = views.database[CHECKPOINTS].find_one({"_id": "dacapo"})
    return found


# --- documents


def test_configs_are_shown_as_dacapo_writes_them(configs: MongoConfigStore) -> None:
    task = {"name": "cells", "channels": ("a", "b"), "scale": math.inf, "path": Path("/data"), 7: None}
    run = {"name": "run_7", "repetition": 0, "task_config": task}
    configs.store_run_config(run)
    shown = {"name": "cells", "channels": ["a", "b"], "scale": math.inf, "path": "/data", "7": None}
    assert documents(configs.tasks) == [shown]
    assert documents(configs.runs) == [{"name": "run_7", "repetition": 0, "task_config": shown}]
    configs.delete_config(configs.tasks, "cells")
    assert documents(configs.tasks) == []
    configs.store_task_config({"name": "cells", "channels": []})
    assert documents(configs.tasks) == [{"name": "cells", "channels": []}]
    assert documents(configs.users) == []


def test_a_config_that_mongodb_cannot_hold_is_named_and_stops_nothing(
    configs: MongoConfigStore, caplog: pytest.LogCaptureFixture
) -> None:
    deep: Any = "bottom"
    for _ in range(50):
        deep = {"x\0y": deep}
    configs.store_task_config({"name": "odd", "large": 2**70, "deep": deep})
    configs.store_task_config({"name": "even"})
    assert documents(configs.tasks) == [{"name": "odd"}, {"name": "even"}]
    assert "'odd' is stored, and cannot be shown" in caplog.text
    assert configs.retrieve_task_config("odd", raw=True)["large"] == 2**70


def test_stats_are_shown_as_dacapo_writes_them(stats: MongoStatsStore) -> None:
    stats.store_training_stats("r", losses((0, 1.0), (1, math.nan)))
    with stats.scalar_logger("r") as logger:
        logger.add(2, loss=0.25, learning_rate=1e-3)
    first, second, third = documents(stats.training_stats)
    assert first == {"iteration": 0, "loss": 1.0, "time": 0.5, "run_name": "r"}
    assert math.isnan(second["loss"])
    assert third == {"iteration": 2, "loss": 0.25, "learning_rate": 1e-3, "run_name": "r"}


def test_scores_are_shown_as_dacapo_writes_them(stats: MongoStatsStore) -> None:
    nested = [[[0.5, 0.25], []], [[1.0]]]
    stats.store_validation_iteration_scores("r", [ValidationIterationScores(10, nested)])
    assert documents(stats.validation_scores) == [{"iteration": 10, "scores": nested, "run_name": "r"}]
    stats.delete_validation_scores("r")
    assert documents(stats.validation_scores) == []


def test_the_indexes_are_dacapos(stats: MongoStatsStore, configs: MongoConfigStore) -> None:
    configs.store_task_config({"name": "x"})
    index = stats.training_stats.index_information()["run_it"]
    assert ([tuple(key) for key in index["key"]], index["unique"]) == (
        [("run_name", 1), ("iteration", 1)],
        True,
    )
    assert "name_rep" in configs.runs.index_information()


def test_what_leaves_the_view_leaves_the_collections(stats: MongoStatsStore) -> None:
    stats.store_training_stats("r", losses((0, 3.0), (1, 2.0), (2, 1.0)))
    stats.store_training_stats("other", losses((0, 9.0)))
    stats.store_training_stats("r", losses((1, 7.0), (2, 6.0)))
    assert shown(stats) == in_view(stats) == {("r", 0): 3, ("r", 1): 7, ("r", 2): 6, ("other", 0): 9}
    stats.store_training_stats("r", losses((0, 5.0)))
    assert shown(stats) == in_view(stats) == {("r", 0): 5, ("other", 0): 9}
    stats.delete_training_stats("r")
    assert shown(stats) == in_view(stats) == {("other", 0): 9}


def test_rows_that_come_late_for_an_epoch_that_has_ended_are_not_shown(stats: MongoStatsStore) -> None:
    """As those of a scalar logger that was killed before the run went back."""
    stats.store_training_stats("r", losses((0, 3.0), (1, 2.0), (2, 1.0)))
    stats.store_training_stats("r", losses((0, 3.0), (1, 7.0)))
    late = TrainingStatsRecorded(run="r", epoch=0, columns=["loss"])
    event = EVENT_TYPES.event(late, index=np.array([2]), values=np.array([0.5]))
    stats._base.append("training/r", [event])
    assert shown(stats) == in_view(stats) == {("r", 0): 3, ("r", 1): 7}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_collections_show_what_the_views_show(mongodb_uri: str, data: st.DataObject) -> None:
    """Whatever is stored and deleted, by two stores, also where the work is done again from anywhere."""
    name = f"dacapo_store_test_{os.urandom(6).hex()}"
    store = MongoStatsStore(mongodb_uri, name)
    views = store._mongo
    stats = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 9)), min_size=1, max_size=5)
    for _ in range(data.draw(st.integers(1, 8))):
        run = data.draw(st.sampled_from(["a", "b"]))
        match data.draw(st.sampled_from(["store", "store", "store", "delete", "again", "rebuild"])):
            case "store":
                store.store_training_stats(run, losses(*data.draw(stats)))
            case "delete":
                store.delete_training_stats(run)
            case "again":
                position = data.draw(st.integers(0, store._base.log.next_position))
                views._set_back(position)
                views.catch_up(store._base.log.next_position)
            case "rebuild":
                views.rebuild()
        assert shown(store) == in_view(store)
    store.client.drop_database(name)
    store._base.close()


# --- several at once


def _train(mongodb: Mongo, run: str) -> None:
    store = MongoStatsStore(*mongodb)
    for end in range(1, 9):
        store.store_training_stats(
            run, losses(*((iteration, end) for iteration in range(max(end - 3, 0), end)))
        )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_keep_the_collections_together(mongodb: Mongo, stats: MongoStatsStore, method: str) -> None:
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=_train, args=(mongodb, f"run_{number % 3}")) for number in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    # Whoever was last has seen to it that nothing is left to do.
    assert checkpoint(stats._mongo)["owner"] is None
    assert checkpoint(stats._mongo)["position"] == stats._base.log.next_position
    assert shown(stats) == in_view(stats)


def test_who_finds_another_at_work_leaves_it_a_note(stats: MongoStatsStore, views: MongoViews) -> None:
    stats.store_training_stats("r", losses((0, 1.0)))
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": "another"}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    assert shown(stats) == {("r", 0): 1.0}
    assert checkpoint(views)["wanted"] == stats._base.log.next_position
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": None}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0), (2, 3.0)))
    assert shown(stats) == in_view(stats)


def test_a_note_that_comes_while_one_works_is_seen(
    stats: MongoStatsStore, views: MongoViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's events came after this one had read the log, and before it gave the work back."""
    apply_some = MongoViews._apply_some
    late: list[int] = []

    def apply_and_hear(self: MongoViews, *arguments: Any) -> int:
        position = apply_some(self, *arguments)
        if not late:
            late.append(1)
            stats._base.log.append("training/late", [_row("late", 0)])
            views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$max": {"wanted": position + 1}})
        return position

    monkeypatch.setattr(MongoViews, "_apply_some", apply_and_hear)
    stats.store_training_stats("r", losses((0, 1.0)))
    assert set(shown(stats)) == {("r", 0), ("late", 0)}


def _row(run: str, iteration: int) -> Any:
    fact = TrainingStatsRecorded(run=run, epoch=0, columns=["loss"])
    return EVENT_TYPES.event(fact, index=np.array([iteration]), values=np.array([0.5]))


def test_the_work_of_a_dead_process_is_taken_over(
    stats: MongoStatsStore, views: MongoViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats.store_training_stats("r", losses((0, 1.0)))
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": "dead"}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    # A sign of life counts.
    monkeypatch.setattr(mongo_views, "_SILENCE_SECONDS", 0.0)
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$inc": {"beat": 1}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0), (2, 3.0)))
    assert shown(stats) == {("r", 0): 1.0}
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)))
    assert shown(stats) == in_view(stats)


def test_who_was_taken_for_dead_does_no_harm(
    stats: MongoStatsStore, views: MongoViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes up, writes what was true when it slept in, and sees to it that this is mended."""
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    apply_some = MongoViews._apply_some

    def sleep_in(self: MongoViews, fold: Any, position: int, end: int) -> int:
        monkeypatch.setattr(MongoViews, "_apply_some", apply_some)
        # Meanwhile another takes over, and the run goes back.
        views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": None}})
        other = MongoViews(stats._base.log, stats._base.location.log, read_only=False)
        stats._base.log.append("training/r", [EVENT_TYPES.event(_begun("r", 1))])
        other.catch_up(stats._base.log.next_position)
        other.close()
        assert set(shown(stats)) == {("r", 0)}
        return apply_some(self, fold, position, end)

    monkeypatch.setattr(MongoViews, "_apply_some", sleep_in)
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0), (2, 3.0)))
    assert checkpoint(views)["position"] == 1
    views.catch_up(stats._base.log.next_position)
    assert shown(stats) == in_view(stats)


def _begun(run: str, keeps_below: int) -> Any:
    from dacapo_store.events import TrainingEpochBegun

    return TrainingEpochBegun(run=run, epoch=1, keeps_below=keeps_below)


def test_long_work_shows_life_and_ends_when_it_is_anothers(
    stats: MongoStatsStore,
    views: MongoViews,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And what it has done until then is done again."""
    stats.store_training_stats("r", losses((0, 1.0)))
    before = checkpoint(views)["beat"]
    monkeypatch.setattr(mongo_views, "_SIGN_SECONDS", -1.0)
    monkeypatch.setattr(mongo_views, "_OPERATIONS_MAX", 2)
    stats.store_training_stats("r", losses(*((iteration, 1.0) for iteration in range(6))))
    assert checkpoint(views)["beat"] >= before + 5
    record = mongo_views._Fold._record

    def lose_it(self: Any, *arguments: Any) -> None:
        record(self, *arguments)
        views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": None, "position": 99}})
        self._show_life()

    with monkeypatch.context() as lost:
        lost.setattr(mongo_views._Fold, "_record", lose_it)
        stats.store_training_stats("r", losses(*((iteration, 1.0) for iteration in range(7))))
    assert "another process is at the collections" in caplog.text
    assert checkpoint(views)["position"] == 2
    stats.store_training_stats("r", losses(*((iteration, 1.0) for iteration in range(8))))
    assert shown(stats) == in_view(stats)


def test_a_debt_is_settled_when_the_database_answers_again(
    stats: MongoStatsStore, views: MongoViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed, could not give the work back, and another took over: the next call sets it back."""
    from pymongo.errors import AutoReconnect

    stats.store_training_stats("r", losses((0, 1.0)))

    def gone(*_: Any) -> Any:
        raise AutoReconnect("gone")

    with monkeypatch.context() as broken:
        broken.setattr(mongo_views._Fold, "apply", gone)
        broken.setattr(MongoViews, "_note", gone)
        stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"owner": None, "position": 2}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0), (2, 3.0)))
    assert shown(stats) == in_view(stats)


# --- failures


def test_a_failure_is_logged_and_the_next_call_catches_up(
    stats: MongoStatsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(mongo_views._Fold, "apply", lambda *_: 1 / 0)
        stats.store_training_stats("r", losses((0, 1.0)))
    assert "are behind the log: division by zero" in caplog.text
    assert [row.loss for row in stats.retrieve_training_stats("r").iteration_stats] == [1.0]
    assert shown(stats) == {}
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    assert shown(stats) == in_view(stats)


def test_a_wish_for_what_was_lost_holds_nobody_up(stats: MongoStatsStore, views: MongoViews) -> None:
    stats.store_training_stats("r", losses((0, 1.0)))
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"wanted": 10**6}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    assert checkpoint(views)["wanted"] == checkpoint(views)["position"] == stats._base.log.next_position


def test_another_log_in_the_same_database_is_noticed(
    stats: MongoStatsStore, views: MongoViews, caplog: pytest.LogCaptureFixture
) -> None:
    stats.store_training_stats("r", losses((0, 1.0)))
    views.database[CHECKPOINTS].update_one({"_id": "dacapo"}, {"$set": {"log_id": "00"}})
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    assert "show another log" in caplog.text
    assert shown(stats) == {("r", 0): 1.0}
    views.rebuild()
    assert shown(stats) == in_view(stats)


# --- what others have written


@pytest.fixture
def foreign(mongodb: Mongo) -> Iterator[Any]:
    from pymongo import MongoClient

    client: MongoClient[Any]
    with MongoClient(mongodb[0]) as client:
        database = client[mongodb[1]]
        database.tasks.insert_one({"name": "old"})
        database.training_stats.insert_one({"run_name": "old", "iteration": 0, "loss": 1.0, "time": 0.0})
        yield database


def test_a_database_that_dacapo_filled_is_not_taken_for_an_empty_one(mongodb: Mongo, foreign: Any) -> None:
    for store in (MongoConfigStore, MongoStatsStore):
        with pytest.raises(UnimportedDatabaseError, match="dacapo-store import --from-mongo"):
            store(*mongodb)
    assert foreign.tasks.count_documents({}) == 1


def test_what_others_have_written_is_left_alone_and_moved_aside(
    mongodb: Mongo, foreign: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Base.at(base_address(*mongodb))
    base.append("training/r", [_row("r", 0)])  # as an import would
    base.append("training/r", [_row("r", 1)])
    assert caplog.text.count("are left alone") == 1
    assert [each["run_name"] for each in foreign.training_stats.find()] == ["old"]
    code, output, _ = run(capsys, "mongo-rebuild", base.location.name, "--dry-run")
    assert code == 0
    assert "tasks would be kept as tasks_before_dacapo_store" in output
    assert [each["run_name"] for each in foreign.training_stats.find()] == ["old"]
    code, output, _ = run(capsys, "mongo-rebuild", base.location.name, "--json")
    assert json.loads(output) == {"position": 2, "moved_aside": ["tasks", "training_stats"]}
    assert [each["iteration"] for each in foreign.training_stats.find()] == [0, 1]
    assert [each["run_name"] for each in foreign.training_stats_before_dacapo_store.find()] == ["old"]
    Base.at(base.location.name).append("training/r", [_row("r", 2)])
    assert [each["iteration"] for each in foreign.training_stats.find()] == [0, 1, 2]


def test_rebuilding_mends_what_somebody_has_written_into_them(
    stats: MongoStatsStore, capsys: pytest.CaptureFixture[str]
) -> None:
    stats.store_training_stats("r", losses((0, 1.0), (1, 2.0)))
    stats.store_training_stats("r", losses((0, 1.0)))
    before = {name: documents(stats.database[name]) for name in COLLECTIONS}
    stats.training_stats.update_many({}, {"$set": {"loss": -1.0}})
    stats.database["runs"].insert_one({"name": "made up"})
    code, output, _ = run(capsys, "mongo-rebuild", stats._base.location.name)
    assert (code, "show 2 events" in output) == (0, True)
    assert {name: documents(stats.database[name]) for name in COLLECTIONS} == before
    assert not [
        name for name in stats.database.list_collection_names() if name.startswith("dacapo_store_new")
    ]
    assert "run_it" in stats.training_stats.index_information()


def test_a_base_elsewhere_has_no_such_collections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Base.at(tmp_path)
    code, _, errors = run(capsys, "mongo-rebuild", str(tmp_path))
    assert code != 0
    assert "not in MongoDB" in errors


# --- making stores


def test_the_options_make_mongo_stores_with_weights_in_the_base_directory(
    mongodb: Mongo, tmp_path: Path
) -> None:
    options = Options(
        type="mongo", mongo_db_host=mongodb[0], mongo_db_name=mongodb[1], runs_base_dir=tmp_path
    )
    configs, stats = create_config_store(options), create_stats_store(options)
    weights: Any = create_weights_store(options)
    assert isinstance(configs, MongoConfigStore)
    assert isinstance(stats, MongoStatsStore)
    assert configs._base is stats._base is weights._base
    assert str(weights.basedir) == str(tmp_path)
    assert (configs.db_host, configs.db_name) == mongodb
    assert stats.client is configs.client
    assert configs.database.name == mongodb[1]


def test_a_store_made_by_itself_sees_the_same_history(mongodb: Mongo, tmp_path: Path) -> None:
    MongoConfigStore(*mongodb, files=tmp_path).store_task_config({"name": "x"})
    store = MongoConfigStore(*mongodb)
    assert store.retrieve_task_config_names() == ["x"]
    assert store._base.path.parent == Path.home() / ".cache" / "dacapo-store"
    reader = MongoConfigStore(*mongodb, read_only=True)
    assert reader.retrieve_task_config("x", raw=True) == {"name": "x"}
    past = MongoConfigStore(*mongodb, as_of=0)
    assert past.retrieve_task_config_names() == []
    assert past.tasks.count_documents({}) == 1


def test_a_store_travels_to_another_process(mongodb: Mongo, tmp_path: Path) -> None:
    store = MongoConfigStore(*mongodb, files=tmp_path, read_only=False)
    store.store_task_config({"name": "x"})
    again = pickle.loads(pickle.dumps(store))
    assert again.retrieve_task_config_names() == ["x"]
    assert again._base is store._base


def test_a_place_of_another_database_is_refused(configs: MongoConfigStore) -> None:
    configs.store_task_config({"name": "x"})
    for place in (configs.client["another"]["tasks"], configs.users, "task"):
        with pytest.raises(ValueError, match="is no place of this config store"):
            configs.delete_config(place, "x")


@pytest.mark.parametrize(("host", "name"), [("", "x"), ("x", "")])
def test_a_store_needs_host_and_name(host: str, name: str) -> None:
    with pytest.raises(ValueError, match="mongo_db_host and mongo_db_name"):
        MongoStatsStore(host, name)


def test_what_is_looked_at_read_only_is_not_written_to(mongodb: Mongo, stats: MongoStatsStore) -> None:
    stats.store_training_stats("r", losses((0, 1.0)))
    reader = MongoStatsStore(*mongodb, read_only=True)
    before = checkpoint(stats._mongo)
    reader._mongo.catch_up(10**6)
    assert checkpoint(stats._mongo) == before
