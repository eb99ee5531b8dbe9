"""Moving out: the state of a base, as it is or as it was, as a base that DaCapo's own stores read.

The layout is that of ``upstream_files``. Files get the times of the events that they stand for.

1. ``dacapo-store-export.json`` says which state this is. A call that was interrupted is repeated and goes on:
   what is there already is not written again.
2. Configs, stats and scores, then weights, each checked against its digest on the way, what is best,
   and arrays.

Weights and arrays are copied. DaCapo's stores write into files that are there; a file with a second name
in this base would change here as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from dacapo_store.artifacts import Artifact
from dacapo_store.backup import synced_log
from dacapo_store.base import Base
from dacapo_store.errors import DamagedArtifactError
from dacapo_store.location import Location
from dacapo_store.moments import Moment, position_of
from dacapo_store.moving import plain_yaml
from dacapo_store.moving.alone import alone_in
from dacapo_store.moving.containers import Containers, containers_at
from dacapo_store.moving.found import UnreadableError, stamp_of
from dacapo_store.moving.progress import Progress, Reading
from dacapo_store.moving.stats_documents import training_documents, validation_documents
from dacapo_store.moving.zarr_trees import tree_bytes
from dacapo_store.payload_copies import copy_payload
from dacapo_store.payload_place import FolderPayloads
from dacapo_store.stats_store import FileStatsStore
from eventstore import files, tagged_json

if TYPE_CHECKING:
    from eventstore import EventLog

RECEIPT: Final = "dacapo-store-export.json"
_NAME_BYTES_MAX: Final = 255
_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")

_CONFIGS: Final = "SELECT kind, name, document, recorded_at FROM configs ORDER BY position"
_WEIGHTS: Final = """
    SELECT run, iteration, path, bytes, chunk_bytes, digest, recorded_at FROM weights ORDER BY position"""
_BEST: Final = "SELECT run, dataset, criterion, iteration, recorded_at FROM best_weights ORDER BY position"
_RUNS: Final = {
    "training_stats": """
        SELECT run, max(recorded_at) FROM training_stats JOIN events USING (position)
        GROUP BY run ORDER BY run""",
    "validation_scores": """
        SELECT run, max(recorded_at) FROM validation_iterations JOIN events USING (position)
        GROUP BY run ORDER BY run""",
}


@dataclass(frozen=True)
class ExportReport:
    """What an export has written, or would write.

    Attributes:
        base: The base that was read.
        target: The base of DaCapo's that was written.
        position: The state that it holds: that as of this position.
        dry_run: True when nothing was written.
        exported: How many things were written, by kind: ``configs``, ``training stats``,
            ``validation scores``, ``weights``, ``best weights``, ``containers``.
        known: How many an earlier call had written.
        payload_bytes: The size of all weights and arrays.
        copied_bytes: How many bytes of them were copied this time.
        problems: What DaCapo's stores cannot hold, or what could not be read, with the reason.
        remarks: What they hold less of, or otherwise.
    """

    base: str
    target: str
    position: int
    dry_run: bool
    exported: dict[str, int]
    known: dict[str, int]
    payload_bytes: int
    copied_bytes: int
    problems: tuple[tuple[str, str], ...]
    remarks: tuple[tuple[str, str], ...]


def export_base(
    base: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    at: Moment | None = None,
    payloads: Literal["copy", "link"] = "copy",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the state of a base as a base of DaCapo's own stores.

    Others may go on writing to the base; what they write is not exported.

    Args:
        base: The base to read; nothing in it is changed.
        target: An empty or missing folder, or one where the same export was interrupted.
        at: As of which position or time; None is now. Arrays have no past and are as they are now.
        payloads: Copy weights and arrays, or give the files second names, which is only safe when
            nothing will ever be written in ``target``.
        dry_run: Read and report, and write nothing.
        progress: Called before each thing that is written.

    Raises:
        LogNotFoundError: There is no base to read.
        ValueError: ``target`` holds something else, or the two lie within each other; or there is no
            such position or time.
        MoveBusyError: Another export is writing to ``target``. Wait for it.
        OSError: The disk did not take something. Make room and repeat.
    """
    where, folder = Location.of(base), Path(target).expanduser().resolve()
    root = Path(where.shown)
    if folder == root or root in folder.parents or folder in root.parents:
        raise ValueError(f"{folder} and the base {root} lie within each other: give a folder elsewhere")
    with synced_log(where) as log:
        position = position_of(log, at)
        receipt = _receipt(where.shown, log, position)
    _check_target(folder, receipt)
    with contextlib.ExitStack() as held:
        if not dry_run:
            nearest = next(each for each in (folder, *folder.parents) if each.is_dir())
            files.make_directories(folder, like=nearest)
            held.enter_context(alone_in(folder))
            _clear_temporaries(folder)
            files.replace_text(folder / RECEIPT, json.dumps(receipt, indent=1) + "\n", like=folder)
        exporter = _Exporter(
            base=Base.at(base, as_of=position),
            containers=containers_at(where.payloads),
            target=folder,
            link=payloads == "link",
            dry_run=dry_run,
            progress=Reading(progress or (lambda *_: None)),
        )
        exporter.write_all()
    if at is not None and exporter.exported["containers"] + exporter.known["containers"]:
        exporter.remarks.append(("arrays", "they are as they are now: arrays have no past"))
    return exporter.report(position)


