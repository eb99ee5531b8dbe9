"""Snapshot files beside a log in a bucket, for hosts that have none of this log.

Whoever makes a snapshot publishes it there. Who comes to a log whose events lie far behind the newest
file of its host fetches the newest usable one into the same folder, where it is a file like any other:
the rules of ``snapshot`` hold for it, and its digest has been checked on the way. One process of a host
fetches at a time; those who wait find the file.

Nothing here is ever needed: what goes wrong is logged, once, and an older file is used, or the log alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventstore import EventStoreError, files
from projections.snapshot import SnapshotName, Snapshots, prune, put_in_place, say_once

if TYPE_CHECKING:
    from eventstore.storage.protocol import SharedFile, SharedFiles

FOLDER: Final = "snap"
"""The beginning of the objects' names."""

FILES_KEPT: Final = 2
GRACE_SECONDS: Final = 86_400.0
"""Whoever has seen a file in a listing may still be fetching it."""

FOREIGN_GRACE_SECONDS: Final = 30 * 86_400.0
"""Files of other programs, which may yet be in use somewhere, stay for so long."""

_EVENTS_MIN: Final = 100
_SHARE: Final = 0.25
_LOCK: Final = "fetching"


def fetch_newer(snapshots: Snapshots) -> None:
    """Fetch the newest usable file, if the newest one of this host is far behind the log, and behind it."""
    shared, folder = snapshots.log.shared_files, snapshots.folder
    if shared is None:
        return
    try:
        if _is_behind(snapshots, snapshots.log.next_position):
            files.make_directories(folder, like=_nearest(folder))
            with _turn(folder):
                _fetch_newest(shared, snapshots)
    except (EventStoreError, OSError) as error:
        say_once(folder, f"none can be fetched ({error})")


def share_newest(snapshots: Snapshots) -> None:
    """Publish the newest file of this host, if it is newer than those beside the log; old ones of them go.

    Raises:
        OSError: The storage does not take it. Nothing is harmed.
    """
    shared = snapshots.log.shared_files
    if shared is None:
        return
    there = _listed(shared)
    usable = {name for name in there if snapshots.fits(name)}
    newest = next(snapshots.usable_names(above=max((name.position for name in usable), default=0)), None)
    if newest is not None:
        shared.publish(FOLDER, snapshots.folder / newest.text)
        usable.add(newest)
    now, kept = time.time(), sorted(usable, reverse=True)[:FILES_KEPT]
    for name, found in there.items():
        grace_seconds = GRACE_SECONDS if snapshots.is_own(name) else FOREIGN_GRACE_SECONDS
        for file in found:
            if name not in kept and file.modified < now - grace_seconds:
                shared.remove(file)


def _listed(shared: SharedFiles) -> dict[SnapshotName, list[SharedFile]]:
    """What there is; two publishers may have made two files of one name, which are equally good."""
    there: dict[SnapshotName, list[SharedFile]] = {}
    for file in shared.listed(FOLDER):
        name = SnapshotName.parsed(file.name)
        if name is not None:
            there.setdefault(name, []).append(file)
    return there


def _is_behind(snapshots: Snapshots, position: int) -> bool:
    """Whether so many events lie behind the newest file here that to read them takes longer than to fetch."""
    newest = next(snapshots.usable_names(), None)
    reached = 0 if newest is None else newest.position
    return position - reached > max(_EVENTS_MIN, _SHARE * reached)


def _fetch_newest(shared: SharedFiles, snapshots: Snapshots) -> None:
    there = _listed(shared)
    for name in sorted(there, reverse=True):
        # Another process may have fetched it while this one waited for its turn.
        if not _is_behind(snapshots, name.position):
            return
        if snapshots.fits(name):
            for file in there[name]:
                try:
                    _fetch(shared, file, snapshots.folder / name.text)
                except (EventStoreError, OSError) as error:
                    say_once(snapshots.folder / name.text, str(error))
                else:
                    prune(snapshots)
                    return


def _fetch(shared: SharedFiles, file: SharedFile, target: Path) -> None:
    made = target.with_name(f".{uuid.uuid4().hex}.part")
    with files.new_file(made, like=target.parent) as (descriptor, _):
        shared.fetch(file, descriptor)
        put_in_place(made, target)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process of this host fetches at a time; what those left that died meanwhile goes."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for path in folder.glob(".*.part"):
            files.remove_derived(path)
        yield
    finally:
        os.close(descriptor)


def _nearest(folder: Path) -> Path:
    return next(path for path in folder.parents if path.is_dir())
