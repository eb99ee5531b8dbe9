"""Where the zarr arrays of runs lie, and their removal, which stays on record.

The store hands out identifiers (a container and a dataset in it) and never reads or writes an
array's contents; DaCapo and its users do that with zarr. Identifiers are computed from names alone
and exist for arrays that do not.

Removing goes in this order, and a crash between two steps leaves what is said behind each:

1. The event ``ArrayRemoved`` says what the array was (shape, dtype, chunks, the files and their
   sizes). Left: the array, whole; removing it again goes on from here without a second event.
2. The array's folder is renamed into ``<run>/.trash``. Left: files in the trash,
   which ``empty_trash`` deletes.
3. The files are deleted.

A bucket has no folders to rename; how arrays are removed from one, ``bucket_arrays`` says.

Of several processes that remove one array, all name the same event (its id is made of the folder's
identity), so there is one on record, and the rename decides who goes on.

Invariants: nothing outside the base directory is ever touched; an array in its place is whole.
Alone in the project, this module imports zarr, and only to describe what is removed.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dacapo_store.base import Base
from dacapo_store.bucket_arrays import TRASH, BucketArrays
from dacapo_store.bucket_paths import require_opener
from dacapo_store.events import EVENT_TYPES, ArrayRemoved
from dacapo_store.store_paths import absolute_path, base_of_store
from eventstore import DuplicateEventError, derived_id, files

if TYPE_CHECKING:
    from upath import UPath

    from dacapo_store.moments import Moment

logger = logging.getLogger(__name__)

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Of descriptors or memory: errors of the moment."""


@dataclass(frozen=True)
class LocalArrayIdentifier:
    """Where an array lies, whether it is there or not.

    Attributes:
        container: The folder of the zarr container.
        dataset: The array's path within it, with ``/``.
    """

    container: UPath
    dataset: str

    def __str__(self) -> str:
        return f"{self.container}/{self.dataset}"


@dataclass(frozen=True)
class LocalContainerIdentifier:
    """Where a zarr container lies, whether it is there or not.

    Attributes:
        container: The folder of the zarr container.
    """

    container: UPath

    def array_identifier(self, dataset: str) -> LocalArrayIdentifier:
        """The identifier of an array in this container."""
        return LocalArrayIdentifier(self.container, dataset)

    def __str__(self) -> str:
        return str(self.container)


class ArrayStore(abc.ABC):
    """Where the arrays of runs lie.

    Datasets, parameters and criteria are text, or objects whose ``str()`` is part of the path.
    """

    @abc.abstractmethod
    def best_validation_array(self, run_name: str, criterion: Any, index: Any = None) -> LocalArrayIdentifier:
        """Where the best validation array by a criterion lies."""

    @abc.abstractmethod
    def validation_prediction_array(
        self, run_name: str, iteration: int, dataset: Any
    ) -> LocalArrayIdentifier:
        """Where the prediction of an iteration for a dataset lies."""

    @abc.abstractmethod
    def validation_output_array(
        self, run_name: str, iteration: int, parameters: Any, dataset: Any
    ) -> LocalArrayIdentifier:
        """Where the output of an iteration for a dataset, post-processed with these parameters, lies."""

    @abc.abstractmethod
    def validation_input_arrays(
        self, run_name: str, index: Any = None
    ) -> tuple[LocalArrayIdentifier, LocalArrayIdentifier]:
        """Where the raw data and the ground truth that validation reads lie."""

    @abc.abstractmethod
    def snapshot_container(self, run_name: str) -> LocalContainerIdentifier:
        """Where the snapshots of a run's training lie."""

    @abc.abstractmethod
    def validation_container(self, run_name: str) -> LocalContainerIdentifier:
        """Where the arrays of a run's validation lie."""

    @abc.abstractmethod
    def remove(self, array_identifier: LocalArrayIdentifier) -> None:
        """Remove an array."""


