"""Making snapshot files, and taking old ones away. One process at a time does it for a folder.

1. Take the folder's lock without waiting: whoever has it does the work. Temporary folders that are
   there now were left by publishers that died; they go.
2. Bring read models up to the log's durable position, from the newest usable snapshot. What has not
   reached the disk yet may be lost in a power cut, and a file of events that never were must not be.
3. If the tail is short, that is all.
4. Write all rows, sorted, with views, macros and a description into a new file in a temporary folder.
5. Sync it, make it read-only, and give it its name in one step.
6. Take older files away: two are kept, for whoever cannot attach the newest, and so is what has not
   been there for a while, for whoever is about to attach it.
7. Where the log lies in a bucket, publish the newest file beside it (``shared_snapshots``).

A crash at any point leaves at most a temporary folder. Nobody waits for any of this.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore import files
from projections.content import Content
from projections.event_source import EventSource, Prefix
from projections.projection import Projection
from projections.read_models import PROJECTIONS, ReadModels
from projections.shared_snapshots import share_newest
from projections.snapshot import ABOUT, TAIL_LIMIT, Snapshots, TailLimit, prune, put_in_place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOCK = "lock"
_MADE = "made"


@dataclass(frozen=True)
class PublishedSnapshot:
    """A snapshot that was made.

    Attributes:
        path: The file.
        position: How many events it holds.
        bytes: The file's size.
    """

    path: Path
    position: int
    bytes: int


def publish_snapshot(
    folder: Path,
    log: EventSource,
    *,
    projections: Sequence[Projection] = PROJECTIONS,
    tail_limit: TailLimit = TAIL_LIMIT,
    threads: int = 2,
    memory_limit: str = "512MB",
) -> PublishedSnapshot | None:
    """Make a snapshot file of the log's durable events, unless the newest one is new enough.

    Args:
        folder: Where snapshot files are kept; made if need be, within an existing folder.
        log: The log.
        projections: The read models.
        tail_limit: No file is made as long as the events behind the newest one are within this.
        threads: How many threads DuckDB may use.
        memory_limit: How much memory; what exceeds it is kept in ``folder`` meanwhile.

    Returns:
        What was made; None where no snapshot is due, or where another process is at it.

    Raises:
        OSError: The folder cannot be written, the disk is full, or the storage of the log does not take the
            file: then it is here, and the next call publishes it. Nothing is harmed.
        CatchUpError: As for ``ReadModels.catch_up``.
        duckdb.Error: DuckDB could not write the file, for want of memory or disk. Nothing is harmed.
    """
    files.make_directories(folder, like=folder.parent)
    with _turn(folder) as is_mine:
        if not is_mine:
            return None
        _remove_temporaries(folder)
        with _temporary(folder) as temporary:
            read_models = ReadModels(
                Prefix(log, log.durable_position),
                threads=threads,
                memory_limit=memory_limit,
                projections=projections,
                snapshots=folder,
                tail_limit=TailLimit(bytes_min=2**63, share=0.0),
                temporary=temporary / "duckdb",
            )
            try:
                published = read_models.answer(
                    lambda content: _published(folder, log, projections, tail_limit, content, temporary)
                )
            finally:
                read_models.close()
        share_newest(Snapshots(folder, log, projections))
        return published


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """Whether this process is the one that publishes; if so, nobody else does meanwhile."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            os.utime(descriptor)
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    path = folder / f".{uuid.uuid4().hex}.tmp"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_temporaries(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _published(
    folder: Path,
    log: EventSource,
    projections: Sequence[Projection],
    tail_limit: TailLimit,
    content: Content,
    temporary: Path,
) -> PublishedSnapshot | None:
    snapshots = Snapshots(folder, log, projections)
    published = None
    if tail_limit.is_exceeded(tail_bytes=content.tail_bytes, snapshot_bytes=content.snapshot_bytes):
        target = folder / snapshots.name_at(content.position).text
        made = temporary / target.name
        made.unlink(missing_ok=True)
        _write(made, content, projections, snapshots)
        put_in_place(made, target)
        published = PublishedSnapshot(target, content.position, target.stat().st_size)
    prune(snapshots)
    return published


def _write(path: Path, content: Content, projections: Sequence[Projection], snapshots: Snapshots) -> None:
    connection = content.database.cursor()
    place = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{place}' AS {_MADE}")
    connection.execute(f"CREATE SCHEMA {_MADE}.history")
    # Inside the file its own schemas are meant, so it is defined as if it were the only one.
    connection.execute(f"USE {_MADE}")
    for projection in projections:
        for text in projection.snapshot_definitions():
            connection.execute(text)
        if projection.name not in content.stopped:
            connection.execute(";".join(projection.view_definitions()))
    connection.execute("USE memory")
    for projection in projections:
        for table in projection.tables:
            connection.execute(
                f"INSERT INTO {_MADE}.history.{table.name} "
                f"FROM memory.history.{table.name} ORDER BY {', '.join(table.order)}"
            )
    _describe(connection, content, snapshots)
    connection.execute(f"DETACH {_MADE}")
    connection.close()


def _describe(connection: DuckDBPyConnection, content: Content, snapshots: Snapshots) -> None:
    columns = ", ".join(f"{name} {sql_type} NOT NULL" for name, sql_type in ABOUT.items())
    places = ", ".join("?" for _ in ABOUT)
    connection.execute(f"CREATE TABLE {_MADE}.history.snapshot ({columns})")
    connection.execute(
        f"INSERT INTO {_MADE}.history.snapshot VALUES ({places})",
        list(snapshots.about(content.position, content.snapshot_bytes + content.tail_bytes)),
    )
    connection.execute(
        f"CREATE TABLE {_MADE}.history.read_models "
        "(read_model VARCHAR NOT NULL, position UBIGINT NOT NULL, message VARCHAR, cause VARCHAR)"
    )
    for read_model, position in content.checkpoints.items():
        stopped = content.stopped.get(read_model)
        connection.execute(
            f"INSERT INTO {_MADE}.history.read_models VALUES (?, ?, ?, ?)",
            [read_model, position, stopped and stopped.message, stopped and stopped.cause],
        )
