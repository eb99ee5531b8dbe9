"""An append at its place: positions, stream versions, the chain's value, once what is in front is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from eventstore import format as log_format
from eventstore.encoding import EncodedEvent
from eventstore.index import Run
from eventstore.message import BatchMessage
from eventstore.model import Commit
from eventstore.storage.protocol import NewCommit


class PlacedAppend(msgspec.Struct, frozen=True, gc=False):
    """An append that has its place: what is put, what is noted of it, and what is told.

    Attributes:
        new: What storage keeps.
        runs: Whose its events are, in order.
        ids: Their ids, 16 bytes each.
        clock: The greatest of their clocks.
        commit: The caller's answer.
    """

    new: NewCommit
    runs: list[Run]
    ids: bytes
    clock: int
    commit: Commit


def placed(
    encoded: Sequence[EncodedEvent],
    message: BatchMessage,
    *,
    first_position: int,
    chain: bytes,
    last_version: Callable[[str], int | None],
) -> PlacedAppend:
    """Give an append its place.

    Args:
        encoded: Its events; those of one stream follow each other.
        message: Their message.
        first_position: The position of the first of them.
        chain: The chain's value in front of it.
        last_version: The version of a stream's last event in front of it, or None.
    """
    runs: list[Run] = []
    versions: list[int] = []
    last_versions: dict[str, int] = {}
    stream, version, begun, position = "", 0, 0, first_position
    for event in encoded:
        if event.stream == stream:
            version += 1
        else:
            if stream:
                runs.append((stream, begun, version - begun + 1))
            stream, last = event.stream, last_version(event.stream)
            version = begun = 0 if last is None else last + 1
        versions.append(version)
        last_versions[stream] = version
        chain = log_format.next_chain(
            chain, position=position, stream_version=version, content=event.content_digest
        )
        position += 1
    runs.append((stream, begun, version - begun + 1))
    count = len(encoded)
    if count == 1:
        ids, clock = encoded[0].id_bytes, encoded[0].recorded_at
    else:
        ids = b"".join([event.id_bytes for event in encoded])
        clock = max([event.recorded_at for event in encoded])
    new = NewCommit(message.at(first_position, versions), first_position, count, chain)
    commit = Commit(first_position, first_position + count, last_versions, ids)
    return PlacedAppend(new, runs, ids, clock, commit)
