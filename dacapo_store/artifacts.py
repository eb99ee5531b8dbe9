"""Payloads beside the log: written once under a name of their own, durable, known by their digest.

The module owns the bytes' way to the disk and the digest that vouches for them. It keeps two
promises: what ``write`` returns is durable under its name, so an event may mention it; and no
name is ever used for other bytes. What the bytes mean, and the event, are its callers' business.

The digest of a payload is the SHA-256 over the SHA-256 digests of its chunks (the last one may be
short; an empty payload has none), so that a part of a large file can be checked on its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import Final

from dacapo_store.errors import DamagedArtifactError
from eventstore import files

CHUNK_BYTES = 4 * 1024 * 1024

_PIECE_BYTES: Final = 1024 * 1024
"""What is read at once; it is still in the processor's cache when it is hashed."""

_STEP_BYTES: Final = 4 * _PIECE_BYTES
"""What is written at once of a large piece, so that digesting it can begin."""

_THREAD_BYTES_MIN: Final = 8 * _PIECE_BYTES
"""For less than this, threads cost more than they give."""

_THREADS_MAX: Final = 4


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
    """A file-like object that appends to a file, and digests the file behind its end.

    Large payloads are digested, and sent on their way to the disk, in a thread beside the writing.
    What is digested is read back, so the digest is true of the file whatever the caller's memory
    does meanwhile, and no memory is looked at after ``write`` has returned.
    """

    def __init__(self, descriptor: int, chunk_bytes: int) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._digest = _FollowingDigest(descriptor, chunk_bytes)
        self._refusal: OSError | None = None
        # torch.save writes some twenty pieces of a few bytes around each tensor.
        self._held = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of ``data``; there is no seeking, so the digest is that of the file."""
        view = memoryview(data).cast("B")
        if len(view) < _PIECE_BYTES:
            self._held += view
            if len(self._held) >= _PIECE_BYTES:
                self.flush()
        else:
            self.flush()
            for start in range(0, len(view), _STEP_BYTES):
                self._append(view[start : start + _STEP_BYTES])
        return len(view)

    def flush(self) -> None:
        """Hand what is held back to the disk."""
        if self._held:
            held, self._held = self._held, bytearray()
            self._append(memoryview(held))

    def close(self) -> None:
        """End the thread; the file stays open."""
        self._digest.stop()

    @contextlib.contextmanager
    def telling_refusals(self) -> Iterator[None]:
        """What the disk refused is what is raised, whatever the body makes of it.

        torch, for one, goes on to close its archive and then complains of a place in the file.
        """
        try:
            yield
            self.flush()
        except Exception as error:
            if self._refusal in (None, error):
                raise
        if self._refusal is not None:
            raise self._refusal

    def describe(self, path: str) -> Artifact:
        """What was written so far, as the artifact at ``path``."""
        self.flush()
        digest = self._digest.up_to(self._written)
        return Artifact(path, digest.bytes, digest.chunk_bytes, digest.hexdigest())

    def _append(self, view: memoryview) -> None:
        if self._refusal is not None:
            raise self._refusal
        try:
            files.write(self._descriptor, view)
        except OSError as error:
            self._refusal = error
            raise
        self._written += len(view)
        self._digest.follow(self._written)


class _FollowingDigest:
    """The digest of a file that grows, some way behind its end."""

    def __init__(self, descriptor: int, chunk_bytes: int) -> None:
        self._descriptor = descriptor
        self._digest = ChunkedDigest(chunk_bytes)
        self._buffer = memoryview(b"")
        self._ends: SimpleQueue[int | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def follow(self, end: int) -> None:
        """Note that the file has grown; a file that is worth it gets a thread."""
        if self._thread is None and end - self._digest.bytes >= _THREAD_BYTES_MIN:
            self._thread = _started(self._follow)
        if self._thread is not None:
            self._ends.put(end)

    def up_to(self, end: int) -> ChunkedDigest:
        """The digest of the file's first bytes, all of which are written."""
        self.stop()
        if self._failure is not None:
            raise self._failure
        self._advance(end)
        return self._digest

    def stop(self) -> None:
        """End the thread, if there is one."""
        if self._thread is not None:
            self._ends.put(None)
            self._thread.join()
            self._thread = None

    def _follow(self) -> None:
        try:
            while (end := self._ends.get()) is not None:
                self._advance(end)
        except Exception as error:  # noqa: BLE001 - raised to the writer
            self._failure = error

    def _advance(self, end: int) -> None:
        start = self._digest.bytes
        if end - start >= _STEP_BYTES:
            files.begin_writeback(self._descriptor, start, end - start)
        if start < end and not self._buffer:
            self._buffer = memoryview(bytearray(_PIECE_BYTES))
        while (start := self._digest.bytes) < end:
            count = files.read_into(self._descriptor, self._buffer[: end - start], start)
            if not count:
                raise OSError(errno.EIO, f"a new file was cut to {start} bytes while it was written")
            self._digest.update(self._buffer[:count])


