"""What to do with bytes at the end of the log that are not a good frame. The lock must be held.

1. D is the greatest synced position that any good frame names, also behind the flaw, or that this
   process has synced itself.
2. A flaw in front of an event below D is damage: nothing is changed, reading stops with an error.
3. A frame that is wrong without being short and without a sector that was never written is damage
   too: no power cut makes such a frame.
4. Otherwise this is the tail that a crash tore, and nobody was told that it is durable. Everything
   from the flaw on, good frames behind it too, is copied to ``quarantine/`` and synced there;
5. only then is the segment cut in front of the flaw and synced.

A crash between 4 and 5 leaves the segment as it was and a copy too many; the next writer begins anew.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from eventstore import files
from eventstore import format as log_format
from eventstore.errors import DamagedLogError
from eventstore.format import Flaw
from eventstore.storage.local.segment import Segment


def settle_tail(directory: Path, segment: Segment, offset: int, *, synced_position: int) -> None:
    """Cut the torn tail that begins at ``offset`` off the last segment, or call it damage.

    Raises:
        DamagedLogError: The flaw is no torn tail. Nothing was changed.
    """
    rest = torn_tail(segment, offset, synced_position=synced_position)
    _set_aside(directory, segment, offset, rest)
    descriptor = segment.keep_open()
    files.cut(descriptor, offset)
    files.sync_file(descriptor)


def torn_tail(segment: Segment, offset: int, *, synced_position: int) -> bytes:
    """The bytes from ``offset`` on, if a crash could have left them: nobody was told that they are durable.

    Raises:
        DamagedLogError: They are no torn tail.
    """
    flaw, rest = segment.flaw_at(offset)
    assert flaw is not None, "nobody finishes a frame while the lock is held here"
    durable = max(synced_position, log_format.greatest_synced_position(rest))
    if segment.next_position < durable or flaw is Flaw.WRONG:
        raise damage(segment, offset, flaw)
    return rest


def damage(segment: Segment, offset: int, flaw: Flaw, *, position: int | None = None) -> DamagedLogError:
    """The error for a flaw that is damage; ``position`` is the first that cannot be read."""
    position = segment.next_position if position is None else position
    return DamagedLogError(
        f"{segment.path} is damaged at byte {offset}: {flaw.value}. Events from position "
        f"{position} on cannot be read. eventstore.verify_log lists all damage; "
        "restore the file from a copy, or repair the log (eventstore.plan_repair says what can be kept)",
        path=str(segment.path),
        offset=offset,
        position=position,
    )


def _set_aside(directory: Path, segment: Segment, offset: int, rest: bytes) -> None:
    quarantine = directory / "quarantine"
    files.make_directories(quarantine, like=directory)
    copy = quarantine / f"{segment.path.name}.{offset}.{uuid.uuid4().hex}.bytes"
    with files.new_file(copy, like=directory) as (descriptor, _):
        files.write(descriptor, rest)
        files.sync_file(descriptor)
        files.sync_directory(quarantine)
