"""The chain's value at any position: what tells a copy of a part of the log from anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import Event, EventLog
from eventstore.storage.memory import MemoryStorage


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    """An empty log."""
    if request.param == "memory":
        return EventLog(MemoryStorage())
    return EventLog.open(tmp_path / "log", segment_bytes_max=2000)


def _events(*numbers: int) -> list[Event]:
    return [Event("Numbered", {"number": number}) for number in numbers]


def test_it_is_what_the_chain_was_when_the_log_ended_there(log: EventLog) -> None:
    """In this segment and in earlier ones."""
    seen = {0: log.chain}
    for number in range(12):
        log.append("s", _events(number, number))
        seen[log.next_position] = log.chain

    assert {position: log.chain_at(position) for position in seen} == seen
    assert len(set(seen.values())) == len(seen)


def test_within_a_commit_it_depends_on_the_events_in_front_of_it_alone(log: EventLog) -> None:
    """A commit that was merged with others has ends of its own inside."""
    log.append("s", _events(1))
    log.append("s", _events(2, 3, 4))
    inside = [log.chain_at(position) for position in (2, 3)]
    assert len({*inside, log.chain_at(1), log.chain_at(4)}) == 4

    log.append("s", _events(5))
    assert [log.chain_at(position) for position in (2, 3)] == inside


def test_a_position_that_the_log_does_not_have_has_none(log: EventLog) -> None:
    """It says which there are."""
    log.append("s", _events(1))
    for position in (-1, 2):
        with pytest.raises(ValueError, match="positions 0 to 1"):
            log.chain_at(position)
