"""The examination of a storage: what is fit is told from what only seems so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from eventstore import EventLog, StorageUnavailableError, examine
from eventstore.storage import doctor
from eventstore.testing.commit_stores import MemoryCommitStore
from tools.stores.faulty_server import FaultyServer


def test_a_good_store_is_fit_and_measured() -> None:
    with FaultyServer(latency_seconds=0.005) as server:
        found = examine(server.address("base"))
        assert found.problem is None
        assert found.races > 0
        assert found.create_milliseconds_p95 >= found.create_milliseconds >= 5
        assert min(found.read_milliseconds, found.look_milliseconds) >= 5
        assert found.commits_per_second_alone == pytest.approx(2 * found.commits_per_second_shared)
        assert all(path.startswith("/bucket/base/doctor/") for path in server.objects)


def test_lost_answers_make_no_store_unfit() -> None:
    with FaultyServer(share=0.05, seed=3) as server:
        found = examine(f"{server.address('base')}&patience_seconds=5")
        assert found.problem is None
        assert found.unanswered > 0


def test_a_store_that_ignores_conditions_is_unfit() -> None:
    with FaultyServer(honours_conditions=False) as server:
        assert "ignores If-None-Match" in (examine(server.address("base")).problem or "")


class _Careless(MemoryCommitStore):
    """Honours the condition, but looks first and writes later: in a race several win."""

    def create(self, key: int, data: bytes) -> bool:
        there = self.read(key, 1)
        if there:
            return False
        time.sleep(0.01)
        self.objects[key] = data
        return True


class _Forgetful(MemoryCommitStore):
    """Says that it has created what it then does not show."""

    def read(self, key: int, count: int) -> Sequence[bytes]:
        return [b"something else"] if super().read(key, count) else []


@pytest.mark.parametrize(("store", "problem"), [(_Careless(), "let"), (_Forgetful(), "shows other bytes")])
def test_what_fails_only_in_a_race_is_found(
    store: MemoryCommitStore, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "open_store", lambda *_, **__: store)
    assert problem in (examine("s3://bucket/base").problem or "")


def test_a_folder_is_examined_beside_its_log(tmp_path: Path) -> None:
    with EventLog.open(f"shared://{tmp_path}/log") as log:
        assert examine(f"shared://{tmp_path}/log?files=/elsewhere").problem is None
        assert log.verify().ok
        assert log.next_position == 0


def test_the_command_says_it(tmp_path: Path) -> None:
    program = "from dacapo_store.cli import main; main()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "doctor", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    done = run(f"shared://{tmp_path}/base")
    assert done.returncode == 0
    assert "fit: an object is created once only" in done.stdout
    with FaultyServer(honours_conditions=False) as server:
        unfit = run(server.address("base"), "--json")
    assert (unfit.returncode, json.loads(unfit.stdout)["races"]) == (1, 0)
    assert run("ftp://x").returncode == 2


def test_a_store_that_does_not_answer_is_no_diagnosis() -> None:
    with pytest.raises(StorageUnavailableError, match="Error performing PUT"):
        examine("s3://bucket/base?endpoint=http://127.0.0.1:1&anonymous=true")
