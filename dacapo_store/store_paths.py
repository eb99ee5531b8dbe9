"""From the path that a store is made with to the base directory whose history it is.

DaCapo makes its config store on ``<base>/configs`` and its stats store on ``<base>/stats``. Nothing
lies in these folders here: they are names, and the stores made on them share the base's log. A
store that is made on any other path has that path as its base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath


def absolute_path(path: str | os.PathLike[str]) -> UPath:
    """The absolute form of a path on this machine, as DaCapo's kind of path.

    Raises:
        ValueError: The path is on another kind of storage: give a local one. Or it begins with ``~``
            and a name that nobody here has.
    """
    # Importing upath costs more than all of a small call, and only stores need it.
    from upath import UPath

    given = UPath(path)
    if given.protocol not in ("", "file", "local"):
        raise ValueError(f"{path} is on {given.protocol!r} storage; a store's path must be local")
    try:
        return UPath(Path(given.path).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home directory; give a path without ~") from error


def base_path(store_path: UPath, folder: str) -> Path:
    """The base of a store made on ``store_path``, where DaCapo's own would be ``<base>/<folder>``."""
    return Path(str(store_path.parent if store_path.name == folder else store_path))