def _receipt(base: str, log: EventLog, position: int) -> dict[str, Any]:
    return {
        "base": base,
        "log_id": log.log_id.hex(),
        "position": position,
        "chain": log.chain_at(position).hex(),
    }


def _check_target(folder: Path, receipt: dict[str, Any]) -> None:
    if not folder.exists() or all(_TEMPORARY.fullmatch(path.name) for path in folder.iterdir()):
        return
    try:
        found = json.loads((folder / RECEIPT).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is not empty: give an empty folder") from error
    except ValueError as error:
        raise ValueError(f"{folder / RECEIPT} cannot be read: give an empty folder") from error
    same = isinstance(found, dict) and all(found.get(key) == receipt[key] for key in ("log_id", "chain"))
    if not same:
        raise ValueError(f"{folder} holds an export of another state: give an empty folder")


def _clear_temporaries(folder: Path) -> None:
    """Take away what a kill has left: DaCapo would take it for a config, or for weights."""
    for part in (
        folder.glob("*"),
        folder.glob("configs/*/*"),
        folder.glob("stats/*/*"),
        folder.glob("*/checkpoints/**/*"),
    ):
        for path in part:
            if _TEMPORARY.fullmatch(path.name):
                files.unlink(path)


@dataclass
class _Exporter:
    """One call of ``export_base``."""

    base: Base
    containers: Containers
    target: Path
    link: bool
    dry_run: bool
    progress: Reading
    exported: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    payload_bytes: int = 0
    copied_bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def write_all(self) -> None:
        """Write everything, one kind after the other."""
        weights = self.base.query(_WEIGHTS).fetchall()
        containers = self.containers.names()
        sizes = [self.containers.bytes(container) for container in containers]
        self.payload_bytes = self.progress.total = sum(row[3] for row in weights) + sum(sizes)
        for kind, name, document, time in self.base.query(_CONFIGS).fetchall():
            self._write("configs", ("configs", kind, f"{name}.yaml"), time, partial(_yaml, document))
        self._write_stats()
        for row in weights:
            self._write_weights(*row)
        for row in self.base.query(_BEST).fetchall():
            self._write_best(*row)
        for container, size in zip(containers, sizes, strict=True):
            self._write_container(container, size)

    def report(self, position: int) -> ExportReport:
        """What became of it."""
        return ExportReport(
            base=self.base.location.shown,
            target=str(self.target),
            position=position,
            dry_run=self.dry_run,
            exported=dict(sorted((+self.exported).items())),
            known=dict(sorted((+self.known).items())),
            payload_bytes=self.payload_bytes,
            copied_bytes=self.copied_bytes,
            problems=tuple(self.problems),
            remarks=tuple(self.remarks),
        )

    def _write(self, name: str, parts: Sequence[str], time: datetime, content: Callable[[], bytes]) -> bool:
        """Write a small file, unless an earlier call has; False when DaCapo cannot hold it."""
        place = "/".join(parts)
        with self.progress.of(place, 0):
            try:
                path = self._path(parts)
                data = content()
            except UnreadableError as error:
                self.problems.append((place, str(error)))
                return False
            there = _holds(path, data)
            self._count(name, there=there)
            if not there and not self.dry_run:
                files.make_directories(path.parent, like=self.target)
                files.replace_bytes(path, data, like=self.target)
            self._date(path, time)
            return True

    def _date(self, path: Path, time: datetime) -> None:
        """Let a file look as old as its event; an export that was killed may not have come to that."""
        if not self.dry_run:
            files.set_time(path, stamp_of(time))

    def _count(self, name: str, *, there: bool) -> None:
        (self.known if there else self.exported)[name] += 1

    def _path(self, parts: Sequence[str]) -> Path:
        """Where something is in the target.

        Raises:
            UnreadableError: A name cannot be that of a file.
        """
        if any(part in ("", ".", "..") or "\0" in part or "/" in part for part in parts):
            raise UnreadableError("DaCapo keeps files, and this cannot be the name of one")
        if any(len(os.fsencode(part)) > _NAME_BYTES_MAX for part in parts):
            raise UnreadableError("DaCapo keeps files, and this name is too long for one")
        return self.target.joinpath(*parts)

    def _write_stats(self) -> None:
        store = FileStatsStore(self.base.location.inside("stats"), as_of=self.base.as_of)
        for run, time in self.base.query(_RUNS["training_stats"]).fetchall():
            parts = ("stats", "training_stats", run)
            self._write("training stats", parts, time, partial(self._training, store, run))
        for run, time in self.base.query(_RUNS["validation_scores"]).fetchall():
            parts = ("stats", "validation_scores", run)
            self._write("validation scores", parts, time, partial(_validation, store, run))

    def _training(self, store: FileStatsStore, run: str) -> bytes:
        documents, remarks = training_documents(store, run)
        self.remarks += [(f"stats/training_stats/{run}", remark) for remark in remarks]
        return pickle.dumps(documents)

    def _write_weights(
        self, run: str, iteration: int, path: str, size: int, chunk_bytes: int, digest: str, time: datetime
    ) -> None:
        parts = (run, "checkpoints", "iterations", str(iteration))
        place = "/".join(parts)
        with self.progress.of(place, size):
            try:
                copy = self._path(parts)
                there = copy.is_file() and copy.stat().st_size == size
                if not there:
                    self._copy(Artifact(path, size, chunk_bytes, digest), place)
                if not self.link:
                    self._date(copy, time)
                self._count("weights", there=there)
            except FileNotFoundError:
                self.problems.append((place, f"its file {path} is gone"))
            except (UnreadableError, DamagedArtifactError) as error:
                self.problems.append((place, str(error)))

    def _copy(self, stored: Artifact, place: str) -> None:
        payloads = self.base.payload_place
        if not self.dry_run:
            copy = FolderPayloads(self.target)
            self.copied_bytes += copy_payload(payloads, copy, stored, link=self.link, path=place)
        elif payloads.size(stored.path) is None:
            raise FileNotFoundError(stored.path)

    def _write_best(self, run: str, dataset: str, criterion: str, iteration: int, time: datetime) -> None:
        checkpoints = (run, "checkpoints")
        # DaCapo makes folders of the separators in these names.
        parts = (*checkpoints, *dataset.split("/"), *criterion.split("/"))
        if parts[2] == "iterations":
            self.problems.append(("/".join(parts), "DaCapo would take this dataset for weights"))
            return
        file = (*parts[:-1], f"{parts[-1]}.json")
        text = json.dumps({"iteration": iteration})
        if not self._write("best weights", file, time, text.encode) or self.dry_run:
            return
        link, weights = self._path(parts), self._path((*checkpoints, "iterations", str(iteration)))
        leads_to = os.path.relpath(weights, link.parent)
        if not link.is_symlink() or str(link.readlink()) != leads_to:
            link.unlink(missing_ok=True)
            link.symlink_to(leads_to)
        self._date(link, time)

    def _write_container(self, place: str, size: int) -> None:
        with self.progress.of(place, size):
            there = (self.target / place).exists() and tree_bytes(self.target / place) == size
            if not self.dry_run:
                try:
                    self.copied_bytes += self.containers.deliver(
                        place, self.target / place, link=self.link, like=self.target
                    )
                except FileNotFoundError as error:
                    self.problems.append((place, f"it was changed meanwhile: {error}"))
                    return
            self._count("containers", there=there)


def _yaml(document: str) -> bytes:
    return plain_yaml.dump(plain_yaml.as_dacapo_has_it(tagged_json.decode(document))).encode()


def _validation(store: FileStatsStore, run: str) -> bytes:
    return pickle.dumps(validation_documents(store, run))


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
