"""The folder of a repair, ``quarantine/repair-<name>/``: how what is in it comes into force.

It holds the files that the repair replaces, and in ``new/`` the ones that it has made, until they have
their names in the log's folder. So whether ``new/`` is there says whether a repair was cut off, and
whether the last of its files has its name says if it came into force.
"""

from __future__ import annotations

import re
from pathlib import Path

from eventstore import files
from eventstore.index import forget_index
from eventstore.storage.local.directory import segment_names
from eventstore.storage.local.lock import Lock

_QUARANTINE, _REPAIR, _NEW = "quarantine", "repair-", "new"
_GENERATION = re.compile(r"\.r(\d+)\.arrows$")


def folder_of(directory: Path, name: str) -> Path:
    """The folder of the repair of this name."""
    return directory / _QUARANTINE / f"{_REPAIR}{name}"


def make_new(folder: Path, *, like: Path) -> Path:
    """Make the folder of a repair, and give the one in it for what the repair makes."""
    files.make_directories(folder / _NEW, like=like)
    return folder / _NEW


def complete_earlier(directory: Path, lock: Lock) -> None:
    """Bring a repair that was cut off to its end, or undo it if it never came into force."""
    for folder in unfinished(directory):
        made = sorted((folder / _NEW).iterdir())
        if made and not (directory / made[-1].name).exists():
            discard(folder)
        else:
            switch(directory, folder, lock)


def switch(directory: Path, folder: Path, lock: Lock) -> None:
    """Let what a repair has made come into force, from wherever an earlier attempt was cut off.

    Steps 3 and 4 of a repair; the lock must be held.
    """
    forget_index(directory)
    made = sorted((folder / _NEW).iterdir(), reverse=True)
    generation, failed_at = lock.state()
    lock.write_state(generation=generation | 1, failed_at=failed_at)
    for path in made:
        if not (directory / path.name).exists():
            files.link(path, directory / path.name)
    for path in sorted(folder.glob("*.arrows")):
        if (directory / path.name).exists():
            files.unlink(directory / path.name)
    # What a failed sync may have dropped from the last segment is written and synced anew by now.
    if made and made[0].name == segment_names(directory)[-1].text:
        failed_at = None
    lock.write_state(generation=(generation | 1) + 1, failed_at=failed_at)
    _remove_new(folder)


def discard(folder: Path) -> None:
    """Take away what a repair has made that never came into force; the originals have their own names."""
    for path in sorted(folder.iterdir()):
        if path.name != _NEW:
            files.unlink(path)
    _remove_new(folder)
    files.remove_directory(folder)


def _remove_new(folder: Path) -> None:
    for path in sorted((folder / _NEW).iterdir()):
        files.unlink(path)
    files.remove_directory(folder / _NEW)


def unfinished(directory: Path) -> list[Path]:
    """The folders of repairs that were cut off."""
    return sorted(path.parent for path in directory.glob(f"{_QUARANTINE}/{_REPAIR}*/{_NEW}"))


def greatest_generation(directory: Path) -> int:
    """The greatest generation that any file of this log has, those in quarantine too."""
    names = [*directory.glob("*.arrows"), *directory.glob(f"{_QUARANTINE}/{_REPAIR}*/*.arrows")]
    found = [_GENERATION.search(path.name) for path in names]
    return max((int(match[1]) for match in found if match is not None), default=0)
