"""What an array store does, on these stores in DaCapo's place and on DaCapo's local store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr
from dacapo.experiments.tasks.post_processors import ThresholdPostProcessorParameters
from dacapo.store.array_store import ArrayStore, LocalArrayIdentifier, LocalContainerIdentifier
from upath import UPath


class Dataset:
    """Something that a store only ever makes text of."""

    def __str__(self) -> str:
        return "ds_crop"


def test_it_is_an_array_store(stores: Any) -> None:
    assert isinstance(stores.arrays(), ArrayStore)
    assert str(stores.arrays().basedir) == str(stores.base)


def test_containers(stores: Any) -> None:
    """Of DaCapo's own class, their place a universal path; and nothing is made."""
    arrays = stores.arrays()
    for container, name in (
        (arrays.snapshot_container("run"), "snapshot.zarr"),
        (arrays.validation_container("run"), "validation.zarr"),
    ):
        assert type(container) is LocalContainerIdentifier
        assert isinstance(container.container, UPath)
        assert str(container.container) == str(stores.base / "run" / name)
    assert arrays.snapshot_container("run").array_identifier("raw") == LocalArrayIdentifier(
        UPath(stores.base / "run" / "snapshot.zarr"), "raw"
    )
    assert not (stores.base / "run").exists()


def test_arrays(stores: Any) -> None:
    """Of DaCapo's own class; datasets and parameters are objects, and their text is part of the path."""
    arrays = stores.arrays()
    parameters = ThresholdPostProcessorParameters(id=1, threshold=0.5)
    identifiers = [
        (arrays.validation_prediction_array("run", 4, Dataset()), "4/ds_crop/prediction"),
        (arrays.validation_output_array("run", 4, parameters, Dataset()), "4/ds_crop/output/threshold_0.5"),
        (arrays.validation_input_arrays("run")[0], "inputs/raw"),
        (arrays.validation_input_arrays("run")[1], "inputs/gt"),
        (arrays.validation_input_arrays("run", "crop")[0], "inputs/crop/raw"),
        (arrays.validation_input_arrays("run", "crop")[1], "inputs/crop/gt"),
        (arrays.best_validation_array("run", "dice"), "dice"),
        (arrays.best_validation_array("run", "dice", index="crop"), "crop/dice"),
    ]
    for identifier, dataset in identifiers:
        assert type(identifier) is LocalArrayIdentifier
        assert str(identifier.container) == str(stores.base / "run" / "validation.zarr")
        assert identifier.dataset == dataset
    assert not (stores.base / "run").exists()


@pytest.fixture
def prediction(stores: Any) -> Any:
    """The identifier of an array that exists, with another one beside it."""
    identifier = stores.arrays().validation_prediction_array("run", 4, "crop")
    group = zarr.open(str(identifier.container), "a")
    group[identifier.dataset] = [1.0, 2.0]
    group["other"] = [3.0]
    return identifier


def test_a_removed_array_is_gone_and_its_neighbour_is_not(stores: Any, prediction: Any) -> None:
    stores.arrays().remove(prediction)
    group = zarr.open(str(prediction.container), "r")
    assert prediction.dataset not in group
    assert group["other"][:].tolist() == [3.0]


def test_removing_what_is_not_there_is_a_warning(
    stores: Any, prediction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stores.arrays().remove(LocalArrayIdentifier(prediction.container, "nowhere"))
    assert any("nowhere" in record.getMessage() for record in caplog.records)


@pytest.mark.defect("an AssertionError where the text says ValueError, and none at all under python -O")
def test_only_zarr_containers_are_touched(stores: Any, tmp_path: Path) -> None:
    container = stores.base / "run" / "photos"
    (container / "holiday").mkdir(parents=True)
    with pytest.raises(ValueError, match="zarr"):
        stores.arrays().remove(LocalArrayIdentifier(UPath(container), "holiday"))
    assert (container / "holiday").is_dir()


@pytest.mark.defect("it deletes the container, the run's checkpoints, a sibling")
@pytest.mark.parametrize("dataset", ["", ".", "..", "../checkpoints", "../../other"])
def test_nothing_outside_of_a_container_is_removed(stores: Any, prediction: Any, dataset: str) -> None:
    for folder in ("run/checkpoints", "other"):
        (stores.base / folder).mkdir(parents=True)
    before = sorted(stores.base.glob("*/*"))
    with pytest.raises(ValueError, match="dataset"):
        stores.arrays().remove(LocalArrayIdentifier(prediction.container, dataset))
    assert sorted(stores.base.glob("*/*")) == before
    assert "other" in zarr.open(str(prediction.container), "r")
