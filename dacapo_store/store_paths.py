"""From the path that a store is made with to the base directory whose history it is.

DaCapo makes its config store on ``<base>/configs`` and its stats store on ``<base>/stats``. Nothing
lies in these folders here: they are names, and the stores made on them share the base's log. A
store that is made on any other path has that path as its base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dacapo_store.bucket_paths import address_text, bucket_path
from dacapo_store.location import Location, store_location
from eventstore import is_address

if TYPE_CHECKING:
    from upath import UPath


def absolute_path(path: str | os.PathLike[str], folder: str = "") -> UPath:
    """The absolute form of a path on this machine, as DaCapo's kind of path.

    Args:
        path: The path, or an address such as ``shared:///data``.
        folder: What DaCapo calls a store's folder in a base, such as ``configs``.

    Raises:
        ValueError: The path is on another kind of storage: give a local one. Or it begins with ``~``
            and a name that nobody here has.
    """
    # Importing upath costs more than all of a small call, and only stores need it.
    from upath import UPath

    if is_address(text := address_text(path)):
        # There are no such files: to those who look, it is a folder among the base's files.
        base = Location.of(store_location(text, folder))
        place = base.payloads
        root = UPath(place) if isinstance(place, Path) else bucket_path(place)
        return root / folder if base.name != Location.of(text).name else root
    given = UPath(path)
    if given.protocol not in ("", "file", "local"):
        raise ValueError(f"{path} is on {given.protocol!r} storage; a store's path must be local")
    try:
        return UPath(Path(given.path).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home directory; give a path without ~") from error


def base_of_store(
    given: str | os.PathLike[str], store_path: UPath, folder: str = ""
) -> str | os.PathLike[str]:
    """The base of a store made on ``given``, where DaCapo's own would be ``<base>/<folder>``.

    Args:
        given: What the store was made with.
        store_path: The absolute form of it.
        folder: The folder's name; none for a store that is made on the base itself.
    """
    if is_address(text := address_text(given)):
        return store_location(text, folder) if folder else text
    return Path(str(store_path.parent if store_path.name == folder else store_path))
