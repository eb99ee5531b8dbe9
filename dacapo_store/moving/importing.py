"""Moving in: what DaCapo's own stores have written becomes events of a base.

1. Everything that can be found is listed (``upstream_files``, ``upstream_mongo``) and put into the
   order of its times, so that the base as of a time is what it was then, as far as files tell.
2. One thing after the other is read and decided on. A payload gets a name of its own in the base first,
   and is synced; then the event is appended, with the time of the file and an id that is derived from
   what was found.
3. At the end the log is synced, and in a base elsewhere the familiar links to weights are made.

A kill in between leaves what is done; the next call goes on, because it finds the ids. The rule:
**an import never takes anything out of view that it did not bring**. What was found

- is on record under its id, or is what is in view already: nothing happens;
- is new, or follows what is in view, or takes the place of what an earlier import brought: it is
  recorded;
- differs from what others have recorded since: it is a problem, and is reported.

In place, files stay where they are: a weights file gets a second name in ``checkpoints/objects``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from msgspec import structs

from dacapo_store import artifacts, weights_file
from dacapo_store.artifacts import CHUNK_BYTES, Artifact
from dacapo_store.base import Base
from dacapo_store.errors import DamagedArtifactError
from dacapo_store.events import WeightsStored
from dacapo_store.history import TRAINING
from dacapo_store.location import Location
from dacapo_store.moving import upstream_files
from dacapo_store.moving.alone import alone_in
from dacapo_store.moving.containers import Containers, containers_at
from dacapo_store.moving.decisions import (
    MARK,
    Decision,
    Seen,
    choosing,
    in_order,
    recording,
    storing_config,
    storing_stats,
    storing_weights,
)
from dacapo_store.moving.found import (
    Found,
    FoundBest,
    FoundConfig,
    FoundContainer,
    FoundStats,
    FoundWeights,
    UnreadableError,
)
from dacapo_store.moving.progress import Progress, Reading
from dacapo_store.moving.zarr_trees import ZarrArray
from dacapo_store.payload_place import FolderPayloads, PayloadPlace, place_at
from dacapo_store.weights_file import WeightsUnsafeError
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import (
    NO_STREAM,
    DuplicateEventError,
    Event,
    ExpectedVersionError,
    InvalidEventError,
    LogNotFoundError,
    files,
)

if TYPE_CHECKING:
    from pymongo.database import Database


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Of the disk that is written to: nothing that follows could be written either."""


@dataclass(frozen=True)
class ImportReport:
    """What an import has done, or would do.

    Attributes:
        source: Where things were found.
        base: The base that has them now.
        dry_run: True when nothing was written.
        imported: How many things were imported, by kind: ``configs``, ``training stats``,
            ``validation scores``, ``weights``, ``best weights``, ``arrays``.
        known: How many were there already, by kind.
        payload_bytes: The size of the weights and arrays among those that were imported.
        copied_bytes: How many bytes were copied; files that got a second name count nothing.
        problems: What was not imported, by place, with the reason.
        remarks: What was imported and is odd, and what was left alone, by place.
        position: The log's next position afterwards; None when there is no log.
    """

    source: str
    base: str
    dry_run: bool
    imported: dict[str, int]
    known: dict[str, int]
    payload_bytes: int
    copied_bytes: int
    problems: tuple[tuple[str, str], ...]
    remarks: tuple[tuple[str, str], ...]
    position: int | None


