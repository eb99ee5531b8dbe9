"""An index file: immutable, it says of the events in a range of positions where and whose they are.

It holds sorted columns of numbers, each found by bisection: event ids, streams with their versions and
positions, and landmarks, frames that a reader can begin with. ``docs/format.md`` has the layout.

Every byte is checked before it is used. The body counts in blocks of 4 KiB, each with a digest of its
own, so a look-up reads and checks a few blocks and not the file. It is read with ``pread`` and not
mapped: a bad sector, or a file that somebody cuts, is an error here and would be the end of the
process there.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from eventstore import files
from eventstore.index.marks import CLOCK_MIN, Landmark, Mark, Place

MAGIC = b"DCPINDX1"
BLOCK_BYTES = 4096
ID_BYTES = 16

_DIGEST_BYTES = 8
_WHOLE_DIGEST_BYTES = 32
_BLOCKS_KEPT = 512
# The byte order is the machine's own, as in the columns: on a machine of another, _BYTE_ORDER is not found.
_HEADER = struct.Struct("=8sQ16sQQ32s32sQQ5Q4Q")
_HEADER_BYTES = 200
_BYTE_ORDER = 0x0102030405060708
_STREAM_ROW, _PLACE_ROW = 3, 4
_FENCE = BLOCK_BYTES // 8
_SORTED = ("id_high", "stream_key", "mark_position", "mark_clock")
_Code = Literal["Q", "I", "B"]
_ITEM_BYTES: dict[_Code, int] = {"Q": 8, "I": 4, "B": 1}
_Columns = dict[str, "array[int]"]
_serial_numbers = itertools.count()

assert _HEADER.size == _HEADER_BYTES, "docs/format.md says so"


class DamagedIndexError(Exception):
    """An index file is not what was written, or does not belong here. Never leaves the log."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(slots=True)
class StreamEvents:
    """A stream's events in a range: the version of the first, and how far each is from the range's first."""

    first_version: int
    places: array[int]


class StreamPart(NamedTuple):
    """A stream's events within one file: the version of the first, and where their positions are listed."""

    first_version: int
    start: int
    stop: int

    @property
    def next_version(self) -> int:
        """The version behind the last one."""
        return self.first_version + self.stop - self.start


@dataclass(frozen=True)
class Content:
    """What an index file says.

    Attributes:
        first: What is true in front of its events.
        next: What is true behind them.
        ids: Their ids, 16 bytes each.
        id_places: How far each of them is from the first event, in the order of ``ids``.
        streams: By key and name, UTF-8.
        landmarks: Frames, by position.
        clocks: For each landmark the running maximum of the clocks in front of it.
    """

    first: Mark
    next: Mark
    ids: bytes
    id_places: array[int]
    streams: dict[tuple[int, bytes], StreamEvents]
    landmarks: list[Landmark]
    clocks: Sequence[int]


class BlockCache:
    """What was read and checked last, of all index files of a log together."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, str, int], memoryview] = {}

    def get(self, key: tuple[int, str, int], read: Callable[[], memoryview]) -> memoryview:
        """A block, read if it is not here."""
        block = self._blocks.pop(key, None)
        if block is None:
            block = read()
            while len(self._blocks) >= _BLOCKS_KEPT:
                self._blocks.pop(next(iter(self._blocks)))
        self._blocks[key] = block
        return block


# --- writing


def encode(log_id: bytes, content: Content) -> bytes:
    """The bytes of an index file."""
    columns = {**_id_columns(content), **_stream_columns(content), **_mark_columns(content)}
    columns |= {f"{name}_fence": columns[name][::_FENCE] for name in _SORTED}
    counts = (len(content.id_places), len(content.streams), len(columns["name"]), len(content.landmarks))
    body = b"".join(_padded(columns[name].tobytes()) for name, _, _ in _layout(*counts))
    last = content.next.last
    assert last is not None, "an index file is of some events"
    header = _HEADER.pack(
        MAGIC,
        _BYTE_ORDER,
        log_id,
        content.first.position,
        content.next.position,
        content.first.chain,
        content.next.chain,
        _unsigned(content.first.clock),
        _unsigned(content.next.clock),
        last.position,
        *last.place,
        *counts,
    )
    blocks = (body[start : start + BLOCK_BYTES] for start in range(0, len(body), BLOCK_BYTES))
    head = header + b"".join(map(_digest, blocks))
    return b"".join((head, hashlib.sha256(head).digest(), body))


def _id_columns(content: Content) -> _Columns:
    count = len(content.id_places)
    ids = pa.Array.from_buffers(pa.binary(ID_BYTES), count, [None, pa.py_buffer(content.ids)])
    places = pa.Array.from_buffers(pa.uint32(), count, [None, pa.py_buffer(content.id_places)])
    order = pc.sort_indices(ids)
    halves = array("Q", _bytes_of(ids.take(order), ID_BYTES))
    halves.byteswap()
    return {
        "id_high": halves[0::2],
        "id_low": halves[1::2],
        "id_place": array("I", _bytes_of(places.take(order), 4)),
    }


def _bytes_of(numbers: pa.Array, item_bytes: int) -> bytes:
    """The items of an array that a kernel has just made, so that they begin at its buffer's first byte."""
    return bytes(memoryview(numbers.buffers()[1])[: item_bytes * len(numbers)])


