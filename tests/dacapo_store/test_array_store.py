"""Arrays: identifiers in DaCapo's layout, and removals that stay on record and never reach outside."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from upath import UPath

from dacapo_store.array_store import LocalArrayIdentifier, LocalArrayStore, LocalContainerIdentifier
from dacapo_store.base import Base
from eventstore import LogNotFoundError, ReadOnlyLogError, WriteRefusedError, files

BOTH_FORMATS = [2] if zarr.__version__.startswith("2") else [2, 3]


@pytest.fixture
def store(tmp_path: Path) -> LocalArrayStore:
    """A store on a base of its own."""
    return LocalArrayStore(tmp_path)


def make_array(identifier: LocalArrayIdentifier, zarr_format: int = 2, fill: float = 1.0) -> Path:
    """An array of six by four in chunks of four by four; its folder."""
    more: dict[str, Any] = {} if zarr.__version__.startswith("2") else {"zarr_format": zarr_format}
    group = zarr.open_group(str(identifier.container), mode="a", **more)
    if zarr.__version__.startswith("2"):
        array = group.create_dataset(identifier.dataset, shape=(6, 4), chunks=(4, 4), dtype="float32")
    else:
        array = group.create_array(identifier.dataset, shape=(6, 4), chunks=(4, 4), dtype="float32")
    array[:] = np.arange(24, dtype="float32").reshape(6, 4) * fill
    return Path(str(identifier.container)) / identifier.dataset


def removals(base: Path, run: str = "run_1", container: str = "validation.zarr") -> list[dict[str, Any]]:
    """The data of the removals on record."""
    return [event.data for event in Base.at(base).log.read_stream(f"arrays/{run}/{container}")]


def tree(folder: Path) -> set[str]:
    """Everything below a folder but the log and the trash."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if not {"events", ".trash"} & set(path.parts)}


def test_identifiers_are_those_of_dacapos_layout(store: LocalArrayStore, tmp_path: Path) -> None:
    """The paths are exactly upstream's, as UPath and text."""
    validation = UPath(tmp_path) / "run_1" / "validation.zarr"
    assert store.validation_container("run_1") == LocalContainerIdentifier(validation)
    assert store.snapshot_container("run_1").container == UPath(tmp_path) / "run_1" / "snapshot.zarr"
    expected = {
        "20/ds/prediction": store.validation_prediction_array("run_1", 20, "ds"),
        "20/ds/output/threshold_0.5": store.validation_output_array("run_1", 20, "threshold_0.5", "ds"),
        "inputs/raw": store.validation_input_arrays("run_1")[0],
        "inputs/gt": store.validation_input_arrays("run_1")[1],
        "inputs/ds/raw": store.validation_input_arrays("run_1", "ds")[0],
        "inputs/ds/gt": store.validation_input_arrays("run_1", "ds")[1],
        "voi": store.best_validation_array("run_1", "voi"),
        "ds/voi": store.best_validation_array("run_1", "voi", index="ds"),
    }
    for dataset, identifier in expected.items():
        assert identifier == LocalArrayIdentifier(validation, dataset)
        assert isinstance(identifier.container, UPath)


def test_datasets_and_parameters_may_be_objects(store: LocalArrayStore) -> None:
    """DACAPO 1: they come as objects, and their str() makes the path."""

    class Thing:
        def __init__(self, text: str) -> None:
            self.name = "not this"
            self.text = text

        def __str__(self) -> str:
            return self.text

    dataset, parameters = Thing("ds_a"), Thing("threshold_0.5")
    assert store.validation_prediction_array("run_1", 20, dataset).dataset == "20/ds_a/prediction"
    output = store.validation_output_array("run_1", 20, parameters=parameters, dataset=dataset)
    assert output.dataset == "20/ds_a/output/threshold_0.5"


def test_identifiers_are_values(store: LocalArrayStore) -> None:
    """Equal when they name the same array, usable as keys, readable."""
    one = store.validation_container("run_1").array_identifier("20/ds/prediction")
    assert one == store.validation_prediction_array("run_1", 20, "ds")
    assert len({one, store.validation_prediction_array("run_1", 20, "ds")}) == 1
    assert str(one).endswith("run_1/validation.zarr/20/ds/prediction")
    assert str(store.snapshot_container("run_1")).endswith("run_1/snapshot.zarr")


