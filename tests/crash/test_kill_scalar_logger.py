"""Loggers are killed at random moments and at every step of bytes; so are those who adopt what is left.

A logger says of each row that ``add`` has returned. After each end, whoever opens the base next finds
every row that was told, in order, each once, and at most the one row that was being added besides.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dacapo_store import Base, FileStatsStore
from eventstore.spool import left_over
from tools.torture.failpoints import FAILPOINTS

LOG = """
import os, sys
from pathlib import Path
from dacapo_store.base import Base
from dacapo_store.scalar_logger import ScalarLogger
from tools.torture.failpoints import Failpoints
base, first, rows, target, call = sys.argv[1:]
opened = Base.at(base)
if target:
    Failpoints(Path(base), {target: int(call)}, lambda name: os.write(1, b"failpoint ")).install()
log = ScalarLogger(opened, "run", flush_rows=7, flush_seconds=1e9)
for iteration in range(int(first), int(first) + int(rows)):
    more = {"rate": 0.5} if iteration % 50 > 25 else {}
    log.add(iteration, loss=iteration / 2, **more)
    os.write(1, b"%d " % iteration)
log.close()
os.write(1, b"closed ")
"""

ADOPT = """
import os, sys
from pathlib import Path
from dacapo_store.base import Base
from tools.torture.failpoints import Failpoints
import eventstore.spool, dacapo_store.spooled_scalars
base, target, call = sys.argv[1:]
Failpoints(Path(base), {target: int(call)}, lambda name: os.write(1, b"failpoint ")).install()
Base.at(base)
os.write(1, b"opened ")
"""

LOGGING = [
    point
    for point in FAILPOINTS
    if point.endswith((" spool", " spool folder", "write_at segment", "sync_data segment"))
]
ADOPTING = [
    f"{moment} {site}"
    for site in ("write_at segment", "sync_data segment", "unlink spool", "sync_directory spool folder")
    for moment in ("before", "after")
]


def started(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def told(process: subprocess.Popen[bytes]) -> tuple[list[int], list[str]]:
    """What a process said until its end: rows, and other words."""
    output, _ = process.communicate()
    words = output.decode().split()
    assert process.returncode == (-signal.SIGKILL if "failpoint" in words else 0), words
    return [int(word) for word in words if word.isdigit()], [word for word in words if not word.isdigit()]


def found(base: Path) -> list[int]:
    """The rows in view, whole, and the same as those on record, each once."""
    store = FileStatsStore(base / "stats")
    rows = store.retrieve_training_stats("run").iteration_stats
    for row in rows:
        more = {"rate": 0.5} if row.iteration % 50 > 25 else {}
        assert dict(row.scalars) == {"loss": row.iteration / 2, **more}
    events = store._base.log.read_stream("training/run")
    recorded = [item for event in events if event.index is not None for item in event.index.to_pylist()]
    assert recorded == [row.iteration for row in rows]
    assert left_over(base / "events") == []
    verdict = store._base.log.verify()
    assert [finding for finding in verdict.findings if finding.severity != "note"] == []
    Base.at(base).close()
    return recorded


def check(rows: Sequence[int], acknowledged: Sequence[int]) -> None:
    """All that was acknowledged, and at most the one that was under way."""
    assert list(rows) == list(range(len(rows)))
    assert len(acknowledged) <= len(rows) <= len(acknowledged) + 1


@pytest.mark.parametrize("failpoint", LOGGING)
def test_a_logger_is_killed_at_every_step(tmp_path: Path, failpoint: str) -> None:
    """In the middle of its work where there is one; the first event only begins an epoch."""
    call = 3 if "write_at" in failpoint else 2 if "sync_data" in failpoint else 1
    rows, words = told(started(LOG, tmp_path, 0, 40, failpoint, call))
    assert words == ["failpoint"]
    check(found(tmp_path), rows)


@pytest.mark.parametrize("failpoint", ADOPTING)
def test_an_adopter_is_killed_at_every_step(tmp_path: Path, failpoint: str) -> None:
    """Whatever the first one came to, the second finds each row and adopts it once."""
    rows, _ = told(started(LOG, tmp_path, 0, 30, "after write_at spool", 12))
    assert len(rows) == 11
    _, words = told(started(ADOPT, tmp_path, failpoint, 1))
    assert words == ["failpoint"]
    assert found(tmp_path) == list(range(12))


def test_loggers_are_killed_at_random_moments_while_others_open(tmp_path: Path) -> None:
    """Several openers race for what is left; no row is missing, none is there twice."""
    dice = random.Random(4)  # noqa: S311 - moments to kill at
    acknowledged = 0
    for _ in range(8):
        logger = started(LOG, tmp_path, acknowledged, 100_000, "", 0)
        assert logger.stdout is not None
        begun = logger.stdout.read(1)
        time.sleep(dice.random() * 0.3)
        logger.send_signal(signal.SIGKILL)
        openers = [started(ADOPT, tmp_path, "none", 1) for _ in range(3)]
        output = (begun + logger.communicate()[0]).split()
        assert [told(opener) for opener in openers] == [([], ["opened"])] * 3
        # The last word may have been cut off.
        rows = list(range(acknowledged, int(output[-1]) + 1)) if output[:-1] else []
        recorded = found(tmp_path)
        assert recorded == list(range(len(recorded)))
        assert acknowledged + len(rows) <= len(recorded) <= acknowledged + len(rows) + 1
        acknowledged = len(recorded)


def test_a_living_logger_is_left_alone_by_openers(tmp_path: Path) -> None:
    """Openers come and go while it works; its rows are recorded by itself, once."""
    logger = started(LOG, tmp_path, 0, 3000, "", 0)
    while logger.poll() is None:
        assert told(started(ADOPT, tmp_path, "none", 1)) == ([], ["opened"])
    assert told(logger)[1] == ["closed"]
    assert found(tmp_path) == list(range(3000))
