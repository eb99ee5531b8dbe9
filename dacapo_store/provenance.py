"""Who wrote an event, and from where: the metadata that every event of a base carries."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import socket
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from eventstore import EncodedMapping

_actor: ContextVar[str | None] = ContextVar("dacapo_store_actor", default=None)


def set_actor(name: str | None) -> None:
    """Say in whose name this context writes from now on; None goes back to the user of the process.

    The environment variable ``DACAPO_STORE_ACTOR`` sets it for a whole process.
    """
    _actor.set(name)


def event_metadata() -> EncodedMapping:
    """Actor, user, host, pid, program and git commit of the writer, as far as they can be told."""
    return _metadata(_named_actor(), os.getpid())


@functools.lru_cache(maxsize=16)
def _metadata(named_actor: str | None, pid: int) -> EncodedMapping:
    """Every event has it, so it is put together once for each actor."""
    return EncodedMapping({"actor": named_actor or _user(), **_process_metadata(pid)})


def actor() -> str:
    """In whose name this context writes."""
    return _named_actor() or _user()


def _named_actor() -> str | None:
    return _actor.get() or os.environ.get("DACAPO_STORE_ACTOR")


@functools.lru_cache(maxsize=1)
def _process_metadata(pid: int) -> dict[str, Any]:
    """What stays the same in a process; a forked child has its own pid."""
    metadata: dict[str, Any] = {
        "user": _user(),
        "host": socket.gethostname(),
        "pid": pid,
        "program": as_text(Path(sys.argv[0]).name) if sys.argv and sys.argv[0] else "python",
    }
    directory = working_directory()
    commit = None if directory is None else git_commit(directory)
    if commit is not None:
        metadata["git_commit"] = commit
    return metadata


def working_directory() -> Path | None:
    """The working directory, or None where somebody has deleted it."""
    with contextlib.suppress(OSError):
        return Path.cwd()
    return None


def as_text(name: str) -> str:
    """What the system calls something, as valid Unicode: a file name may be any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def git_commit(directory: Path) -> str | None:
    """The commit that the git checkout around ``directory`` is at, or None.

    Reads git's own files (gitrepository-layout(5)), so it starts no process in a training.
    """
    with contextlib.suppress(OSError):
        for folder in (directory, *directory.parents):
            if (folder / ".git").exists():
                return _resolve(_git_directory(folder / ".git"), "HEAD")
    return None


def _git_directory(entry: Path) -> Path:
    """The folder of the repository; in a worktree, ``.git`` is a file that names it."""
    if entry.is_file():
        return entry.parent / entry.read_text().removeprefix("gitdir:").strip()
    return entry


def _resolve(git: Path, reference: str) -> str | None:
    common = git / "commondir"
    shared = git / common.read_text().strip() if common.is_file() else git
    for place in (git, shared):
        if (place / reference).is_file():
            text = (place / reference).read_text().strip()
            return _resolve(git, text.removeprefix("ref:").strip()) if text.startswith("ref:") else text
    packed = shared / "packed-refs"
    if packed.is_file():
        for line in packed.read_text().splitlines():
            if line.endswith(f" {reference}"):
                return line.split(" ", 1)[0]
    return None