def test_identifiers_need_nothing_on_the_disk_and_make_nothing(
    store: LocalArrayStore, tmp_path: Path
) -> None:
    """DACAPO 2: identifiers never raise for absence, whatever the text promises."""
    store.validation_container("never_heard_of")
    store.snapshot_container("never_heard_of")
    store.best_validation_array("never_heard_of", "voi")
    assert tree(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../../escape", "configs", "stats", "events", "views"]
)
def test_run_names_that_cannot_be_folders_are_refused(store: LocalArrayStore, name: str) -> None:
    """DACAPO 2: no run names a folder outside the base, or a store's."""
    calls = [
        lambda: store.validation_container(name),
        lambda: store.snapshot_container(name),
        lambda: store.best_validation_array(name, "voi"),
        lambda: store.validation_prediction_array(name, 0, "ds"),
        lambda: store.validation_output_array(name, 0, "p", "ds"),
        lambda: store.validation_input_arrays(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^a run"):
            call()


@pytest.mark.parametrize("part", ["", "..", ".", "/etc", "a//b", "../../other", "a\0b"])
def test_parts_that_lead_elsewhere_are_refused(store: LocalArrayStore, part: str) -> None:
    """No dataset, parameters, criterion or index leaves its container."""
    calls = [
        lambda: store.validation_prediction_array("run_1", 0, part),
        lambda: store.validation_output_array("run_1", 0, part, "ds"),
        lambda: store.validation_output_array("run_1", 0, "p", part),
        lambda: store.validation_input_arrays("run_1", part),
        lambda: store.best_validation_array("run_1", part),
        lambda: store.best_validation_array("run_1", "voi", part),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="does not name an array within a container"):
            call()


def test_client_may_put_in_its_own_identifiers(tmp_path: Path) -> None:
    """DACAPO 1: identifiers must be DaCapo's own class when DaCapo is the client."""

    class Theirs(LocalArrayIdentifier):
        pass

    class Store(LocalArrayStore):
        array_identifier_type = Theirs

    assert type(Store(tmp_path).validation_prediction_array("run_1", 0, "ds")) is Theirs


@pytest.mark.parametrize("zarr_format", BOTH_FORMATS)
def test_removed_array_is_gone_and_what_it_was_is_on_record(
    store: LocalArrayStore, tmp_path: Path, zarr_format: int
) -> None:
    """DACAPO 2: shape, dtype, chunks, files and their digest stay; neighbours are untouched."""
    removed = store.validation_prediction_array("run_1", 20, "ds")
    kept = make_array(store.validation_prediction_array("run_1", 40, "ds"), zarr_format)
    folder = make_array(removed, zarr_format)
    listing = sorted(
        [str(path.relative_to(folder)), path.stat().st_size] for path in folder.rglob("*") if path.is_file()
    )
    store.remove(removed)
    assert not folder.exists()
    assert zarr.open(str(kept), mode="r")[5, 3] == 23.0
    (removal,) = removals(tmp_path)
    assert removal == {
        "container": "run_1/validation.zarr",
        "dataset": "20/ds/prediction",
        "shape": [6, 4],
        "dtype": "float32",
        "chunks": [4, 4],
        "bytes": sum(size for _, size in listing),
        "listing": listing,
        "listing_digest": hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest(),
    }
    assert list((tmp_path / "run_1/.trash").iterdir()) == []


def test_group_is_removed_with_all_that_is_in_it(store: LocalArrayStore, tmp_path: Path) -> None:
    """A whole iteration may be removed at once; its files are on record, a shape is not."""
    for dataset in ("a", "b"):
        make_array(store.validation_prediction_array("run_1", 20, dataset))
    store.remove(store.validation_container("run_1").array_identifier("20"))
    (removal,) = removals(tmp_path)
    assert (removal["shape"], removal["dtype"], removal["chunks"]) == (None, None, None)
    assert {path.split("/")[0] for path, _ in removal["listing"]} >= {"a", "b"}


@pytest.mark.parametrize("content", ["", "{", '{"shape": "none"}', "[]"])
def test_array_with_unreadable_metadata_is_removed_too(
    store: LocalArrayStore, tmp_path: Path, content: str
) -> None:
    """Broken metadata is a reason to remove an array, not one to keep it."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)
    (folder / ".zarray").write_text(content)
    store.remove(identifier)
    assert not folder.exists()
    (removal,) = removals(tmp_path)
    assert removal["shape"] is None
    assert [".zarray", len(content)] in removal["listing"]


def test_folder_without_metadata_is_removed(store: LocalArrayStore, tmp_path: Path) -> None:
    """What a killed writer left is no array yet, and goes all the same."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = Path(str(identifier.container)) / identifier.dataset
    folder.mkdir(parents=True)
    store.remove(identifier)
    assert not folder.exists()
    (removal,) = removals(tmp_path)
    assert (removal["shape"], removal["bytes"], removal["listing"]) == (None, 0, [])


def test_names_that_are_no_text_are_listed_with_escapes(store: LocalArrayStore, tmp_path: Path) -> None:
    """A file name is bytes; the record is text."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)
    (folder / os.fsdecode(b"bad\xff")).write_bytes(b"12")
    store.remove(identifier)
    (removal,) = removals(tmp_path)
    assert ["bad\\xff", 2] in removal["listing"]


def test_absent_array_is_a_warning_and_nothing_else(
    store: LocalArrayStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DACAPO 2: absent is a warning, as upstream."""
    store.remove(store.validation_prediction_array("run_1", 20, "ds"))
    assert "it does not exist" in caplog.text
    assert removals(tmp_path) == []
    assert tree(tmp_path) == set()


def test_file_in_place_of_an_array_is_a_warning(
    store: LocalArrayStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file is not removed, as upstream."""
    make_array(store.validation_prediction_array("run_1", 20, "ds"))
    store.remove(store.validation_container("run_1").array_identifier("20/ds/prediction/.zarray"))
    assert "it is not a directory" in caplog.text
    assert (tmp_path / "run_1/validation.zarr/20/ds/prediction/.zarray").exists()
    assert removals(tmp_path) == []


@pytest.mark.parametrize(
    "dataset",
    [
        "",
        ".",
        "..",
        "/",
        "/etc",
        "../../other",
        "../snapshot.zarr",
        "20/..",
        "20/../..",
        "20//ds",
        "20/",
        "a\0",
    ],
)
def test_removing_what_is_no_array_of_the_container_is_refused(
    store: LocalArrayStore, tmp_path: Path, dataset: str
) -> None:
    """DACAPO 2: upstream deletes the container, checkpoints or a sibling for these."""
    make_array(store.validation_prediction_array("run_1", 20, "ds"))
    make_array(LocalArrayIdentifier(store.snapshot_container("run_1").container, "0"))
    (tmp_path / "other").mkdir()
    (tmp_path / "run_1/checkpoints").mkdir()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="does not name an array within a container"):
        store.remove(LocalArrayIdentifier(store.validation_container("run_1").container, dataset))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("container", ["run_1/checkpoints", "run_1", ".", "run_1/validation.zarr/20"])
def test_container_must_end_in_zarr(store: LocalArrayStore, tmp_path: Path, container: str) -> None:
    """DACAPO 2: a ValueError, where upstream asserts."""
    make_array(store.validation_prediction_array("run_1", 20, "ds"))
    (tmp_path / "run_1/checkpoints").mkdir()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"does not end in '\.zarr'"):
        store.remove(LocalArrayIdentifier(UPath(tmp_path / container), "20"))
    assert tree(tmp_path) == before


def test_container_outside_the_base_is_refused(tmp_path: Path) -> None:
    """No write leaves the base directory, by name or by a symbolic link."""
    store = LocalArrayStore(tmp_path / "base")
    outside = LocalArrayIdentifier(UPath(tmp_path / "data.zarr"), "raw")
    folder = make_array(outside)
    (tmp_path / "base/run_1").mkdir()
    (tmp_path / "base/run_1/validation.zarr").symlink_to(tmp_path / "data.zarr")
    for container in (
        outside.container,
        UPath(tmp_path / "base/run_1/../../data.zarr"),
        store.validation_container("run_1").container,
    ):
        with pytest.raises(ValueError, match="outside the base directory"):
            store.remove(LocalArrayIdentifier(container, "raw"))
    assert folder.exists()


def test_symbolic_links_on_the_way_are_refused(store: LocalArrayStore, tmp_path: Path) -> None:
    """A link within a container does not lead the removal to what it points to."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)
    container = Path(str(identifier.container))
    (tmp_path / "precious/array").mkdir(parents=True)
    (container / "outside").symlink_to(tmp_path / "precious")
    (container / "inside").symlink_to(folder.parent)
    for dataset in ("outside", "outside/array", "inside", "inside/prediction"):
        with pytest.raises(ValueError, match="symbolic link"):
            store.remove(LocalArrayIdentifier(identifier.container, dataset))
    assert (tmp_path / "precious/array").exists()
    assert folder.exists()
    assert removals(tmp_path) == []


def test_symbolic_link_within_an_array_goes_without_its_target(
    store: LocalArrayStore, tmp_path: Path
) -> None:
    """What a removed folder points to is not followed."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/data").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    store.remove(identifier)
    assert not folder.exists()
    assert (tmp_path / "precious/data").exists()
    (removal,) = removals(tmp_path)
    assert "link" in [path for path, _ in removal["listing"]]


def test_array_is_in_its_place_when_the_event_is_refused(
    store: LocalArrayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed that is not on record."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)

    def refuse(*_: Any, **__: Any) -> None:
        raise WriteRefusedError("disk full")

    monkeypatch.setattr(Base, "append", refuse)
    with pytest.raises(WriteRefusedError):
        store.remove(identifier)
    assert zarr.open(str(folder), mode="r")[5, 3] == 23.0


@pytest.mark.parametrize("growth", ["", "   "])
def test_removal_that_was_cut_off_before_the_rename_goes_on_without_a_second_event(
    store: LocalArrayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growth: str
) -> None:
    """A crash behind the event leaves the array whole; removing it again finishes that removal."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            store.remove(identifier)
    assert zarr.open(str(folder), mode="r")[5, 3] == 23.0
    # Growing a file leaves the folder's own identity as it is.
    (folder / ".zarray").write_text((folder / ".zarray").read_text() + growth)
    store.remove(identifier)
    assert not folder.exists()
    assert len(removals(tmp_path)) == 1


def test_array_that_is_written_and_removed_again_is_on_record_twice(
    store: LocalArrayStore, tmp_path: Path
) -> None:
    """An equal array in the same place is another one."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    for _ in range(3):
        make_array(identifier)
        store.remove(identifier)
    assert len(removals(tmp_path)) == 3
    assert len({removal["listing_digest"] for removal in removals(tmp_path)}) == 1


def test_trash_of_interrupted_removals_is_emptied(
    store: LocalArrayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash behind the rename leaves the files in the trash, out of place, until they are deleted."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    folder = make_array(identifier)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        store.remove(identifier)
    assert not folder.exists()
    (trashed,) = (tmp_path / "run_1/.trash").iterdir()
    assert (trashed / ".zarray").exists()
    store.empty_trash()
    assert list((tmp_path / "run_1/.trash").iterdir()) == []


def test_container_at_the_base_itself_has_its_trash_there(store: LocalArrayStore, tmp_path: Path) -> None:
    """Containers need not belong to a run."""
    identifier = LocalArrayIdentifier(UPath(tmp_path / "shared.zarr"), "raw")
    folder = make_array(identifier)
    store.remove(identifier)
    assert not folder.exists()
    assert (tmp_path / ".trash").is_dir()


def remove_in_a_process(base: Path, start: Any, count: int) -> None:
    """Remove the same arrays as the others do, at once."""
    logging.basicConfig(level=logging.ERROR)
    store = LocalArrayStore(base)
    for iteration in range(count):
        start.wait()
        store.remove(store.validation_prediction_array("run_1", iteration, "ds"))


def test_processes_that_remove_one_array_at_once_leave_one_record(tmp_path: Path) -> None:
    """One event an array, no errors, nothing left."""
    store, count = LocalArrayStore(tmp_path), 6
    for iteration in range(count):
        make_array(store.validation_prediction_array("run_1", iteration, "ds"))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    workers = [context.Process(target=remove_in_a_process, args=(tmp_path, start, count)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(removal["dataset"] for removal in removals(tmp_path)) == [
        f"{iteration}/ds/prediction" for iteration in range(count)
    ]
    assert not list(tmp_path.glob("run_1/validation.zarr/*/ds/prediction"))
    assert list((tmp_path / "run_1/.trash").iterdir()) == []


def test_removals_are_in_the_views(store: LocalArrayStore, tmp_path: Path) -> None:
    """What was removed can be asked for in SQL."""
    identifier = store.validation_prediction_array("run_1", 20, "ds")
    make_array(identifier)
    store.remove(identifier)
    rows = Base.at(tmp_path).query("SELECT container, dataset, files FROM array_removals").fetchall()
    ((container, dataset, count),) = rows
    assert (container, dataset) == ("run_1/validation.zarr", "20/ds/prediction")
    assert count == len(removals(tmp_path)[0]["listing"])


def test_relative_base_is_resolved_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DACAPO 1: runs_base_dir may be relative."""
    monkeypatch.chdir(tmp_path)
    store = LocalArrayStore("base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.basedir == UPath(tmp_path / "base")
    assert store.snapshot_container("run_1").container == UPath(tmp_path / "base/run_1/snapshot.zarr")


def test_a_base_may_be_opened_read_only(store: LocalArrayStore, tmp_path: Path) -> None:
    """Identifiers as ever; a removal is refused and touches nothing; the base must be there."""
    folder = make_array(store.validation_prediction_array("run_1", 20, "crop"))
    reader = LocalArrayStore(tmp_path, read_only=True)
    identifier = reader.validation_prediction_array("run_1", 20, "crop")
    assert identifier == store.validation_prediction_array("run_1", 20, "crop")
    before = tree(tmp_path)
    for write in (lambda: reader.remove(identifier), reader.empty_trash):
        with pytest.raises(ReadOnlyLogError, match="without read_only=True"):
            write()
    assert folder.is_dir()
    assert tree(tmp_path) == before
    with pytest.raises(LogNotFoundError):
        LocalArrayStore(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
