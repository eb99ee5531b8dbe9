"""What two writers leave that held different locks: it is called damage, and nobody waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import DamagedLogError, Event, EventLog, verify_log
from eventstore.schema import envelope_schema
from eventstore.storage.local.directory import SegmentName, create_segment
from eventstore.storage.local.writing import segment_bytes


@pytest.fixture
def overlapping(tmp_path: Path) -> Path:
    """A log of two commits, positions 0 and 1 to 3, and a segment that begins at position 2."""
    folder = tmp_path / "events"
    with EventLog.open(folder) as log:
        log.append("s", [Event("A")])
        log.append("s", [Event("B"), Event("C"), Event("D")])
        schema, chain = envelope_schema(log.log_id), log.chain
    name = SegmentName(2)
    create_segment(folder, name, segment_bytes(name, schema, chain, []))
    return folder


def test_a_segment_that_begins_within_a_commit_is_damage(overlapping: Path) -> None:
    """Opening says so. It went on for ever: the log had read further than its newest segment goes."""
    with pytest.raises(DamagedLogError, match="begins at position 2, within the commit") as caught:
        EventLog.open(overlapping)
    assert (caught.value.path, caught.value.offset) == (str(overlapping / SegmentName(2).text), 0)
    assert caught.value.position == 1


def test_a_reader_and_verify_say_the_same(overlapping: Path) -> None:
    """Without the lock as well, and with the same file."""
    with pytest.raises(DamagedLogError):
        EventLog.open(overlapping, read_only=True)
    (finding,) = verify_log(overlapping).findings
    assert (finding.severity, finding.path, finding.offset) == ("damage", SegmentName(2).text, 0)
