"""Removing zarr arrays from a bucket, where nothing can be renamed.

1. The event ``ArrayRemoved`` says what the array was. Left by a crash: the array, whole; removing it again
   goes on from here without a second event.
2. A note, ``<run>/.trash/<id>.json``, says which objects it was made of. Left: the note, with which the
   next removal or ``gc`` goes on.
3. The objects are deleted, the array's own metadata first: from there on nobody opens it.
4. So is the note.

An object is deleted for a note only while it is the very one that the note tells of; what was written in its
place since stays. Nothing else keeps writers out meanwhile: end who writes an array before it is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.bucket_paths import address_text
from dacapo_store.events import EVENT_TYPES, ArrayRemoved
from dacapo_store.names import RESERVED_RUN_NAMES
from eventstore import Address, DuplicateEventError, derived_id, is_address

if TYPE_CHECKING:
    from uuid import UUID

    from dacapo_store.base import Base
    from eventstore.storage.bucket import Bucket, StoredFile

logger = logging.getLogger(__name__)

TRASH: Final = ".trash"

_METADATA: Final = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")

_NO_RUNS: Final = frozenset({*(f"{name}/" for name in RESERVED_RUN_NAMES), f"{TRASH}/"})

Metadata = tuple[list[int] | None, str | None, list[int] | None]
"""Shape, dtype and chunks of an array; None for a group and for what cannot be read."""


class RemovalNotes:
    """What is left to do of removals from a bucket.

    Args:
        bucket: The bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def found(self, run_folders: Iterable[str]) -> list[StoredFile]:
        """The notes of removals that did not come to their end, or are under way, in these folders."""
        return [note for run in ("", *run_folders) for note in self._bucket.files(f"{run}{TRASH}")]

    def finish(self, note: str, *, only: tuple[str, str] | None = None) -> None:
        """Delete what a note tells of, and the note.

        Args:
            note: Its name.
            only: Do so only if it is about this container and dataset.
        """
        data = self._bucket.get(note)
        if data is None:
            return
        try:
            content = json.loads(data)
            about = content["container"], content["dataset"]
            listed = {name: (tag, changed) for name, tag, changed in content["files"]}
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s/%s cannot be read and stays: %s", self._bucket.address, note, error)
            return
        if only in (None, about):
            folder = "/".join(about)
            there = self._bucket.files(folder)
            self.carry_out(
                note, folder, [each for each in there if listed.get(each.name) == (each.tag, each.changed)]
            )

    def carry_out(self, note: str, folder: str, files: Sequence[StoredFile]) -> None:
        """Delete the files of an array, its own metadata first, and then the note of it."""
        own = {f"{folder}/{name}" for name in _METADATA}
        self._bucket.delete([each.name for each in files if each.name in own])
        self._bucket.delete([each.name for each in files if each.name not in own])
        self._bucket.delete([note])


class BucketArrays:
    """The arrays of a base in a bucket.

    Args:
        base: The base.
        bucket: Where they lie.
        read_metadata: Tells what the metadata in a folder of this host say.
    """

    def __init__(self, base: Base, bucket: Bucket, read_metadata: Callable[[Path], Metadata]) -> None:
        self._base = base
        self._bucket = bucket
        self._read_metadata = read_metadata
        self._notes = RemovalNotes(bucket)

    def remove(self, container: Any, dataset: str) -> None:
        """Remove an array, or a group; see ``LocalArrayStore.remove``.

        Args:
            container: The path or the address of the container.
            dataset: Its checked name.
        """
        name = self._own_container(container)
        # At the run's folder, or at the base for a container that lies there itself.
        run_folder = "".join(f"{part}/" for part in name.split("/")[:-1][:1])
        for left in self._notes.found([run_folder] if run_folder else []):
            self._notes.finish(left.name, only=(name, dataset))
        folder = f"{name}/{dataset}"
        files = self._bucket.files(folder)
        if not files:
            logger.warning(
                "Asked to remove dataset %s in container %s, but it does not exist.", dataset, container
            )
            return
        note = f"{run_folder}{TRASH}/{self._record(name, dataset, files).hex}.json"
        listed = [[each.name, each.tag, each.changed] for each in files]
        self._bucket.put(note, json.dumps({"container": name, "dataset": dataset, "files": listed}).encode())
        self._notes.carry_out(note, folder, files)

    def empty_trash(self) -> None:
        """Go on with removals that were interrupted."""
        for note in self._notes.found(run_folders(self._bucket)):
            self._notes.finish(note.name)

    def _own_container(self, container: Any) -> str:
        """The container's name in the bucket, when it is one that this store may write to."""
        text = address_text(container)
        if not text.partition("?")[0].rstrip("/").endswith(".zarr"):
            raise ValueError(f"the container {text} does not end in '.zarr': only zarr arrays are removed")
        location = Address.parse(text).location if is_address(text) else text
        name = location.removeprefix(f"{self._bucket.address}/")
        if name == location or any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(
                f"the container {location} lies outside the base {self._bucket.address}: a store removes "
                "only what lies within its base"
            )
        return name

    def _record(self, name: str, dataset: str, files: Sequence[StoredFile]) -> UUID:
        identity = json.dumps([list(each) for each in files]).encode()
        # The same id for all who remove these very objects, another one for what is written in their place.
        event_id = derived_id("ArrayRemoved", name, dataset, hashlib.sha256(identity).digest())
        event = EVENT_TYPES.event(self._described(name, dataset, files), event_id=event_id)
        try:
            self._base.append(f"arrays/{name}", [event])
        except DuplicateEventError:
            logger.debug("The removal of %s in %s is on record already.", dataset, name)
        return event_id

    def _described(self, name: str, dataset: str, files: Sequence[StoredFile]) -> ArrayRemoved:
        begin = len(f"{name}/{dataset}/")
        # Lists, not tuples: those would be tagged in the log's JSON and in the way of SQL.
        listing: list[Any] = [[each.name[begin:], each.bytes] for each in files]
        shape, dtype, chunks = self._metadata(f"{name}/{dataset}", files)
        return ArrayRemoved(
            container=name,
            dataset=dataset,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            bytes=sum(each.bytes for each in files),
            listing=listing,
            listing_digest=hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest(),
        )

    def _metadata(self, folder: str, files: Sequence[StoredFile]) -> Metadata:
        """What the array's own metadata say; they are read on this host, as those of any other array."""
        with tempfile.TemporaryDirectory(prefix="dacapo-store-") as here:
            for name in _METADATA:
                if any(each.name == f"{folder}/{name}" for each in files):
                    Path(here, name).write_bytes(self._bucket.get(f"{folder}/{name}") or b"")
            return self._read_metadata(Path(here))


def run_folders(bucket: Bucket) -> list[str]:
    """What may be the folders of runs, each with a ``/`` at its end."""
    return [entry for entry in bucket.entries() if entry.endswith("/") and entry not in _NO_RUNS]
