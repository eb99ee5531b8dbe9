"""Snapshot files: the rows of all read models up to a position, for any number of processes to share.

A snapshot is a DuckDB file, read-only and never changed once it has its name. A process attaches the
newest one that it can use and keeps in memory only the rows that came since (the *tail*). The file
has the public views and macros, too, so that DuckDB's shell can query it without this program.

A file is used only if all of this holds; otherwise an older one is, or the log alone:

- Its name says that it was made by these very folds and views (``code_of``).
- The log has the same chain value at its position. So a file of another log, or one that has seen
  events that a restored log has no more, is left alone, however well it fits otherwise.
- It can be attached, and says the same inside. Nobody has it open for writing, nor has left a
  write-ahead log beside it.

Nothing here is ever needed: what is wrong with a file is logged, once, and the file is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import duckdb

from eventstore import files
from projections.database import Database
from projections.errors import ReadModelStoppedError
from projections.event_source import EventSource
from projections.projection import Projection

logger = logging.getLogger(__name__)

SNAPSHOT_FORMAT = 1
CATALOG: Final = "snapshot"
"""The name under which a process attaches its snapshot."""

FILES_KEPT = 2
GRACE_SECONDS = 60.0
FOREIGN_GRACE_SECONDS = 7 * 24 * 3600.0

_READ_BITS = 0o444
_NAME = re.compile(r"(\d{20})-([0-9a-f]{16})-([0-9a-f]{16})\.duckdb")
_NAME_DIGITS = 16
_LISTINGS_MAX = 10
_said: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class TailLimit:
    """How long a tail may be before another snapshot is worth its making.

    A snapshot costs as much as there is history. As the tail must have grown by a share of it, all
    snapshots together cost a fixed multiple of the history.

    Attributes:
        bytes_min: A tail of so many bytes of events is never too long.
        share: Nor is one of this share of the events that the snapshot holds.
    """

    bytes_min: int = 4 << 20
    share: float = 0.25

    def is_exceeded(self, *, tail_bytes: int, snapshot_bytes: int) -> bool:
        """Whether a tail of so many bytes of events, behind a snapshot of so many, is too long."""
        return tail_bytes > max(self.bytes_min, self.share * snapshot_bytes)


TAIL_LIMIT: Final = TailLimit()
"""What is right for a base."""

ANYTHING_NEW: Final = TailLimit(bytes_min=0, share=0.0)
"""What is right for somebody who asks for a snapshot."""


@dataclass(frozen=True, order=True)
class SnapshotName:
    """The name of a snapshot file: what must be known of it before it is opened.

    Attributes:
        position: How many events it holds.
        code: The beginning of ``code_of`` the read models that made it.
        chain: The beginning of the chain's value at its position.
    """

    position: int
    code: str
    chain: str

    @property
    def text(self) -> str:
        """The file's name."""
        return f"{self.position:020d}-{self.code}-{self.chain}.duckdb"

    @classmethod
    def of(cls, *, position: int, code: str, chain: bytes) -> Self:
        """The name of the snapshot at a position."""
        return cls(position, code[:_NAME_DIGITS], chain.hex()[:_NAME_DIGITS])

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """The name that a text is, or None."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(int(match[1]), match[2], match[3])


@dataclass(frozen=True)
class Checkpoint:
    """How far one read model's rows go in a snapshot.

    Attributes:
        read_model: Its name.
        position: How many events it has applied.
        stopped: The error that it stopped with at that position, or None.
    """

    read_model: str
    position: int
    stopped: ReadModelStoppedError | None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot file that is attached.

    Attributes:
        path: The file.
        position: How many events it holds.
        event_bytes: How many bytes these events have in memory.
        checkpoints: Those of its read models.
    """

    path: Path
    position: int
    event_bytes: int
    checkpoints: tuple[Checkpoint, ...]


class UnusableError(Exception):
    """Why a snapshot file is passed over. Never leaves this package."""


