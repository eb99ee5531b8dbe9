"""From an address to a storage adapter: a path, or ``shared://``, ``s3://`` and the like.

An engine's module, and the client that it needs, is imported when an address asks for it.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from eventstore.storage.local import SEGMENT_BYTES_MAX, LocalStorage
from eventstore.storage.numbered import CACHE_BYTES_MAX, PATIENCE_SECONDS, CommitStore, NumberedStorage
from eventstore.storage.protocol import Storage

CACHE_VARIABLE: Final = "DACAPO_STORE_CACHE"

_ENGINES: Final = {
    "shared": "eventstore.storage.shared",
}
"""For each scheme, the module whose ``open_store`` gives its engine."""

_SHARED_HEAD: Final = "log/00000000000000000000.arrow"


class Address(NamedTuple):
    """An address in its parts.

    Attributes:
        scheme: What stands in front of ``://``, lower case.
        location: The address without its query.
        options: What its query says, by name.
    """

    scheme: str
    location: str
    options: Mapping[str, str]


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether this is an address, and not a path."""
    return isinstance(path, str) and "://" in path


def parse_address(address: str) -> Address:
    """The parts of an address.

    Raises:
        ValueError: It has a scheme that is not known here; the text lists those.
    """
    scheme, _, _ = address.partition("://")
    if scheme.lower() not in _ENGINES:
        known = ", ".join(f"{name}://" for name in _ENGINES)
        raise ValueError(f"{address!r} is a path, or begins with one of {known}; {scheme}:// is not known")
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    return Address(scheme.lower(), urlunsplit(parts._replace(query="", fragment="")), options)


def cache_folder() -> Path | None:
    """Where this host keeps what it has read of logs that are elsewhere; None where that is switched off.

    ``DACAPO_STORE_CACHE`` names it, or says ``off``; otherwise it is in the user's cache directory.
    """
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named.lower() in ("off", "none"):
        return None
    if named:
        return Path(named).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None  # a user without a home
    return Path(base).absolute() / "dacapo-store"


def open_storage(
    path: str | os.PathLike[str],
    *,
    read_only: bool,
    segment_bytes_max: int = SEGMENT_BYTES_MAX,
    options: Mapping[str, str],
) -> Storage:
    """The storage at a path or an address; see ``EventLog.open``."""
    if not is_address(path):
        if options:
            raise ValueError(
                f"a path takes no options, and {dict(options)} were given: they are for addresses"
            )
        folder = Path(path).expanduser().absolute()
        if (folder / _SHARED_HEAD).exists():
            raise FileExistsError(f"{folder} holds a log that hosts share: open it as shared://{folder}")
        return LocalStorage(folder, read_only=read_only, segment_bytes_max=segment_bytes_max)
    parts = parse_address(os.fspath(path))
    merged = {**parts.options, **options}
    patience_seconds = _number(merged, "patience_seconds", PATIENCE_SECONDS)
    cache_bytes_max = int(_number(merged, "cache_bytes_max", CACHE_BYTES_MAX))
    opens: Callable[..., CommitStore] = importlib.import_module(_ENGINES[parts.scheme]).open_store
    store = opens(parts.location, options=merged, read_only=read_only)
    return NumberedStorage(
        store,
        read_only=read_only,
        patience_seconds=patience_seconds,
        cache=cache_folder(),
        cache_bytes_max=cache_bytes_max,
    )


def _number(options: dict[str, str], name: str, default: float) -> float:
    text = options.pop(name, None)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise ValueError(f"the option {name} of an address is a number not below 0, and not {text!r}")
    return number
