"""``gc``: deleting files of a base that nobody needs. It looks first, and deletes only when told to.

What is garbage, and why it cannot be anything else:

- *orphans*: payloads that no event names, left by a writer that died before its event. A writer that
  lives may be about to name one, so only files older than a grace count; and the folder is listed before
  the log is read, so that whatever was named meanwhile is known.
- *removals* that a crash cut short: the event says removed, the file is still there.
- *trash*: arrays that were taken out of place and not yet deleted; in a bucket, notes of such removals.
- *temporaries* of writers that died.
- *superseded* payloads, of weights that were stored again, but only if asked for: the log as of an
  earlier position loads them. That they were dropped is put on record first (``WeightsPayloadDropped``).

No symbolic link is followed and nothing outside the base is touched. Where events were lost, orphans
of the runs in question are kept: they may be what a lost event named.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dacapo_store.base import Base
from dacapo_store.events import WeightsPayloadDropped
from dacapo_store.garbage_places import FoundFile, GarbagePlace, garbage_at
from dacapo_store.location import Location
from dacapo_store.payloads import Payload, Payloads
from eventstore import EventLog


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
    base: str | os.PathLike[str], *, keep: int | None = None, grace_seconds: float | None = None
) -> GarbagePlan:
    """Say what can be deleted; nothing is written.

    Args:
        base: The base directory.
        keep: Of weights that were stored several times, how many of the latest to keep for each
            iteration that is in view; those out of view go altogether. None keeps everything that
            the log as of any position loads.
        grace_seconds: Files that changed more recently are left to their writers; None is an hour, and
            in a bucket a day.

    Raises:
        LogNotFoundError: There is no base.
        ValueError: ``keep`` is less than 1.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep is 1 or more (the weights in view are always kept), not {keep}")
    location = Location.of(base)
    place = garbage_at(location.payloads)
    before = time.time() - (place.grace_seconds if grace_seconds is None else grace_seconds)
    with EventLog.open(location.log, read_only=True) as log:
        found = list(place.found())
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
    garbage += _unfinished_removals(place, payloads)
    if keep is not None:
        garbage += _superseded(place, payloads, keep)
    return GarbagePlan(tuple(garbage), tuple(spared))


def collect_garbage(
    base: str | os.PathLike[str], *, keep: int | None = None, grace_seconds: float | None = None
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
    place = garbage_at(opened.location.payloads)
    for each in plan.garbage:
        if each.kind == "superseded":
            # The event first: whoever misses the file finds out why.
            _record_drop(opened, each)
        place.delete(each.path)
    return plan


def _reason_to_spare(file: FoundFile, payloads: Payloads, before: float) -> str | None:
    if file.kind == "trash":
        return None
    if file.changed > before:
        return "it is new: a writer may be about to name it"
    run = file.path.split("/", 1)[0]
    if file.kind == "orphan" and (payloads.any_lost or run in payloads.lost_runs):
        return "events were lost that may have named it"
    return None


def _unfinished_removals(place: GarbagePlace, payloads: Payloads) -> Iterator[Garbage]:
    """Files that the log says are gone, and the links to them."""
    for path in sorted(payloads.removed.keys() | payloads.dropped):
        size = place.size(path)
        if size is None:
            continue
        payload = payloads.removed.get(path)
        if payload is not None:
            name = place.second_name(payload.stored.run, payload.stored.iteration, path)
            if name is not None:
                yield Garbage("removal", name, 0, payload.position)
        yield Garbage("removal", path, size, None if payload is None else payload.position)


def _superseded(place: GarbagePlace, payloads: Payloads, keep: int) -> Iterator[Garbage]:
    for key, earlier in payloads.superseded.items():
        here = [payload for payload in earlier if payload.stored.path not in payloads.dropped]
        kept = keep - 1 if key in payloads.present else 0
        for payload in here[: len(here) - kept] if kept else here:
            size = place.size(payload.stored.path)
            if size is not None:
                yield Garbage("superseded", payload.stored.path, size, payload.position)


def _record_drop(base: Base, garbage: Garbage) -> None:
    assert garbage.position is not None, "an event names every superseded payload"
    (event,) = base.log.read(garbage.position, garbage.position + 1)
    (payload,) = Payloads.of([event]).present.values()
    base.append(event.stream, [_dropped(payload)])


def _dropped(payload: Payload) -> WeightsPayloadDropped:
    return WeightsPayloadDropped(payload.stored.run, payload.stored.iteration, payload.stored.path)