def _stream_columns(content: Content) -> _Columns:
    streams = sorted(content.streams)
    events = [content.streams[stream] for stream in streams]
    versions = [*(each.first_version for each in events), 0]
    starts = itertools.accumulate((len(each.places) for each in events), initial=0)
    names = itertools.accumulate((len(name) for _, name in streams), initial=0)
    return {
        "stream_key": array("Q", [key for key, _ in streams]),
        "stream_row": array("Q", itertools.chain.from_iterable(zip(versions, starts, names, strict=True))),
        "stream_place": array("I", b"".join([each.places.tobytes() for each in events])),
        "name": array("B", b"".join([name for _, name in streams])),
    }


def _mark_columns(content: Content) -> _Columns:
    marks = content.landmarks
    return {
        "mark_position": array("Q", [mark.position for mark in marks]),
        "mark_clock": array("Q", map(_unsigned, content.clocks)),
        "mark_place": array("Q", itertools.chain.from_iterable(mark.place for mark in marks)),
    }


def _layout(events: int, streams: int, name_bytes: int, marks: int) -> list[tuple[str, _Code, int]]:
    """The columns of a body in their order, each with its type and its number of items."""
    columns: list[tuple[str, _Code, int]] = [
        ("id_high", "Q", events),
        ("id_low", "Q", events),
        ("id_place", "I", events),
        ("stream_key", "Q", streams),
        ("stream_row", "Q", _STREAM_ROW * (streams + 1)),
        ("stream_place", "I", events),
        ("name", "B", name_bytes),
        ("mark_position", "Q", marks),
        ("mark_clock", "Q", marks),
        ("mark_place", "Q", _PLACE_ROW * marks),
    ]
    return columns + [
        (f"{name}_fence", code, -(-count // _FENCE)) for name, code, count in columns if name in _SORTED
    ]


def stream_key(name: bytes) -> int:
    """The number that a stream is sorted by: spread evenly whatever people call their streams."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _unsigned(clock: int) -> int:
    return clock - CLOCK_MIN


def _digest(block: bytes | memoryview) -> bytes:
    return hashlib.sha256(block).digest()[:_DIGEST_BYTES]


# --- reading


@dataclass(frozen=True)
class _Column:
    code: _Code
    count: int
    offset: int


class IndexFile:
    """An index file that is open for reading.

    Attributes:
        path: The file.
        first: What is true in front of its events.
        next: What is true behind them.

    Raises:
        DamagedIndexError: The file is none of the log ``log_id``.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, log_id: bytes, cache: BlockCache) -> None:
        self.path = path
        self._cache = cache
        self._serial_number = next(_serial_numbers)
        self._fences: dict[str, memoryview] = {}
        self._descriptor: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_head(self._descriptor, log_id)
        except BaseException:
            self.close()
            raise

    def _read_head(self, descriptor: int, log_id: bytes) -> None:
        header = files.read_at(descriptor, _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES:
            raise DamagedIndexError(self.path, "it is cut short")
        magic, order, its_log, first, following, *rest = _HEADER.unpack(header)
        chains, clocks, last, counts = rest[:2], rest[2:4], rest[4:9], rest[9:]
        size = files.size(descriptor)
        if magic != MAGIC or order != _BYTE_ORDER or its_log != log_id or max(counts) > size:
            raise DamagedIndexError(self.path, "it is not of this log")
        self._columns, self._body_bytes = _placed(_layout(*counts))
        digests_bytes = _DIGEST_BYTES * -(-self._body_bytes // BLOCK_BYTES)
        self._body_start = _HEADER_BYTES + digests_bytes + _WHOLE_DIGEST_BYTES
        if size != self._body_start + self._body_bytes:
            raise DamagedIndexError(self.path, "its length is not what it says")
        rest_of_head = files.read_at(descriptor, digests_bytes + _WHOLE_DIGEST_BYTES, _HEADER_BYTES)
        self._digests = rest_of_head[:digests_bytes]
        if hashlib.sha256(header + self._digests).digest() != rest_of_head[digests_bytes:]:
            raise DamagedIndexError(self.path, "its header is not as it was written")
        landmark = Landmark(last[0], Place(*last[1:]))
        self.first = Mark(first, chains[0], clocks[0] + CLOCK_MIN, None)
        self.next = Mark(following, chains[1], clocks[1] + CLOCK_MIN, landmark)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    @property
    def events(self) -> int:
        """How many events it is of."""
        return self.next.position - self.first.position

    # --- look-ups

    def id_position(self, event_id: bytes) -> int | None:
        """The position of the event with this id, or None; of several, the last."""
        high, low = struct.unpack(">QQ", event_id)
        start = self._find("id_high", high, bisect_left)
        if start == self.events or self._item("id_high", start) != high:
            return None
        stop = self._find("id_high", high, bisect_right)
        place = bisect_right(range(stop), low, lo=start, key=lambda at: self._item("id_low", at)) - 1
        if place < start or self._item("id_low", place) != low:
            return None
        return self.first.position + self._item("id_place", place)

    def stream(self, name: bytes, key: int) -> StreamPart | None:
        """A stream's events in here, or None."""
        place = self._find("stream_key", key, bisect_left)
        while place < self._columns["stream_key"].count and self._item("stream_key", place) == key:
            row = self._items("stream_row", _STREAM_ROW * place, _STREAM_ROW * (place + 2))
            version, start, name_start, _, stop, name_stop = row
            if self._items("name", name_start, name_stop) == name:
                return StreamPart(version, start, stop)
            place += 1
        return None

    def positions(self, part: StreamPart, from_version: int) -> array[int]:
        """The positions of a stream's events in here, from a stream version on."""
        start = part.start + max(from_version - part.first_version, 0)
        first = self.first.position
        return array(
            "Q", [first + place for place in self._items("stream_place", min(start, part.stop), part.stop)]
        )

    def landmark(self, position: int) -> Landmark | None:
        """The last landmark at or in front of a position, or None."""
        place = self._find("mark_position", position, bisect_right) - 1
        if place < 0:
            return None
        where = self._items("mark_place", _PLACE_ROW * place, _PLACE_ROW * (place + 1))
        return Landmark(self._item("mark_position", place), Place(*where))

    def around(self, clock: int) -> tuple[int, int]:
        """Positions between which the running maximum of the clocks first exceeds ``clock``.

        It must be between those in front of and behind the file's events.
        """
        place = self._find("mark_clock", _unsigned(clock), bisect_right)
        count = self._columns["mark_clock"].count
        start = self._item("mark_position", place - 1) if place else self.first.position
        return start, self._item("mark_position", place) if place < count else self.next.position

    def whole(self) -> bytes:
        """The file's bytes, checked."""
        body = self._read(0, -(-self._body_bytes // BLOCK_BYTES))
        assert self._descriptor is not None, "it was read from a moment ago"
        return files.read_at(self._descriptor, self._body_start, 0) + body

    def content(self, base: int | None = None) -> Content:
        """All that it says, read and checked whole; places count from ``base``, or from its first event."""
        shift = 0 if base is None else self.first.position - base
        halves = array("Q", bytes(ID_BYTES * self.events))
        halves[0::2], halves[1::2] = self._array("id_high"), self._array("id_low")
        halves.byteswap()
        keys, names = self._array("stream_key"), bytes(self._all("name"))
        places = array("I", [shift + place for place in self._all("stream_place")])
        rows = self._array("stream_row").tolist()
        versions, starts, name_starts = (rows[at::_STREAM_ROW] for at in range(_STREAM_ROW))
        streams = {
            (key, names[name_starts[at] : name_starts[at + 1]]): StreamEvents(
                versions[at], places[starts[at] : starts[at + 1]]
            )
            for at, key in enumerate(keys)
        }
        where = iter(self._all("mark_place"))
        landmarks = [
            Landmark(position, Place(*itertools.islice(where, _PLACE_ROW)))
            for position in self._all("mark_position")
        ]
        clocks = [clock + CLOCK_MIN for clock in self._all("mark_clock")]
        id_places = array("I", [shift + place for place in self._all("id_place")])
        return Content(self.first, self.next, halves.tobytes(), id_places, streams, landmarks, clocks)

    # --- columns

    def _find(self, name: str, value: int, bisect: Callable[..., int]) -> int:
        """Bisect a sorted column: its fences first, then what lies between two of them."""
        fences = self._fences.get(name)
        if fences is None:
            fences = self._fences[name] = self._all(f"{name}_fence")
        block = max(bisect(fences, value) - 1, 0)
        return block * _FENCE + bisect(self._between_fences(name, block), value)

    def _between_fences(self, name: str, block: int) -> memoryview:
        start, count = block * _FENCE, self._columns[name].count
        read = functools.partial(self._items, name, start, min(start + _FENCE, count))
        return self._cache.get((self._serial_number, name, block), read)

    def _item(self, name: str, place: int) -> int:
        if name in _SORTED:
            return int(self._between_fences(name, place // _FENCE)[place % _FENCE])
        return int(self._items(name, place, place + 1)[0])

    def _array(self, name: str) -> array[int]:
        return array(self._columns[name].code, bytes(self._all(name)))

    def _all(self, name: str) -> memoryview:
        return self._items(name, 0, self._columns[name].count)

    def _items(self, name: str, start: int, stop: int) -> memoryview[Any]:
        column = self._columns[name]
        if not 0 <= start <= stop <= column.count:
            raise DamagedIndexError(self.path, f"it points outside its column {name}")
        size = _ITEM_BYTES[column.code]
        offset, stop_offset = column.offset + size * start, column.offset + size * stop
        first, last = offset // BLOCK_BYTES, (stop_offset - 1) // BLOCK_BYTES
        if start == stop:
            return memoryview(b"").cast(column.code)
        if first == last and name not in _SORTED:
            read = functools.partial(self._read, first, 1)
            data = self._cache.get((self._serial_number, "", first), read)
        else:
            data = self._read(first, last - first + 1)
        skipped = first * BLOCK_BYTES
        return data[offset - skipped : stop_offset - skipped].cast(column.code)

    def _read(self, first: int, count: int) -> memoryview:
        """Some blocks of the body, after their digests."""
        if self._descriptor is None:
            raise DamagedIndexError(self.path, "it was closed")
        start = first * BLOCK_BYTES
        wanted = min(count * BLOCK_BYTES, self._body_bytes - start)
        try:
            data = memoryview(files.read_at(self._descriptor, wanted, self._body_start + start))
        except OSError as error:
            raise DamagedIndexError(self.path, str(error)) from error
        for place in range(count):
            block = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            at = (first + place) * _DIGEST_BYTES
            if _digest(block) != self._digests[at : at + _DIGEST_BYTES]:
                raise DamagedIndexError(self.path, f"block {first + place} is not as it was written")
        return data


def _placed(layout: list[tuple[str, _Code, int]]) -> tuple[dict[str, _Column], int]:
    columns, offset = {}, 0
    for name, code, count in layout:
        columns[name] = _Column(code, count, offset)
        size = _ITEM_BYTES[code] * count
        offset += size + -size % 8
    return columns, offset


def merged(contents: Sequence[Content]) -> Content:
    """What follows each other, as one. Places count from the first one's events; all are used up."""
    streams = contents[0].streams
    id_places = array("I")
    for content in contents:
        id_places.extend(content.id_places)
    for content in contents[1:]:
        for stream, events in content.streams.items():
            known = streams.setdefault(stream, events)
            if known is not events:
                known.places.extend(events.places)
    return Content(
        contents[0].first,
        contents[-1].next,
        b"".join([content.ids for content in contents]),
        id_places,
        streams,
        [landmark for content in contents for landmark in content.landmarks],
        [clock for content in contents for clock in content.clocks],
    )