def _started(run: Callable[[], None]) -> threading.Thread | None:
    """A thread that runs this; None where the system gives no more: its starter does the work, then."""
    thread = threading.Thread(target=run, name="dacapo-store digest", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


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
    with (
        files.new_file(target, like=base) as (descriptor, _),
        contextlib.closing(ArtifactWriter(descriptor, chunk_bytes)) as writer,
    ):
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
    return base.joinpath(*require_within(path))


def require_within(path: str) -> tuple[str, ...]:
    """The parts of an artifact's path.

    Raises:
        ValueError: ``path`` is empty, absolute, or leads out of the base.
    """
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\0" in path:
        raise ValueError(f"the artifact path {path!r} must be relative to the base and stay within it")
    return parts


def describe(descriptor: int, path: str) -> Artifact:
    """Read an open file from its beginning and give it as the artifact that ``path`` will name.

    The descriptor's own place in the file stays as it is.
    """
    sized = Artifact(path, files.size(descriptor), CHUNK_BYTES, "")
    return replace(sized, digest=_digest_of(descriptor, sized))


def verify(descriptor: int, artifact: Artifact) -> None:
    """Read an open file from its beginning and return when it holds the artifact's very bytes.

    The descriptor's own place in the file stays as it is.

    Raises:
        DamagedArtifactError: Size or digest differ: restore the file from a copy.
    """
    # A file of another size is wrong whatever it holds, so its bytes are not read.
    size = files.size(descriptor)
    if size != artifact.bytes:
        raise damaged(artifact, expected=f"{artifact.bytes} bytes", actual=f"{size} bytes")
    digest = _digest_of(descriptor, artifact)
    if digest != artifact.digest:
        raise damaged(artifact, expected=f"digest {artifact.digest}", actual=f"digest {digest}")


def _digest_of(descriptor: int, sized: Artifact) -> str:
    worth_threads = sized.bytes >= _THREAD_BYTES_MIN and sized.chunk_bytes >= _PIECE_BYTES
    return (_digest_in_threads if worth_threads else _digest_in_order)(descriptor, sized)


def _digest_in_order(descriptor: int, artifact: Artifact) -> str:
    digest = ChunkedDigest(artifact.chunk_bytes)
    while data := files.read_at(descriptor, _PIECE_BYTES, digest.bytes):
        digest.update(data)
    return digest.hexdigest()


def _digest_in_threads(descriptor: int, artifact: Artifact) -> str:
    digests = [b""] * -(-artifact.bytes // artifact.chunk_bytes)
    failures: list[Exception] = []
    chunks: SimpleQueue[int] = SimpleQueue()
    for chunk in range(len(digests)):
        chunks.put(chunk)

    def work() -> None:
        buffer = memoryview(bytearray(_PIECE_BYTES))
        try:
            while not failures:
                chunk = chunks.get_nowait()
                digests[chunk] = _chunk_digest(descriptor, artifact, chunk, buffer)
        except Empty:
            return
        except Exception as error:  # noqa: BLE001 - raised below, by who asked
            failures.append(error)

    threads = [_started(work) for _ in range(min(len(os.sched_getaffinity(0)), _THREADS_MAX) - 1)]
    try:
        work()
    finally:
        for thread in threads:
            if thread is not None:
                thread.join()
    if failures:
        raise failures[0]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _chunk_digest(descriptor: int, artifact: Artifact, chunk: int, buffer: memoryview) -> bytes:
    digest = hashlib.sha256()
    offset = chunk * artifact.chunk_bytes
    end = min(offset + artifact.chunk_bytes, artifact.bytes)
    while offset < end and (count := files.read_into(descriptor, buffer[: end - offset], offset)):
        digest.update(buffer[:count])
        offset += count
    return digest.digest()


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


def damaged(artifact: Artifact, *, expected: str, actual: str) -> DamagedArtifactError:
    """The error for a payload that is not the one that an event names."""
    return DamagedArtifactError(
        f"the file {artifact.path} is not the one that was stored: expected {expected}, found {actual}. "
        "Restore it from a copy."
    )
