"""The four stores that the options ask for, as DaCapo makes them.

Options are read again on each call, like DaCapo's, unless they are given. A relative base directory
is resolved when the store is made: a later change of the working directory moves no history.

The names of the store classes can be imported from here, as from DaCapo's module of this name;
they are loaded on first use, so that a program that keeps no weights never loads torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.options import KNOWN_STORE_TYPES, Options

if TYPE_CHECKING:
    from dacapo_store.array_store import ArrayStore, LocalArrayStore
    from dacapo_store.config_store import ConfigStore, FileConfigStore
    from dacapo_store.mongo_stores import MongoConfigStore, MongoStatsStore
    from dacapo_store.stats_store import FileStatsStore, StatsStore
    from dacapo_store.weights_store import LocalWeightsStore, WeightsStore

__all__ = [
    "FileConfigStore",
    "FileStatsStore",
    "LocalArrayStore",
    "LocalWeightsStore",
    "MongoConfigStore",
    "MongoStatsStore",
    "create_array_store",
    "create_config_store",
    "create_stats_store",
    "create_weights_store",
]

_MODULES: Final = {
    "FileConfigStore": "dacapo_store.config_store",
    "FileStatsStore": "dacapo_store.stats_store",
    "LocalArrayStore": "dacapo_store.array_store",
    "LocalWeightsStore": "dacapo_store.weights_store",
    "MongoConfigStore": "dacapo_store.mongo_stores",
    "MongoStatsStore": "dacapo_store.mongo_stores",
}


def create_config_store(options: Options | None = None) -> ConfigStore:
    """Make the config store that the options ask for.

    Args:
        options: Where and how to store; None reads ``dacapo.yaml``.

    Raises:
        ValueError: The options' ``type`` is not one that is known here; the text lists those.
    """
    options = Options.instance() if options is None else options
    base = _base_directory(options)
    if options.type == "mongo":
        from dacapo_store.mongo_stores import MongoConfigStore

        return MongoConfigStore(*_database(options), files=options.runs_base_dir)
    from dacapo_store.config_store import FileConfigStore

    return FileConfigStore(_in(base, "configs"))


def create_stats_store(options: Options | None = None) -> StatsStore:
    """Make the stats store that the options ask for.

    Args:
        options: Where and how to store; None reads ``dacapo.yaml``.

    Raises:
        ValueError: The options' ``type`` is not one that is known here; the text lists those.
    """
    options = Options.instance() if options is None else options
    base = _base_directory(options)
    if options.type == "mongo":
        from dacapo_store.mongo_stores import MongoStatsStore

        return MongoStatsStore(*_database(options), files=options.runs_base_dir)
    from dacapo_store.stats_store import FileStatsStore

    return FileStatsStore(_in(base, "stats"))


def create_weights_store(options: Options | None = None) -> WeightsStore:
    """Make the weights store that the options ask for.

    Args:
        options: Where and how to store; None reads ``dacapo.yaml``.

    Raises:
        ValueError: The options' ``type`` is not one that is known here; the text lists those.
    """
    base = _base_directory(options)
    from dacapo_store.weights_store import LocalWeightsStore

    return LocalWeightsStore(base)


def create_array_store(options: Options | None = None) -> ArrayStore:
    """Make the array store that the options ask for.

    Args:
        options: Where and how to store; None reads ``dacapo.yaml``.

    Raises:
        ValueError: The options' ``type`` is not one that is known here; the text lists those.
    """
    base = _base_directory(options)
    from dacapo_store.array_store import LocalArrayStore

    return LocalArrayStore(base)


def _base_directory(options: Options | None) -> Path | str:
    options = Options.instance() if options is None else options
    if options.type in KNOWN_STORE_TYPES:
        return options.base_path
    known = ", ".join(map(repr, KNOWN_STORE_TYPES))
    raise ValueError(f"unknown store type {options.type!r}; this version knows {known}")


def _database(options: Options) -> tuple[str, str]:
    return options.mongo_db_host or "", options.mongo_db_name or ""


def _in(base: Path | str, name: str) -> Path | str:
    if isinstance(base, Path):
        return base / name
    from dacapo_store.location import Location

    return Location.of(base).inside(name)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
