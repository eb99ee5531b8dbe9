"""Run configs of the usual size, about 12 kB of YAML: DaCapo's classes, or stand-ins of the same fields.

DaCapo's store takes DaCapo's classes only, so in its environment both sides get those. Elsewhere ours
gets dataclasses with the same names, fields and nesting.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, Final

_TASKS: Final = 10

_FIELDS: Final = {
    "RunConfig": "name task_config architecture_config trainer_config datasplit_config repetition "
    "num_iterations validation_interval",
    "DistanceTaskConfig": "name channels clip_distance tol_distance scale_factor mask_distances",
    "CNNectomeUNetConfig": "name input_shape eval_shape_increase fmaps_in num_fmaps fmaps_out "
    "fmap_inc_factor downsample_factors kernel_size_down kernel_size_up upsample_factors constant_upsample",
    "GunpowderTrainerConfig": "name batch_size learning_rate augments num_data_fetchers snapshot_interval "
    "min_masked clip_raw",
    "ElasticAugmentConfig": "control_point_spacing control_point_displacement_sigma rotation_interval "
    "subsample uniform_3d_rotation",
    "IntensityAugmentConfig": "scale shift clip",
    "TrainValidateDataSplitConfig": "name train_configs validate_configs",
    "RawGTDatasetConfig": "name weight raw_config gt_config mask_config",
    "IntensitiesArrayConfig": "name source_array_config min max",
    "ResampledArrayConfig": "name source_array_config upsample downsample interp_order",
    "ZarrArrayConfig": "name file_name dataset snap_to_grid axes",
}


def stand_ins() -> Any:
    """Dataclasses that stand for DaCapo's, and tuples and paths for its coordinates and paths."""
    from dacapo_store import converter

    # Their documents call them by another name: somebody else's of the same process may have this one.
    classes = {
        name: converter.register(
            make_dataclass(name, [(field, Any, None) for field in fields.split()]), name=f"StandInFor{name}"
        )
        for name, fields in _FIELDS.items()
    }
    return SimpleNamespace(**classes, Coordinate=lambda *numbers: tuple(numbers), Path=PurePosixPath)


def dacapo_classes() -> Any:
    """DaCapo's own."""
    from dacapo.experiments import RunConfig
    from dacapo.store import conversion_hooks

    return SimpleNamespace(
        RunConfig=RunConfig,
        Coordinate=conversion_hooks.Coordinate,
        Path=conversion_hooks.Path,
        **{name: getattr(conversion_hooks, name) for name in _FIELDS if name != "RunConfig"},
    )


def task_name(number: int) -> str:
    """The name of the task that a run has."""
    return f"distances_{number % _TASKS}"


def run_config(classes: Any, number: int) -> Any:
    """A run; runs share tasks, architecture and trainer, and each has a datasplit of its own."""
    return classes.RunConfig(
        name=f"run_{number:05d}",
        task_config=_task(classes, number % _TASKS),
        architecture_config=_architecture(classes),
        trainer_config=_trainer(classes),
        datasplit_config=classes.TrainValidateDataSplitConfig(
            name=f"datasplit_{number:05d}",
            train_configs=[_dataset(classes, f"train_{number:05d}_{n}", number) for n in range(4)],
            validate_configs=[_dataset(classes, f"validate_{number:05d}_{n}", number) for n in range(1)],
        ),
        repetition=0,
        num_iterations=200_000,
        validation_interval=2000,
    )


def _task(classes: Any, number: int) -> Any:
    return classes.DistanceTaskConfig(
        name=task_name(number),
        channels=[f"organelle_{n}" for n in range(14)],
        clip_distance=80.0,
        tol_distance=80.0,
        scale_factor=160.0,
        mask_distances=True,
    )


def _architecture(classes: Any) -> Any:
    threes = [classes.Coordinate(3, 3, 3)] * 2
    return classes.CNNectomeUNetConfig(
        name="unet",
        input_shape=classes.Coordinate(216, 216, 216),
        eval_shape_increase=classes.Coordinate(72, 72, 72),
        fmaps_in=1,
        num_fmaps=12,
        fmaps_out=72,
        fmap_inc_factor=6,
        downsample_factors=[
            classes.Coordinate(2, 2, 2),
            classes.Coordinate(3, 3, 3),
            classes.Coordinate(3, 3, 3),
        ],
        kernel_size_down=[threes] * 4,
        kernel_size_up=[threes] * 3,
        upsample_factors=[classes.Coordinate(2, 2, 2)],
        constant_upsample=True,
    )


def _trainer(classes: Any) -> Any:
    return classes.GunpowderTrainerConfig(
        name="gunpowder",
        batch_size=2,
        learning_rate=1e-4,
        augments=[
            classes.ElasticAugmentConfig(
                control_point_spacing=[100, 100, 100],
                control_point_displacement_sigma=[10.0, 10.0, 10.0],
                rotation_interval=(0.0, 1.5707963267948966),
                subsample=8,
                uniform_3d_rotation=True,
            ),
            classes.IntensityAugmentConfig(scale=(0.7, 1.3), shift=(-0.2, 0.2), clip=True),
        ],
        num_data_fetchers=20,
        snapshot_interval=5000,
        min_masked=0.05,
        clip_raw=True,
    )


def _dataset(classes: Any, name: str, number: int) -> Any:
    return classes.RawGTDatasetConfig(
        name=name,
        weight=1,
        raw_config=classes.IntensitiesArrayConfig(
            name=f"{name}_raw_intensities",
            source_array_config=_array(classes, name, "raw", number),
            min=0.0,
            max=255.0,
        ),
        gt_config=_array(classes, name, "labels", number),
        mask_config=_array(classes, name, "mask", number),
    )


def _array(classes: Any, name: str, dataset: str, number: int) -> Any:
    return classes.ResampledArrayConfig(
        name=f"{name}_{dataset}_resampled",
        source_array_config=classes.ZarrArrayConfig(
            name=f"{name}_{dataset}",
            file_name=classes.Path(f"/groups/lab/data/volume_{number:05d}/{name}.zarr"),
            dataset=f"recon-1/{dataset}/s1",
            snap_to_grid=classes.Coordinate(16, 16, 16),
            axes=["z", "y", "x"],
        ),
        upsample=classes.Coordinate(2, 2, 2),
        downsample=classes.Coordinate(1, 1, 1),
        interp_order=False,
    )
