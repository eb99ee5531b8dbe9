"""What an index needs to know of a commit's events, read off its message without Arrow.

Whoever appends beside others reads each of their commits before it may decide. Arrow takes as long
over a batch of one row as over one of a thousand: for small messages that lie as ``eventstore.message``
lays them out, struct is five times as fast. Whatever lies otherwise is left to Arrow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from eventstore.format import PREFIX_BYTES, SEAL_BYTES, Seal
from eventstore.message import BUFFER_FIELDS, message_template

# Where in the list of buffers, of an offset and a length each, those of these columns stand.
_IDS, _CLOCKS, _STREAM_OFFSETS, _STREAM_TEXT, _VERSIONS = (2 * place for place in (3, 5, 7, 8, 10))


class EventKeys(NamedTuple):
    """The keys of a commit's events.

    Attributes:
        streams: Each event's stream.
        versions: Each event's stream version.
        ids: Their ids, 16 bytes each.
        clock: The greatest of their clocks, in microseconds since 1970.
    """

    streams: Sequence[str]
    versions: Sequence[int]
    ids: bytes
    clock: int


def keys_of(frame: memoryview, seal: Seal) -> EventKeys | None:
    """The keys of the events in a frame whose digest holds; None where Arrow has to look."""
    template = message_template()
    count = seal.event_count
    if seal.metadata_bytes != len(template.head) - PREFIX_BYTES + SEAL_BYTES or any(
        frame[start:stop] != same for start, stop, same in template.constants
    ):
        return None
    buffers = BUFFER_FIELDS.unpack_from(frame, template.buffers_at)
    body_at = PREFIX_BYTES + seal.metadata_bytes
    sizes = (16 * count, 8 * count, 4 * (count + 1), buffers[_STREAM_TEXT + 1], 8 * count)
    starts = []
    for place, size in zip((_IDS, _CLOCKS, _STREAM_OFFSETS, _STREAM_TEXT, _VERSIONS), sizes, strict=True):
        start, given = buffers[place], buffers[place + 1]
        if given != size or start < 0 or size < 0 or start + size > seal.body_bytes:
            return None
        starts.append(body_at + start)
    ids, clocks, offsets, text, versions = starts
    places = struct.unpack_from(f"<{count + 1}i", frame, offsets)
    if places[0] < 0 or places[-1] > sizes[3] or any(start > stop for start, stop in pairwise(places)):
        return None
    try:
        streams = [str(frame[text + start : text + stop], "utf-8") for start, stop in pairwise(places)]
    except UnicodeDecodeError:
        return None
    return EventKeys(
        streams,
        struct.unpack_from(f"<{count}Q", frame, versions),
        bytes(frame[ids : ids + sizes[0]]),
        max(struct.unpack_from(f"<{count}q", frame, clocks)),
    )
