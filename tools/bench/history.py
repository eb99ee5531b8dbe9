"""Bases with long histories, made fast through the log's own interface.

A base has runs of equal length; each event holds some iterations of one run, and runs take turns, as
trainings do that go on side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.bench.workloads import curve

if TYPE_CHECKING:
    from eventstore import StreamAppend

SEGMENT_BYTES_MAX = 64 << 20
"""As long as the log's own segments are by default."""

_EVENTS_A_COMMIT = 100


@dataclass(frozen=True)
class History:
    """What lies in a base.

    Attributes:
        runs: How many runs.
        events: How many events each run has.
        rows: How many iterations an event holds.
    """

    runs: int
    events: int
    rows: int

    @property
    def iterations(self) -> int:
        """Of all runs together."""
        return self.runs * self.events * self.rows


def run_name(number: int) -> str:
    """The name of a run."""
    return f"run_{number:05d}"


def write_history(folder: Path, history: History, *, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
    """Make the base; commits hold events of a hundred runs, and wait for the operating system only."""
    from eventstore import EventLog

    columns = curve(history.events * history.rows)
    with EventLog.open(folder / "events", segment_bytes_max=segment_bytes_max) as log:
        for number in range(history.events):
            rows = tuple(column[number * history.rows : (number + 1) * history.rows] for column in columns)
            for first in range(0, history.runs, _EVENTS_A_COMMIT):
                runs = range(first, min(first + _EVENTS_A_COMMIT, history.runs))
                log.append_to_streams([_recorded(run_name(run), rows) for run in runs], durability="os")
        log.sync()


def _recorded(run: str, rows: Any) -> StreamAppend:
    import numpy as np

    from dacapo_store.events import EVENT_TYPES, TrainingStatsRecorded
    from eventstore import StreamAppend

    iterations, losses, times = rows
    fact = TrainingStatsRecorded(run=run, epoch=0, columns=["loss", "time"])
    event = EVENT_TYPES.event(fact, index=iterations, values=np.concatenate([losses, times]))
    return StreamAppend(f"training/{run}", [event])
