"""A publisher of snapshots is killed at every step: readers never notice, the next one cleans up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from projections import ANYTHING_NEW, ReadModels, publish_snapshot
from projections.testing import ListedLog, event

# What a publisher calls, in this order; it is killed in front of the call or behind it.
_STEPS = (
    ("eventstore.files:make_directories", "in front of"),
    ("projections.publishing:_remove_temporaries", "behind"),
    ("projections.content:Content.follow", "behind"),
    ("projections.publishing:_describe", "behind"),
    ("projections.publishing:_write", "behind"),
    ("eventstore.files:sync_file", "in front of"),
    ("pathlib:Path.rename", "in front of"),
    ("pathlib:Path.rename", "behind"),
    ("projections.publishing:prune", "in front of"),
    ("projections.publishing:prune", "behind"),
)
_EVENTS = [
    event(
        "TrainingStatsRecorded",
        {"run": f"r{n % 3}", "epoch": 0, "columns": ["loss"]},
        index=[n],
        values=[float(n)],
    )
    for n in range(50)
]

_PUBLISHING = f"""
import importlib, os, signal, sys
from functools import reduce
from pathlib import Path
from projections import ANYTHING_NEW, publish_snapshot
from projections.testing import ListedLog, event

module, _, path = sys.argv[2].partition(":")
*owners, name = path.split(".")
owner = reduce(getattr, owners, importlib.import_module(module))
call = getattr(owner, name)

def killed(*args, **kwargs):
    if sys.argv[3] == "behind":
        call(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, killed)
events = [event("TrainingStatsRecorded", {{"run": f"r{{n % 3}}", "epoch": 0, "columns": ["loss"]}},
    index=[n], values=[float(n)]) for n in range({len(_EVENTS)})]
publish_snapshot(Path(sys.argv[1]), ListedLog(events), tail_limit=ANYTHING_NEW)
"""


@pytest.mark.parametrize(("call", "when"), _STEPS)
def test_a_publisher_killed_at_a_step_does_no_harm(tmp_path: Path, call: str, when: str) -> None:
    """Readers see the same; the next publisher leaves a folder with files and the lock only."""
    folder = tmp_path / "views"
    publish_snapshot(folder, ListedLog(_EVENTS[:30]), tail_limit=ANYTHING_NEW)
    command = [sys.executable, "-c", _PUBLISHING, str(folder), call, when]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr

    log = ListedLog(_EVENTS)
    expected = ReadModels(log).digests()
    assert ReadModels(log, snapshots=folder).digests() == expected

    log.append(_EVENTS[0])
    assert publish_snapshot(folder, log, tail_limit=ANYTHING_NEW) is not None
    left = {path.name for path in folder.iterdir() if path.suffix != ".duckdb"}
    assert left == {"lock"}
    newcomer = ReadModels(log, snapshots=folder)
    assert newcomer.digests() == ReadModels(log).digests()
    assert newcomer._state.content is not None
    assert newcomer._state.content.snapshot is not None
    assert newcomer._state.content.snapshot.position == len(log.events)
