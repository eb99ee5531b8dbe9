"""Names of runs: data in events, but folders for weights and arrays. What may be one is decided here."""

from __future__ import annotations

from typing import Any

RESERVED_RUN_NAMES = frozenset({"configs", "stats", "events", "views"})
_NAME_BYTES_MAX = 255


def run_name_of(run: Any) -> str:
    """The name of a run that is given as its name or as an object with a ``name``.

    Raises:
        ValueError: It is neither, or the name is empty.
    """
    name = run if isinstance(run, str) else getattr(run, "name", None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"a run is given by its name or by an object with a name, not by {run!r}")
    return name


def validate_run_name(name: str) -> str:
    """Return the name of a run that becomes a folder of the base.

    Raises:
        ValueError: The name would leave the base, or stands for something else in it.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"a run's name is non-empty text, not {name!r}")
    if name in RESERVED_RUN_NAMES:
        raise ValueError(f"a run cannot be called {name!r}: the store keeps a folder of that name for itself")
    if name in (".", "..") or any(character in name for character in "/\\\0"):
        raise ValueError(f"a run's name becomes a folder: no separator in it, and not . or .., as {name!r}")
    if len(name.encode(errors="surrogateescape")) > _NAME_BYTES_MAX:
        raise ValueError(f"a run's name has at most {_NAME_BYTES_MAX} bytes as UTF-8: {name[:40]!r}…")
    return name
