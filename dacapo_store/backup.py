"""Backup: a copy of a base that is consistent while others write, and says what it holds.

1. Spools are read first: what scalar loggers put into them afterwards, or take out, is not lost for that.
2. The log is copied, up to its durable position: whole commits, each frame checked on the way. Then the
   spools are written, and whoever opens the copy first records what of their rows its log has not.
3. Then the payloads that these events name, each checked against its digest on the way. They were
   durable before their events, so they are there, unless they were removed since.
4. A receipt, ``backup.json``, says position and chain value. It is written last.

The copy is a base: it opens. An earlier copy is brought up to date; nothing is ever deleted in it but
segments that newer generations supersede. Links and small JSON files are derived and made anew
there by ``LocalWeightsStore.repair_links``. Zarr arrays are not part of it: the log does not know what
is in them.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dacapo_store.errors import DamagedArtifactError
from dacapo_store.location import Location
from dacapo_store.payload_copies import copy_payload
from dacapo_store.payload_place import FolderPayloads
from dacapo_store.payloads import Payloads
from eventstore import EventLog, LogNotFoundError, copy_log, files
from eventstore.model import Progress, no_progress
from eventstore.spool import read_spools, replace_spools

RECEIPT = "backup.json"


@dataclass(frozen=True)
class BackupReceipt:
    """What a backup holds.

    Attributes:
        source: The base that was copied.
        created_at: When, ISO 8601.
        log_id: The log's id.
        next_position: How many events the copy holds.
        chain: The chain's value behind them: ``verify --expect`` compares it.
        payloads: How many payloads the copy holds.
        payload_bytes: Their size.
        copied_bytes: How many bytes were written this time, log included.
        missing: Payloads that these events name and that could not be copied, with the reason.
    """

    source: str
    created_at: str
    log_id: str
    next_position: int
    chain: str
    payloads: int
    payload_bytes: int
    copied_bytes: int
    missing: tuple[tuple[str, str], ...]


def back_up(
    base: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    link: bool = False,
    progress: Progress = no_progress,
) -> BackupReceipt:
    """Copy a base while others may go on writing to it.

    Args:
        base: The base directory.
        target: An empty or missing folder, or an earlier backup of the same base.
        link: Give payloads a second name in the target instead of copying them, where both are on one
            file system. This saves room and guards against deletion, not against a failing disk.
        progress: Told of the bytes of payloads that were looked at.

    Raises:
        LogNotFoundError: There is no base.
        ValueError: The target holds something else, or lies within the base; nothing was written.
        DamagedLogError: The log is damaged.
        OSError: The disk did not take the copy. It may be repeated and goes on where it was.
    """
    source = _on_this_machine(base)
    root, copy = source.files, Path(target).expanduser().resolve()
    _check_target(root, copy)
    spools = read_spools(root / "events")
    with synced_log(source) as log:
        next_position = log.durable_position
        files.make_directories(copy, like=root)
        copied_log = copy_log(root / "events", copy / "events", next_position=next_position)
        replace_spools(copy / "events", spools)
        named = Payloads.of_log(log, until=copied_log.next_position)
        present = {payload.stored.path for payload in named.present.values()}
        gone = Payloads.of_log(log)
        since = gone.dropped | gone.removed.keys()
    missing: list[tuple[str, str]] = []
    copied_bytes, payload_bytes, count = copied_log.copied_bytes, 0, 0
    done, total = 0, sum(payload.stored.bytes for payload in named.kept())
    for payload in named.kept():
        artifact = payload.artifact
        done += artifact.bytes
        progress(done, total)
        try:
            copied_bytes += copy_payload(FolderPayloads(root), FolderPayloads(copy), artifact, link=link)
        except (FileNotFoundError, DamagedArtifactError, ValueError) as error:
            if artifact.path not in since:
                reason = "the file is gone" if isinstance(error, FileNotFoundError) else str(error)
                missing.append(
                    (artifact.path, reason if artifact.path in present else f"{reason} (not in view)")
                )
            continue
        payload_bytes += artifact.bytes
        count += 1
    receipt = BackupReceipt(
        source=str(root),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        log_id=copied_log.log_id,
        next_position=copied_log.next_position,
        chain=copied_log.chain,
        payloads=count,
        payload_bytes=payload_bytes,
        copied_bytes=copied_bytes,
        missing=tuple(missing),
    )
    files.replace_text(copy / RECEIPT, json.dumps(asdict(receipt), indent=1) + "\n", like=copy)
    return receipt


@dataclass(frozen=True)
class BackupPlan:
    """What a backup would copy.

    Attributes:
        next_position: How many events the copy would hold.
        payloads: How many weights files it would hold.
        payload_bytes: Their size.
        new_payloads: How many of them are not in the target yet.
        new_payload_bytes: Their size.
    """

    next_position: int
    payloads: int
    payload_bytes: int
    new_payloads: int
    new_payload_bytes: int


def plan_backup(base: str | os.PathLike[str], target: str | os.PathLike[str]) -> BackupPlan:
    """Say what ``back_up`` would copy; nothing is written.

    Raises:
        LogNotFoundError: There is no base.
        ValueError: The target holds something else, or lies within the base.
    """
    source, copy = _on_this_machine(base), Path(target).expanduser().resolve()
    _check_target(source.files, copy)
    with EventLog.open(source.log, read_only=True) as log:
        next_position = log.next_position
        kept = Payloads.of_log(log, until=next_position).kept()
    new = [payload for payload in kept if not (copy / payload.stored.path).is_file()]
    sizes = [sum(payload.stored.bytes for payload in payloads) for payloads in (kept, new)]
    return BackupPlan(next_position, len(kept), sizes[0], len(new), sizes[1])


def _on_this_machine(base: str | os.PathLike[str]) -> Location:
    source = Location.of(base)
    if source.is_local:
        return source
    raise ValueError(
        f"{source.name} is not on this machine: copy it with `dacapo-store replay`, which keeps events, "
        "ids and times, or with the means of its storage"
    )


def _check_target(root: Path, copy: Path) -> None:
    if copy == root or root in copy.parents or copy in root.parents:
        raise ValueError(f"{copy} and the base {root} lie within each other: give a folder elsewhere")
    if copy.is_dir() and any(copy.iterdir()) and not (copy / "events").is_dir():
        raise ValueError(f"{copy} is not empty and no backup: give an empty folder or an earlier backup")


def synced_log(base: Location) -> EventLog:
    """The log, synced so that all of it can be copied; as far as it is known to be durable otherwise."""
    events = base.log
    if not base.exists:
        raise LogNotFoundError(f"there is no base in {base.name}", path=base.name)
    with EventLog.open(events, read_only=True):
        # A folder without a log would get one from opening it for writing.
        pass
    try:
        return EventLog.open(events)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return EventLog.open(events, read_only=True)
