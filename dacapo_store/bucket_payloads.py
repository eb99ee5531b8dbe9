"""Payloads in a bucket: one object each, under a name of its own, never written again.

    <address>/<run>/checkpoints/objects/<iteration>-<random>.pt

1. The payload is written to a file of this host, where it is digested and looked into.
2. It is sent, in one request that creates the object only if there is none, or in parts, of which the store
   makes the object when all of them are there. A process that is killed before leaves nothing in view; an
   unfinished upload is no object and is taken away by the rule that a bucket should have for them.
3. Once the store has said that the object is there, the event may mention it.

What was sent or fetched stays on this host for a while (``payload_cache``), so that a trainer that goes on
reads its last weights from its own disk; before they are used their digest is compared each time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Final

from dacapo_store import artifacts
from dacapo_store.artifacts import CHUNK_BYTES, Artifact, ArtifactWriter, ChunkedDigest
from dacapo_store.errors import DamagedArtifactError
from dacapo_store.payload_cache import BYTES_MAX, PayloadCache
from eventstore import Address, cache_folder, open_bucket

logger = logging.getLogger(__name__)

_CACHE: Final = "payloads"


class BucketPayloads:
    """Payloads at the address of a bucket; see ``PayloadPlace``.

    Attributes:
        bucket: The files there.
    """

    def __init__(self, address: str) -> None:
        self.bucket = open_bucket(address)
        folder = cache_folder()
        bytes_max = int(float(Address.parse(address).options.get("cache_bytes_max", BYTES_MAX)))
        self._cache = PayloadCache(None if folder is None else folder / _CACHE, bytes_max)

    def write(
        self, path: str, fill: artifacts.Fill, *, check: Callable[[Path], None] | None = None
    ) -> Artifact:
        """See ``PayloadPlace.write``."""
        artifacts.require_within(path)
        with (
            self._cache.new_file() as (descriptor, made),
            contextlib.closing(ArtifactWriter(descriptor, CHUNK_BYTES)) as writer,
        ):
            with writer.telling_refusals():
                fill(writer)
            if check is not None:
                check(made)
            # It is digested beside the sending, as far as that is not done yet.
            self.bucket.put_file(path, made)
            artifact = writer.describe(path)
            self._cache.keep(made, artifact)
        return artifact

    def opened(self, artifact: Artifact) -> IO[bytes]:
        """See ``PayloadPlace.opened``; the file is one of this host."""
        artifacts.require_within(artifact.path)
        cached = self._cache.opened(artifact)
        if cached is not None:
            try:
                artifacts.verify(cached.fileno(), artifact)
            except DamagedArtifactError as error:
                cached.close()
                logger.warning("What this host had kept of it is fetched anew: %s", error)
                self._cache.forget(artifact)
            else:
                return cached
        with self._cache.new_file() as (descriptor, made):
            size = self.bucket.fetch(artifact.path, descriptor, artifact.bytes)
            if size != artifact.bytes:
                raise artifacts.damaged(artifact, expected=f"{artifact.bytes} bytes", actual=f"{size} bytes")
            artifacts.verify(descriptor, artifact)
            file = made.open("rb")
            self._cache.keep(made, artifact)
        return file

    def verify(self, artifact: Artifact) -> None:
        """See ``PayloadPlace.verify``; what is in the bucket is read, whatever this host has kept."""
        artifacts.require_within(artifact.path)
        size = self.bucket.size(artifact.path)
        if size is None:
            raise FileNotFoundError(f"{self.where(artifact.path)} is gone")
        if size != artifact.bytes:
            raise artifacts.damaged(artifact, expected=f"{artifact.bytes} bytes", actual=f"{size} bytes")
        digest = ChunkedDigest(artifact.chunk_bytes)
        while digest.bytes < size:
            digest.update(self.bucket.read(artifact.path, digest.bytes, CHUNK_BYTES))
        if digest.hexdigest() != artifact.digest:
            raise artifacts.damaged(
                artifact, expected=f"digest {artifact.digest}", actual=f"digest {digest.hexdigest()}"
            )

    def size(self, path: str) -> int | None:
        """See ``PayloadPlace.size``."""
        artifacts.require_within(path)
        return self.bucket.size(path)

    def sizes(self, paths: Collection[str]) -> Mapping[str, int]:
        """See ``PayloadPlace.sizes``: a request tells of a thousand."""
        folders = sorted({path.rpartition("/")[0] for path in paths})
        return {file.name: file.bytes for folder in folders for file in self.bucket.files(folder)}

    def bring(self, source: Path, artifact: Artifact, *, link: bool) -> int:
        """See ``PayloadPlace.bring``; there are no second names in a bucket."""
        del link
        there = self.size(artifact.path)
        if there == artifact.bytes:
            return 0
        with source.open("rb") as file:
            artifacts.verify(file.fileno(), artifact)
            before = os.fstat(file.fileno())
            if there is not None:
                self.bucket.delete([artifact.path])
            self.bucket.put_file(artifact.path, source)
            after = source.stat()
        if (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino,
            after.st_size,
            after.st_mtime_ns,
        ):
            self.bucket.delete([artifact.path])
            raise DamagedArtifactError(f"{source} was changed while it was sent: end what writes to it")
        return artifact.bytes

    def remove(self, path: str) -> None:
        """See ``PayloadPlace.remove``."""
        artifacts.require_within(path)
        self.bucket.delete([path])

    def where(self, path: str) -> str:
        """See ``PayloadPlace.where``."""
        return f"{self.bucket.address}/{path}"
