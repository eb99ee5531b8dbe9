"""Work on a base that nobody should wait for: snapshots of the read models, and compact segments.

A store call never does it. A process that finds some to do (a reader whose queries have come to
depend on many events in memory, a base that is closed) starts another process for it: of low
priority, in a session of its own, with no open file of its parent. It may be killed at any moment, and
so may its parent. One works on a base at a time, and none is started within a minute after the last.

The environment variable ``DACAPO_STORE_HOUSEKEEPING=off`` lets no process be started;
``dacapo-store snapshot`` and ``dacapo-store compact`` do the work when they are told to.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dacapo_store.location import Location
from eventstore import LogNotFoundError, reencode_log, reencoding_is_due

if TYPE_CHECKING:
    from projections import PublishedSnapshot, TailLimit

logger = logging.getLogger(__name__)

VARIABLE: Final = "DACAPO_STORE_HOUSEKEEPING"
_OFF = ("off", "no", "false", "0")
_PAUSE_SECONDS = 60.0
_LOWEST_PRIORITY = 19
_POSITION_DIGITS = 20
_NEW_EVENTS_MIN = 10_000
_NEW_EVENTS_SHARE = 0.25

# What the parent imports from, its child can import from: behind the child's own places, so that
# nothing stands in front of the standard library.
_PROGRAM = (
    "import sys; sys.path += [place for place in sys.argv[2:] if place not in sys.path]; del sys.argv[2:]; "
    "from dacapo_store.housekeeping import main; main()"
)
# The shell ends at once, so that the process is no child of this one: a trainer that waits for its own
# children never meets it.
_DETACH = '"$@" </dev/null >/dev/null 2>&1 &'


def publish(base: str | os.PathLike[str], *, tail_limit: TailLimit | None = None) -> PublishedSnapshot | None:
    """Make a snapshot file of a base's read models, unless the newest one is new enough.

    Args:
        base: The base directory, or an address.
        tail_limit: How many events behind the newest file are no reason for another; by default
            what is right for work in the background.

    Returns:
        What was made; None where no snapshot is due, or where another process is at it.

    Raises:
        LogNotFoundError: There is no base.
        EventStoreError: The log cannot be read; the text says why.
        OSError: The folder ``views`` cannot be written, or the disk is full. Nothing is harmed.
        projections.ProjectionError: Memory or disk ran out. Nothing is harmed.
    """
    from dacapo_store.backup import synced_log
    from projections import TAIL_LIMIT, publish_snapshot

    location = Location.of(base)
    with synced_log(location) as log:
        views = location.views
        views.parent.mkdir(parents=True, exist_ok=True)
        published = publish_snapshot(views, log, tail_limit=tail_limit or TAIL_LIMIT)
        log.share_index()
        return published


def keep_house(base: str | os.PathLike[str]) -> None:
    """Do all the work that there is: make a snapshot, then write rolled segments again.

    What replaces a file is proven first, and the former one stays for a while; a later call deletes it.
    One process at a time re-encodes; where another is at it, that is left to it.

    Raises:
        EventStoreError: As ``publish`` and ``eventstore.reencode_log`` do; likewise the other errors of
            ``publish``. What the one could not do does not keep the other from its work.
    """
    try:
        publish(base)
    finally:
        location = Location.of(base)
        if location.is_local:
            reencode_log(location.log)


def start(base: str | os.PathLike[str]) -> bool:
    """Let another process do the work, unless that is switched off, or was done just now.

    Returns:
        Whether one was started. A failure to do so is logged and is no error.
    """
    location = Location.of(base)
    if not _is_allowed() or time.time() - _last_attempt(location.views) < _PAUSE_SECONDS:
        return False
    places = [os.path.abspath(place) for place in sys.path if place]  # noqa: PTH100 - no link is resolved
    command = [sys.executable, "-P", "-c", _PROGRAM, location.name, *places]
    try:
        subprocess.run(  # noqa: S603 - this very interpreter
            ["/bin/sh", "-c", _DETACH, "sh", *command],
            check=True,
            cwd="/",
            env={**os.environ, **location.secrets()},
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("Housekeeping of %s could not be started: %s", location.name, error)
        return False
    return True


def compaction_is_due(location: Location) -> bool:
    """Whether the log has rolled segments that can be written again, or former files to delete."""
    return location.is_local and reencoding_is_due(location.log)


def has_grown(location: Location, next_position: int) -> bool:
    """Whether many events have come since the newest snapshot.

    For a process that only writes: it tells by the files' names, without loading a database.
    """
    newest = 0
    views = location.views
    if views.is_dir():
        names = (path.name for path in views.glob("*.duckdb"))
        newest = max((int(name[:_POSITION_DIGITS]) for name in names if _has_position(name)), default=0)
    return next_position - newest > max(_NEW_EVENTS_MIN, _NEW_EVENTS_SHARE * newest)


def main() -> None:
    """Do the work on the base that the first argument names."""
    os.nice(_LOWEST_PRIORITY)
    base = sys.argv[1]
    try:
        keep_house(base)
    except LogNotFoundError:
        logger.info("There is no base in %s any more.", base)


def _is_allowed() -> bool:
    if os.environ.get(VARIABLE, "").strip().lower() in _OFF:
        return False
    # A program in which Python is embedded is no interpreter that could be started.
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def _last_attempt(views: Path) -> float:
    """When anybody last set out to publish, in seconds since 1970; 0 for never."""
    try:
        return (views / "lock").stat().st_mtime
    except OSError:
        return 0.0


def _has_position(name: str) -> bool:
    return name[:_POSITION_DIGITS].isdecimal()


if __name__ == "__main__":
    main()
