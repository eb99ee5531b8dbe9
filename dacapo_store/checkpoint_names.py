"""The names under which people and other tools know weights, in a base that is a folder. All are derived.

    <run>/checkpoints/iterations/<n>               a hard link to the payload of an iteration
    <run>/checkpoints/<dataset>/<criterion>.json   which iteration is best
    <run>/checkpoints/trace.pt                     the trace of the model
    <run>/checkpoints/unrecorded/                  files of DaCapo's own whose names were needed

They are brought to what the log says and then the log is asked whether it has moved: of several processes
the one that saw the newest state has the last word, without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dacapo_store import weights_file
from dacapo_store.names import validate_run_name
from dacapo_store.weights_history import WeightsHistory, weights_stream
from eventstore import files

if TYPE_CHECKING:
    from dacapo_store.events import WeightsStored
    from eventstore import EventLog

logger = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[^/%.\x00-\x1f][^/%\x00-\x1f]*")
"""A name that is a file name as it is: no separator, no leading dot, nothing that reads as an escape."""

_UNRECORDED = "unrecorded"
"""Where files of weights go that the log never knew, when the name of their iteration is needed."""

_OWN_FOLDERS = frozenset({"iterations", "objects", _UNRECORDED})

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class CheckpointNames:
    """The familiar names of the weights of all runs.

    Args:
        root: The base directory.
        log: Its log.

    Attributes:
        root: The base directory.
    """

    def __init__(self, root: Path, log: EventLog) -> None:
        self.root = root
        self._log = log
        self._traced: set[str] = set()

    def follow(self, name: str, stored: WeightsStored, stream_version: int) -> None:
        """Name weights that were stored just now, at this version of their stream; a failure is logged."""
        with only_logged("the link to the weights of iteration %d of %s", stored.iteration, name):
            self.link(name, stored)
            if self._log.stream_version(weights_stream(name)) != stream_version:
                self.derive(name, iterations=[stored.iteration])

    def keep_unrecorded(self, name: str, iteration: int) -> None:
        """Give a file of these weights that the log never knew (DaCapo's own, say) another name.

        The one that it has is about to become a link to what is stored now. Until then it has both.
        """
        file = self._link_path(name, iteration)
        if not file.exists():
            return
        if iteration in WeightsHistory.of(self._log.read_stream(weights_stream(name))).iterations:
            return
        kept = self._checkpoints(name) / _UNRECORDED / f"{iteration}-{uuid.uuid4().hex}"
        files.make_directories(kept.parent, like=self.root)
        try:
            files.link(file, kept)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            files.rename(file, kept)
        logger.warning(
            "%s held weights that are not on record; now they are stored anew. It is kept as %s.", file, kept
        )

    def unrecorded(self, name: str, key: str) -> Path | None:
        """The file that somebody else has put into the run's checkpoints under this key, or None.

        Raises:
            ValueError: The key leads out of the checkpoints.
        """
        checkpoints = self._checkpoints(name)
        for path in (checkpoints / key, checkpoints / "iterations" / key):
            if not path.resolve().is_relative_to(checkpoints.resolve()):
                raise ValueError(f"the key {key!r} leads out of the checkpoints of run {name!r}")
            if path.is_file():
                return path
        return None

    def mend(self, name: str, stored: WeightsStored) -> None:
        """Name weights that were met without their name; a failure is logged."""
        if _is_same_file(self._link_path(name, stored.iteration), self.root / stored.path):
            return
        with only_logged("the link to the weights of iteration %d of %s", stored.iteration, name):
            self.derive(name, iterations=[stored.iteration])

    def derive(
        self,
        name: str,
        *,
        iterations: Iterable[int] = (),
        choices: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Bring links and JSON files to what the log says, until it has said nothing new meanwhile."""
        while True:
            events = list(self._log.read_stream(weights_stream(name)))
            history = WeightsHistory.of(events)
            for iteration in iterations:
                if (stored := history.stored.get(iteration)) is not None:
                    self.link(name, stored)
                elif iteration in history.iterations:
                    files.unlink(self._link_path(name, iteration))
            for choice in choices:
                self._write_choice(name, choice, history.best.get(choice))
            version = events[-1].stream_version if events else None
            if self._log.stream_version(weights_stream(name)) == version:
                return

    def trace(self, run: Any, name: str) -> None:
        """Leave ``trace.pt`` beside the first weights of a run, if its model can be traced at all.

        Args:
            run: An object with ``model``; what ``architecture`` says of the input is needed, too.
            name: Its name.
        """
        path = self._checkpoints(name) / "trace.pt"
        if name in self._traced or path.exists() or not hasattr(run, "architecture"):
            return
        self._traced.add(name)
        new = path.with_name(f".trace.{uuid.uuid4().hex}.tmp")
        try:
            files.make_directories(path.parent, like=self.root)
            with files.new_file(new, like=self.root) as (descriptor, _):
                weights_file.save_trace(run.model, run.architecture, new)
                files.sync_file(descriptor)
                files.rename(new, path)
        except Exception:
            # A model that cannot be traced trains as well as any other: its weights are stored already.
            logger.info("The model of run %s cannot be traced; its weights are stored.", name, exc_info=True)

    def _checkpoints(self, name: str) -> Path:
        return self.root / validate_run_name(name) / "checkpoints"

    def _link_path(self, name: str, iteration: int) -> Path:
        return self._checkpoints(name) / "iterations" / str(iteration)

    def link(self, name: str, stored: WeightsStored) -> None:
        """Make the name of an iteration a link to its payload, whatever it was."""
        link, payload = self._link_path(name, stored.iteration), self.root / stored.path
        # Renaming one of two links to one file over the other does nothing, and says nothing.
        if _is_same_file(link, payload):
            return
        files.make_directories(link.parent, like=self.root)
        new = link.with_name(f".{link.name}.{uuid.uuid4().hex}.tmp")
        try:
            _link_or_point(payload, new)
            files.rename(new, link)
        except OSError:
            # A second name would keep the payload's bytes on the disk after it is removed.
            with contextlib.suppress(OSError):
                files.unlink(new)
            raise

    def _write_choice(self, name: str, choice: tuple[str, str], iteration: int | None) -> None:
        path = self._checkpoints(name) / choice_file(*choice)
        # DaCapo's own store has left a link here, which would go on naming what was best before.
        link = path.with_name(path.name.removesuffix(".json"))
        if link.is_symlink():
            files.unlink(link)
        if iteration is None:
            files.unlink(path)
            return
        files.make_directories(path.parent, like=self.root)
        files.replace_text(path, json.dumps({"iteration": iteration}), like=self.root)


def choice_file(dataset: str, criterion: str) -> Path:
    """Where the best weights are written down for people, relative to the run's checkpoints."""
    return Path(_file_name(dataset, reserved=_OWN_FOLDERS), f"{_file_name(criterion)}.json")


def _file_name(name: str, *, reserved: frozenset[str] = frozenset()) -> str:
    """A file name for any text, another one for each; ordinary names stay as they are."""
    if _PLAIN_NAME.fullmatch(name) and name not in reserved:
        return name
    encoded = urllib.parse.quote(name, safe=" !#$&'()*+,;=:@[]")
    if "%" in encoded and not encoded.startswith("."):
        return encoded
    return f"%{ord(encoded[0]):02X}{encoded[1:]}" if encoded else "%"


def _link_or_point(payload: Path, new: Path) -> None:
    """A hard link to a payload or, where the disk has none, a symbolic one."""
    try:
        files.link(payload, new)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # A relative one survives moving the base, too.
        new.symlink_to(os.path.relpath(payload, new.parent))


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def only_logged(what: str, *arguments: Any) -> Iterator[None]:
    """For derived files: the event stands, so a disk that refuses them is no reason to stop a training."""
    try:
        yield
    except OSError:
        what %= arguments
        logger.warning("Left to repair_links(), because the disk refused it: %s", what, exc_info=True)
