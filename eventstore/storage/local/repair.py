"""Repair: an operator's decision about a damaged log, never taken by the log itself.

What can be proven good is kept, at its positions and stream versions; what is lost is said exactly, and
a ``$EventLost`` stands in each of its places. Nothing is thrown away: every file that is replaced
goes to ``quarantine/repair-<name>/``, with a report. See ``docs/decisions/0006-repair.md``.

1. Under the lock, find the history that loses least (``reconstruction``), and which segments must be
   written anew for it: the damaged ones and, when events are lost, all behind them, because their
   chain is another one then.
2. Write them to ``quarantine/repair-<name>/new/`` and sync them. Link the old ones beside them.
3. Link the new ones to their names, ``<first>.r<g>.arrows`` with a generation that no file ever had:
   the last segment first, so that whoever writes from then on writes behind the new chain, and the
   damaged one last, so that a log that did not open does not open before it is whole.
4. Take the old names away, then ``new/``.

A crash during 2 leaves the log as it was; the next repair throws the new files away. A crash during
3 or 4 leaves a repair that the next one completes. Which of them it was is told by the last segment.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eventstore import files
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.repair_folder import (
    complete_earlier,
    discard,
    folder_of,
    greatest_generation,
    make_new,
    switch,
)
from eventstore.storage.local.repair_plan import RepairPlan, Work, existing_folder, planned_work
from eventstore.storage.local.rewriting import Repair, write_segments

__all__ = ["RepairPlan", "plan_repair", "repair_log"]


def plan_repair(path: str | os.PathLike[str], *, copy: str | os.PathLike[str] | None = None) -> RepairPlan:
    """Say what a repair would do; nothing is written, and no lock is taken.

    Restoring a damaged file from a copy is better than any repair that loses events: give the copy, and
    the plan takes from it what the log has lost.

    Args:
        path: The log's folder, e.g. ``<base>/events``.
        copy: The folder of a copy of the log, of any age.

    Raises:
        LogNotFoundError: There is no log in one of the folders.
        DamagedLogError: Nothing can be done without a copy: not even the log's id can be told, or what
            is left contradicts itself.
        ValueError: ``copy`` is a copy of another log.
    """
    return planned_work(existing_folder(path), copy).plan


def repair_log(
    path: str | os.PathLike[str],
    *,
    copy: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> RepairPlan:
    """Do what ``plan_repair`` says. End all processes that use the log first.

    Afterwards the log opens and ``verify_log`` finds no damage. A process that had it open all the
    while cannot write to it any more: its next append says so. A log that needs no repair is left alone.

    Args:
        path: The log's folder.
        copy: The folder of a copy of the log, of any age.
        metadata: Who and where, for the events that stand for lost ones.

    Raises:
        LogNotFoundError: There is no log in one of the folders.
        DamagedLogError: As for ``plan_repair``; nothing was changed.
        ValueError: ``copy`` is a copy of another log.
        OSError: The disk did not take the new files. The log is as it was; make room and repeat.
    """
    directory = existing_folder(path)
    lock = Lock(directory)
    try:
        with lock:
            complete_earlier(directory, lock)
            work = planned_work(directory, copy)
            if not work.plan.needed:
                return work.plan
            return _apply(work, lock, metadata or {})
    finally:
        lock.close()


def _apply(work: Work, lock: Lock, metadata: Mapping[str, Any]) -> RepairPlan:
    now = datetime.now(UTC)
    repair = Repair(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}", now, metadata)
    folder = folder_of(work.directory, repair.name)
    plan = replace(work.plan, quarantine=folder.relative_to(work.directory).as_posix())
    new = make_new(folder, like=work.directory)
    try:
        write_segments(work, new, repair, generation=1 + greatest_generation(work.directory))
        _write_report(plan, folder)
        for name in [*work.set_aside, *(part.name for part in work.rewritten)]:
            if name is not None:
                files.link(work.directory / name.text, folder / name.text)
    except BaseException:
        discard(folder)
        raise
    switch(work.directory, folder, lock)
    return plan


def _write_report(plan: RepairPlan, folder: Path) -> None:
    text = json.dumps(asdict(plan), indent=1, default=lambda value: value.hex())
    with files.new_file(folder / "report.json", like=folder) as (descriptor, _):
        files.write(descriptor, text.encode())
        files.sync_file(descriptor)
        files.sync_directory(folder)
