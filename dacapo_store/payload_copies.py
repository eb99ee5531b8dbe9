"""Copies of payloads from one base into another, checked against their digests on the way, or linked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dacapo_store import artifacts
from dacapo_store.payload_place import FolderPayloads

if TYPE_CHECKING:
    from dacapo_store.artifacts import Artifact
    from dacapo_store.payload_place import PayloadPlace


def copy_payload(
    source: PayloadPlace, copy: PayloadPlace, artifact: Artifact, *, link: bool, path: str | None = None
) -> int:
    """Copy a payload that is not there yet.

    Args:
        source: Where it is.
        copy: Where it goes.
        artifact: What it is.
        link: Give it a second name instead, where both are folders of one file system.
        path: Its path there; by default the one that it has.

    Returns:
        How many bytes were written.

    Raises:
        FileNotFoundError: It is gone.
        DamagedArtifactError: It is not the one that was stored.
    """
    target = artifact if path is None else replace(artifact, path=path)
    if copy.size(target.path) == target.bytes:
        return 0
    if isinstance(source, FolderPayloads):
        if link:
            source.verify(artifact)
        return copy.bring(artifacts.locate(source.root, artifact.path), target, link=link)
    with source.opened(artifact) as file:
        # By its descriptor: this host keeps the file for a while only, and the name may go meanwhile.
        opened = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        return copy.bring(opened, target, link=False)
