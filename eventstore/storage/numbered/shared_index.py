"""Index files beside the log, so that a host that meets it for the first time need not read all of it.

They are the same files that each host keeps (``eventstore.index``), and are believed on the same
conditions: by their own digests, and because the log has the chain value that they end with.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from pathlib import Path
from typing import Final

from eventstore import files
from eventstore.errors import EventStoreError
from eventstore.index import FileName, IndexFolder, longest_chain
from eventstore.storage.protocol import SharedFile, SharedFiles

logger = logging.getLogger(__name__)

FOLDER: Final = "index"

GRACE_SECONDS: Final = 86_400.0
"""Whoever has seen a file in a listing may still be fetching it."""

_FRESH_SECONDS: Final = 3600.0
_EVENTS_MIN: Final = 256


def fetch_index(shared: SharedFiles, log_folder: Path) -> None:
    """Bring the index files of this host up to those beside the log, if they lie far behind.

    A host that has made one lately is not behind. Where anything goes wrong the log is read instead.
    """
    folder = IndexFolder(log_folder / "index", like=log_folder)
    try:
        if _is_fresh(folder):
            return
        here = folder.names()
        there = {name: file for file in shared.listed(FOLDER) if (name := FileName.parsed(file.name))}
        chain = longest_chain([*here, *there])
        if _end(chain) - _end(longest_chain(here)) < _EVENTS_MIN:
            return
        files.make_directories(folder.path, like=log_folder)
        for name in chain:
            if name not in here:
                _fetch(shared, there[name], folder.path)
    except (EventStoreError, OSError) as error:
        logger.warning("no index can be fetched (%s): opening this log takes longer", error)


def publish_index(shared: SharedFiles, log_folder: Path) -> None:
    """Put the index files of this host beside the log, and take those away that they replace.

    Raises:
        OSError: The store does not take them. Nothing is harmed.
    """
    folder = IndexFolder(log_folder / "index", like=log_folder)
    there = {name: file for file in shared.listed(FOLDER) if (name := FileName.parsed(file.name))}
    chain = longest_chain(folder.names())
    if _end(chain) - _end(longest_chain(there)) < _EVENTS_MIN:
        return
    for name in chain:
        if name not in there:
            # Merged meanwhile: whoever publishes next has the larger one.
            with contextlib.suppress(FileNotFoundError):
                shared.publish(FOLDER, folder.path / name.text)
    before = time.time() - GRACE_SECONDS
    for name, file in there.items():
        if name not in chain and file.modified < before:
            shared.remove(file)


def _is_fresh(folder: IndexFolder) -> bool:
    newest = 0.0
    for name in folder.names():
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, (folder.path / name.text).stat().st_mtime)
    return time.time() - newest < _FRESH_SECONDS


def _fetch(shared: SharedFiles, file: SharedFile, folder: Path) -> None:
    # Others of this host may be fetching it as well, or have been killed meanwhile.
    made = folder / f"{file.name}.{secrets.token_hex(8)}.tmp"
    with files.new_file(made, like=folder) as (descriptor, _):
        shared.fetch(file, descriptor)
        files.rename_derived(made, folder / file.name)


def _end(chain: list[FileName]) -> int:
    return chain[-1].next_position if chain else 0
