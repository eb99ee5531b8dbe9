"""What the log says of the files that hold weights, and whether they are there. Reads only.

The module folds all events that name payloads. What may be deleted is ``maintenance``'s business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dacapo_store.artifacts import Artifact
from dacapo_store.errors import DamagedArtifactError
from dacapo_store.events import (
    EVENT_TYPES,
    EventLost,
    WeightsPayloadDropped,
    WeightsRemoved,
    WeightsRewound,
    WeightsStored,
)
from dacapo_store.location import Location
from dacapo_store.payload_place import PayloadPlace, place_at
from eventstore import EVENT_LOST, LOST_STREAM, EventLog, RecordedEvent
from eventstore.model import Progress, no_progress

_GONE = "the file is gone: restore it from a copy"

TYPES = (EVENT_LOST, "WeightsPayloadDropped", "WeightsRemoved", "WeightsRewound", "WeightsStored")


@dataclass(frozen=True)
class Payload:
    """A file that an event names.

    Attributes:
        stored: What the event says of it.
        position: The event's position.
    """

    stored: WeightsStored
    position: int

    @property
    def artifact(self) -> Artifact:
        """The file, as ``artifacts`` knows it."""
        stored = self.stored
        return Artifact(stored.path, stored.bytes, stored.chunk_bytes, stored.digest)


@dataclass
class Payloads:
    """The fold of the events that name payloads.

    Attributes:
        present: The payload of each run's iterations, as they are in view.
        superseded: Payloads that are out of view because the iteration was stored again, or the run
            rewound, oldest first.
        removed: Payloads whose weights were removed, by path.
        dropped: The paths of payloads that were dropped.
        lost_runs: Runs of which events were lost: what they named is unknown.
        any_lost: True when events were lost of which not even the stream is known.
    """

    present: dict[tuple[str, int], Payload] = field(default_factory=dict)
    superseded: dict[tuple[str, int], list[Payload]] = field(default_factory=dict)
    removed: dict[str, Payload] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    lost_runs: set[str] = field(default_factory=set)
    any_lost: bool = False

    @classmethod
    def of(cls, events: Iterable[RecordedEvent]) -> Payloads:
        """The fold of these events; those of other types do not matter."""
        payloads = cls()
        for event in events:
            if event.type in TYPES:
                payloads._fold(event)
        return payloads

    @classmethod
    def of_log(cls, log: EventLog, until: int | None = None) -> Payloads:
        """The fold of a log up to a position."""
        return cls.of(log.read(until=until, types=TYPES))

    def _fold(self, event: RecordedEvent) -> None:
        match EVENT_TYPES.decode(event):
            case WeightsStored() as stored:
                key = (stored.run, stored.iteration)
                self._supersede(key)
                # Restored: a file that was out of view is in it again.
                earlier = self.superseded.get(key, [])
                earlier[:] = [payload for payload in earlier if payload.stored.path != stored.path]
                self.removed.pop(stored.path, None)
                self.present[key] = Payload(stored, event.position)
            case WeightsRemoved(run=run, iteration=iteration):
                payload = self.present.pop((run, iteration), None)
                if payload is not None:
                    self.removed[payload.stored.path] = payload
            case WeightsRewound(run=run, keeps_until=kept):
                for key in [key for key in self.present if key[0] == run and key[1] > kept]:
                    self._supersede(key)
            case WeightsPayloadDropped(path=path):
                self.dropped.add(path)
            case EventLost():
                self.any_lost = self.any_lost or event.stream == LOST_STREAM
                if event.stream.startswith("weights/"):
                    self.lost_runs.add(event.stream.removeprefix("weights/"))

    def _supersede(self, key: tuple[str, int]) -> None:
        payload = self.present.pop(key, None)
        if payload is not None:
            self.superseded.setdefault(key, []).append(payload)

    def kept(self) -> list[Payload]:
        """The payloads that should be there: those in view, and those that an earlier view loads."""
        earlier = [payload for payloads in self.superseded.values() for payload in payloads]
        expected = [*self.present.values(), *earlier]
        return [payload for payload in expected if payload.stored.path not in self.dropped]

    def named(self) -> set[str]:
        """The paths of all payloads that any event names."""
        return {payload.stored.path for payload in self.kept()} | self.removed.keys() | self.dropped


@dataclass(frozen=True)
class PayloadFinding:
    """A payload that is not as its event says.

    Attributes:
        path: The file, relative to the base.
        position: The position of the event that names it.
        in_view: True when the present view names it; otherwise only an earlier one does.
        message: What is wrong, and what to do.
    """

    path: str
    position: int
    in_view: bool
    message: str


def check_payloads(
    base: str | os.PathLike[str],
    log: EventLog,
    *,
    digests: bool = False,
    progress: Progress = no_progress,
) -> tuple[int, list[PayloadFinding]]:
    """Check that the files that the log names are there, with their sizes; nothing is written.

    Args:
        base: The base directory, or its address.
        log: Its log.
        digests: Read every byte and compare digests, too.
        progress: Told of the bytes that were looked at.

    Returns:
        How many files were checked, and what is wrong.
    """
    place = place_at(Location.of(base).payloads)
    payloads = Payloads.of_log(log)
    in_view = {payload.stored.path for payload in payloads.present.values()}
    expected = payloads.kept()
    known = {} if digests else place.sizes([payload.stored.path for payload in expected])
    findings = []
    done, total = 0, sum(payload.stored.bytes for payload in expected)
    for payload in expected:
        wrong = _wrong(place, payload.artifact, known, digests=digests)
        if wrong is not None:
            path = payload.stored.path
            findings.append(PayloadFinding(path, payload.position, path in in_view, wrong))
        done += payload.stored.bytes
        progress(done, total)
    return len(expected), findings


def _wrong(place: PayloadPlace, artifact: Artifact, known: Mapping[str, int], *, digests: bool) -> str | None:
    try:
        if digests:
            place.verify(artifact)
            return None
        size = known.get(artifact.path)
        if size is None:
            size = place.size(artifact.path)
    except FileNotFoundError:
        return _GONE
    except (DamagedArtifactError, ValueError, OSError) as error:
        return str(error)
    if size is None:
        return _GONE
    if size == artifact.bytes:
        return None
    return f"the file has {size} bytes, and {artifact.bytes} were stored: restore it from a copy"
