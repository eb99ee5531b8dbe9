"""The check of a whole log of numbered commits: everything is read, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from eventstore import format as log_format
from eventstore.errors import DamagedLogError, FormatVersionError
from eventstore.model import Finding, Verdict
from eventstore.schema import content_digests
from eventstore.storage.numbered.commit_bytes import StoredCommit, check_follows, damaged
from eventstore.storage.numbered.patience import COMMITS_AT_ONCE, PatientStore
from eventstore.storage.numbered.segments import (
    BLOCK_BYTES_MAX,
    BLOCKS,
    COMMITS,
    SEGMENT_BYTES_MAX,
    Segments,
    block_name,
    compacted,
    segment_name,
)

_PURPOSE = "verify the log"


def verify_commits(
    store: PatientStore, log_id: bytes, segments: Segments | None, *, expect: bytes | None = None
) -> Verdict:
    """Compute the chain over all events, and compare it and the segments with what is kept.

    Args:
        store: Where the log is.
        log_id: The log's id.
        segments: The compacted segments, or None.
        expect: A chain value to look for.
    """
    findings: list[Finding] = []
    chain, position, objects, size = log_format.first_chain(log_id), 0, 0, 0
    block: list[bytes] = []
    expected_at = 0 if chain == expect else None
    try:
        for commit, data in _stored(store, log_id):
            for batch in commit.batches(0, None):
                for place, version, content in content_digests(batch.batch):
                    chain = log_format.next_chain(
                        chain, position=place, stream_version=version, content=content
                    )
                    if chain == expect:
                        expected_at = place + 1
                if chain != batch.chain:
                    reason = "events stand that are not those that the chain vouches for"
                    raise damaged(commit.name, batch.place.offset, batch.first_position, reason)
                position = batch.next_position
            objects, size = objects + 1, size + len(data)
            if segments is not None:
                block.append(data)
                findings += _compared(store, segments, commit.key + 1, block)
                if len(block) == COMMITS:
                    block = []
    except (DamagedLogError, FormatVersionError) as error:
        name = getattr(error, "path", "")
        findings.append(Finding("damage", name, getattr(error, "offset", None), position, str(error)))
    return Verdict(position, objects, size, chain.hex(), tuple(findings), expected_at)


def _stored(store: PatientStore, log_id: bytes) -> Iterator[tuple[StoredCommit, bytes]]:
    """Every commit, as the store has it now, with its bytes."""
    key = store.first_key
    before: StoredCommit | None = None
    while found := store.read(key, COMMITS_AT_ONCE, _PURPOSE):
        for data in found:
            commit = store.decoded(key, data)
            check_follows(commit, before, log_id)
            before, key = commit, store.key_behind(commit)
            yield commit, data


def _compared(store: PatientStore, segments: Segments, count: int, objects: list[bytes]) -> list[Finding]:
    """The segment and the blocks that end with the last of these objects; there are ``count`` by now."""
    kept: dict[str, tuple[bytes | None, int, int]] = {}
    if count % COMMITS == 0:
        number = count // COMMITS - 1
        stored = store.ask(partial(segments.stored, number), _PURPOSE)
        kept[segment_name(number)] = stored, COMMITS, SEGMENT_BYTES_MAX
    for size in BLOCKS if segments.has_blocks else ():
        if count % size == 0:
            number = count // size - 1
            blocks = store.ask(partial(segments.blocks, size, number, 1), _PURPOSE)
            kept[block_name(size, number)] = next(iter(blocks), None), size, BLOCK_BYTES_MAX
    text = "it holds other bytes than the commits that it was made of. It is derived and may be deleted"
    return [
        Finding("note", name, 0, None, text)
        for name, (data, size, bytes_max) in kept.items()
        if data is not None and data != compacted(objects[-size:], name=name, bytes_max=bytes_max)
    ]
