"""verify: read-only, complete, and never quiet about a changed byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eventstore import DamagedLogError, Event, EventLog, LogNotFoundError
from eventstore.spool import Spool
from eventstore.storage.local.verify import verify_log

GOLDEN = Path(__file__).parent.parent / "golden" / "format-1"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the golden log: two segments, the second one active."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "events"))


def committed_prefixes() -> list[list[tuple[int, str]]]:
    with EventLog.open(GOLDEN, read_only=True) as log:
        events = [(event.position, event.data_json) for event in log.read()]
    return [events[:end] for end in range(len(events) + 1)]


@pytest.mark.parametrize(("segment", "step"), [(0, 5), (1, 1)])
def test_every_changed_byte_is_noticed(copy: Path, segment: int, step: int) -> None:
    """Whatever byte changes, verify finds it, and a reader gets a committed prefix or the error."""
    prefixes = committed_prefixes()
    path = sorted(copy.glob("*.arrows"))[segment]
    data = path.read_bytes()
    for offset in range(0, len(data), step):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
        assert verify_log(copy).findings, f"byte {offset}"
        assert read_all(copy) in [*prefixes, None], f"byte {offset}"


@pytest.mark.parametrize("segment", [0, 1])
def test_every_truncation_is_noticed_or_ends_with_a_commit(copy: Path, segment: int) -> None:
    """A file cut anywhere reads as a committed prefix, or as damage; never as other data."""
    prefixes = committed_prefixes()
    path = sorted(copy.glob("*.arrows"))[segment]
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert read_all(copy) in [*prefixes, None], f"{length} bytes"


def read_all(path: Path) -> list[tuple[int, str]] | None:
    try:
        with EventLog.open(path, read_only=True) as log:
            return [(event.position, event.data_json) for event in log.read()]
    except DamagedLogError:
        return None


def test_damage_in_one_segment_does_not_hide_damage_in_the_next(copy: Path) -> None:
    """The list is complete: both files are named, each with its offset."""
    for path in sorted(copy.glob("*.arrows")):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
    verdict = verify_log(copy)
    assert not verdict.ok
    assert {finding.path for finding in verdict.findings} == {path.name for path in copy.glob("*.arrows")}
    assert all(finding.offset is not None for finding in verdict.findings)


def test_a_frame_of_other_events_does_not_pass(tmp_path: Path) -> None:
    """Two logs with equal lengths: a good frame put in another log's place breaks the chain."""
    for name, value in (("one", 1), ("two", 2)):
        with EventLog.open(tmp_path / name) as log:
            for number in range(3):
                log.append("s", [Event("Happened", {"number": number * value % 7})])
    one, two = (next((tmp_path / name).glob("*.arrows")) for name in ("one", "two"))
    theirs, data = two.read_bytes(), one.read_bytes()
    assert len(theirs) == len(data)
    frame_bytes = (len(data) - data.index(b"\xff\xff\xff\xff", 8)) // 3
    middle = len(data) - 2 * frame_bytes
    one.write_bytes(data[:middle] + theirs[middle : middle + frame_bytes] + data[middle + frame_bytes :])
    findings = verify_log(tmp_path / "one").findings
    assert "the chain of hashes does not hold" in [finding.message for finding in findings]


def test_a_torn_tail_is_no_damage(copy: Path) -> None:
    """It is named as what it is, and the verdict stays good."""
    path = max(copy.glob("*.arrows"))
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff")
    verdict = verify_log(copy)
    assert verdict.ok
    assert [finding.severity for finding in verdict.findings] == ["torn"]


def test_the_verdict_counts_and_vouches(copy: Path) -> None:
    """Events, segments, bytes, and the chain value of the whole history."""
    verdict = verify_log(copy)
    with EventLog.open(copy) as log:
        assert verdict.chain == log.chain.hex()
    assert (verdict.events, verdict.segments) == (4, 2)
    assert verdict.bytes == sum(path.stat().st_size for path in copy.glob("*.arrows"))


def test_no_log_is_said(tmp_path: Path) -> None:
    """An empty folder is no clean log."""
    with pytest.raises(LogNotFoundError):
        verify_log(tmp_path)


def test_spools_are_noted(tmp_path: Path) -> None:
    """What lies in them is no part of the log yet, and nobody should wonder what the files are."""
    EventLog.open(tmp_path).close()
    spool = Spool.create(tmp_path, stream="rows/1", about={}, row_bytes=8)
    spool.put(0, bytes(8))
    other = Spool.create(tmp_path, stream="rows/2", about={}, row_bytes=8)
    other.path.write_bytes(b"garbage")
    verdict = verify_log(tmp_path)
    assert verdict.ok
    assert {finding.severity for finding in verdict.findings} == {"note"}
    messages = {finding.path: finding.message for finding in verdict.findings}
    assert "rows of rows/1 on their way into the log, 1 at most" in messages[f"spool/{spool.path.name}"]
    assert "without a good header" in messages[f"spool/{other.path.name}"]
