"""Many commits in one frame, compressed: what re-encoded segments are made of. Writes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from eventstore import annex as log_annex
from eventstore import format as log_format
from eventstore.format import END_OF_STREAM

COMPRESSION_LEVEL = 9


@dataclass
class Commits:
    """Commits in a row that shall make one frame.

    Attributes:
        first_position: The position of their first event.
        batches: Their events.
        sizes: The number of events of each.
        batch_bytes: How much room the events take uncompressed.
        chain: The chain's value behind them.
    """

    first_position: int
    batches: list[pa.RecordBatch] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    batch_bytes: int = 0
    chain: bytes = b""

    def take(
        self, batch: pa.RecordBatch, sizes: Iterable[int], *, chain: bytes, batch_bytes: int = 0
    ) -> None:
        """Add commits that follow, with the chain's value behind them."""
        self.batches.append(batch)
        self.sizes += sizes
        self.batch_bytes += batch_bytes
        self.chain = chain


def sealed_schema(schema: pa.Schema, *, first_position: int, chain: bytes) -> bytes:
    """The first frame of a segment."""
    return log_format.seal_frame(
        schema.serialize().to_pybytes(),
        first_position=first_position,
        event_count=0,
        synced_position=first_position,
        chain=chain,
        offset=0,
    )


def merged_frame(
    commits: Commits, schema: pa.Schema, *, offset: int, compression_level: int = COMPRESSION_LEVEL
) -> bytes:
    """The sealed frame of some commits, for the place ``offset`` of a file.

    All that is in front of them must be durable, as it is in front of the events of a rolled segment.
    """
    return log_format.seal_frame(
        log_annex.with_annex(_message(commits.batches, schema, compression_level), commits.sizes),
        first_position=commits.first_position,
        event_count=sum(commits.sizes),
        synced_position=commits.first_position,
        chain=commits.chain,
        offset=offset,
    )


def _message(batches: list[pa.RecordBatch], schema: pa.Schema, compression_level: int) -> bytes:
    """The encapsulated Arrow message of all events, compressed."""
    if len(batches) > 1:
        batches = pa.Table.from_batches(batches, schema).combine_chunks().to_batches()
    (batch,) = batches
    options = pa.ipc.IpcWriteOptions(
        compression=pa.Codec("zstd", compression_level=compression_level), use_threads=False
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream[len(schema.serialize()) : -len(END_OF_STREAM)]
