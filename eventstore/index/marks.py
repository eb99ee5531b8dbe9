"""Places in the log's files, and what is true at a position."""

from __future__ import annotations

from typing import NamedTuple

CLOCK_MIN = -(1 << 63)
"""The running maximum of the clocks in front of the first event, microseconds since 1970."""


class Place(NamedTuple):
    """Where a frame is kept. It is a hint: whoever follows it checks what is there.

    Attributes:
        segment: The first position of its segment.
        generation: The segment's generation; in another one the frame lies elsewhere.
        offset: The byte at which it begins.
        size: Its length in bytes.
    """

    segment: int
    generation: int
    offset: int
    size: int


class Landmark(NamedTuple):
    """A frame of events that a reader can begin with: a position in it, mostly the first, and its place."""

    position: int
    place: Place


class Mark(NamedTuple):
    """What is true at a position that a commit ends at.

    Attributes:
        position: The position behind the last event.
        chain: The chain's value there.
        clock: The running maximum of the clocks up to there, microseconds since 1970.
        last: The frame that ended there when it was read; None in front of the first event.
    """

    position: int
    chain: bytes
    clock: int
    last: Landmark | None
