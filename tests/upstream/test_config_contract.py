"""What a config store does, on these stores in DaCapo's place and on DaCapo's file store."""

from __future__ import annotations

import copy
import multiprocessing
import os
from pathlib import Path
from typing import Any, Final

import attr
import numpy as np
import pytest
from dacapo.experiments.datasplits.datasets.arrays import IntensitiesArrayConfig
from dacapo.store.config_store import ConfigStore, DuplicateNameError
from dacapo.store.converter import converter
from upath import UPath

from tools.upstream import experiment

KINDS: Final = ("run", "task", "architecture", "trainer", "datasplit", "array")
_DATASETS: Final = pytest.param(
    "dataset", marks=pytest.mark.defect("the file config store has no methods for dataset configs")
)
ALL_KINDS: Final = (*KINDS, _DATASETS)


def config_of(kind: str) -> Any:
    """A config of a kind, as people write them."""
    run = experiment.run_config(Path("/data"), iterations=8)
    dataset = run.datasplit_config.train_configs[0]
    return {
        "run": run,
        "task": run.task_config,
        "architecture": run.architecture_config,
        "trainer": run.trainer_config,
        "datasplit": run.datasplit_config,
        "dataset": dataset,
        "array": IntensitiesArrayConfig(
            name="intensities", source_array_config=dataset.raw_config, min=0.0, max=float("inf")
        ),
    }[kind]


def changed(kind: str) -> Any:
    """A config of the same name with other content, in one field at its top."""
    config = copy.deepcopy(config_of(kind))
    field = {
        "run": "num_iterations",
        "task": "clip_distance",
        "architecture": "num_fmaps",
        "trainer": "batch_size",
        "datasplit": "validate_configs",
        "dataset": "weight",
        "array": "min",
    }[kind]
    setattr(config, field, [] if kind == "datasplit" else 4711)
    return config


def field_changed(kind: str) -> str:
    """The field that ``changed`` changes, as it stands in the document."""
    ours, theirs = converter.unstructure(config_of(kind)), converter.unstructure(changed(kind))
    (field,) = (name for name in ours if ours[name] != theirs[name])
    return str(field)


def store(configs: Any, kind: str, config: Any, **how: Any) -> None:
    getattr(configs, f"store_{kind}_config")(config, **how)


def retrieve(configs: Any, kind: str, name: str) -> Any:
    return getattr(configs, f"retrieve_{kind}_config")(name)


