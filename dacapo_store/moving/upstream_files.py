"""Where DaCapo's file stores keep things, and what of it a base directory holds.

    configs/<kind>/<name>.yaml                      a document
    stats/training_stats/<run>                      a pickled list of documents
    stats/validation_scores/<run>                   likewise
    <run>/checkpoints/iterations/<n>                weights
    <run>/checkpoints/<dataset>/<criterion>         a symbolic link to the best of them
    <run>/checkpoints/<dataset>/<criterion>.json    {"iteration": n}
    <run>/*.zarr                                    arrays

Nothing is written, and nothing is opened that a listing does not need.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from dacapo_store.config_store import KINDS
from dacapo_store.history import TRAINING, VALIDATION, Kind
from dacapo_store.moving import plain_pickle, plain_yaml
from dacapo_store.moving.found import (
    Found,
    FoundBest,
    FoundConfig,
    FoundContainer,
    FoundStats,
    FoundWeights,
    Origin,
    UnreadableError,
)
from dacapo_store.moving.stats_documents import training_rows, validation_rows
from dacapo_store.moving.zarr_trees import arrays_in
from dacapo_store.names import RESERVED_RUN_NAMES, validate_run_name
from dacapo_store.scalars import as_iteration

CONFIGS: Final = "configs"
STATS: Final[dict[str, Kind[Any]]] = {"training_stats": TRAINING, "validation_scores": VALIDATION}

_NO_TEXT: Final = "its name is no text in UTF-8: rename it"
_OWN_CHECKPOINT_FOLDERS: Final = frozenset({"iterations", "objects"})


@dataclass
class Findings:
    """What a base directory holds.

    Attributes:
        found: What can be imported.
        problems: What cannot be, with the reason, by place.
        remarks: What is not DaCapo's and is left alone, by place.
    """

    found: list[Found] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)


def is_upstream_base(root: Path) -> bool:
    """Whether a folder looks like one that DaCapo's stores have written to."""
    return (
        any((root / CONFIGS / kind).is_dir() for kind in KINDS)
        or any((root / "stats" / name).is_dir() for name in STATS)
        or any(root.glob("*/checkpoints/iterations"))
    )


def findings_of(root: Path) -> Findings:
    """List what DaCapo's stores have left in a base directory."""
    findings = Findings()
    for kind in KINDS:
        _find_configs(root, kind, findings)
    for folder, stats in STATS.items():
        _find_stats(root, folder, stats, findings)
    for run in _folders(root, findings):
        if run.name in RESERVED_RUN_NAMES:
            if (run / "checkpoints").is_dir():
                place = f"{run.name}/checkpoints"
                findings.problems.append((place, f"a run cannot be called {run.name!r} here"))
            continue
        if run.name != ".trash":
            _find_run(root, run, findings)
    return findings


def best_iteration(found: FoundBest) -> tuple[int, str | None]:
    """The iteration that was chosen; and in words what is odd about how it is written down.

    DaCapo makes the link first and then writes the file, which is what it reads.

    Raises:
        UnreadableError: Neither says which.
    """
    linked = None
    if found.link.is_symlink():
        name = found.link.readlink().name
        linked = int(name) if _is_iteration(name) else None
    try:
        said = json.loads(_bytes_of(found.file))["iteration"]
        iteration = as_iteration(said, where="it")
    except (UnreadableError, ValueError, KeyError, TypeError) as error:
        if linked is None:
            raise UnreadableError(f"it does not say which iteration: {error}") from error
        return linked, "the file does not say which iteration; the link beside it does"
    if linked is not None and linked != iteration:
        return iteration, f"the link beside the file names iteration {linked}, and DaCapo reads the file"
    if found.link.is_symlink() and not found.link.exists():
        return iteration, "the link beside the file leads nowhere"
    return iteration, None


def _find_configs(root: Path, kind: str, findings: Findings) -> None:
    for path in _entries(root / CONFIGS / kind, findings, root):
        name = path.name.removesuffix(".yaml")
        if name in ("", path.name):
            _leave(path, root, findings)
        elif (origin := _origin(path, root, findings)) is not None:
            read = partial(_read_config, path)
            findings.found.append(FoundConfig(origin, kind, name, read))


def _read_config(path: Path) -> Any:
    document = plain_yaml.load(_bytes_of(path))
    if not isinstance(document, dict):
        raise UnreadableError(
            "the file is empty (a write that did not end)" if document is None else "it is no mapping"
        )
    return document


