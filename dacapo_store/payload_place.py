"""Where payloads lie, beside the log: in a folder, or in a bucket. What stores ask of either.

Both keep the same promises: what ``write`` returns is durable, so an event may mention it; no name is
ever used for other bytes; and what ``opened`` gives has been read and compared with its digest.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from dacapo_store import artifacts
from dacapo_store.artifacts import Artifact, ArtifactWriter
from dacapo_store.errors import DamagedArtifactError
from eventstore import files

if TYPE_CHECKING:
    from eventstore.storage.bucket import Bucket


class PayloadPlace(Protocol):
    """Where the payloads of a base lie. Paths are relative to it, with ``/``.

    All methods raise ``ValueError`` for a path that leads out of it, and ``OSError`` where the disk or
    the store on other hosts fails: ``StorageUnavailableError``, ``WriteRefusedError``, ``PermissionError``.

    Attributes:
        bucket: The bucket that they lie in; None for a folder.
    """

    @property
    def bucket(self) -> Bucket | None:
        """The bucket that they lie in; None for a folder."""

    def write(
        self, path: str, fill: artifacts.Fill, *, check: Callable[[Path], None] | None = None
    ) -> Artifact:
        """Write a payload durably and say what an event needs to know of it.

        When ``fill`` or ``check`` raises, nothing of this name is left. A process that dies in between, or a
        store that does not answer, may leave a file that no event names.

        Args:
            path: Its name, never used before.
            fill: Writes it from beginning to end.
            check: Looks at the complete file and raises when it should not be kept.
        """

    def opened(self, artifact: Artifact) -> IO[bytes]:
        """A file of this host that holds the payload's very bytes, open at its beginning.

        Raises:
            FileNotFoundError: It is gone.
            DamagedArtifactError: It is not the one that was stored.
        """

    def verify(self, artifact: Artifact) -> None:
        """Read a payload and return when it is the one that was stored; raises as ``opened`` does."""

    def size(self, path: str) -> int | None:
        """How many bytes a payload has; None where there is none."""

    def sizes(self, paths: Collection[str]) -> Mapping[str, int]:
        """The sizes of those of these payloads that are easily found; ``size`` tells of the others."""

    def bring(self, source: Path, artifact: Artifact, *, link: bool) -> int:
        """Make a file of this host a payload, under the artifact's name, unless it is there already.

        Args:
            source: A file that holds the artifact's bytes; a copy is checked against the digest.
            artifact: What it is.
            link: Give the file a second name instead, where that can be done.

        Returns:
            How many bytes were written.

        Raises:
            FileNotFoundError: The file is gone.
            DamagedArtifactError: It is not the artifact.
        """

    def remove(self, path: str) -> None:
        """Take a payload away, durably; one that is not there is no error."""

    def where(self, path: str) -> str:
        """The whole name of a payload, for people."""


class FolderPayloads:
    """Payloads in a folder.

    Args:
        root: The folder, whose group and permission bits new files and folders take.
    """

    bucket: Bucket | None = None

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self, path: str, fill: artifacts.Fill, *, check: Callable[[Path], None] | None = None
    ) -> Artifact:
        """See ``PayloadPlace.write``."""
        return artifacts.write(self.root, path, fill, check=check)

    def opened(self, artifact: Artifact) -> IO[bytes]:
        """See ``PayloadPlace.opened``."""
        with contextlib.ExitStack() as until_verified:
            file = until_verified.enter_context(artifacts.locate(self.root, artifact.path).open("rb"))
            artifacts.verify(file.fileno(), artifact)
            until_verified.pop_all()
        return file

    def verify(self, artifact: Artifact) -> None:
        """See ``PayloadPlace.verify``."""
        artifacts.verify_file(self.root, artifact)

    def size(self, path: str) -> int | None:
        """See ``PayloadPlace.size``."""
        try:
            return artifacts.locate(self.root, path).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, paths: Collection[str]) -> Mapping[str, int]:
        """See ``PayloadPlace.sizes``: looking at each is as easy."""
        del paths
        return {}

    def bring(self, source: Path, artifact: Artifact, *, link: bool) -> int:
        """See ``PayloadPlace.bring``."""
        target = artifacts.locate(self.root, artifact.path)
        if target.is_file() and target.stat().st_size == artifact.bytes:
            return 0
        if target.exists():
            # Cut off by a crash of the machine, or not ours: it is no copy of this payload.
            files.unlink(target)
        if link:
            files.make_directories(target.parent, like=self.root)
            try:
                files.link(source.resolve(), target)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
            else:
                return 0
        artifacts.write(
            self.root,
            artifact.path,
            lambda file: _copy(file, source, artifact),
            chunk_bytes=artifact.chunk_bytes,
        )
        return artifact.bytes

    def remove(self, path: str) -> None:
        """See ``PayloadPlace.remove``."""
        files.unlink(artifacts.locate(self.root, path))

    def where(self, path: str) -> str:
        """See ``PayloadPlace.where``."""
        return str(artifacts.locate(self.root, path))


def place_at(where: Path | str) -> PayloadPlace:
    """The payloads in a folder, or at the address of a bucket; nothing is asked of that yet.

    Raises:
        ImportError: A package is missing that a bucket needs.
        ValueError: The address names no bucket, or an option of it is not known.
    """
    if isinstance(where, Path):
        return FolderPayloads(where)
    from dacapo_store.bucket_payloads import BucketPayloads

    return BucketPayloads(where)


def _copy(file: ArtifactWriter, source: Path, artifact: Artifact) -> None:
    with source.open("rb") as payload:
        while data := payload.read(artifacts.CHUNK_BYTES):
            file.write(data)
    found = file.describe(artifact.path)
    if found != artifact:
        raise DamagedArtifactError(
            f"the file {artifact.path} is not the one that was stored (expected {artifact.bytes} bytes, "
            f"digest {artifact.digest}; found {found.bytes} bytes, digest {found.digest}) and was not copied"
        )