class LocalArrayStore(ArrayStore):
    """The zarr arrays of all runs of a base directory.

    Any number of stores, threads and processes may use one base at once.

    Args:
        basedir: The base directory; a relative one is resolved now. It is created when missing.
        read_only: Open the base, which must exist, without writing to it, not even a lock.
        as_of: Look at the store as of this position or time, read-only. Arrays themselves have no past.

    Attributes:
        basedir: The base directory, absolute.
        array_identifier_type: What identifiers of arrays are made of. A client whose code checks
            for a class of its own puts it here; it takes ``container`` and ``dataset``.
        container_identifier_type: The same for containers; it takes ``container``.
    """

    array_identifier_type: ClassVar[type[LocalArrayIdentifier]] = LocalArrayIdentifier
    container_identifier_type: ClassVar[type[LocalContainerIdentifier]] = LocalContainerIdentifier

    def __init__(
        self, basedir: str | os.PathLike[str], *, read_only: bool = False, as_of: Moment | None = None
    ) -> None:
        self.basedir = absolute_path(basedir)
        base = base_of_store(basedir, self.basedir)
        self._base = Base.at(base, read_only=read_only, as_of=as_of)
        bucket = self._base.payload_place.bucket
        self._in_bucket = None if bucket is None else BucketArrays(self._base, bucket, _array_metadata)

    def best_validation_array(self, run_name: str, criterion: Any, index: Any = None) -> LocalArrayIdentifier:
        """Where the best validation array by a criterion lies: ``[<index>/]<criterion>``.

        Raises:
            ValueError: A name would lead out of the run's folder or the container.
        """
        dataset = f"{criterion}" if index is None else f"{index}/{criterion}"
        return self._validation_array(run_name, dataset)

    def validation_prediction_array(
        self, run_name: str, iteration: int, dataset: Any
    ) -> LocalArrayIdentifier:
        """Where the prediction of an iteration for a dataset lies: ``<iteration>/<dataset>/prediction``.

        Raises:
            ValueError: A name would lead out of the run's folder or the container.
        """
        return self._validation_array(run_name, f"{iteration}/{dataset}/prediction")

    def validation_output_array(
        self, run_name: str, iteration: int, parameters: Any, dataset: Any
    ) -> LocalArrayIdentifier:
        """Where a post-processed output lies: ``<iteration>/<dataset>/output/<parameters>``.

        Raises:
            ValueError: A name would lead out of the run's folder or the container.
        """
        return self._validation_array(run_name, f"{iteration}/{dataset}/output/{parameters}")

    def validation_input_arrays(
        self, run_name: str, index: Any = None
    ) -> tuple[LocalArrayIdentifier, LocalArrayIdentifier]:
        """Where validation's inputs lie: ``inputs[/<index>]/raw`` and ``inputs[/<index>]/gt``.

        Raises:
            ValueError: A name would lead out of the run's folder or the container.
        """
        prefix = "inputs" if index is None else f"inputs/{index}"
        return (
            self._validation_array(run_name, f"{prefix}/raw"),
            self._validation_array(run_name, f"{prefix}/gt"),
        )

    def snapshot_container(self, run_name: str) -> LocalContainerIdentifier:
        """Where the snapshots of a run's training lie: ``<base>/<run>/snapshot.zarr``.

        Raises:
            ValueError: The run's name cannot be the name of a folder.
        """
        return self._container(run_name, "snapshot.zarr")

    def validation_container(self, run_name: str) -> LocalContainerIdentifier:
        """Where the arrays of a run's validation lie: ``<base>/<run>/validation.zarr``.

        Raises:
            ValueError: The run's name cannot be the name of a folder.
        """
        return self._container(run_name, "validation.zarr")

    def remove(self, array_identifier: LocalArrayIdentifier) -> None:
        """Remove an array, or a group with all that is in it; what it was stays on record.

        The array is gone from its place at once and never half removed; in a bucket its own metadata go
        first. One that is not there, or that another process removes at the same time, is a warning in
        the log of the program.

        Args:
            array_identifier: Anything with a ``container`` and a ``dataset``.

        Raises:
            ValueError: The container does not end in ``.zarr`` or lies outside the base, or the
                dataset is empty or leads out of the container, by name or by a symbolic link.
                Nothing was touched.
            OSError: The disk did not take the event or the rename; the array is in its place.
            ReadOnlyLogError: The store was opened read-only.
        """
        self._base.require_writable()
        if self._in_bucket is not None:
            dataset = _checked_dataset(array_identifier.dataset)
            self._in_bucket.remove(array_identifier.container, dataset)
            return
        container = self._own_container(array_identifier.container)
        dataset = _checked_dataset(array_identifier.dataset)
        folder = _folder_in(container, dataset)
        if not folder.is_dir():
            wrong = "it is not a directory" if folder.exists() else "it does not exist"
            logger.warning("Asked to remove dataset %s in container %s, but %s.", dataset, container, wrong)
            return
        try:
            self._record_removal(container, dataset, folder)
            trashed = self._move_to_trash(container, folder)
        except FileNotFoundError:
            logger.warning("Dataset %s in container %s was removed by another process.", dataset, container)
            return
        _delete(trashed)

    def empty_trash(self) -> None:
        """Delete what removals that were interrupted have left; the arrays are out of place already.

        What cannot be deleted is named in a warning and stays.

        Raises:
            ReadOnlyLogError: The store was opened read-only.
        """
        self._base.require_writable()
        if self._in_bucket is not None:
            self._in_bucket.empty_trash()
            return
        base = self._base.path
        for trash in (base / TRASH, *base.glob(f"*/{TRASH}")):
            if trash.is_dir() and not trash.is_symlink():
                for trashed in sorted(trash.iterdir()):
                    _delete(trashed)

    def _container(self, run_name: str, container: str) -> LocalContainerIdentifier:
        self._base.run_directory(run_name)
        if self._in_bucket is not None:
            require_opener(self.basedir)
        return self.container_identifier_type(self.basedir / run_name / container)

    def _validation_array(self, run_name: str, dataset: str) -> LocalArrayIdentifier:
        container = self.validation_container(run_name).container
        return self.array_identifier_type(container, _checked_dataset(dataset))

    def _own_container(self, container: Any) -> Path:
        """The container without symbolic links, when it is one that this store may write to."""
        path = Path(str(absolute_path(container)))
        if path.suffix != ".zarr":
            raise ValueError(f"the container {path} does not end in '.zarr': only zarr arrays are removed")
        actual = Path(os.path.realpath(path))
        if actual.suffix != ".zarr" or self._base.path not in actual.parents:
            raise ValueError(
                f"the container {path} lies at {actual}, outside the base directory {self._base.path}: "
                "a store removes only what lies within its base"
            )
        return actual

    def _record_removal(self, container: Path, dataset: str, folder: Path) -> None:
        name = container.relative_to(self._base.path).as_posix()
        # The same id for all who remove this folder now, another one for its successor in its place.
        status = folder.stat()
        event_id = derived_id("ArrayRemoved", name, dataset, status.st_ino, status.st_ctime_ns)
        event = EVENT_TYPES.event(_describe(name, dataset, folder), event_id=event_id)
        try:
            self._base.append(f"arrays/{name}", [event])
        except DuplicateEventError:
            # This removal was put on record before, by a process that did not come to the rename,
            # and a writer has changed a file since: the folder goes, its first description stays.
            logger.debug("The removal of %s in %s is on record already.", dataset, container)

    def _move_to_trash(self, container: Path, folder: Path) -> Path:
        # At the run's folder, or at the base for a container that lies there itself: see empty_trash.
        base = self._base.path
        trash = base.joinpath(*container.relative_to(base).parts[:-1][:1], TRASH)
        files.make_directories(trash, like=base)
        trashed = trash / uuid.uuid4().hex
        files.rename(folder, trashed)
        return trashed


