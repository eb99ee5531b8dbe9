"""``import dacapo_store`` is cheap, and every public name can be had from it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

HEAVY = ("torch", "duckdb", "zarr", "pyarrow", "numpy", "yaml", "watchfiles")

STORES = ("FileConfigStore", "FileStatsStore", "LocalWeightsStore", "LocalArrayStore")
INTERFACES = ("ConfigStore", "StatsStore", "WeightsStore", "ArrayStore")
FACTORIES = ("create_config_store", "create_stats_store", "create_weights_store", "create_array_store")
VALUES = (
    "DuplicateNameError",
    "LocalArrayIdentifier",
    "LocalContainerIdentifier",
    "Options",
    "TrainingIterationStats",
    "TrainingStats",
    "ValidationIterationScores",
    "ValidationScores",
    "Base",
    "Weights",
    "compat",
    "converter",
)


def in_a_new_process(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """A process that imports dacapo_store has loaded none of the libraries that take time."""
    code = f"import sys, dacapo_store; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_new_process(code) == "[]"


def test_listing_the_names_loads_nothing_heavy() -> None:
    """``dir()`` and ``__all__`` are answered without importing what stands behind the names."""
    code = f"""
import sys, dacapo_store
dir(dacapo_store), dacapo_store.__all__
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert in_a_new_process(code) == "[]"


def test_how_long_the_import_takes_is_printed() -> None:
    """The time is for people to read (``pytest -s``): a limit would judge the machine."""
    code = "import time; t = time.perf_counter(); import dacapo_store; print(time.perf_counter() - t)"
    seconds = float(in_a_new_process(code))
    print(f"import dacapo_store: {seconds * 1000:.0f} ms")  # noqa: T201 - see the docstring
    assert seconds > 0


@pytest.mark.parametrize("name", STORES + INTERFACES + FACTORIES + VALUES)
def test_public_name_is_importable_from_the_package(name: str) -> None:
    """Each public name is an attribute of dacapo_store and listed in ``__all__``."""
    package = importlib.import_module("dacapo_store")
    assert hasattr(package, name)
    assert name in package.__all__


@pytest.mark.parametrize("name", STORES + FACTORIES)
def test_specified_name_is_importable_from_create_store(name: str) -> None:
    """The specification's own module path has the stores and their factories."""
    assert hasattr(importlib.import_module("dacapo_store.create_store"), name)


def test_unknown_name_is_an_attribute_error() -> None:
    """The lazy module answers for a name it does not have as any module does."""
    package = importlib.import_module("dacapo_store")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
