"""One index file: what goes in comes out by look-ups, and its bytes are those of ``docs/format.md``."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.index.index_file import BlockCache, DamagedIndexError, IndexFile, encode, merged
from eventstore.index.marks import Landmark, Mark, Place
from eventstore.index.tail import Tail

LOG_ID = bytes(range(16))
FIRST = Mark(1000, b"\1" * 32, -5, None)


def id_of(number: int, spread: str) -> bytes:
    """Ids that share their first half, or their last, or neither."""
    low = number * 0x9E3779B97F4A7C15 % 2**64
    halves = {"first": (7, low), "last": (low, 7), "neither": (low, number), "counted": (0, number)}[spread]
    return struct.pack(">QQ", *halves)


def filled(count: int, spread: str, streams: int, *, first: Mark = FIRST, start: int = 0) -> Tail:
    """Events of which each seventh clock goes back."""
    tail = Tail(first)
    for number in range(start, start + count):
        tail.add(
            [(f"s{number % streams}", number // streams, 1)],
            ids=id_of(number, spread),
            clock=number - 20 * (number % 7 == 3),
            chain=hashlib.sha256(bytes([number % 256])).digest(),
            place=Place(0, number // 3000, 3000 * (number % 3000), 3000),
        )
    return tail


def write(path: Path, content: bytes) -> IndexFile:
    path.write_bytes(content)
    return IndexFile(path, LOG_ID, BlockCache())


def check_answers(file: IndexFile, count: int, spread: str, streams: int) -> None:
    for number in {*range(0, count, 41), 0, 1, 511, 512, 513, count - 1} & set(range(count)):
        assert file.id_position(id_of(number, spread)) == 1000 + number
        name = f"s{number % streams}".encode()
        part = file.stream(name, int.from_bytes(hashlib.sha256(name).digest()[:8], "little"))
        assert part is not None
        of_stream = range(number % streams, count, streams)
        assert (part.first_version, part.next_version) == (0, len(of_stream))
        version = number // streams
        assert file.positions(part, version).tolist() == [1000 + each for each in of_stream[version:]]
        landmark = file.landmark(1000 + number)
        assert landmark is not None
        assert landmark.position <= 1000 + number
        place = 3000 * ((landmark.position - 1000) % 3000)
        assert landmark.place == Place(0, (landmark.position - 1000) // 3000, place, 3000)
    assert file.id_position(id_of(count, spread)) is None
    assert file.stream(b"none", 1) is None
    assert file.landmark(999) is None
    _check_clocks(file, count)


def _check_clocks(file: IndexFile, count: int) -> None:
    running, greatest = [], -5
    for number in range(count):
        greatest = max(greatest, number - 20 * (number % 7 == 3))
        running.append(greatest)
    for moment in range(-5, greatest, 17):
        start, stop = file.around(moment)
        assert start <= 1000 + bisect.bisect_right(running, moment) < stop
        assert stop - start <= 3


@pytest.mark.parametrize("spread", ["first", "last", "neither", "counted"])
@pytest.mark.parametrize(("count", "streams"), [(1, 1), (512, 3), (513, 513), (1025, 700), (3000, 2)])
def test_what_goes_in_comes_out(tmp_path: Path, spread: str, count: int, streams: int) -> None:
    """By every kind of look-up, on both sides of each fence, also where half of an id tells nothing."""
    file = write(tmp_path / "a", encode(LOG_ID, filled(count, spread, streams).content()))
    assert (file.first, file.next.position, file.events) == (FIRST, 1000 + count, count)
    check_answers(file, count, spread, streams)
    assert encode(LOG_ID, file.content()) == file.whole()


def test_several_make_the_one_that_all_events_make(tmp_path: Path) -> None:
    """Merged, they say what one file of all their events says, byte for byte but for the landmarks."""
    files, first = [], FIRST
    for start, count in ((0, 700), (700, 5), (705, 900)):
        tail = filled(count, "neither", 40, first=first, start=start)
        first = tail.next
        files.append(write(tmp_path / str(start), encode(LOG_ID, tail.content())))
    contents = [file.content(FIRST.position) for file in files]
    together = write(tmp_path / "all", encode(LOG_ID, merged(contents)))
    check_answers(together, 1605, "neither", 40)
    alone = filled(1605, "neither", 40).content()
    for column in ("ids", "id_places", "streams"):
        one, other = getattr(together.content(), column), getattr(alone, column)
        assert sorted(one) == sorted(other)
    assert together.content().streams == alone.streams


def test_the_bytes_are_those_of_the_document(tmp_path: Path) -> None:
    """A reader that has only the document finds an event by its id and by its stream."""
    file = write(tmp_path / "a", encode(LOG_ID, filled(600, "neither", 5).content()))
    data = file.path.read_bytes()
    assert data[:8] == b"DCPINDX1"
    assert struct.unpack_from("<Q", data, 8) == (0x0102030405060708,)
    assert data[16:32] == LOG_ID
    assert struct.unpack_from("<QQ", data, 32) == (1000, 1600)
    assert data[48:80] == FIRST.chain
    assert struct.unpack_from("<QQ", data, 112) == (2**63 - 5, 2**63 + 599)
    assert struct.unpack_from("<5Q", data, 128) == (1599, 0, 0, 3000 * 599, 3000)
    events, streams, name_bytes, marks = struct.unpack_from("<4Q", data, 168)
    assert (events, streams, name_bytes) == (600, 5, 10)
    sizes = [8 * events, 8 * events, 4 * events, 8 * streams, 24 * (streams + 1), 4 * events, name_bytes]
    sizes += [8 * marks, 8 * marks, 32 * marks, 16, 8, 8, 8]
    padded = [size + -size % 8 for size in sizes]
    blocks = -(-sum(padded) // 4096)
    head, body = data[: 200 + 8 * blocks], data[232 + 8 * blocks :]
    assert data[len(head) : len(head) + 32] == hashlib.sha256(head).digest()
    assert len(body) == sum(padded)
    for block in range(blocks):
        digest = hashlib.sha256(body[4096 * block : 4096 * (block + 1)]).digest()
        assert head[200 + 8 * block : 208 + 8 * block] == digest[:8]
    columns = [body[sum(padded[:at]) :][:size] for at, size in enumerate(sizes)]
    high, low = (struct.unpack("<600Q", column) for column in columns[:2])
    places = struct.unpack("<600I", columns[2])
    ids = [struct.pack(">QQ", *halves) for halves in zip(high, low, strict=True)]
    assert ids == sorted(ids)
    assert [id_of(place, "neither") for place in places] == ids
    keys = struct.unpack("<5Q", columns[3])
    key = int.from_bytes(hashlib.sha256(b"s3").digest()[:8], "little")
    row = struct.unpack_from("<6Q", columns[4], 24 * keys.index(key))
    assert columns[6][row[2] : row[5]] == b"s3"
    assert struct.unpack("<600I", columns[5])[row[1] : row[4]] == tuple(range(3, 600, 5))
    assert struct.unpack("<2Q", columns[10]) == (high[0], high[512])


FLAWS: dict[str, Callable[[bytes, int], bytes]] = {
    "a bit": lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    "cut": lambda data, at: data[:at],
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at) if any(data[at:]) else data[:at],
    "longer": lambda data, at: data + bytes(at % 100 + 1),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flaw=st.sampled_from(sorted(FLAWS)), at=st.floats(0, 1, exclude_max=True))
def test_no_flaw_is_believed(tmp_path: Path, flaw: str, at: float) -> None:
    """Every answer of a file that is not as it was written is right, or a DamagedIndexError."""
    content = encode(LOG_ID, filled(600, "neither", 7).content())
    content = FLAWS[flaw](content, int(at * len(content)))
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DamagedIndexError):
        IndexFile(tmp_path / "a", LOG_ID, BlockCache()).whole()
    try:
        file = IndexFile(tmp_path / "a", LOG_ID, BlockCache())
    except DamagedIndexError:
        return
    for number in range(0, 600, 7):
        with contextlib.suppress(DamagedIndexError):
            assert file.id_position(id_of(number, "neither")) == 1000 + number
        with contextlib.suppress(DamagedIndexError):
            first = number - number % 3
            assert file.landmark(1000 + number) == Landmark(1000 + first, Place(0, 0, 3000 * first, 3000))
    file.close()
