"""Those who read without the lock meet writes in progress; that is neither damage nor a torn tail."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import Event, EventLog
from eventstore.storage.local.segment import Segment


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose second commit is half written, and finished as soon as a reader has stumbled over it.

    By then a third commit stands behind it, which knows that the second one is durable.
    """
    folder = tmp_path / "events"
    with EventLog.open(folder) as log:
        sizes = []
        for _ in range(3):
            log.append("s", [Event("A", values=[1.0] * 100)])
            (segment,) = folder.glob("*.arrows")
            sizes.append(segment.stat().st_size)
    whole = segment.read_bytes()
    with segment.open("r+b") as file:
        file.truncate((sizes[0] + sizes[1]) // 2)
    look = Segment.flaw_at

    def finish_and_look(self: Segment, offset: int) -> object:
        with segment.open("r+b") as file:
            file.write(whole)
        return look(self, offset)

    monkeypatch.setattr(Segment, "flaw_at", finish_and_look)
    return folder


def test_verify_goes_on_behind_a_write_that_was_in_progress(live: Path) -> None:
    """A clean log that is in use verifies as clean."""
    with EventLog.open(live, read_only=True) as log:
        verdict = log.verify()
    assert verdict.findings == ()
    assert verdict.events == 3


def test_a_read_only_reader_goes_on_behind_a_write_that_was_in_progress(live: Path) -> None:
    """It sees the commit when it is whole, and never calls it damage."""
    with EventLog.open(live, read_only=True) as log:
        assert [event.position for event in log.read()] == [0, 1, 2]
