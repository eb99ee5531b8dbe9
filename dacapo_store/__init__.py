"""DaCapo's stores over an append-only event log: configs, stats and scores, weights, arrays.

Start with ``create_config_store``, ``create_stats_store``, ``create_weights_store`` and
``create_array_store``, or with the store classes and a path.

``open`` gives one object for a base: SQL, the past, who changed what, and undoing mistakes.

Every public name can be imported from here and is loaded when it is first used: importing this
package loads neither torch nor zarr nor DuckDB, nor anything else that takes time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dacapo_store import compat, converter
    from dacapo_store.array_store import (
        ArrayStore,
        LocalArrayIdentifier,
        LocalArrayStore,
        LocalContainerIdentifier,
    )
    from dacapo_store.background import Pending
    from dacapo_store.base import Base
    from dacapo_store.citation import Citation
    from dacapo_store.config_store import ConfigStore, DuplicateNameError, FileConfigStore
    from dacapo_store.converter import ConversionError, TypeNameError, UnknownTypeError
    from dacapo_store.corrections import Correction
    from dacapo_store.create_store import (
        create_array_store,
        create_config_store,
        create_stats_store,
        create_weights_store,
    )
    from dacapo_store.errors import (
        ConfigMissingError,
        DaCapoStoreError,
        DamagedArtifactError,
        MissingError,
        NotImportedError,
        UnimportedDatabaseError,
        WeightsMissingError,
    )
    from dacapo_store.mongo_stores import MongoConfigStore, MongoStatsStore
    from dacapo_store.options import Options
    from dacapo_store.provenance import set_actor
    from dacapo_store.replay import ReplayReceipt
    from dacapo_store.scalar_logger import ScalarLogger
    from dacapo_store.stats_store import FileStatsStore, StatsStore
    from dacapo_store.store import Store, open, sql  # noqa: A004 - used as dacapo_store.open
    from dacapo_store.training_iteration_stats import TrainingIterationStats
    from dacapo_store.training_stats import TrainingStats
    from dacapo_store.validation_scores import ValidationIterationScores, ValidationScores
    from dacapo_store.weights_file import Weights, WeightsUnsafeError
    from dacapo_store.weights_store import LocalWeightsStore, WeightsStore

__all__ = [
    "ArrayStore",
    "Base",
    "Citation",
    "ConfigMissingError",
    "ConfigStore",
    "ConversionError",
    "Correction",
    "DaCapoStoreError",
    "DamagedArtifactError",
    "DuplicateNameError",
    "FileConfigStore",
    "FileStatsStore",
    "LocalArrayIdentifier",
    "LocalArrayStore",
    "LocalContainerIdentifier",
    "LocalWeightsStore",
    "MissingError",
    "MongoConfigStore",
    "MongoStatsStore",
    "NotImportedError",
    "Options",
    "Pending",
    "ReplayReceipt",
    "ScalarLogger",
    "StatsStore",
    "Store",
    "TrainingIterationStats",
    "TrainingStats",
    "TypeNameError",
    "UnimportedDatabaseError",
    "UnknownTypeError",
    "ValidationIterationScores",
    "ValidationScores",
    "Weights",
    "WeightsMissingError",
    "WeightsStore",
    "WeightsUnsafeError",
    "compat",
    "converter",
    "create_array_store",
    "create_config_store",
    "create_stats_store",
    "create_weights_store",
    "open",
    "set_actor",
    "sql",
]

_NAMES_BY_MODULE = {
    "array_store": ("ArrayStore", "LocalArrayIdentifier", "LocalArrayStore", "LocalContainerIdentifier"),
    "background": ("Pending",),
    "base": ("Base",),
    "config_store": ("ConfigStore", "DuplicateNameError", "FileConfigStore"),
    "converter": ("ConversionError", "TypeNameError", "UnknownTypeError"),
    "create_store": (
        "create_array_store",
        "create_config_store",
        "create_stats_store",
        "create_weights_store",
    ),
    "errors": (
        "ConfigMissingError",
        "DaCapoStoreError",
        "DamagedArtifactError",
        "MissingError",
        "NotImportedError",
        "UnimportedDatabaseError",
        "WeightsMissingError",
    ),
    "mongo_stores": ("MongoConfigStore", "MongoStatsStore"),
    "options": ("Options",),
    "provenance": ("set_actor",),
    "scalar_logger": ("ScalarLogger",),
    "citation": ("Citation",),
    "corrections": ("Correction",),
    "replay": ("ReplayReceipt",),
    "store": ("Store", "open", "sql"),
    "stats_store": ("FileStatsStore", "StatsStore"),
    "training_iteration_stats": ("TrainingIterationStats",),
    "training_stats": ("TrainingStats",),
    "validation_scores": ("ValidationIterationScores", "ValidationScores"),
    "weights_file": ("Weights", "WeightsUnsafeError"),
    "weights_store": ("LocalWeightsStore", "WeightsStore"),
}
_MODULES_THEMSELVES = ("compat", "converter")
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES_THEMSELVES:
        return importlib.import_module(f"dacapo_store.{name}")
    if name in _MODULES:
        value = getattr(importlib.import_module(f"dacapo_store.{_MODULES[name]}"), name)
        globals()[name] = value  # the next use finds it without coming here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
