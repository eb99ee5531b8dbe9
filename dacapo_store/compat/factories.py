"""What DaCapo's functions of these names do while the stores of this package are installed.

Only the code of these functions is used, inside DaCapo's own function objects: it finds the names of
DaCapo's module around it and none of this one, so each function imports what it needs.
"""

from __future__ import annotations

from typing import Any


def create_config_store() -> Any:
    """The config store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoConfigStore(stores.base_directory() / "configs")


def create_stats_store() -> Any:
    """The stats store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoStatsStore(stores.base_directory() / "stats")


def create_weights_store() -> Any:
    """The weights store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoWeightsStore(stores.base_directory())


def create_array_store() -> Any:
    """The array store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoArrayStore(stores.base_directory())
