"""Which base and which log a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dacapo_store.store import Store


def base_of(given: Path | None) -> Path:
    """The base that was named; otherwise that of ``dacapo.yaml``."""
    if given is not None:
        return given.expanduser().absolute()
    from dacapo_store.options import Options

    return Options.instance().base_path


def log_of(base: Path) -> Path:
    """The log of a base; a log's own folder may be given as well."""
    events = base / "events"
    return events if events.is_dir() or not any(base.glob("*.arrows")) else base


def store_at(base: Path | None, at: str | None = None, *, writable: bool = False) -> Store:
    """The base that was named, as it is or as of a moment; looking writes nothing."""
    from dacapo_store.store import open as open_store

    return open_store(base_of(base), read_only=not writable and at is None, as_of=at)