def import_base(
    source: str | os.PathLike[str] | None,
    *,
    into: str | os.PathLike[str] | None = None,
    mongo: Database[Any] | None = None,
    payloads: Literal["copy", "link"] = "copy",
    array_digests: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Make what DaCapo's own stores have written part of a base.

    It may be repeated at any time: it goes on where it was interrupted, and takes over what has come
    since. End the processes that write with DaCapo's stores first.

    Args:
        source: A base directory of DaCapo's; None with ``mongo`` for a database alone.
        into: The base that gets everything, a directory or an address; None makes the source itself a
            base, in which files stay where they are.
        mongo: A database of DaCapo's (pymongo's ``Database``): configs and stats are taken from
            there, weights and arrays from ``source``.
        payloads: For another base: copy weights and arrays, or give the files second names, which is
            only safe when DaCapo will not write to the source again.
        array_digests: Read all arrays to record what they hold; otherwise names and sizes only.
        dry_run: Read, decide and report, and write nothing.
        progress: Called before each thing that is read.

    Raises:
        ValueError: There is nothing of DaCapo's in ``source``, or it cannot become a base.
        MoveBusyError: Another import is writing to the base. Wait for it.
        EventStoreError: The log cannot be opened, or did not take an event. Mend it and repeat.
        OSError: The disk did not take something. Make room and repeat.
    """
    if source is None and (mongo is None or into is None):
        raise ValueError("give a base directory of DaCapo's, or a database and a base to import it into")
    root = None if source is None else Path(source).expanduser().resolve()
    given = root if into is None else into
    assert given is not None, "one of the two was given"
    location = Location.of(given)
    in_place = root is not None and location.is_local and root == location.files
    _check_source(root, needs_files=mongo is None)
    if isinstance(location.payloads, Path):
        _check_folders(root, location.payloads)
    findings = upstream_files.Findings() if root is None else upstream_files.findings_of(root)
    if mongo is not None:
        from dacapo_store.moving import upstream_mongo

        findings.found = [each for each in findings.found if not isinstance(each, FoundConfig | FoundStats)]
        upstream_mongo.find(mongo, findings)
    with contextlib.ExitStack() as held:
        if not dry_run:
            # Of a base in a bucket this is a folder of this host: other hosts are told by the log itself.
            files.make_directories(location.files, like=_nearest_folder(location.files))
            held.enter_context(alone_in(location.files))
        importer = _Importer(
            base=_opened(location, dry_run=dry_run),
            location=location,
            place=place_at(location.payloads),
            containers=containers_at(location.payloads),
            in_place=in_place,
            link=in_place or payloads == "link",
            array_digests=array_digests,
            dry_run=dry_run,
            progress=Reading(progress or (lambda *_: None)),
            problems=findings.problems,
            remarks=findings.remarks,
        )
        importer.take(findings.found)
        return importer.report("" if root is None else str(root))


def _check_source(root: Path | None, *, needs_files: bool) -> None:
    if root is not None and not root.is_dir():
        raise ValueError(f"{root} is no folder")
    if root is not None and needs_files and not upstream_files.is_upstream_base(root):
        raise ValueError(f"{root} holds nothing of DaCapo's stores: no configs, stats or checkpoints")


def _check_folders(root: Path | None, target: Path) -> None:
    if root is not None and root != target and (root in target.parents or target in root.parents):
        raise ValueError(f"{target} and {root} lie within each other: give a folder elsewhere")
    events = target / "events"
    if (events / "checkpoints").is_dir():
        raise ValueError(
            f"{target} has a run called 'events', whose folder the log would need: import into another base"
        )


def _opened(location: Location, *, dry_run: bool) -> Base | None:
    if not dry_run:
        return Base.at(location.name)
    try:
        return Base.at(location.name, read_only=True) if location.exists else None
    except LogNotFoundError:
        return None


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


@dataclass
class _Importer:
    """One call of ``import_base``."""

    base: Base | None
    location: Location
    place: PayloadPlace
    containers: Containers
    in_place: bool
    link: bool
    array_digests: bool
    dry_run: bool
    progress: Reading
    problems: list[tuple[str, str]]
    remarks: list[tuple[str, str]]
    imported: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    payload_bytes: int = 0
    copied_bytes: int = 0
    _seen: dict[str, Seen] = field(default_factory=dict)
    _expected: set[tuple[str, int]] = field(default_factory=set)

    def take(self, found: Iterable[Found]) -> None:
        """Import everything that was found, in the order of its times."""
        ordered = in_order(found)
        self.progress.total = sum(each.origin.bytes for each in ordered)
        for each in ordered:
            if each.origin.stamp_ns > time.time_ns():
                self._remark(
                    each, f"its time lies ahead, {each.origin.time:%Y-%m-%d %H:%M}Z: now is recorded"
                )
            with self.progress.of(each.origin.place, each.origin.bytes):
                try:
                    self._take(each)
                except UnreadableError as error:
                    self.problems.append((each.origin.place, str(error)))
                except InvalidEventError as error:
                    self.problems.append((each.origin.place, f"it cannot be stored: {error}"))
                except UnicodeEncodeError:
                    self.problems.append((each.origin.place, "a name in it is no text in UTF-8"))
                except FileNotFoundError as error:
                    self.problems.append((each.origin.place, f"it is gone meanwhile: {error}"))
        if self.base is not None and not self.dry_run:
            self.base.log.sync()
            if not self.in_place:
                self._make_links({each.run for each in ordered if isinstance(each, FoundWeights | FoundBest)})

    def _make_links(self, runs: Iterable[str]) -> None:
        store = LocalWeightsStore(self.location.name)
        for run in sorted(runs):
            store.repair_links(run)

    def report(self, source: str) -> ImportReport:
        """What became of it."""
        return ImportReport(
            source=source,
            base=self.location.shown,
            dry_run=self.dry_run,
            imported=dict(sorted(self.imported.items())),
            known=dict(sorted(self.known.items())),
            payload_bytes=self.payload_bytes,
            copied_bytes=self.copied_bytes,
            problems=tuple(self.problems),
            remarks=tuple(self.remarks),
            position=None if self.base is None else self.base.log.next_position,
        )

    def _take(self, found: Found) -> None:
        match found:
            case FoundConfig():
                self._take_config(found)
            case FoundStats():
                self._take_stats(found)
            case FoundWeights():
                self._take_weights(found)
            case FoundBest():
                self._take_best(found)
            case FoundContainer():
                self._take_container(found)

    def _take_config(self, found: FoundConfig) -> None:
        document = found.read()
        if document.get("name") != found.name:
            self._remark(found, f"its document has the name {document.get('name')!r}")
        self._decide(found, "configs", f"config/{found.kind}/{found.name}", storing_config(found, document))

    def _take_stats(self, found: FoundStats) -> None:
        rows = found.read()
        if not len(rows):
            self._remark(found, "it holds no rows")
            return
        stream = found.kind.stream(found.run)
        if self.base is not None and found.kind is TRAINING:
            self.base.settle(stream)
        name = "training stats" if found.kind is TRAINING else "validation scores"
        self._decide(found, name, stream, storing_stats(found, rows))

    def _take_weights(self, found: FoundWeights) -> None:
        decision = storing_weights(
            found,
            is_own=lambda seen: self._is_own(found, seen),
            read=partial(self._read_weights, found),
            bring=partial(self._bring_weights, found),
        )
        if self._decide(found, "weights", f"weights/{found.run}", decision):
            self.payload_bytes += found.origin.bytes
            self._expected.add((found.run, found.iteration))

    def _is_own(self, found: FoundWeights, seen: Seen) -> bool:
        """Whether a file is a name that the base itself has given to one of its payloads."""
        if not isinstance(self.place, FolderPayloads):
            return False
        root = self.place.root
        payloads = (artifacts.locate(root, path) for path in seen.payloads.get(found.iteration, ()))
        return any(payload.exists() and payload.samefile(found.file) for payload in payloads)

    def _read_weights(self, found: FoundWeights, size_in_view: int | None) -> Artifact:
        """Look into a file of weights and digest it; a dry run does so only where that may decide."""
        objects = f"{found.run}/checkpoints/objects"
        try:
            with found.file.open("rb") as file:
                before = os.fstat(file.fileno())
                self._look_into(found, file)
                if self.dry_run and before.st_size != size_in_view:
                    return Artifact(objects, before.st_size, CHUNK_BYTES, "")
                read = artifacts.describe(file.fileno(), objects)
                if self.link and not self.dry_run:
                    # A copy is synced while it is made; this one was written by others.
                    files.sync_file(file.fileno())
                after = os.fstat(file.fileno())
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UnreadableError("it was changed while it was read: end what writes to it, and repeat")
        # A name that says what is in the file: a repetition finds it, and it is never used for other bytes.
        return replace(read, path=f"{objects}/{found.iteration}-{read.digest[:32]}.pt")

    def _bring_weights(self, found: FoundWeights, artifact: Artifact) -> WeightsStored:
        if not self.dry_run:
            self.copied_bytes += self.place.bring(found.file, artifact, link=self.link)
        return WeightsStored(
            found.run,
            found.iteration,
            artifact.path,
            artifact.bytes,
            artifact.chunk_bytes,
            artifact.digest,
        )

    def _look_into(self, found: FoundWeights, file: IO[bytes]) -> None:
        try:
            weights_file.map_weights(file)
        except DamagedArtifactError as error:
            raise UnreadableError(
                "it is no complete file of torch.save (a write that did not end)"
            ) from error
        except WeightsUnsafeError as error:
            self._remark(found, f"on record, but this store will refuse to load it: {error}")

    def _take_best(self, found: FoundBest) -> None:
        iteration, remark = upstream_files.best_iteration(found)
        if remark is not None:
            self._remark(found, remark)

        def expected(iteration: int) -> bool:
            return self.dry_run and (found.run, iteration) in self._expected

        self._decide(
            found, "best weights", f"weights/{found.run}", choosing(found, iteration, expected=expected)
        )

    def _take_container(self, found: FoundContainer) -> None:
        if not self.in_place and not self.dry_run:
            try:
                self.copied_bytes += self.containers.receive(found.folder, found.container, link=self.link)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise
                raise UnreadableError(str(error)) from error
        for array in sorted(found.arrays, key=lambda array: array.stamp_ns):
            try:
                decision = recording(found, array, digest=partial(self._digest, array))
                if self._decide(found, "arrays", f"arrays/{found.container}", decision):
                    self.payload_bytes += array.bytes
            except UnreadableError as error:
                self.problems.append((f"{found.origin.place}/{array.dataset}", str(error)))

    def _digest(self, array: ZarrArray) -> str | None:
        if not self.array_digests or self.dry_run:
            return None
        return array.content_digest(self.progress.read)

    def _remark(self, found: Found, remark: str) -> None:
        self.remarks.append((found.origin.place, remark))

    def _decide(self, found: Found, name: str, stream: str, decision: Decision) -> bool:
        """Append what a decision makes of a stream, and decide anew if that has moved on.

        Returns:
            Whether there was anything to append.
        """
        while True:
            seen = self._seen_of(stream)
            events = decision(seen)
            if self.base is not None and events and not self.dry_run:
                expected = seen.events[-1].stream_version if seen.events else NO_STREAM
                try:
                    self.base.append(stream, self._marked(found, events), expected=expected, durability="os")
                except (ExpectedVersionError, DuplicateEventError):
                    continue  # somebody else extends the stream: perhaps another import
            (self.imported if events else self.known)[name] += 1
            return bool(events)

    def _marked(self, found: Found, events: Iterable[Event]) -> list[Event]:
        """The events with what they stand for, and no time that is yet to come.

        A clock that is ahead would hide everything that follows from who asks for the base as of a time.
        """
        now = datetime.now(UTC)
        return [
            structs.replace(
                each,
                metadata={MARK: found.origin.place},
                recorded_at=min(each.recorded_at or now, now),
            )
            for each in events
        ]

    def _seen_of(self, stream: str) -> Seen:
        """What a stream holds; only what is new is read of one that was looked at before."""
        if self.base is None:
            return Seen()
        log = self.base.log
        if not stream.startswith(("weights/", "arrays/")):
            # Looked at once, and stats are large.
            return Seen().add(log.read_stream(stream))
        seen = self._seen.setdefault(stream, Seen())
        return seen.add(log.read_stream(stream, from_version=len(seen.events)))
