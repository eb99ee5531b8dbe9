"""A real S3 server that overwrites what is there, whatever it is asked: no log is kept on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from eventstore import EventLog, LogNotFoundError, UnsuitableStorageError, examine
from tools.stores.emulators import S3rver, missing

_MISSING = missing("s3rver")
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3rver]:
    """Serve a bucket."""
    for name, value in S3rver.VARIABLES.items():
        monkeypatch.setenv(name, value)
    with S3rver() as server:
        yield server


def test_it_is_refused(server: S3rver) -> None:
    """With a reason and a way out, and before a commit was made."""
    with pytest.raises(UnsuitableStorageError, match=r"ignores If-None-Match.*use a store that honours"):
        EventLog.open(server.address("log"))
    assert server.objects == {"log/probe"}
    with pytest.raises(LogNotFoundError):
        EventLog.open(server.address("log"), read_only=True)


def test_it_is_examined_and_unfit(server: S3rver) -> None:
    assert "ignores If-None-Match" in (examine(server.address("base")).problem or "")
    program = "from dacapo_store.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", server.address("base"), "--json"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ignores If-None-Match" in json.loads(done.stdout)["problem"]
