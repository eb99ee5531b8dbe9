"""Copies of payloads into another base: checked against their digests on the way, or linked."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from dacapo_store import artifacts
from dacapo_store.errors import DamagedArtifactError
from eventstore import files

if TYPE_CHECKING:
    from pathlib import Path

    from dacapo_store.artifacts import Artifact, ArtifactWriter


def copy_payload(root: Path, copy: Path, artifact: Artifact, *, link: bool) -> int:
    """Copy a payload that is not there yet.

    Args:
        root: The base that has it.
        copy: The base that gets it.
        artifact: What it is.
        link: Give it a second name instead, where both bases are on one file system.

    Returns:
        How many bytes were written.

    Raises:
        FileNotFoundError: It is gone.
        DamagedArtifactError: It is not the one that was stored.
    """
    source = artifacts.locate(root, artifact.path)
    if link and not _is_there(artifacts.locate(copy, artifact.path), artifact):
        artifacts.verify_file(root, artifact)
    return bring(source, copy, artifact, link=link)


def bring(source: Path, copy: Path, artifact: Artifact, *, link: bool) -> int:
    """Make a file a payload of a base that has it not yet, under the artifact's name.

    Args:
        source: A file that holds the artifact's bytes; a copy is checked against the digest.
        copy: The base that gets it.
        artifact: What it is.
        link: Give the file a second name instead, where it lies on the base's file system.

    Returns:
        How many bytes were written.

    Raises:
        FileNotFoundError: The file is gone.
        DamagedArtifactError: It is not the artifact.
    """
    target = artifacts.locate(copy, artifact.path)
    if _is_there(target, artifact):
        return 0
    if target.exists():
        # Cut off by a crash of the machine, or not ours: it is no backup of this payload.
        files.unlink(target)
    if link:
        files.make_directories(target.parent, like=copy)
        try:
            files.link(source.resolve(), target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
        else:
            return 0
    artifacts.write(
        copy, artifact.path, lambda file: _fill(file, source, artifact), chunk_bytes=artifact.chunk_bytes
    )
    return artifact.bytes


def _is_there(target: Path, artifact: Artifact) -> bool:
    return target.is_file() and target.stat().st_size == artifact.bytes


def _fill(file: ArtifactWriter, source: Path, artifact: Artifact) -> None:
    with source.open("rb") as payload:
        while data := payload.read(artifacts.CHUNK_BYTES):
            file.write(data)
    found = file.describe(artifact.path)
    if found != artifact:
        raise DamagedArtifactError(
            f"the file {artifact.path} is not the one that was stored (expected {artifact.bytes} bytes, "
            f"digest {artifact.digest}; found {found.bytes} bytes, digest {found.digest}) and was not copied"
        )
