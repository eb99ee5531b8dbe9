"""Arrays in a bucket: identifiers that zarr opens, and removals that stay on record. Served by moto."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import zarr
from upath import UPath

from dacapo_store import bucket_paths
from dacapo_store.array_store import LocalArrayIdentifier, LocalArrayStore, LocalContainerIdentifier
from dacapo_store.base import Base
from dacapo_store.bucket_arrays import RemovalNotes
from dacapo_store.maintenance import collect_garbage
from eventstore import open_bucket

pytest.importorskip("s3fs")

IS_ZARR_2 = zarr.__version__.startswith("2")


@pytest.fixture
def store(address: str) -> LocalArrayStore:
    """The array store of the base."""
    return LocalArrayStore(address)


def opened(container: UPath, dataset: str, mode: Any = "a", **more: Any) -> Any:
    """An array of a container, opened by zarr as its text and its options."""
    options = dict(container.storage_options)
    return zarr.open(f"{container}/{dataset}", mode=mode, storage_options=options, **more)


def make_array(identifier: LocalArrayIdentifier, fill: float = 1.0) -> np.ndarray[Any, Any]:
    """An array of six by four in chunks of four by four; what is in it."""
    options: dict[str, Any] = {"shape": (6, 4), "chunks": (4, 4), "dtype": "float32"}
    content = np.arange(24, dtype="float32").reshape(6, 4) * fill
    opened(identifier.container, identifier.dataset, "w", **options)[:] = content
    return content


def removals(address: str, container: str = "run_1/validation.zarr") -> list[dict[str, Any]]:
    """The data of the removals on record."""
    return [event.data for event in Base.at(address).log.read_stream(f"arrays/{container}")]


def test_identifiers_are_paths_in_the_bucket(store: LocalArrayStore, address: str, endpoint: str) -> None:
    """They are those of a folder, with what fsspec needs to know of the bucket."""
    place = address.partition("?")[0]
    container = store.snapshot_container("run_1").container
    assert str(container) == f"{place}/run_1/snapshot.zarr"
    assert container.storage_options["endpoint_url"] == endpoint
    prediction = store.validation_prediction_array("run_1", 7, "crop #3 (50%)")
    assert str(prediction) == f"{place}/run_1/validation.zarr/7/crop #3 (50%)/prediction"


def test_zarr_writes_and_reads_what_they_name(store: LocalArrayStore, address: str) -> None:
    identifier = store.validation_prediction_array("run_1", 7, "crop #3 (50%)")
    content = make_array(identifier)
    again = LocalArrayStore(address, read_only=True).validation_prediction_array("run_1", 7, "crop #3 (50%)")
    assert np.array_equal(opened(again.container, again.dataset, "r")[:], content)
    assert (again.container / again.dataset).exists()


def test_zarr_opens_the_path_itself(store: LocalArrayStore) -> None:
    """As what fsspec makes of it, in which its options are."""
    container: Any = store.snapshot_container("run_1").container
    group = zarr.open_group(container.fs.get_mapper(container.path), mode="a")
    make = group.create_dataset if IS_ZARR_2 else group.create_array
    make("10", shape=(3,), chunks=(3,), dtype="uint8")[:] = [1, 2, 3]
    assert list(opened(container, "10", "r")[:]) == [1, 2, 3]


def test_the_text_is_enough_where_the_environment_says_the_rest(
    store: LocalArrayStore, endpoint: str
) -> None:
    """DaCapo's own code opens an array by its text."""
    identifier = store.validation_prediction_array("run_1", 7, "crop")
    make_array(identifier)
    program = "import sys, zarr; print(zarr.open(sys.argv[1], mode='r')[:].sum())"
    total = subprocess.check_output(
        [sys.executable, "-c", program, str(identifier)], env={**os.environ, "AWS_ENDPOINT_URL": endpoint}
    )
    assert float(total) == 276


def test_a_removed_array_is_on_record_and_gone(store: LocalArrayStore, address: str) -> None:
    """What it was is known; its neighbour, whose name begins alike, stays."""
    identifier = store.validation_prediction_array("run_1", 7, "crop")
    neighbour = LocalArrayIdentifier(identifier.container, "7/crop/prediction_2")
    make_array(identifier)
    make_array(neighbour)
    store.remove(identifier)
    (removal,) = removals(address)
    assert removal["container"] == "run_1/validation.zarr"
    assert removal["dataset"] == "7/crop/prediction"
    assert (removal["shape"], removal["dtype"], removal["chunks"]) == ([6, 4], "float32", [4, 4])
    assert removal["bytes"] == sum(size for _, size in removal["listing"])
    assert len(removal["listing"]) >= 3
    names = [file.name for file in open_bucket(address).files("run_1")]
    assert names
    assert all(name.startswith("run_1/validation.zarr/7/crop/prediction_2/") for name in names)


