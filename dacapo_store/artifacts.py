"""Payloads beside the log: written once under a name of their own, durable, known by their digest.

The module owns the bytes' way to the disk and the digest that vouches for them. It keeps two
promises: what ``write`` returns is durable under its name, so an event may mention it; and no
name is ever used for other bytes. What the bytes mean, and the event, are its callers' business.

The digest of a payload is the SHA-256 over the SHA-256 digests of its chunks (the last one may be
short; an empty payload has none), so that a part of a large file can be checked on its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dacapo_store.errors import DamagedArtifactError
from eventstore import files

CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Artifact:
    """What an event says of a payload.

    Attributes:
        path: Where it lies, relative to the base, with ``/``.
        bytes: Its size.
        chunk_bytes: The size of the chunks that ``digest`` was made of.
        digest: The SHA-256 over the SHA-256 digests of its chunks, in hexadecimal digits.
    """

    path: str
    bytes: int
    chunk_bytes: int
    digest: str


class ChunkedDigest:
    """The digest of bytes that come in pieces of any size."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        if chunk_bytes < 1:
            raise ValueError(f"chunks of {chunk_bytes} bytes are impossible: chunk_bytes must be at least 1")
        self.chunk_bytes = chunk_bytes
        self.bytes = 0
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes, which may end within a chunk."""
        view = memoryview(data).cast("B")
        while view:
            piece = view[: self.chunk_bytes - self.bytes % self.chunk_bytes]
            self._chunk.update(piece)
            self.bytes += len(piece)
            if self.bytes % self.chunk_bytes == 0:
                self._whole.update(self._chunk.digest())
                self._chunk = hashlib.sha256()
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """The digest of what came so far; more may follow."""
        whole = self._whole.copy()
        if self.bytes % self.chunk_bytes:
            whole.update(self._chunk.digest())
        return whole.hexdigest()


class ArtifactWriter:
    """A file-like object that counts and digests what passes on its way to the disk."""

    def __init__(self, descriptor: int, chunk_bytes: int) -> None:
        self._descriptor = descriptor
        self._digest = ChunkedDigest(chunk_bytes)
        self._refusal: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of ``data``; there is no seeking, so the digest is that of the file."""
        view = memoryview(data).cast("B")
        try:
            files.write(self._descriptor, view)
        except OSError as error:
            self._refusal = self._refusal or error
            raise
        self._digest.update(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: nothing is held back here."""

    @contextlib.contextmanager
    def telling_refusals(self) -> Iterator[None]:
        """What the disk refused is what is raised, whatever the body makes of it.

        torch, for one, goes on to close its archive and then complains of a place in the file.
        """
        try:
            yield
        except Exception as error:
            if self._refusal in (None, error):
                raise
        if self._refusal is not None:
            raise self._refusal

    def describe(self, path: str) -> Artifact:
        """What was written so far, as the artifact at ``path``."""
        digest = self._digest
        return Artifact(path, digest.bytes, digest.chunk_bytes, digest.hexdigest())


Fill = Callable[[ArtifactWriter], None]
"""Writes a payload from beginning to end."""


def write(
    base: Path,
    path: str,
    fill: Fill,
    *,
    check: Callable[[Path], None] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Artifact:
    """Write a payload durably and say what an event needs to know of it.

    Once this returns, the bytes and the name survive a power cut. When ``fill``, ``check`` or the
    disk raises, nothing of this name is left. A process that dies in between leaves a file that no
    event names.

    Args:
        base: The base directory, whose group and permission bits new files and folders take.
        path: The payload's name, relative to ``base``, with ``/``; never used before.
        fill: Writes the payload from beginning to end.
        check: Looks at the complete file and raises when it should not be kept.
        chunk_bytes: The size of the digest's chunks.

    Raises:
        FileExistsError: The name is taken, and the file of that name was not touched.
        ValueError: ``path`` leaves the base.
        OSError: The disk did not take the payload (full, quota, I/O error); make room and repeat.
    """
    target = locate(base, path)
    files.make_directories(target.parent, like=base)
    with files.new_file(target, like=base) as (descriptor, _):
        writer = ArtifactWriter(descriptor, chunk_bytes)
        with writer.telling_refusals():
            fill(writer)
        if check is not None:
            check(target)
        files.sync_file(descriptor)
        files.sync_directory(target.parent)
        return writer.describe(path)


def locate(base: Path, path: str) -> Path:
    """The file that ``path``, relative to the base, names.

    Raises:
        ValueError: ``path`` is empty, absolute, or leads out of the base.
    """
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\0" in path:
        raise ValueError(f"the artifact path {path!r} must be relative to the base and stay within it")
    return base.joinpath(*parts)


def verify(descriptor: int, artifact: Artifact) -> None:
    """Read an open file from its beginning and return when it holds the artifact's very bytes.

    The descriptor's own place in the file stays as it is.

    Raises:
        DamagedArtifactError: Size or digest differ: restore the file from a copy.
    """
    digest = ChunkedDigest(artifact.chunk_bytes)
    # A file of another size is wrong whatever it holds, so its bytes are not read.
    size = files.size(descriptor)
    if size != artifact.bytes:
        raise _damaged(artifact, expected=f"{artifact.bytes} bytes", actual=f"{size} bytes")
    while data := files.read_at(descriptor, artifact.chunk_bytes, digest.bytes):
        digest.update(data)
    if digest.hexdigest() != artifact.digest:
        raise _damaged(artifact, expected=f"digest {artifact.digest}", actual=f"digest {digest.hexdigest()}")


def verify_file(base: Path, artifact: Artifact) -> None:
    """``verify`` for an artifact of the base that is not open.

    Raises:
        FileNotFoundError: The file is gone: restore it from a copy.
        DamagedArtifactError: Size or digest differ: restore the file from a copy.
        ValueError: The artifact's path leaves the base.
    """
    descriptor = files.open_file(locate(base, artifact.path), os.O_RDONLY)
    try:
        verify(descriptor, artifact)
    finally:
        os.close(descriptor)


def _damaged(artifact: Artifact, *, expected: str, actual: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"the file {artifact.path} is not the one that was stored: expected {expected}, found {actual}. "
        "Restore it from a copy."
    )
