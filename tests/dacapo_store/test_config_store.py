"""The config store: names, equality, parts of a run, and what happens to what is missing."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dacapo_store import DuplicateNameError, FileConfigStore, MongoConfigStore
from dacapo_store.base import Base
from dacapo_store.config_store import KINDS, LogConfigStore
from dacapo_store.errors import ConfigMissingError

SINGULARS = [kind.removesuffix("s") for kind in KINDS]


@dataclass(frozen=True)
class TypedTask:
    """A task config of somebody's own."""

    name: str
    channels: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class TypedTrainer:
    """A trainer config of somebody's own."""

    name: str
    learning_rate: float


@dataclass(frozen=True)
class TypedRun:
    """A run config of somebody's own."""

    name: str
    task_config: TypedTask
    trainer_config: TypedTrainer


@pytest.fixture(params=["files", "mongo"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LogConfigStore:
    """A config store on a fresh base."""
    if request.param == "mongo":
        return MongoConfigStore(*request.getfixturevalue("mongodb"), files=tmp_path)
    return FileConfigStore(tmp_path / "configs")


@pytest.fixture
def file_store(tmp_path: Path) -> FileConfigStore:
    """A config store on a fresh base in a directory."""
    return FileConfigStore(tmp_path / "configs")


@pytest.fixture
def base(store: LogConfigStore) -> Base:
    """The base of that store."""
    return store._base


def run_config(name: str = "run_7", **changes: Any) -> dict[str, Any]:
    """A run config as a mapping."""
    return {
        "name": name,
        "task_config": {"name": "cells", "channels": ["a", "b"]},
        "architecture_config": {"name": "unet", "fmaps": 12, "input_shape": (8, 8)},
        "trainer_config": {"name": "adam", "learning_rate": 1e-4},
        "datasplit_config": {"name": "split", "train": [{"name": "crop"}], "validate": None},
        "repetition": 0,
        **changes,
    }


def part_names(store: LogConfigStore) -> list[list[str]]:
    """The names of stored parts of runs."""
    return [
        store.retrieve_task_config_names(),
        store.retrieve_architecture_config_names(),
        store.retrieve_trainer_config_names(),
        store.retrieve_datasplit_config_names(),
    ]


# --- storing and retrieving


@pytest.mark.parametrize("kind", SINGULARS)
def test_every_kind_is_stored_retrieved_listed_and_deleted(store: LogConfigStore, kind: str) -> None:
    """Upstream: "the file config store lacks dataset configs": all seven kinds have all four calls."""
    config = {"name": "first", "value": (1, 2.5, None)}
    assert getattr(store, f"retrieve_{kind}_config_names")() == []
    getattr(store, f"store_{kind}_config")(config)
    assert getattr(store, f"retrieve_{kind}_config")("first") == config
    assert getattr(store, f"retrieve_{kind}_config_names")() == ["first"]
    getattr(store, f"delete_{kind}_config")("first")
    assert getattr(store, f"retrieve_{kind}_config_names")() == []
    with pytest.raises(ConfigMissingError):
        getattr(store, f"retrieve_{kind}_config")("first")


def test_kinds_do_not_share_names(store: LogConfigStore) -> None:
    """A task and a trainer may have one name."""
    store.store_task_config({"name": "x", "a": 1})
    store.store_trainer_config({"name": "x", "b": 2})
    assert store.retrieve_task_config("x") == {"name": "x", "a": 1}
    assert store.retrieve_trainer_config("x") == {"name": "x", "b": 2}


def test_names_come_in_order(store: LogConfigStore) -> None:
    """Whatever the order of storing."""
    for name in ("b", "c", "a"):
        store.store_task_config({"name": name})
    assert store.retrieve_task_config_names() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a/b", "../../../escape", "ü λ 語", " ", ".", "x'; DROP TABLE y", "a%b\n"])
def test_any_text_is_a_name(store: LogConfigStore, name: str, tmp_path: Path) -> None:
    """Upstream: "name ../../../escape writes outside the base; a/b fails": config names are data."""
    store.store_task_config({"name": name, "value": 1})
    assert store.retrieve_task_config(name) == {"name": name, "value": 1}
    assert store.retrieve_task_config_names() == [name]
    store.delete_task_config(name)
    assert store.retrieve_task_config_names() == []
    assert {path.name for path in tmp_path.iterdir()} <= {"events", "views"}


@pytest.mark.parametrize("config", [{"name": ""}, {"name": None}, {"name": 7}, {"value": 1}])
def test_a_config_without_a_name_is_refused(store: LogConfigStore, config: Mapping[str, Any]) -> None:
    """The text says what is wanted."""
    with pytest.raises(ValueError, match="name"):
        store.store_task_config(config)


def test_a_missing_config_is_every_error_that_callers_expect(store: LogConfigStore) -> None:
    """Upstream: "retrieve of a missing config: ValueError, None or FileNotFoundError, by store"."""
    for call in (store.retrieve_run_config, store.delete_run_config):
        for expected in (KeyError, ValueError, FileNotFoundError):
            with pytest.raises(expected, match="run_7"):
                call("run_7")


def test_a_missing_config_suggests_what_may_be_meant(store: LogConfigStore) -> None:
    """A slip in a name is the usual reason."""
    store.store_task_config({"name": "cells_affinities"})
    with pytest.raises(ConfigMissingError) as caught:
        store.retrieve_task_config("cell_affinities")
    assert "'cells_affinities'" in str(caught.value)
    assert "task" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_raw_document_is_there_for_whoever_wants_it(store: LogConfigStore) -> None:
    """Upstream: "unknown __type__: a raw dict, no error": an error that names it, and raw=True."""
    document = {"__type__": "TypeOfAnotherProgram", "name": "x"}
    store.store_task_config(document)
    with pytest.raises(ValueError, match="TypeOfAnotherProgram"):
        store.retrieve_task_config("x")
    assert store.retrieve_task_config("x", raw=True) == document


def test_numpy_scalars_become_numbers(store: LogConfigStore) -> None:
    """Upstream: "numpy scalars: stored, never retrievable": they come back as what they equal."""
    store.store_trainer_config({"name": "x", "rate": np.float32(0.5), "steps": np.int64(3)})
    back = store.retrieve_trainer_config("x")
    assert back == {"name": "x", "rate": 0.5, "steps": 3}
    assert (type(back["rate"]), type(back["steps"])) == (float, int)


def test_typed_configs_come_back_as_what_they_were(store: LogConfigStore) -> None:
    """A run of nested typed objects, and each part of it by its own name."""
    run = TypedRun("run_7", TypedTask("cells", (("a", math.inf), ("b", None))), TypedTrainer("adam", 1e-4))
    store.store_run_config(run)
    assert store.retrieve_run_config("run_7") == run
    assert store.retrieve_task_config("cells") == run.task_config
    assert store.retrieve_trainer_config("adam") == run.trainer_config
    assert store.retrieve_run_config("run_7", raw=True)["trainer_config"]["learning_rate"] == 1e-4
    assert store.retrieve_run_config_names(trainer_names=["adam"]) == ["run_7"]


# --- one name, two contents


def test_an_equal_config_again_writes_nothing(store: LogConfigStore, base: Base) -> None:
    """Upstream: "NaN in a config: storing it again is a duplicate": NaN equals itself here."""
    for _ in range(2):
        store.store_trainer_config({"name": "x", "rate": math.nan, "bounds": (1, math.inf)})
    assert base.log.next_position == 1


def test_another_config_of_the_name_is_refused_and_the_difference_named(
    store: LogConfigStore, base: Base
) -> None:
    """The text says what differs, and the stored one stays."""
    store.store_architecture_config({"name": "unet", "shape": (8, 8), "deep": {"fmaps": 12}})
    with pytest.raises(DuplicateNameError) as caught:
        store.store_architecture_config({"name": "unet", "shape": (8, 9), "deep": {"fmaps": 16}, "new": 1})
    for part in ("'unet'", "architecture", "shape[1]", "deep.fmaps is 12 and was given as 16", "new"):
        assert part in str(caught.value)
    assert base.log.next_position == 1
    assert store.retrieve_architecture_config("unet")["deep"] == {"fmaps": 12}


@pytest.mark.parametrize("theirs", [1, 2], ids=["equal", "different"])
def test_a_call_that_comes_second_compares_anew(
    store: LogConfigStore, base: Base, monkeypatch: pytest.MonkeyPatch, theirs: int
) -> None:
    """Between reading and appending another process stores: its config is compared, not overwritten."""
    append = base.append_to_streams

    def append_second(appends: Any) -> Any:
        monkeypatch.setattr(base, "append_to_streams", append)
        store.store_task_config({"name": "cells", "value": theirs})
        return append(appends)

    monkeypatch.setattr(base, "append_to_streams", append_second)
    with contextlib.nullcontext() if theirs == 1 else pytest.raises(DuplicateNameError):
        store.store_task_config({"name": "cells", "value": 1})
    assert base.log.next_position == 1
    assert store.retrieve_task_config("cells")["value"] == theirs


def test_a_part_that_is_deleted_meanwhile_is_stored_with_the_run(
    store: LogConfigStore, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a part is there already is an expectation of the append, like any other."""
    store.store_trainer_config(run_config()["trainer_config"])
    append = base.append_to_streams

    def append_second(appends: Any) -> Any:
        monkeypatch.setattr(base, "append_to_streams", append)
        store.delete_trainer_config("adam")
        return append(appends)

    monkeypatch.setattr(base, "append_to_streams", append_second)
    store.store_run_config(run_config())
    assert part_names(store) == [["cells"], ["unet"], ["adam"], ["split"]]


def test_ignored_fields_do_not_count(store: LogConfigStore, base: Base) -> None:
    """What is stored stays as it was first stored."""
    store.store_trainer_config({"name": "x", "rate": 1, "comment": "first"})
    store.store_trainer_config({"name": "x", "rate": 1, "comment": "second"}, ignore=["comment"])
    assert store.retrieve_trainer_config("x")["comment"] == "first"
    with pytest.raises(DuplicateNameError):
        store.store_trainer_config({"name": "x", "rate": 2, "comment": "second"}, ignore=["comment"])
    assert base.log.next_position == 1


def test_delete_and_store_again_is_how_a_config_changes(store: LogConfigStore, base: Base) -> None:
    """What DaCapo's examples do; the first version stays in the history."""
    store.store_task_config({"name": "cells", "version": 1})
    before = base.log.next_position
    try:
        store.store_task_config({"name": "cells", "version": 2})
    except Exception:  # noqa: BLE001 - as the examples have it
        store.delete_config(store.tasks, "cells")
        store.store_task_config({"name": "cells", "version": 2})
    assert store.retrieve_task_config("cells")["version"] == 2
    sql = "SELECT document->>'version' FROM configs_at(?) WHERE name = 'cells'"
    past = base.query(sql, [before]).fetchall()
    assert past == [("1",)]


# --- deleting


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_is_a_place_of_the_store_or_a_kind(store: LogConfigStore, kind: str) -> None:
    """The property, its text, and the kind's name mean the same."""
    place = getattr(store, kind)
    for database in (place, getattr(place, "full_name", str(place)), kind):
        getattr(store, f"store_{kind.removesuffix('s')}_config")({"name": "x"})
        store.delete_config(database, "x")
        assert getattr(store, f"retrieve_{kind.removesuffix('s')}_config_names")() == []


def test_another_database_is_refused(file_store: FileConfigStore, tmp_path: Path) -> None:
    """The text lists the kinds."""
    file_store.store_task_config({"name": "x"})
    for database in ("task", file_store.users, FileConfigStore(tmp_path / "other" / "configs").tasks):
        with pytest.raises(ValueError, match="architectures"):
            file_store.delete_config(database, "x")
    assert file_store.retrieve_task_config_names() == ["x"]


# --- runs


def test_the_parts_of_a_run_are_stored_with_it(store: LogConfigStore) -> None:
    """Upstream: "run config stored without its parts, though the interface's text says so"."""
    store.store_run_config(run_config())
    assert part_names(store) == [["cells"], ["unet"], ["adam"], ["split"]]
    assert store.retrieve_architecture_config("unet") == run_config()["architecture_config"]
    assert store.retrieve_run_config("run_7") == run_config()


def test_parts_that_are_stored_already_are_not_written_again(store: LogConfigStore, base: Base) -> None:
    """A second run with the same parts is one event."""
    store.store_run_config(run_config())
    before = base.log.next_position
    store.store_run_config(run_config("run_8"))
    assert base.log.next_position == before + 1
    store.store_run_config(run_config("run_8"))
    assert base.log.next_position == before + 1


def test_a_run_and_its_parts_are_one_commit(store: LogConfigStore, base: Base) -> None:
    """There is no moment at which a run is there without its parts, or they without it."""
    store.store_run_config(run_config())
    batches = [batch.column("type").to_pylist() for batch in base.log.read_batches()]
    assert batches == [["ConfigStored"] * 5]


def test_a_part_of_another_content_stops_the_run(store: LogConfigStore, base: Base) -> None:
    """Nothing of it is stored, the other parts neither."""
    store.store_trainer_config({"name": "adam", "learning_rate": 1e-3})
    with pytest.raises(DuplicateNameError, match=r"trainer.*'adam'.*learning_rate"):
        store.store_run_config(run_config())
    assert base.log.next_position == 1
    assert store.retrieve_run_config_names() == []


def test_a_part_without_a_name_stays_in_the_run(store: LogConfigStore) -> None:
    """It has nothing that it could be found by."""
    config = run_config(task_config={"channels": ["a"]}, trainer_config=None)
    store.store_run_config(config)
    assert part_names(store) == [[], ["unet"], [], ["split"]]
    assert store.retrieve_run_config("run_7") == config


def test_deleting_a_run_keeps_its_parts(store: LogConfigStore) -> None:
    """Other runs may share them."""
    store.store_run_config(run_config())
    store.delete_run_config("run_7")
    assert store.retrieve_run_config_names() == []
    assert part_names(store) == [["cells"], ["unet"], ["adam"], ["split"]]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../x", "configs", "stats", "events", "views", "a\0b"])
def test_a_run_whose_name_can_be_no_folder_is_refused_at_once(
    store: LogConfigStore, base: Base, name: str
) -> None:
    """Upstream: "a run called configs collides with the store's folder": said before a training has run."""
    with pytest.raises(ValueError, match="run"):
        store.store_run_config(run_config(name))
    assert base.log.next_position == 0


def test_runs_are_found_by_the_names_of_their_parts(store: LogConfigStore) -> None:
    """Upstream: "the file config store lacks … the filters of retrieve_run_config_names"."""
    store.store_run_config(run_config("one"))
    store.store_run_config(run_config("two", task_config={"name": "it's"}))
    store.store_run_config(run_config("three", task_config={"name": "it's"}, trainer_config={"name": "sgd"}))
    store.store_run_config({"name": "bare"})
    names = store.retrieve_run_config_names
    assert names() == ["bare", "one", "three", "two"]
    assert names(task_names=["it's"]) == ["three", "two"]
    assert names(task_names=["it's", "cells"], trainer_names=["adam"]) == ["one", "two"]
    assert names(datasplit_names=["split"], architecture_names=["unet"]) == ["one", "three", "two"]
    assert names(["cells"], ["split"], ["unet"], ["adam"]) == ["one"]
    assert names(task_names=["none of them"]) == names(task_names=[]) == []


# --- one history


def test_stores_on_one_base_share_it(file_store: FileConfigStore, tmp_path: Path) -> None:
    """Made on <base>/configs or on the base, by whatever path; another path is another base."""
    file_store.store_task_config({"name": "x"})
    assert FileConfigStore(tmp_path).retrieve_task_config_names() == ["x"]
    assert FileConfigStore(tmp_path / "y" / ".." / "configs").retrieve_task_config_names() == ["x"]
    assert FileConfigStore(tmp_path / "y").retrieve_task_config_names() == []


def test_a_relative_path_is_resolved_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others read from the store is absolute: config_store.path.parent / run.name."""
    monkeypatch.chdir(tmp_path)
    store = FileConfigStore("configs")
    assert str(store.path) == str(tmp_path / "configs")
    for place in ("users", *KINDS):
        assert str(getattr(store, place)) == str(tmp_path / "configs" / place)


def test_a_path_on_other_storage_is_refused(tmp_path: Path) -> None:
    """Rather than becoming a local folder of that name."""
    with pytest.raises(ValueError, match="memory"):
        FileConfigStore("memory://bucket/configs")
    FileConfigStore(f"file://{tmp_path}/configs").store_task_config({"name": "x"})
    assert FileConfigStore(tmp_path).retrieve_task_config_names() == ["x"]


def test_a_base_may_be_opened_read_only(file_store: FileConfigStore, tmp_path: Path) -> None:
    """Reading works; writing is refused."""
    file_store.store_task_config({"name": "x"})
    reader = FileConfigStore(tmp_path / "configs", read_only=True)
    assert reader.retrieve_task_config("x") == {"name": "x"}
    assert reader.retrieve_task_config_names() == ["x"]
    with pytest.raises(Exception, match="read-only"):
        reader.store_task_config({"name": "y"})
