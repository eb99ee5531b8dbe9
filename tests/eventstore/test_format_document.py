"""docs/format.md is enough to write a reader: this one uses nothing of the log's own code."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eventstore import EventLog

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "format-1"
REENCODED = ROOT / "tests" / "golden" / "format-1-reencoded"


def frames_of(data: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Section 2: frames with their seals."""
    offset = 0
    while offset < len(data):
        mark, metadata_bytes = struct.unpack_from("<4sI", data, offset)
        assert mark == b"\xff\xff\xff\xff"
        if metadata_bytes == 0:
            assert offset + 8 == len(data)
            return
        seal_at = offset + 8 + metadata_bytes - 112
        names = ("magic", "body", "first", "count", "zeros", "synced", "chain", "metadata", "crc", "digest")
        seal = dict(zip(names, struct.unpack_from("<8sQQIIQ32sII32s", data, seal_at), strict=True))
        assert seal["magic"] == b"DCPSEAL1"
        assert seal["metadata"] == metadata_bytes
        assert seal["crc"] == zlib.crc32(data[seal_at : seal_at + 76])
        end = offset + 8 + metadata_bytes + seal["body"]
        frame = data[offset:end]
        digest_at = seal_at - offset + 80
        assert hashlib.sha256(frame[:digest_at] + frame[digest_at + 32 :]).digest() == seal["digest"]
        yield frame, seal
        offset = end


def commits_of(frame: bytes, seal: dict[str, Any]) -> list[int]:
    """Section 2, the annex: the sizes of a frame's commits. Its checksums hold."""
    end = 8 + seal["metadata"] - 112
    magic, runs, checksums, zero, crc = struct.unpack_from("<8sIIII", frame, end - 24)
    if magic != b"DCPANNEX":
        return [seal["count"]]
    start = end - 24 - 8 * runs - 4 * checksums - 4 * (checksums % 2)
    assert (zero, crc) == (0, zlib.crc32(frame[start : end - 4]))
    covered = frame[8:start] + frame[8 + seal["metadata"] :]
    blocks = [zlib.crc32(covered[place : place + 4096]) for place in range(0, len(covered), 4096)]
    assert list(struct.unpack_from(f"<{checksums}I", frame, start + 8 * runs)) == blocks
    pairs = struct.iter_unpack("<II", frame[start : start + 8 * runs])
    return [events for events, times in pairs for _ in range(times)]