class Snapshots:
    """The snapshot files of one log, in one folder, that these read models can use.

    Args:
        folder: The folder; it need not exist.
        log: The log.
        projections: The read models.
    """

    def __init__(self, folder: Path, log: EventSource, projections: Sequence[Projection]) -> None:
        self.folder = folder
        self._log = log
        self._code = code_of(projections)
        self._distrusted: set[Path] = set()

    def attach_newest(self, database: Database, *, above: int = 0) -> Snapshot | None:
        """Attach the newest usable file as ``CATALOG``; None where there is none.

        Args:
            database: Where to attach it; it has none yet.
            above: Only a file that holds more events than this.
        """
        for _ in range(_LISTINGS_MAX):
            for name in self.usable_names(above=above):
                try:
                    return self._attach(database, name)
                except UnusableError as error:
                    say_once(self.folder / name.text, str(error))
                except FileNotFoundError:
                    break  # pruned since it was listed, so there is a newer one: list again
            else:
                return None
        return None

    @property
    def log(self) -> EventSource:
        """The log."""
        return self._log

    def fits(self, name: SnapshotName) -> bool:
        """Whether these read models made the file of this very history."""
        return (
            self.is_own(name)
            and name.position <= self._log.next_position
            and name == self.name_at(name.position)
        )

    def usable_names(self, *, above: int = 0) -> Iterator[SnapshotName]:
        """The files that these read models made of this very history, the newest first."""
        next_position = self._log.next_position
        for name in sorted(listed(self.folder), reverse=True):
            path = self.folder / name.text
            if name.position <= above or not self.is_own(name) or path in self._distrusted:
                continue
            if name.position > next_position:
                say_once(path, "it holds more events than the log")
            elif name != self.name_at(name.position):
                say_once(path, "it holds another history than the log")
            else:
                yield name

    def is_own(self, name: SnapshotName) -> bool:
        """Whether these read models made the file, of this history or another."""
        return name.code == self._code[:_NAME_DIGITS]

    def name_at(self, position: int) -> SnapshotName:
        """The name of a snapshot at a position of this log."""
        return SnapshotName.of(position=position, code=self._code, chain=self._log.chain_at(position))

    def about(self, position: int, event_bytes: int) -> tuple[object, ...]:
        """What a snapshot at a position says of itself, in the order of ``ABOUT``."""
        chain = self._log.chain_at(position)
        return SNAPSHOT_FORMAT, self._code, self._log.log_id.hex(), position, chain.hex(), event_bytes

    def distrust(self, snapshot: Snapshot, error: BaseException) -> None:
        """Pass a file over from now on: what it holds turned out to be damaged."""
        self._distrusted.add(snapshot.path)
        say_once(snapshot.path, f"it is damaged ({error})")

    def _attach(self, database: Database, name: SnapshotName) -> Snapshot:
        path = self.folder / name.text
        if path.with_name(f"{path.name}.wal").exists():
            raise UnusableError("somebody has opened it for writing; delete it and its .wal file")
        try:
            database.attach(path, CATALOG)
        except duckdb.Error as error:
            if not path.exists():
                raise FileNotFoundError(path) from error
            raise UnusableError(str(error)) from error
        try:
            return self._read(database, path, name)
        except UnusableError:
            database.detach(CATALOG)
            raise
        except duckdb.Error as error:
            database.detach(CATALOG)
            raise UnusableError(str(error)) from error

    def _read(self, database: Database, path: Path, name: SnapshotName) -> Snapshot:
        cursor = database.cursor()
        about = cursor.execute(f"SELECT {', '.join(ABOUT)} FROM {CATALOG}.history.snapshot").fetchone()  # noqa: S608 - constants
        event_bytes = about[-1] if about else 0
        if about != self.about(name.position, event_bytes):
            raise UnusableError("it does not hold what its name says")
        rows = cursor.execute(
            f"SELECT read_model, position, message, cause FROM {CATALOG}.history.read_models"  # noqa: S608 - constants
        ).fetchall()
        return Snapshot(path, name.position, event_bytes, tuple(_checkpoint(*row) for row in rows))


ABOUT = {
    "format": "INTEGER",
    "code": "VARCHAR",
    "log_id": "VARCHAR",
    "position": "UBIGINT",
    "chain": "VARCHAR",
    "event_bytes": "UBIGINT",
}
"""The columns of ``history.snapshot``, which has one row."""


def code_of(projections: Sequence[Projection]) -> str:
    """A SHA-256 over all that makes rows and views out of events: another one, another snapshot."""
    parts: list[str] = [str(SNAPSHOT_FORMAT)]
    for projection in projections:
        parts += [projection.name, *projection.snapshot_definitions(), *projection.view_definitions()]
        parts += projection.table_definitions(None)
        for step in projection.steps:
            parts += [*sorted(step.event_types), step.condition, step.statement]
        parts += [" ".join(table.order) for table in projection.tables]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def listed(folder: Path) -> list[SnapshotName]:
    """All snapshot files of a folder, which need not exist."""
    try:
        names = [SnapshotName.parsed(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        say_once(folder, str(error))
        return []
    return [name for name in names if name is not None]


def put_in_place(made: Path, target: Path) -> None:
    """Give a file its name, durably, and let nobody write to it any more."""
    descriptor = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        files.share(descriptor, like=target.parent)
        os.fchmod(descriptor, os.fstat(descriptor).st_mode & _READ_BITS)
        files.sync_file(descriptor)
    finally:
        os.close(descriptor)
    files.rename(made, target)


def prune(snapshots: Snapshots) -> None:
    """Take files away: not the newest usable ones, nor what somebody may be about to attach."""
    kept = list(snapshots.usable_names())[:FILES_KEPT]
    for name in listed(snapshots.folder):
        if name not in kept:
            grace_seconds = GRACE_SECONDS if snapshots.is_own(name) else FOREIGN_GRACE_SECONDS
            _remove_old(snapshots.folder / name.text, grace_seconds)


def _remove_old(path: Path, grace_seconds: float) -> None:
    # Somebody else may remove it, or be the only one who may.
    with contextlib.suppress(OSError):
        if path.stat().st_mtime < time.time() - grace_seconds:
            path.unlink()
            path.with_name(f"{path.name}.wal").unlink(missing_ok=True)


def say_once(path: Path, reason: str) -> None:
    """Log why a file is passed over, the first time in this process."""
    if (path, reason) not in _said:
        _said.add((path, reason))
        logger.warning("The snapshot %s is not used: %s. The log has everything.", path, reason)


def _checkpoint(read_model: str, position: int, message: str | None, cause: str | None) -> Checkpoint:
    stopped = None
    if message is not None:
        stopped = ReadModelStoppedError(message, read_model=read_model, position=position, cause=cause)
    return Checkpoint(read_model, position, stopped)
