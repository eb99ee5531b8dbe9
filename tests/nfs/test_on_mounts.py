"""The log's contract on a folder that is mounted twice; `test_nfs.py` runs it on a host that has one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import EventLog, examine
from eventstore.testing.contract import LogContract, OpenLog

_MOUNTS = os.environ.get("DACAPO_STORE_MOUNTS", "").split(":")
pytestmark = pytest.mark.skipif(_MOUNTS == [""], reason="`make test-nfs` makes a host with mounts")
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


class TestLogOnMounts(LogContract):
    """Each handle goes through the other mount than the one before, as another host's would."""

    @pytest.fixture
    def open_log(self) -> Iterator[OpenLog]:
        """Every call opens the folder anew."""
        name = f"contract-{os.getpid()}-{next(_numbers)}"
        mounts = itertools.cycle(_MOUNTS)
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(EventLog.open(f"shared://{next(mounts)}/{name}"))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()


def test_it_is_fit() -> None:
    """Of those who link one name at once, one wins."""
    found = examine(f"shared://{_MOUNTS[0]}/base-{os.getpid()}")
    assert found.problem is None
    print(found)  # noqa: T201 - shown with -s