def text(value: str) -> bytes:
    """Section 5."""
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def numbers(items: list[Any] | None, code: str) -> bytes:
    """Section 5."""
    if items is None:
        return b"\0"
    packed = b"".join(struct.pack(code, 0 if item is None else item) for item in items)
    if None not in items:
        return b"\1" + struct.pack("<Q", len(items)) + packed
    bits = sum((item is not None) << place for place, item in enumerate(items))
    return b"\2" + struct.pack("<Q", len(items)) + bits.to_bytes((len(items) + 7) // 8, "little") + packed


def content(row: dict[str, Any]) -> bytes:
    """Section 5."""
    head = row["event_id"] + struct.pack("<qH", row["recorded_at"], row["schema_version"])
    texts = b"".join(text(row[name]) for name in ("stream", "type", "data", "metadata"))
    return hashlib.sha256(head + texts + numbers(row["index"], "<q") + numbers(row["values"], "<d")).digest()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Arrow's part."""
    table = pa.ipc.open_stream(io.BytesIO(path.read_bytes())).read_all()
    place = table.column_names.index("recorded_at")
    return table.set_column(place, "recorded_at", table["recorded_at"].cast(pa.int64())).to_pylist()


@pytest.mark.parametrize("golden", [GOLDEN, REENCODED])
def test_a_reader_written_from_the_document_reads_the_golden_logs(golden: Path) -> None:
    """Every seal holds, the chain comes out at each frame, and the last value is verify's."""
    segments = sorted(golden.glob("*.arrows"))
    schema = pa.ipc.open_stream(segments[0].read_bytes()).schema
    chain = hashlib.sha256(
        b"dacapo-store/chain/1\0" + bytes.fromhex(schema.metadata[b"log_id"].decode())
    ).digest()
    position = 0
    for segment in segments:
        assert int(segment.name[:20]) == position
        rows = iter(rows_of(segment))
        for _, seal in frames_of(segment.read_bytes()):
            assert seal["first"] == position
            for _ in range(seal["count"]):
                row = next(rows)
                assert row["position"] == position
                step = struct.pack("<QQ", position, row["stream_version"])
                chain = hashlib.sha256(chain + step + content(row)).digest()
                position += 1
            assert seal["chain"] == chain
    with EventLog.open(golden, read_only=True) as log:
        assert log.verify().chain == chain.hex()
        assert log.next_position == position


@pytest.mark.parametrize("golden", [GOLDEN, REENCODED])
def test_the_golden_logs_read_as_they_were_written(golden: Path) -> None:
    """Logs of a released format read for ever, each kind of value in them."""
    with EventLog.open(golden, read_only=True) as log:
        events = list(log.read())
        assert log.verify().ok
    assert [event.stream for event in events] == [
        "config/tasks/Zellkörper",
        "training/run_1",
        "training/run_1",
        "marks",
    ]
    assert events[0].data["document"] == {"size": (3, 4)}
    assert events[2].values is not None
    assert events[2].values.to_pylist() == [0.25, 0.125, None, 1e-300]
    assert events[3].data == {"at": float("inf"), "raw": b"\x00\xff", 7: None}
    assert events[3].schema_version == 3
    assert json.loads(events[3].metadata_json) == {"user": "ada", "pid": 1}


def test_the_golden_re_encoded_segment_says_which_commits_it_holds() -> None:
    """Two commits, of two events and of one; the seal knows only that there are three."""
    (_, schema), (frame, seal) = frames_of((REENCODED / "00000000000000000000.r1.arrows").read_bytes())
    assert (schema["count"], seal["count"], seal["synced"]) == (0, 3, 0)
    assert commits_of(frame, seal) == [2, 1]


def test_the_worked_example_shows_the_golden_bytes() -> None:
    """The hex dump in the document is that of the file it names."""
    document = (ROOT / "docs" / "format.md").read_text()
    dump = re.findall(r"^    ([0-9a-f]{4})  ((?:[0-9a-f]{2} ){16})", document, re.MULTILINE)
    data = (GOLDEN / "00000000000000000003.arrows").read_bytes()
    assert len(dump) == 7
    for offset, line in dump:
        start = int(offset, 16)
        assert data[start : start + 16] == bytes.fromhex(line)


def test_the_test_vectors_stand_in_the_document() -> None:
    """The values that the code is tested against are those that the document gives."""
    document = (ROOT / "docs" / "format.md").read_text()
    chain = hashlib.sha256(b"dacapo-store/chain/1\0" + bytes(range(16))).digest()
    rows: list[dict[str, Any]] = [
        {
            "event_id": bytes(16),
            "recorded_at": 1767323045678901,
            "schema_version": 1,
            "stream": "training/run_1",
            "type": "TrainingStatsRecorded",
            "data": '{"columns":["loss"]}',
            "metadata": "{}",
            "index": [3, 4],
            "values": [0.5, None],
        },
        {
            "event_id": b"\1" * 16,
            "recorded_at": 1767323045678902,
            "schema_version": 2,
            "stream": "marks",
            "type": "Marked",
            "data": "{}",
            "metadata": '{"user":"ada"}',
            "index": None,
            "values": [],
        },
    ]
    assert chain.hex() in document
    for position, row in enumerate(rows):
        chain = hashlib.sha256(chain + struct.pack("<QQ", position, 0) + content(row)).digest()
        assert content(row).hex() in document
        assert chain.hex() in document
