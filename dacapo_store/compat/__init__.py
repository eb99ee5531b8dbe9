"""Putting these stores into DaCapo, without a change to DaCapo or to a training script.

``install()``, or the environment variable ``DACAPO_STORE_COMPAT=1`` in which a process starts, makes
DaCapo use the stores of this package wherever it creates one. Its own classes stand at the border:
configs go through its converter, and what comes back are its stats, scores, weights and identifiers.
``dacapo.yaml`` says where, as before. ``uninstall()`` makes DaCapo create its own stores again.

Importing this package imports nothing of DaCapo, and so does ``install()``: DaCapo's stores are
replaced when DaCapo is imported. Why it is done in this way: docs/decisions/0015-drop-in.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Final

from dacapo_store.compat import switch
from dacapo_store.compat.switch import UnsupportedDaCapoError

__all__ = ["VARIABLE", "UnsupportedDaCapoError", "at_start", "install", "installed", "uninstall"]

VARIABLE: Final = "DACAPO_STORE_COMPAT"
"""The environment variable; unset, empty, ``0``, ``no``, ``off`` and ``false`` switch nothing on."""

_OFF: Final = frozenset({"", "0", "no", "off", "false"})


def install() -> None:
    """Make DaCapo use these stores, in this process and in those that it starts from now on.

    It does not matter whether DaCapo is imported already, and who holds its functions by then. Stores
    that were created before stay what they are. Installing twice is installing once. Processes that
    are started inherit ``DACAPO_STORE_COMPAT=1``: DaCapo's workers use the same stores.

    Raises:
        ModuleNotFoundError: DaCapo is not installed here: install dacapo-ml.
        UnsupportedDaCapoError: DaCapo creates its stores in another way than the versions known
            here, and nothing was changed.
    """
    if "dacapo" not in sys.modules and importlib.util.find_spec("dacapo") is None:
        raise ModuleNotFoundError("DaCapo is not installed: pip install dacapo-ml", name="dacapo")
    switch.on()
    os.environ[VARIABLE] = "1"


def uninstall() -> None:
    """Make DaCapo create its own stores again, in this process and in those that it starts.

    Stores that were created before stay what they are. Where nothing is installed nothing happens.
    """
    switch.off()
    os.environ.pop(VARIABLE, None)


def installed() -> bool:
    """Tell whether DaCapo, once it is imported, creates these stores in this process."""
    return switch.is_on()


def at_start() -> None:
    """Install if the environment says so; ``dacapo_store_compat.pth`` calls this in each new process."""
    if os.environ.get(VARIABLE, "").lower() not in _OFF:
        switch.on()
