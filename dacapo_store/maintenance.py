"""``gc``: deleting files of a base that nobody needs. It looks first, and deletes only when told to.

What is garbage, and why it cannot be anything else:

- *orphans*: payloads that no event names, left by a writer that died before its event. A writer that
  lives may be about to name one, so only files older than a grace count; and the folder is listed before
  the log is read, so that whatever was named meanwhile is known.
- *removals* that a crash cut short: the event says removed, the file is still there.
- *trash*: arrays that were taken out of place and not yet deleted.
- *temporaries* of writers that died.
- *superseded* payloads, of weights that were stored again, but only if asked for: the log as of an
  earlier position loads them. That they were dropped is put on record first (``WeightsPayloadDropped``).

No symbolic link is followed and nothing outside the base is touched. Where events were lost, orphans
of the runs in question are kept: they may be what a lost event named.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dacapo_store import artifacts
from dacapo_store.base import Base
from dacapo_store.events import WeightsPayloadDropped
from dacapo_store.location import Location
from dacapo_store.payloads import Payload, Payloads
from eventstore import EventLog, files

GRACE_SECONDS = 3600.0

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_TRASH = ".trash"


@dataclass(frozen=True)
class Garbage:
    """Something that can be deleted.

    Attributes:
        kind: ``orphan``, ``removal``, ``trash``, ``temporary`` or ``superseded``.
        path: The file or the folder, relative to the base.
        bytes: How much room that gives; a file that has another name gives none.
        position: The position of the event that names it, if one does.
    """

    kind: str
    path: str
    bytes: int
    position: int | None = None


@dataclass(frozen=True)
class GarbagePlan:
    """What ``gc`` found.

    Attributes:
        garbage: What can be deleted.
        spared: Files that look like garbage and are kept, each with the reason.
    """

    garbage: tuple[Garbage, ...]
    spared: tuple[tuple[str, str], ...]

    @property
    def bytes(self) -> int:
        """How much room there is to be had."""
        return sum(each.bytes for each in self.garbage)


def plan_gc(
    base: str | os.PathLike[str], *, keep: int | None = None, grace_seconds: float = GRACE_SECONDS
) -> GarbagePlan:
    """Say what can be deleted; nothing is written.

    Args:
        base: The base directory.
        keep: Of weights that were stored several times, how many of the latest to keep for each
            iteration that is in view; those out of view go altogether. None keeps everything that
            the log as of any position loads.
        grace_seconds: Files that changed more recently are left to their writers.

    Raises:
        LogNotFoundError: There is no base.
        ValueError: ``keep`` is less than 1.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep is 1 or more (the weights in view are always kept), not {keep}")
    location = Location.of(base)
    root = location.files
    before = time.time() - grace_seconds
    with EventLog.open(location.log, read_only=True) as log:
        found = list(_found_files(root))
        payloads = Payloads.of_log(log)
    garbage: list[Garbage] = []
    spared: list[tuple[str, str]] = []
    named = payloads.named()
    for file in found:
        if file.kind == "orphan" and file.path in named:
            continue
        reason = _reason_to_spare(file, payloads, before)
        if reason is None:
            garbage.append(Garbage(file.kind, file.path, file.bytes))
        else:
            spared.append((file.path, reason))
    garbage += _unfinished_removals(root, payloads)
    if keep is not None:
        garbage += _superseded(root, payloads, keep)
    return GarbagePlan(tuple(garbage), tuple(spared))


def collect_garbage(
    base: str | os.PathLike[str], *, keep: int | None = None, grace_seconds: float = GRACE_SECONDS
) -> GarbagePlan:
    """Delete what ``plan_gc`` finds, looking anew.

    Others may use the base meanwhile. A crash in between leaves less garbage than before.

    Args:
        base: The base directory.
        keep: As for ``plan_gc``.
        grace_seconds: As for ``plan_gc``.

    Returns:
        What was deleted.

    Raises:
        LogNotFoundError: There is no base.
        OSError: The disk did not take the events or a deletion. Repeat it.
    """
    plan = plan_gc(base, keep=keep, grace_seconds=grace_seconds)
    opened = Base.at(base)
    for each in plan.garbage:
        if each.kind == "superseded":
            # The event first: whoever misses the file finds out why.
            _record_drop(opened, each)
        _delete(opened.path, each)
    return plan