def names(configs: Any, kind: str, **filters: Any) -> list[str]:
    return sorted(getattr(configs, f"retrieve_{kind}_config_names")(**filters))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_comes_back_equals_what_was_stored(stores: Any, kind: str) -> None:
    """Of the same class, in another store object, with paths, coordinates, tuples, None and infinity."""
    store(stores.config(), kind, config_of(kind))
    back = retrieve(stores.config(), kind, config_of(kind).name)
    assert type(back) is type(config_of(kind))
    assert back == config_of(kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_an_equal_config_is_stored_again_without_an_error(stores: Any, kind: str) -> None:
    for _ in range(2):
        store(stores.config(), kind, config_of(kind))
    assert names(stores.config(), kind) == [config_of(kind).name]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_another_config_of_the_name_is_refused_with_dacapos_own_error(stores: Any, kind: str) -> None:
    """And what is stored stays."""
    store(stores.config(), kind, config_of(kind))
    with pytest.raises(DuplicateNameError):
        store(stores.config(), kind, changed(kind))
    assert retrieve(stores.config(), kind, config_of(kind).name) == config_of(kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_ignored_fields_do_not_count(stores: Any, kind: str) -> None:
    store(stores.config(), kind, config_of(kind))
    if kind == "run":  # which has a field that is no part
        store(stores.config(), kind, changed(kind), ignore=["num_iterations"])
    else:
        store(stores.config(), kind, changed(kind), ignore=[field_changed(kind)])
    assert retrieve(stores.config(), kind, config_of(kind).name) == config_of(kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_names_are_listed(stores: Any, kind: str) -> None:
    other = copy.deepcopy(config_of(kind))
    other.name = "another"
    assert names(stores.config(), kind) == []
    store(stores.config(), kind, config_of(kind))
    store(stores.config(), kind, other)
    assert names(stores.config(), kind) == sorted(["another", config_of(kind).name])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_deleted_config_is_gone_and_its_name_free(stores: Any, kind: str) -> None:
    configs = stores.config()
    store(configs, kind, config_of(kind))
    configs.delete_config(getattr(configs, f"{kind}s"), config_of(kind).name)
    assert names(stores.config(), kind) == []
    if kind != "run":  # whose other content would be that of a part
        store(configs, kind, changed(kind))
        assert retrieve(stores.config(), kind, config_of(kind).name) == changed(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_method_to_delete(stores: Any, kind: str) -> None:
    store(stores.config(), kind, config_of(kind))
    getattr(stores.config(), f"delete_{kind}_config")(config_of(kind).name)
    assert names(stores.config(), kind) == []


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_config_that_is_missing_is_a_value_error(stores: Any, kind: str) -> None:
    """As the text of the file store says."""
    with pytest.raises(ValueError, match="nowhere"):
        retrieve(stores.config(), kind, "nowhere")


@pytest.mark.defect("a ValueError or None, by store, where the interface says KeyError")
@pytest.mark.parametrize("kind", KINDS)
def test_a_config_that_is_missing_is_a_key_error(stores: Any, kind: str) -> None:
    with pytest.raises(KeyError):
        retrieve(stores.config(), kind, "nowhere")


def test_deleting_a_config_that_is_missing_is_a_file_not_found_error(stores: Any) -> None:
    with pytest.raises(FileNotFoundError):
        stores.config().delete_config(stores.config().tasks, "nowhere")


@pytest.mark.defect("FileNotFoundError where the interface says KeyError")
def test_deleting_a_config_that_is_missing_is_a_key_error(stores: Any) -> None:
    with pytest.raises(KeyError):
        stores.config().delete_config(stores.config().tasks, "nowhere")


def runs_of_two_tasks(stores: Any) -> Any:
    """Runs ``a`` and ``b`` of different tasks, trainers, architectures and datasplits."""
    configs = stores.config()
    for name in ("a", "b"):
        run = experiment.run_config(Path("/data"), iterations=8, name=name)
        for part in ("task", "trainer", "architecture", "datasplit"):
            setattr(
                run, f"{part}_config", attr.evolve(getattr(run, f"{part}_config"), name=f"{part}_of_{name}")
            )
        configs.store_run_config(run)
    return configs


@pytest.mark.defect("the file config store has none of these filters")
@pytest.mark.parametrize("part", ["task", "trainer", "architecture", "datasplit"])
def test_names_of_runs_by_the_name_of_a_part(stores: Any, part: str) -> None:
    """As dashboards ask for them."""
    configs = runs_of_two_tasks(stores)
    assert names(configs, "run", **{f"{part}_names": [f"{part}_of_a"]}) == ["a"]
    assert names(configs, "run", **{f"{part}_names": [f"{part}_of_a", f"{part}_of_b"]}) == ["a", "b"]
    assert names(configs, "run", **{f"{part}_names": ["nowhere"]}) == []


@pytest.mark.defect("its parts are not stored, though the interface says so")
@pytest.mark.parametrize("part", ["task", "trainer", "architecture", "datasplit"])
def test_a_run_is_stored_with_its_parts(stores: Any, part: str) -> None:
    run = config_of("run")
    stores.config().store_run_config(run)
    assert retrieve(stores.config(), part, getattr(run, f"{part}_config").name) == config_of(part)


@pytest.mark.defect("a run is stored whose part differs from the one that has its name")
def test_a_run_with_another_part_of_a_stored_name_is_refused(stores: Any) -> None:
    stores.config().store_task_config(changed("task"))
    with pytest.raises(DuplicateNameError):
        stores.config().store_run_config(config_of("run"))
    assert names(stores.config(), "run") == []
    assert names(stores.config(), "trainer") == []


@pytest.mark.defect("NaN does not equal itself")
def test_nan_in_a_config_is_equal_to_itself(stores: Any) -> None:
    for _ in range(2):
        stores.config().store_task_config(attr.evolve(config_of("task"), clipmin=float("nan")))


@pytest.mark.defect("numpy scalars are stored and never come back")
def test_numpy_scalars_come_back_as_numbers(stores: Any) -> None:
    stores.config().store_task_config(
        attr.evolve(config_of("task"), clip_distance=np.float64(2.5), tol_distance=np.float32(0.5))
    )
    back = stores.config().retrieve_task_config(config_of("task").name)
    assert (type(back.clip_distance), back.clip_distance, back.tol_distance) == (float, 2.5, 0.5)


@attr.s
class OwnTaskConfig(type(config_of("task"))):  # type: ignore[misc]
    """A config of a class that DaCapo's converter cannot see."""


@pytest.mark.defect("a raw dict comes back, without an error")
def test_a_type_that_is_not_known_is_an_error_that_names_it(stores: Any) -> None:
    own = OwnTaskConfig(
        **{
            field.name: getattr(config_of("task"), field.name)
            for field in attr.fields(type(config_of("task")))
        }
    )
    stores.config().store_task_config(own)
    with pytest.raises(ValueError, match="OwnTaskConfig"):
        stores.config().retrieve_task_config(own.name)


@pytest.mark.defect("what stands as a type is evaluated as Python")
def test_the_name_of_a_type_is_not_evaluated(stores: Any, tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path({str(tmp_path / 'escaped')!r}).touch()"
    document = {**converter.unstructure(config_of("task")), "__type__": evil}
    stores.config().store_task_config(document)
    with pytest.raises(ValueError, match="__import__"):
        stores.config().retrieve_task_config(config_of("task").name)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "mit Leerzeichen und Umläuten: äöü",
        pytest.param("a/b", marks=pytest.mark.defect("a/b fails")),
        pytest.param("../../../escape", marks=pytest.mark.defect("writes outside of the base")),
    ],
)
def test_a_config_may_have_any_name(stores: Any, name: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.parent.rglob("*") if stores.base not in path.parents}
    stores.config().store_task_config(attr.evolve(config_of("task"), name=name))
    assert stores.config().retrieve_task_config(name).name == name
    assert names(stores.config(), "task") == [name]
    after = {path for path in tmp_path.parent.rglob("*") if stores.base not in path.parents}
    assert after - before <= {stores.base}


@pytest.mark.defect("a run called so would collide with the store's own folder, or leave the base")
@pytest.mark.parametrize("name", ["configs", "stats", "..", "a/b"])
def test_a_run_whose_name_cannot_be_a_folder_is_refused(stores: Any, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        stores.config().store_run_config(attr.evolve(config_of("run"), name=name))


@pytest.mark.defect("most of these calls raise a DuplicateNameError")
def test_one_config_of_several_processes_at_once_is_no_error(stores: Any) -> None:
    """Four processes, twenty configs, each stored by all of them at the same time."""
    fork = multiprocessing.get_context("fork")
    processes, configs = 4, 20
    barrier, errors = fork.Barrier(processes), fork.Value("i", 0)

    def work() -> None:
        for number in range(configs):
            config = attr.evolve(config_of("datasplit"), name=f"datasplit_{number}")
            barrier.wait()
            try:
                stores.config().store_datasplit_config(config)
            except Exception:  # noqa: BLE001 - any of them counts
                with errors.get_lock():
                    errors.value += 1

    children = [fork.Process(target=work) for _ in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * processes
    assert errors.value == 0
    assert len(names(stores.config(), "datasplit")) == configs


def test_what_others_use_of_a_config_store(stores: Any) -> None:
    """Paths: of the store, of the run's folder beside it, and those that ``delete_config`` takes."""
    configs = stores.config()
    assert isinstance(configs, ConfigStore)
    assert isinstance(configs.path, UPath)
    assert os.fspath(configs.path.parent / "run") == str(stores.base / "run")
    for place in ("users", "runs", "tasks", "datasplits", "datasets", "arrays", "architectures", "trainers"):
        assert getattr(configs, place) == configs.path / place
