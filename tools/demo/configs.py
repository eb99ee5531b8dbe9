"""The configs of the demo: plain dataclasses, registered so that the store gives them back typed.

They stand where DaCapo's own config classes would: a run names a task, an architecture, a trainer
and a datasplit, each a config of its own that several runs share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dacapo_store import DuplicateNameError, converter, create_config_store

if TYPE_CHECKING:
    from dacapo_store import ConfigStore, Options


@converter.register
@dataclass(frozen=True)
class SegmentationTaskConfig:
    """What is to be found, at which thresholds, and how a result is judged."""

    name: str
    thresholds: tuple[float, ...]
    criteria: tuple[str, ...]


@converter.register
@dataclass(frozen=True)
class UNetConfig:
    """The network: ``width`` feature maps at full resolution."""

    name: str
    width: int


@converter.register
@dataclass(frozen=True)
class OptimizerConfig:
    """How a network is trained."""

    name: str
    optimizer: str
    learning_rate: float
    batch_size: int = 4
    crop_edge_pixels: int = 80


@converter.register
@dataclass(frozen=True)
class FieldsConfig:
    """Which fields of the micrograph are for training and which for validation."""

    name: str
    train: str
    validate: tuple[str, ...]


@converter.register
@dataclass(frozen=True)
class RunConfig:
    """One training: its four parts, how long it goes, and how often it is validated."""

    name: str
    task_config: SegmentationTaskConfig
    architecture_config: UNetConfig
    trainer_config: OptimizerConfig
    datasplit_config: FieldsConfig
    num_iterations: int
    validation_interval: int
    stats_interval: int = 10
    seed: int = 7


TASK: Final = SegmentationTaskConfig(
    "glands", thresholds=(0.3, 0.5, 0.7), criteria=("dice", "jaccard", "voi")
)
FIELDS: Final = FieldsConfig("colon", train="upper", validate=("crypt", "gland"))
NARROW: Final = UNetConfig("unet_6", width=6)
WIDE: Final = UNetConfig("unet_12", width=12)
ADAM: Final = OptimizerConfig("adam", optimizer="adam", learning_rate=1e-3)
SGD: Final = OptimizerConfig("sgd", optimizer="sgd", learning_rate=1e-2)
SGD_MISTYPED: Final = OptimizerConfig("sgd", optimizer="sgd", learning_rate=1e2)


def run_configs(num_iterations: int) -> list[RunConfig]:
    """The three runs: a small and a large network with Adam, and the small one with SGD."""
    settings = {"narrow_adam": (NARROW, ADAM), "wide_adam": (WIDE, ADAM), "narrow_sgd": (NARROW, SGD)}
    return [
        RunConfig(
            name=name,
            task_config=TASK,
            architecture_config=architecture,
            trainer_config=trainer,
            datasplit_config=FIELDS,
            num_iterations=num_iterations,
            validation_interval=num_iterations // 8,
        )
        for name, (architecture, trainer) in settings.items()
    ]


def store_configs(options: Options, runs: list[RunConfig]) -> str:
    """Store all configs as somebody does who mistypes one first.

    Returns:
        What the store said when the corrected trainer was stored over the mistyped one.
    """
    store = create_config_store(options)
    store.store_trainer_config(SGD_MISTYPED)
    refusal = _refusal(store)
    store.delete_trainer_config(SGD.name)
    store.store_trainer_config(SGD)
    for run in runs:
        store.store_run_config(run)  # its parts are stored with it
    return refusal


def _refusal(store: ConfigStore) -> str:
    try:
        store.store_trainer_config(SGD)
    except DuplicateNameError as error:
        return str(error)
    raise AssertionError("the store took a second, different config of one name")