def _find_stats(root: Path, folder: str, kind: Kind[Any], findings: Findings) -> None:
    for path in _entries(root / "stats" / folder, findings, root):
        origin = _origin(path, root, findings)
        if origin is not None:
            findings.found.append(FoundStats(origin, kind, path.name, partial(_read_stats, path, kind)))


def _read_stats(path: Path, kind: Kind[Any]) -> Any:
    documents = plain_pickle.loads(_bytes_of(path))
    return training_rows(documents) if kind is TRAINING else validation_rows(documents)


def _find_run(root: Path, run: Path, findings: Findings) -> None:
    checkpoints = run / "checkpoints"
    containers = [path for path in _folders(run, findings, root) if path.suffix == ".zarr"]
    if not checkpoints.is_dir() and not containers:
        return
    try:
        validate_run_name(run.name).encode()
    except UnicodeEncodeError:
        findings.problems.append((_place(run, root), _NO_TEXT))
        return
    except ValueError as error:
        findings.problems.append((_place(run, root), str(error)))
        return
    _find_checkpoints(root, run.name, checkpoints, findings)
    for container in containers:
        _find_container(root, run.name, container, findings)


def _find_checkpoints(root: Path, run: str, checkpoints: Path, findings: Findings) -> None:
    for path in _entries(checkpoints / "iterations", findings, root):
        if not _is_iteration(path.name):
            _leave(path, root, findings)
        elif (origin := _origin(path, root, findings)) is not None:
            findings.found.append(FoundWeights(origin, run, int(path.name), path))
    for path in _entries(checkpoints, findings, root):
        if not path.is_dir() and path.name != "trace.pt":
            _leave(path, root, findings)
    for folder in _folders(checkpoints, findings, root):
        if folder.name not in _OWN_CHECKPOINT_FOLDERS:
            findings.found += _choices(root, run, checkpoints, folder)


def _choices(root: Path, run: str, checkpoints: Path, folder: Path) -> Iterator[FoundBest]:
    """The choices below a folder: a dataset's name may have separators in it."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        here = Path(parent)
        links = {name for name in (*names, *folders) if (here / name).is_symlink()}
        stems = {name.removesuffix(".json") for name in names if name.endswith(".json")} | links
        for criterion in sorted(stems - {""}):
            file, link = here / f"{criterion}.json", here / criterion
            path = file if file.is_file() else link
            origin = Origin(_place(path, root), path.lstat().st_mtime_ns)
            dataset = here.relative_to(checkpoints).as_posix()
            yield FoundBest(origin, run, dataset, criterion, file, link)


def _find_container(root: Path, run: str, container: Path, findings: Findings) -> None:
    place = _place(container, root)
    try:
        arrays = tuple(arrays_in(container))
    except UnreadableError as error:
        findings.problems.append((place, str(error)))
        return
    stamp = max((array.stamp_ns for array in arrays), default=container.stat().st_mtime_ns)
    origin = Origin(place, stamp, sum(array.bytes for array in arrays))
    findings.found.append(FoundContainer(origin, run, place, container, arrays))


def _origin(path: Path, root: Path, findings: Findings) -> Origin | None:
    """Where a regular file is and when it was written; None, with a problem, for anything else."""
    place = _place(path, root)
    try:
        status = path.stat()
    except FileNotFoundError:
        target = f", to {path.readlink()}" if path.is_symlink() else ""
        findings.problems.append((place, f"the link leads nowhere{target}"))
        return None
    except OSError as error:
        findings.problems.append((place, error.strerror or str(error)))
        return None
    if not stat.S_ISREG(status.st_mode):
        findings.remarks.append((place, "left alone: it is no file"))
        return None
    try:
        path.name.encode()
    except UnicodeEncodeError:
        findings.problems.append((place, _NO_TEXT))
        return None
    return Origin(place, status.st_mtime_ns, status.st_size)


def _entries(folder: Path, findings: Findings, root: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        findings.problems.append((_place(folder, root), error.strerror or str(error)))
        return []


def _folders(folder: Path, findings: Findings, root: Path | None = None) -> list[Path]:
    return [path for path in _entries(folder, findings, root or folder) if path.is_dir()]


def _leave(path: Path, root: Path, findings: Findings) -> None:
    findings.remarks.append((_place(path, root), "left alone: it is none of DaCapo's"))


def _place(path: Path, root: Path) -> str:
    """A path relative to the base, as text that can be printed."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")


def _is_iteration(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