@dataclass(frozen=True)
class _File:
    """A file that may be garbage by its place and name."""

    kind: str
    path: str
    bytes: int
    changed: float


def _found_files(root: Path) -> Iterator[_File]:
    """Payloads, temporaries and trash of all runs; no symbolic link is followed."""
    yield from _trash(root, root)
    for run in _folders(root):
        if run.name in {"events", "views"}:
            continue
        yield from _trash(root, run)
        checkpoints = run / "checkpoints"
        if _is_folder(checkpoints):
            yield from _checkpoint_files(root, checkpoints)


def _checkpoint_files(root: Path, checkpoints: Path) -> Iterator[_File]:
    for folder in (checkpoints, *_folders(checkpoints)):
        payloads = folder == checkpoints / "objects"
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            temporary = _TEMPORARY.fullmatch(entry.name) is not None
            if entry.is_dir(follow_symlinks=False) or not (temporary or payloads):
                continue
            yield _file(root, Path(entry.path), "temporary" if temporary else "orphan")


def _trash(root: Path, folder: Path) -> Iterator[_File]:
    trash = folder / _TRASH
    if _is_folder(trash):
        for entry in sorted(os.scandir(trash), key=lambda each: each.name):
            yield _file(root, Path(entry.path), "trash")


def _file(root: Path, path: Path, kind: str) -> _File:
    status = path.lstat()
    size = _tree_bytes(path) if stat.S_ISDIR(status.st_mode) else _freed(status)
    changed = max(status.st_mtime, status.st_ctime)
    return _File(kind, path.relative_to(root).as_posix(), size, changed)


def _tree_bytes(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(_freed(path.lstat()) for path in paths)


def _freed(status: os.stat_result) -> int:
    return status.st_size if status.st_nlink == 1 else 0


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _reason_to_spare(file: _File, payloads: Payloads, before: float) -> str | None:
    if file.kind == "trash":
        return None
    if file.changed > before:
        return "it is new: a writer may be about to name it"
    run = file.path.split("/", 1)[0]
    if file.kind == "orphan" and (payloads.any_lost or run in payloads.lost_runs):
        return "events were lost that may have named it"
    return None


def _unfinished_removals(root: Path, payloads: Payloads) -> Iterator[Garbage]:
    """Files that the log says are gone, and the links to them."""
    for path in sorted(payloads.removed.keys() | payloads.dropped):
        file = _inside(root, path)
        if file is None:
            continue
        payload = payloads.removed.get(path)
        if payload is not None:
            stored = payload.stored
            link = root / stored.run / "checkpoints/iterations" / str(stored.iteration)
            if link.is_file() and link.samefile(file):
                yield Garbage("removal", link.relative_to(root).as_posix(), 0, payload.position)
        yield Garbage("removal", path, file.stat().st_size, None if payload is None else payload.position)


def _superseded(root: Path, payloads: Payloads, keep: int) -> Iterator[Garbage]:
    for key, earlier in payloads.superseded.items():
        here = [payload for payload in earlier if payload.stored.path not in payloads.dropped]
        kept = keep - 1 if key in payloads.present else 0
        for payload in here[: len(here) - kept] if kept else here:
            file = _inside(root, payload.stored.path)
            if file is not None:
                yield Garbage("superseded", payload.stored.path, file.stat().st_size, payload.position)


def _inside(root: Path, path: str) -> Path | None:
    """The regular file that a path names, when no symbolic link leads there; None otherwise."""
    try:
        file = artifacts.locate(root, path)
    except ValueError:
        return None
    if file.is_symlink() or not file.is_file() or os.path.realpath(file) != str(file):
        return None
    return file


def _record_drop(base: Base, garbage: Garbage) -> None:
    assert garbage.position is not None, "an event names every superseded payload"
    (event,) = base.log.read(garbage.position, garbage.position + 1)
    (payload,) = Payloads.of([event]).present.values()
    base.append(event.stream, [_dropped(payload)])


def _dropped(payload: Payload) -> WeightsPayloadDropped:
    return WeightsPayloadDropped(payload.stored.run, payload.stored.iteration, payload.stored.path)


def _delete(root: Path, garbage: Garbage) -> None:
    path = root / garbage.path
    if os.path.realpath(path.parent) != str(path.parent):
        return
    if _is_folder(path):
        # The trash of a removal that goes on: its process deletes the same files.
        shutil.rmtree(path, ignore_errors=True)
    else:
        files.unlink(path)
