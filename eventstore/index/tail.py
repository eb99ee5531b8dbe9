"""The tail: what index files say, for the events behind them, in memory. A few bytes an event."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from eventstore.index.index_file import ID_BYTES, Content, StreamEvents, stream_key
from eventstore.index.marks import Landmark, Mark, Place

_LANDMARK_BYTES = 8192
"""Landmarks are this far apart in a segment, or farther where a frame is longer."""


Run = tuple[str, int, int]
"""Events of one stream that follow each other in the log: stream, version of the first, how many."""


class Tail:
    """The events from a mark on.

    Attributes:
        first: What is true in front of them.
        next_position: The position behind them.
        chain: The chain's value there.
        clock: The running maximum of the clocks up to there.
        microseconds: About how long it takes to read them.
    """

    def __init__(self, first: Mark) -> None:
        self.first = first
        self._end_at(first)
        self.microseconds = 0
        self._streams: dict[str, StreamEvents] = {}
        self._ids = bytearray()
        self._known_ids: dict[bytes, int] = {}
        self._landmarks: list[Landmark] = []
        self._clocks = array("q")

    def __len__(self) -> int:
        """How many events it holds."""
        return self.next_position - self.first.position

    @property
    def next(self) -> Mark:
        """What is true behind the last event."""
        last = None if self._last is None else Landmark(*self._last)
        return Mark(self.next_position, self.chain, self.clock, last)

    def _end_at(self, mark: Mark) -> None:
        self.next_position, self.chain, self.clock = mark.position, mark.chain, mark.clock
        self._last: tuple[int, Place] | None = mark.last

    def add(self, runs: Iterable[Run], *, ids: bytes, clock: int, chain: bytes, place: Place) -> None:
        """Take note of a frame of events. Every append does, so nothing is made here that is not kept.

        Args:
            runs: Whose they are, in order.
            ids: Their ids, 16 bytes each.
            clock: The greatest of their clocks.
            chain: The chain's value behind the last of them.
            place: Where the frame is kept.
        """
        position = self.next_position
        if not self._landmarks or _apart(self._landmarks[-1].place, place):
            self._landmarks.append(Landmark(position, place))
            self._clocks.append(self.clock)
        start = at = position - self.first.position
        for stream, version, count in runs:
            known = self._streams.get(stream)
            if known is None:
                known = self._streams[stream] = StreamEvents(version, array("I"))
            if count == 1:
                known.places.append(at)
            else:
                known.places.extend(range(at, at + count))
            at += count
        self._ids += ids
        self.microseconds += reading_microseconds(at - start, place.size)
        self.next_position, self.chain, self._last = position + at - start, chain, (position, place)
        self.clock = max(self.clock, clock)

    def last_version(self, stream: str) -> int | None:
        """The version of the stream's last event in here, or None when there is none."""
        events = self._streams.get(stream)
        return None if events is None else events.first_version + len(events.places) - 1

    def first_version(self, stream: str) -> int | None:
        """The version of the stream's first event in here, or None when there is none."""
        events = self._streams.get(stream)
        return None if events is None else events.first_version

    def positions(self, stream: str, from_version: int) -> array[int]:
        """The positions of a stream's events in here, from a stream version on."""
        events = self._streams.get(stream)
        if events is None:
            return array("Q")
        places = events.places[max(from_version - events.first_version, 0) :]
        return array("Q", [self.first.position + place for place in places])

    def id_position(self, event_id: bytes) -> int | None:
        """The position of the event with this id, or None; of several, the last."""
        known, ids = self._known_ids, self._ids
        first = self.first.position
        for at in range(len(known) * ID_BYTES, len(ids), ID_BYTES):
            known[bytes(ids[at : at + ID_BYTES])] = first + at // ID_BYTES
        return known.get(event_id)

    def landmark(self, position: int) -> Landmark | None:
        """The last landmark at or in front of a position, or None."""
        place = bisect_right(self._landmarks, position, key=lambda landmark: landmark.position) - 1
        return None if place < 0 else self._landmarks[place]

    def around(self, clock: int) -> tuple[int, int]:
        """As ``IndexFile.around``."""
        place = bisect_right(self._clocks, clock)
        start = self._landmarks[place - 1].position if place else self.first.position
        return start, self._landmarks[place].position if place < len(self._landmarks) else self.next_position

    def content(self) -> Content:
        """All of it, for an index file."""
        encoded = ((name.encode(), events) for name, events in self._streams.items())
        return Content(
            self.first,
            self.next,
            bytes(self._ids),
            array("I", range(len(self))),
            {(stream_key(name), name): events for name, events in encoded},
            self._landmarks,
            self._clocks,
        )

    def begin_at(self, first: Mark) -> None:
        """Let go of the events in front of a mark, which index files have by now."""
        gone = first.position - self.first.position
        assert 0 <= gone <= len(self), "the mark lies within the tail"
        if not gone:
            return
        streams = {}
        for name, events in self._streams.items():
            at = bisect_left(events.places, gone)
            if at < len(events.places):
                places = array("I", [place - gone for place in events.places[at:]])
                streams[name] = StreamEvents(events.first_version + at, places)
        self.microseconds -= self.microseconds * gone // len(self)
        at = bisect_left(self._landmarks, first.position, key=lambda landmark: landmark.position)
        self.first, self._streams = first, streams
        self._ids, self._known_ids = self._ids[gone * ID_BYTES :], {}
        self._landmarks, self._clocks = self._landmarks[at:], self._clocks[at:]
        if not len(self):
            self._end_at(first)


def reading_microseconds(events: int, size: int) -> int:
    """About how long it takes to read a commit of so many events and bytes."""
    return 25 + 2 * events + (size >> 10)


def _apart(one: Place, other: Place) -> bool:
    return (
        other.offset - one.offset >= _LANDMARK_BYTES
        or one.segment != other.segment
        or one.generation != other.generation
    )
