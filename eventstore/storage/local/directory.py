"""The folder of a log: names of segments, and how a new segment comes to be.

A segment is named by its first position, ``<20 digits>.arrows``; a later generation of the same
events is ``<20 digits>.r<generation>.arrows``, and the highest generation counts. A name is never
used for other bytes. A segment ends, at the latest, where the next one begins.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from eventstore import files

_NAME = re.compile(r"(\d{20})(?:\.r(\d+))?\.arrows")
TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True, order=True)
class SegmentName:
    """The name of a segment file."""

    first_position: int
    generation: int = 0

    @property
    def text(self) -> str:
        """The file's name."""
        generation = f".r{self.generation}" if self.generation else ""
        return f"{self.first_position:020d}{generation}.arrows"


def segment_names(directory: Path, *, flawed: Collection[SegmentName] = ()) -> list[SegmentName]:
    """The segments that count, in order.

    Args:
        directory: The log's folder.
        flawed: Files that are known to be damaged, and in whose place a lower generation counts.
    """
    by_worth = sorted(all_names(directory), key=lambda name: (name not in flawed, name))
    return sorted({name.first_position: name for name in by_worth}.values())


def all_names(directory: Path) -> list[SegmentName]:
    """All segment files in a folder, former generations too, in order."""
    found = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(SegmentName(int(match[1]), int(match[2] or 0)) for match in found if match is not None)


def former_names(directory: Path, name: SegmentName) -> list[SegmentName]:
    """The lower generations of a segment that are still there, the highest of them first."""
    names = all_names(directory)
    return [each for each in reversed(names) if each.first_position == name.first_position and each < name]


def create_segment(directory: Path, name: SegmentName, first_bytes: bytes) -> None:
    """Make a segment that holds ``first_bytes`` and is durable, bytes and name, when this returns.

    A crash before the rename leaves a file that nobody reads, and nobody was told of it.
    """
    temporary = directory / f".{name.text}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    with files.new_file(temporary, like=directory) as (descriptor, path):
        files.write(descriptor, first_bytes)
        files.sync_file(descriptor)
        files.link(path, directory / name.text)
    path.unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> None:
    """Take away what crashes left of segments that never came to be; the lock must be held."""
    for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)
