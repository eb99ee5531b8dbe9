"""Who shares a log gets a fair share of it: little is done under the lock, and everybody gets on.

The figures are the torture report's (``python -m tools.torture fairness --long``); here nothing is
measured against a clock.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore import Event, EventLog, derived_id
from eventstore.log_state import LogState
from eventstore.storage.local.storage import LocalStorage
from eventstore.storage.protocol import Glimpse
from tools.torture.fairness import log_writer, measure, sqlite_writer

BEHIND = 50


@pytest.mark.parametrize("opener", [log_writer, sqlite_writer])
def test_four_writers_at_once(opener: Any) -> None:
    """All writers of a log make progress and none is refused; SQLite beside it is measured the same way."""
    outcome = measure(opener, seconds=0.5)
    print(f"{opener.__name__}: slowest over fastest {outcome.ratio:.2f}")  # noqa: T201 - for who asks with -s
    assert len(outcome.tallies) == 4
    if opener is log_writer:
        assert all(tally.commits > 0 for tally in outcome.tallies)
        assert outcome.refused == 0


_FIRST_APPEND = """
import sys
from eventstore import Event, EventLog
from eventstore.storage.local.lock import Lock

take, give, before, loaded = Lock.__enter__, Lock.__exit__, [], []

def watched_take(self):
    take(self)
    before.append(set(sys.modules))
    return self

def watched_give(self, *error):
    loaded.extend(set(sys.modules) - before.pop())
    give(self, *error)

Lock.__enter__, Lock.__exit__ = watched_take, watched_give
with EventLog.open(sys.argv[1]) as log:
    log.append("s", [Event("A", {"n": 1})])
print(sorted(loaded))
"""


def test_a_first_append_loads_nothing_while_others_wait(tmp_path: Path) -> None:
    """The first array that pyarrow makes of a list loads pandas: half a second, more from a cold disk.

    Done under the lock, each process that began to write held up all others for that long.
    """
    command = [sys.executable, "-c", _FIRST_APPEND, str(tmp_path / "events")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def read_under_lock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events were read in each step that was taken under the lock."""
    counts: list[int] = []
    plain = LogState._note

    def watched(self: LogState, commit: Glimpse) -> None:
        plain(self, commit)
        storage = self._adapter()
        assert isinstance(storage, LocalStorage)
        lock = storage._folder.lock
        if lock is not None and lock._depth:
            counts.append(len(commit.keys.streams))

    monkeypatch.setattr(LogState, "_note", watched)
    return counts


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[EventLog]:
    """A log of a writer that has been idle while another one wrote."""
    with EventLog.open(tmp_path / "events") as idle:
        with EventLog.open(tmp_path / "events") as busy:
            for n in range(BEHIND):
                busy.append("s", [Event("A", {"n": n})], durability="os")
        yield idle


def test_a_writer_that_is_behind_catches_up_before_it_takes_the_lock(
    behind: EventLog, read_under_lock: list[int]
) -> None:
    """Otherwise all others wait while it reads what they wrote, however much that is."""
    assert behind.append("s", [Event("A")]).first_position == BEHIND
    assert sum(read_under_lock) == 0


def test_event_ids_are_looked_up_before_the_lock_is_taken(
    behind: EventLog, read_under_lock: list[int]
) -> None:
    """What the index must read for that, it has read before: nobody waits."""
    assert behind.append("s", [Event("A", event_id=derived_id("A"))]).first_position == BEHIND
    assert sum(read_under_lock) == 0


def test_what_came_while_a_writer_waited_for_the_lock_is_read_under_it(
    behind: EventLog, read_under_lock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catching up before is a courtesy; the decision is made on what is there when the lock is held."""
    plain = EventLog._read_ahead

    def overtaken(self: EventLog, *arguments: Any) -> None:
        plain(self, *arguments)
        monkeypatch.setattr(EventLog, "_read_ahead", plain)
        with EventLog.open(tmp_path / "events") as busy:
            busy.append("s", [Event("A")], expected=BEHIND - 1)

    monkeypatch.setattr(EventLog, "_read_ahead", overtaken)
    assert behind.append("s", [Event("A")], expected=BEHIND).first_position == BEHIND + 1
    assert sum(read_under_lock) == 1
