"""Which base and which log a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dacapo_store.store import Store


def base_of(given: str | None) -> Path | str:
    """The base that was named, a directory or an address; otherwise that of ``dacapo.yaml``."""
    if given is not None:
        return given if "://" in given else Path(given).expanduser().absolute()
    from dacapo_store.options import Options

    return Options.instance().base_path


def local_base_of(given: str | None) -> Path:
    """As ``base_of``, for what works on the files of a base's log.

    Raises:
        ValueError: The base is at an address.
    """
    base = base_of(given)
    if isinstance(base, Path):
        return base
    raise ValueError(
        f"{base} keeps its log where many hosts reach it, in commits that are never written again: this "
        "command is for a base in a directory of this host"
    )


def log_of(base: Path) -> Path:
    """The log of a base; a log's own folder may be given as well."""
    events = base / "events"
    return events if events.is_dir() or not any(base.glob("*.arrows")) else base


def store_at(base: str | None, at: str | None = None, *, writable: bool = False) -> Store:
    """The base that was named, as it is or as of a moment; looking writes nothing."""
    from dacapo_store.store import open as open_store

    return open_store(base_of(base), read_only=not writable and at is None, as_of=at)
