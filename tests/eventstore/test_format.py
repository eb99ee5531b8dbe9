"""The frame, its seal and the chain."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import format as log_format
from eventstore.format import Flaw

SCHEMA = pa.schema([("position", pa.uint64()), ("values", pa.list_(pa.float64()))])


def frame_of(values: list[float], *, offset: int = 0, position: int = 7, synced: int = 5) -> bytes:
    batch = pa.record_batch(
        [pa.array([position], pa.uint64()), pa.array([values], pa.list_(pa.float64()))], SCHEMA
    )
    return log_format.seal_frame(
        batch.serialize().to_pybytes(),
        first_position=position,
        event_count=1,
        synced_position=synced,
        chain=b"c" * 32,
        offset=offset,
    )


def seal_of(frame: bytes) -> log_format.Seal:
    header = log_format.header_bytes(frame)
    assert header is not None
    seal = log_format.header_seal(frame[:header])
    assert seal is not None
    return seal


def test_a_seal_says_what_it_was_given() -> None:
    """Each field of the seal comes back."""
    frame = frame_of([1.0, 2.0])
    seal = seal_of(frame)
    assert (seal.first_position, seal.event_count, seal.synced_position, seal.chain) == (7, 1, 5, b"c" * 32)
    assert seal.frame_bytes == len(frame)
    assert log_format.digest_holds(frame, seal)


def test_arrow_reads_a_sealed_message() -> None:
    """A reader that knows nothing of seals sees an ordinary message."""
    batch = pa.ipc.read_record_batch(pa.ipc.read_message(frame_of([1.5])), SCHEMA)
    assert batch.to_pylist() == [{"position": 7, "values": [1.5]}]


def test_unsealing_gives_the_message_that_was_sealed() -> None:
    """Re-sealing for another place begins with the message itself."""
    message = (
        pa.record_batch([pa.array([1], pa.uint64()), pa.array([[2.0]])], SCHEMA).serialize().to_pybytes()
    )
    frame = log_format.seal_frame(
        message, first_position=1, event_count=1, synced_position=0, chain=b"c" * 32, offset=0
    )
    assert log_format.unseal(frame, seal_of(frame)) == message


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    """No bit of a frame can change without its prefix, its seal or its digest failing."""
    frame = frame_of([1.0, 0.0, 2.0])
    for byte in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[byte] ^= 1 << bit
            assert not is_good(bytes(damaged)), f"bit {bit} of byte {byte}"


def is_good(data: bytes) -> bool:
    header = log_format.header_bytes(data)
    if header is None or header > len(data):
        return False
    seal = log_format.header_seal(data[:header])
    return seal is not None and seal.frame_bytes == len(data) and log_format.digest_holds(data, seal)


@given(st.integers(1, 4000))
def test_every_truncation_is_short(length: int) -> None:
    """A frame that the file's end cuts is short, wherever the cut is."""
    frame = frame_of([float(number + 1) for number in range(500)])
    assert log_format.find_flaw(frame[: min(length, len(frame) - 1)], 0) is Flaw.SHORT


@given(offset=st.integers(0, 2000).map(lambda number: number * 8), data=st.data())
def test_every_lost_sector_is_a_hole(offset: int, data: st.DataObject) -> None:
    """A sector that was never written is told from damage, at any place of the file and any sector."""
    frame = frame_of([0.0] * 100 + [1.0] * 200 + [0.0] * 100, offset=offset)
    sector = data.draw(st.integers(offset // 512, (offset + len(frame) - 1) // 512))
    start, stop = max(sector * 512 - offset, 0), min((sector + 1) * 512 - offset, len(frame))
    torn = frame[:start] + bytes(stop - start) + frame[stop:]
    if torn != frame:
        assert log_format.find_flaw(torn, offset) is Flaw.HOLE


@given(offset=st.integers(0, 2000).map(lambda number: number * 8), data=st.data())
def test_a_flipped_bit_is_no_hole(offset: int, data: st.DataObject) -> None:
    """Damage is not taken for a torn tail, though the frame holds sectors of zeros of its own."""
    frame = frame_of([0.0] * 100 + [1.0] * 200 + [0.0] * 101, offset=offset)
    byte, bit = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(frame)
    damaged[byte] ^= 1 << bit
    if log_format.count_zero_sectors(bytes(damaged), offset) <= seal_of(frame).zero_sectors:
        assert log_format.find_flaw(bytes(damaged), offset) is Flaw.WRONG


def test_synced_positions_are_found_behind_a_flaw() -> None:
    """Good frames behind a bad one still say how far the log was synced; bad ones do not."""
    good, bad = frame_of([1.0], synced=3), bytearray(frame_of([1.0], synced=9))
    bad[-1] ^= 1
    assert log_format.greatest_synced_position(b"\0" * 100 + good + bytes(bad)) == 3


def test_the_chain_has_the_documented_values() -> None:
    """The vectors of docs/format.md, section 5."""
    chain = log_format.first_chain(bytes(range(16)))
    assert chain.hex() == "fdac4e15d24c05828127d10e37c4bf9bf0b862ac096177d7db75b0a920f91468"
    content = log_format.content_digest(
        event_id=bytes(16),
        recorded_at=1767323045678901,
        stream=b"training/run_1",
        event_type=b"TrainingStatsRecorded",
        schema_version=1,
        data=b'{"columns":["loss"]}',
        metadata=b"{}",
        index=log_format.numbers_of(pa.array([3, 4], pa.int64())),
        values=log_format.numbers_of(pa.array([0.5, None], pa.float64())),
    )
    assert content.hex() == "efcf486397a12ec8e1939c81a004e73c2bcc2d0e930ff7f2eddc786d36917ffb"
    chain = log_format.next_chain(chain, position=0, stream_version=0, content=content)
    assert chain.hex() == "64e93a308a4a5ca035ca3fa4e00e52ebbfc23d7df811a468833bd80dc9425e6c"


def digest_of(column: pa.Array | None) -> bytes:
    return log_format.content_digest(
        event_id=bytes(16),
        recorded_at=0,
        stream=b"s",
        event_type=b"A",
        schema_version=1,
        data=b"{}",
        metadata=b"{}",
        index=None,
        values=None if column is None else log_format.numbers_of(column),
    )


def numbers(items: list[float | None] | None) -> bytes:
    return digest_of(None if items is None else pa.array(items, pa.float64()))


def test_null_empty_absent_and_zero_differ() -> None:
    """Columns that look alike hash differently where they mean different things."""
    columns: list[list[float | None] | None] = [None, [], [None], [0.0], [-0.0], [None, 0.0], [0.0, None]]
    assert len({numbers(column) for column in columns}) == len(columns)


@given(st.lists(st.none() | st.floats(), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_a_slice_hashes_like_a_copy(items: list[float | None], start: int, length: int) -> None:
    """Bits and bytes are taken from the slice, not from the array it is a view of."""
    sliced = pa.array(items, pa.float64()).slice(min(start, len(items)), length)
    assert digest_of(sliced) == digest_of(pa.array(sliced.to_pylist(), pa.float64()))


def test_only_encapsulated_messages_are_sealed() -> None:
    """Anything else is the caller's mistake."""
    with pytest.raises(ValueError, match="encapsulated"):
        log_format.seal_frame(
            b"\0" * 64, first_position=0, event_count=0, synced_position=0, chain=bytes(32), offset=0
        )