def _checked_dataset(dataset: Any) -> str:
    """The dataset as text, when it names something within a container.

    Raises:
        ValueError: It is empty, absolute, or has parts that lead elsewhere.
    """
    text = str(dataset)
    if "\0" in text or any(part in {"", ".", ".."} for part in text.split("/")):
        raise ValueError(
            f"the dataset {text!r} does not name an array within a container: "
            "expected parts joined by '/', none of them empty, '.' or '..'"
        )
    return text


def _folder_in(container: Path, dataset: str) -> Path:
    """The folder of a dataset.

    Raises:
        ValueError: A symbolic link on the way leads elsewhere.
    """
    folder = container / dataset
    actual = os.path.realpath(folder)
    if actual != str(folder):
        raise ValueError(
            f"the dataset {dataset!r} of the container {container} is reached through a symbolic link to "
            f"{actual}: remove it where it lies"
        )
    return folder


def _describe(container: str, dataset: str, folder: Path) -> ArrayRemoved:
    # Lists, not tuples: those would be tagged in the log's JSON and in the way of SQL.
    listing: list[Any] = [[path, size] for path, size in sorted(_files_below(folder))]
    compact = json.dumps(listing, separators=(",", ":")).encode()
    shape, dtype, chunks = _array_metadata(folder)
    return ArrayRemoved(
        container=container,
        dataset=dataset,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        bytes=sum(size for _, size in listing),
        listing=listing,
        listing_digest=hashlib.sha256(compact).hexdigest(),
    )


def _files_below(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and size of every file; a symbolic link is a file here and is not followed."""
    for parent, folders, names in os.walk(folder, onerror=_unless_it_may_pass):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for path in (Path(parent, name) for name in (*names, *links)):
            # A writer that is still at work may take its temporary files away meanwhile.
            with contextlib.suppress(FileNotFoundError):
                size = path.lstat().st_size
                # Names need not be text; what is not is written as escapes.
                yield os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace"), size


def _array_metadata(folder: Path) -> tuple[list[int] | None, str | None, list[int] | None]:
    """Shape, dtype and chunks of an array; None for a group and for what zarr cannot read."""
    import zarr

    try:
        array: Any = zarr.open(str(folder), mode="r")
        if not hasattr(array, "shape"):
            return None, None, None
        return [int(n) for n in array.shape], str(array.dtype), [int(n) for n in array.chunks]
    except Exception as error:
        _unless_it_may_pass(error)
        # Unreadable metadata is a reason to remove an array, not one to keep it.
        logger.info("The metadata of %s could not be read and is not on record.", folder, exc_info=True)
        return None, None, None


def _unless_it_may_pass(error: Exception) -> None:
    """Raise an error that says nothing of the array: what it was must not be on record as unknown."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error


def _delete(trashed: Path) -> None:
    """Delete what lies in the trash; another process may be at it too."""
    shutil.rmtree(trashed, ignore_errors=True)
    if trashed.exists():
        logger.warning("Could not delete all of %s; empty_trash() tries again.", trashed)
