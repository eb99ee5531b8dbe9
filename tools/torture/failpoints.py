"""Named places in the way of bytes to the disk, and a process that ends itself at one of them.

A *site* is a function of ``eventstore.files`` (or one of the few operations beside it) and the kind of
file that it is called for, e.g. ``"write_at segment"``. A *failpoint* is a site and a moment: before
the call, after it, or, for what can be done by half, in the middle of it.

``install`` puts itself in the place of these functions in this process, so no production code knows
of failpoints.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from eventstore import files
from eventstore.storage.local.lock import Lock

BEFORE: Final = "before"
MIDDLE: Final = "in the middle"
AFTER: Final = "after"

_SITES: Final = {
    "create": "new segment|quarantine|weights|choice",
    "write": "new segment|quarantine|weights|choice|spool",
    "write_at": "segment|spool",
    "write_state": "lock",
    "sync_data": "segment",
    "sync_file": "segment|new segment|quarantine|weights|choice",
    "sync_directory": "log folder|quarantine folder|spool folder|weights folder|links folder|choices folder"
    "|trash folder|array folder|other folder",
    "rename": "link|choice|trash",
    "link": "segment|link",
    "unlink": "weights|link|choice|spool",
    "cut": "segment",
    "rmtree": "trash",
}
_BY_HALF: Final = ("write", "write_at", "rmtree")

SITES: Final = tuple(f"{function} {kind}" for function, kinds in _SITES.items() for kind in kinds.split("|"))

FAILPOINTS: Final = tuple(
    f"{moment} {site}"
    for site in SITES
    for moment in (BEFORE, MIDDLE, AFTER)
    if moment != MIDDLE or site.split()[0] in _BY_HALF
)

_FOLDERS: Final = {
    "events": "log folder",
    "quarantine": "quarantine folder",
    "spool": "spool folder",
    "objects": "weights folder",
    "iterations": "links folder",
    "crop": "choices folder",
    ".trash": "trash folder",
}


def kind_of(path: Path, base: Path) -> str:  # noqa: PLR0911 - a table, written as patterns
    """What a path of a base is, in the words of the sites."""
    parts = path.relative_to(base).parts if path.is_relative_to(base) else ("elsewhere",)
    match parts:
        case [*_, ".trash", _]:
            return "trash"
        case [_, "validation.zarr", *_]:
            return "array folder"
        case [*_, name] if name in _FOLDERS and (name != "crop" or "checkpoints" in parts):
            return _FOLDERS[name]
        case ["events", "lock"]:
            return "lock"
        case ["events", ("quarantine" | "spool") as folder, _]:
            return folder
        case ["events", name]:
            return "new segment" if name.endswith(".tmp") else "segment"
        case [_, "checkpoints", "objects", _]:
            return "weights"
        case [_, "checkpoints", "iterations", _]:
            return "link"
        case [_, "checkpoints", _, _]:
            return "choice"
    return "other folder"


class Failpoints:
    """Ends this process at the first of some failpoints that it comes to.

    Args:
        base: The base whose files count.
        targets: At which call of each failpoint to end, counted from 1.
        announce: Told the failpoint's name right before the end.
    """

    def __init__(self, base: Path, targets: dict[str, int], announce: Callable[[str], None]) -> None:
        self._base = base
        self._targets = targets
        self._announce = announce
        self._calls: Counter[str] = Counter()

    def install(self) -> None:
        """Take the place of the functions, in this process and for good."""
        for function in _SITES:
            if hasattr(files, function):
                setattr(files, function, self._around(function, getattr(files, function)))
        setattr(Lock, "write_state", self._around("write_state", Lock.write_state))  # noqa: B010 - a method
        shutil.rmtree = self._around("rmtree", shutil.rmtree)

    def _around(self, function: str, original: Callable[..., Any]) -> Any:
        halved = _HALVES.get(function)

        def called(*arguments: Any, **more: Any) -> Any:
            site = f"{function} {self._kind(function, arguments)}"
            if self._is_reached(f"{BEFORE} {site}"):
                self._end(f"{BEFORE} {site}")
            if halved is not None and self._is_reached(f"{MIDDLE} {site}"):
                halved(*arguments)
                self._end(f"{MIDDLE} {site}")
            answer = original(*arguments, **more)
            if self._is_reached(f"{AFTER} {site}"):
                self._end(f"{AFTER} {site}")
            return answer

        return called

    def _kind(self, function: str, arguments: tuple[Any, ...]) -> str:
        if function == "write_state":
            return "lock"
        # What is linked or renamed is known by its new name; files elsewhere are open descriptors.
        subject = arguments[1] if function in ("link", "rename") else arguments[0]
        if isinstance(subject, int):
            subject = Path(f"/proc/self/fd/{subject}").readlink()
        return kind_of(Path(subject), self._base)

    def _is_reached(self, failpoint: str) -> bool:
        self._calls[failpoint] += 1
        return self._targets.get(failpoint) == self._calls[failpoint]

    def _end(self, failpoint: str) -> None:
        self._announce(failpoint)
        os.kill(os.getpid(), signal.SIGKILL)


def _half_written(descriptor: int, data: bytes | memoryview) -> None:
    os.write(descriptor, memoryview(data)[: len(data) // 2])


def _half_written_at(descriptor: int, data: bytes, offset: int) -> None:
    os.pwrite(descriptor, data[: len(data) // 2], offset)


def _half_removed(folder: Path, *_: Any) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths[: len(paths) // 2]:
        path.unlink()


_HALVES: Final[dict[str, Callable[..., None]]] = {
    "write": _half_written,
    "write_at": _half_written_at,
    "rmtree": _half_removed,
}