def test_a_group_is_removed_with_all_that_is_in_it(store: LocalArrayStore, address: str) -> None:
    make_array(store.validation_prediction_array("run_1", 7, "crop"))
    store.remove(LocalArrayIdentifier(store.validation_container("run_1").container, "7"))
    (removal,) = removals(address)
    assert removal["shape"] is None
    assert open_bucket(address).files("run_1") == []


def test_an_absent_array_is_a_warning(
    store: LocalArrayStore, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store.remove(store.validation_prediction_array("run_1", 7, "crop"))
    assert "does not exist" in caplog.text
    assert removals(address) == []


@pytest.mark.parametrize("step", ["event", "note", "first", "all"])
@pytest.mark.parametrize("way", ["removed again", "gc", "trash"])
def test_a_removal_that_was_cut_short_goes_on(
    store: LocalArrayStore, address: str, step: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one event, whichever step it was cut behind; nothing is left."""
    identifier = store.validation_prediction_array("run_1", 7, "crop")
    make_array(identifier)
    bucket = Base.at(address).payload_place.bucket
    assert bucket is not None
    put, delete, deletions = bucket.put, bucket.delete, itertools.count()

    def put_until(*arguments: Any) -> None:
        if step == "event":
            raise KeyboardInterrupt
        put(*arguments)

    def delete_until(names: Any) -> None:
        if next(deletions) == ("note", "first", "all").index(step):
            raise KeyboardInterrupt
        delete(names)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", put_until)
        patch.setattr(bucket, "delete", delete_until)
        with pytest.raises(KeyboardInterrupt):
            store.remove(identifier)
    assert open_bucket(address).files("run_1") != []
    if way == "removed again" or step == "event":
        store.remove(identifier)
    elif way == "gc":
        assert [each.kind for each in collect_garbage(address).garbage] == ["trash"]
    else:
        store.empty_trash()
    assert open_bucket(address).files("run_1") == []
    assert len(removals(address)) == 1


def test_what_was_written_since_stays(
    store: LocalArrayStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal that was cut short does not take the next array of the name away."""
    identifier = store.validation_prediction_array("run_1", 7, "crop")
    make_array(identifier)
    with monkeypatch.context() as patch:
        patch.setattr(RemovalNotes, "carry_out", lambda *_: None)
        store.remove(identifier)
    time.sleep(1.1)  # the store tells times by the second, and an array's metadata are the same again
    again = make_array(identifier, fill=2.0)
    store.empty_trash()
    assert np.array_equal(opened(identifier.container, identifier.dataset, "r")[:], again)
    store.remove(identifier)
    assert len(removals(address)) == 2


def test_a_note_that_cannot_be_read_stays(
    store: LocalArrayStore, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = open_bucket(address)
    bucket.put("run_1/.trash/0.json", b"{")
    with caplog.at_level(logging.WARNING):
        store.empty_trash()
    assert "cannot be read and stays" in caplog.text
    assert [file.name for file in bucket.files("run_1")] == ["run_1/.trash/0.json"]


@pytest.mark.parametrize(
    "container",
    ["s3://bucket/other/run_1/validation.zarr", "s3://elsewhere/run.zarr", "/data/run_1/validation.zarr"],
)
def test_containers_elsewhere_are_refused(store: LocalArrayStore, container: str) -> None:
    with pytest.raises(ValueError, match="lies outside the base"):
        store.remove(LocalArrayIdentifier(UPath(container), "raw"))


def test_only_arrays_are_removed(store: LocalArrayStore, address: str) -> None:
    make_array(store.validation_prediction_array("run_1", 7, "crop"))
    container = store.validation_container("run_1").container
    for dataset in ("", "..", "../snapshot.zarr", "a//b"):
        with pytest.raises(ValueError, match="does not name an array"):
            store.remove(LocalArrayIdentifier(container, dataset))
    with pytest.raises(ValueError, match=r"does not end in '\.zarr'"):
        store.remove(LocalArrayIdentifier(container.parent, "checkpoints"))
    assert removals(address) == []


def test_a_missing_package_is_told_with_the_first_identifier(
    store: LocalArrayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_paths.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dacapo-store\[objects\]'"):
        store.snapshot_container("run_1")


def test_the_events_are_those_of_any_base(store: LocalArrayStore, address: str) -> None:
    """The listing is a list of lists, in the order of the paths, and its digest vouches for it."""
    make_array(store.validation_prediction_array("run_1", 7, "crop"))
    store.remove(store.validation_prediction_array("run_1", 7, "crop"))
    (removal,) = removals(address)
    assert removal["listing"] == sorted(removal["listing"])
    listing = json.dumps(removal["listing"], separators=(",", ":")).encode()
    assert removal["listing_digest"] == hashlib.sha256(listing).hexdigest()


def test_containers_are_compared_by_what_they_name(store: LocalArrayStore) -> None:
    assert store.snapshot_container("run_1") == LocalContainerIdentifier(
        store.basedir / "run_1/snapshot.zarr"
    )
