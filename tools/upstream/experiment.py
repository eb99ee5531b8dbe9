"""A small experiment with DaCapo, as its users write them: data, configs, training, prediction.

Nothing here knows of these stores: which ones DaCapo uses is decided outside, by the environment.
The network learns distances to blobs in noise, on volumes of 36³ voxels, in seconds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import dacapo
import numpy as np
import torch
from dacapo.experiments import Run, RunConfig
from dacapo.experiments.architectures import CNNectomeUNetConfig
from dacapo.experiments.datasplits import TrainValidateDataSplitConfig
from dacapo.experiments.datasplits.datasets import RawGTDatasetConfig
from dacapo.experiments.datasplits.datasets.arrays import ZarrArrayConfig
from dacapo.experiments.tasks import DistanceTaskConfig
from dacapo.experiments.tasks.post_processors import (
    ThresholdPostProcessor,
    ThresholdPostProcessorParameters,
)
from dacapo.experiments.trainers import GunpowderTrainerConfig
from dacapo.store.create_store import create_config_store
from dacapo.train import train_run
from funlib.geometry import Coordinate
from funlib.persistence import prepare_ds
from gunpowder import batch_request
from upath import UPath

NAME: Final = "blobs"
VALIDATION_INTERVAL: Final = 4

_VOXEL_SIZE: Final = Coordinate(4, 4, 4)
_AXES: Final = ["z", "y", "x"]
_EDGE: Final = 36
_RADIUS: Final = 5
_VOLUMES: Final = ("train", "validate_1", "validate_2")


def _thresholds(_: Any) -> Iterator[Any]:
    yield ThresholdPostProcessorParameters(id=1, threshold=-0.1)
    yield ThresholdPostProcessorParameters(id=2, threshold=0.0)


# DaCapo tries one threshold, which is for predictions in bytes; those of a validation are floats.
ThresholdPostProcessor.enumerate_parameters = _thresholds


def make_data(folder: Path) -> None:
    """Write the volumes: noise, brighter inside of balls, and the balls' labels."""
    grid = np.stack(np.meshgrid(*[np.arange(_EDGE)] * 3, indexing="ij"), axis=-1)
    for seed, volume in enumerate(_VOLUMES):
        generator = np.random.default_rng(seed)
        labels = np.zeros((_EDGE,) * 3, np.uint8)
        for center in generator.integers(6, _EDGE - 6, (6, 3)):
            labels[((grid - center) ** 2).sum(axis=-1) < _RADIUS**2] = 1
        raw = generator.normal(80 + 80 * labels, 20).clip(0, 255).astype(np.uint8)
        contents = {"raw": (_AXES, raw), "labels": (_AXES, labels)}
        if volume != "train":
            # Evaluation, unlike training, wants the labels channel by channel; here there is one.
            contents["labels"] = (["c^", *_AXES], labels[np.newaxis])
        for name, (axes, content) in contents.items():
            array = prepare_ds(
                folder / f"{volume}.zarr" / name,
                shape=content.shape,
                voxel_size=_VOXEL_SIZE,
                axis_names=axes,
                dtype=content.dtype,
                mode="w",
            )
            array[array.roi] = content


def run_config(folder: Path, *, iterations: int, name: str = NAME, workers: int = 1) -> Any:
    """The config of a training on the data in a folder; ``workers`` fetch batches in forked processes."""
    return RunConfig(
        name=name,
        task_config=DistanceTaskConfig(
            name="distances", channels=["ball"], clip_distance=40.0, tol_distance=20.0, scale_factor=16.0
        ),
        architecture_config=CNNectomeUNetConfig(
            name="small_unet",
            input_shape=Coordinate(28, 28, 28),
            eval_shape_increase=Coordinate(24, 24, 24),
            fmaps_in=1,
            fmaps_out=4,
            num_fmaps=2,
            fmap_inc_factor=2,
            downsample_factors=[Coordinate(2, 2, 2)],
        ),
        trainer_config=GunpowderTrainerConfig(
            name=f"{workers}_workers", batch_size=1, learning_rate=1e-3, num_data_fetchers=workers
        ),
        datasplit_config=TrainValidateDataSplitConfig(
            name="volumes",
            train_configs=[_dataset(folder, "train")],
            validate_configs=[_dataset(folder, volume) for volume in _VOLUMES[1:]],
        ),
        repetition=0,
        num_iterations=iterations,
        validation_interval=VALIDATION_INTERVAL,
    )


def store_configs(config: Any) -> None:
    """Store a run's config and its parts, one by one, as DaCapo's tutorials do."""
    store = create_config_store()
    store.store_datasplit_config(config.datasplit_config)
    store.store_task_config(config.task_config)
    store.store_architecture_config(config.architecture_config)
    store.store_trainer_config(config.trainer_config)
    store.store_run_config(config)


def train(until: int | None = None, *, name: str = NAME, seed: int = 0, validating: bool = True) -> None:
    """Begin or resume a training, to its end or until an iteration; all that is random is seeded."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that gunpowder uses
    torch.manual_seed(seed)
    # A request without a seed takes the time for one.
    batch_request.time = SimpleNamespace(time=itertools.count(seed).__next__)
    run = Run(create_config_store().retrieve_run_config(name))
    run.train_until = run.train_until if until is None else until
    train_run(run, do_validate=validating)


def predict(data: Path, iteration: int, container: Path, *, name: str = NAME) -> bool:
    """Predict a volume with the weights of an iteration; options say whether by worker processes.

    Returns:
        Whether all blocks were predicted.
    """
    done: bool = dacapo.predict(name, iteration, UPath(data / "validate_1.zarr"), "raw", UPath(container))
    return done


def _dataset(folder: Path, volume: str) -> Any:
    raw, labels = (
        ZarrArrayConfig(name=f"{volume}_{name}", file_name=UPath(folder / f"{volume}.zarr"), dataset=name)
        for name in ("raw", "labels")
    )
    return RawGTDatasetConfig(name=volume, raw_config=raw, gt_config=labels)
