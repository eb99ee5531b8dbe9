"""What DaCapo's functions of these names do while the stores of this package are installed.

Only the code of these functions is used, inside DaCapo's own function objects: it finds the names of
DaCapo's module around it and none of this one, so each function imports what it needs.
"""

from __future__ import annotations

from typing import Any


def create_config_store() -> Any:
    """The config store that DaCapo's options ask for."""
    from dacapo_store.compat import stores

    return stores.config_store_of_options()


def create_stats_store() -> Any:
    """The stats store that DaCapo's options ask for."""
    from dacapo_store.compat import stores

    return stores.stats_store_of_options()


def create_weights_store() -> Any:
    """The weights store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoWeightsStore(stores.base_of_options())


def create_array_store() -> Any:
    """The array store of the base directory that DaCapo's options name."""
    from dacapo_store.compat import stores

    return stores.DaCapoArrayStore(stores.base_of_options())
