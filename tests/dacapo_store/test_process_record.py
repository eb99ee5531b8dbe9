"""How a process was started: enough to repeat it, and no secrets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dacapo_store import process_record
from dacapo_store.process_record import LEFT_OUT, command_of, without_secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["train.py", "--lr", "0.1"], ["train.py", "--lr", "0.1"]),
        (["--password", "hunter2", "x"], ["--password", LEFT_OUT, "x"]),
        (["--api-key=abc"], [f"--api-key={LEFT_OUT}"]),
        (["WANDB_API_KEY=abc"], [f"WANDB_API_KEY={LEFT_OUT}"]),
        (["--token", "--verbose"], ["--token", "--verbose"]),
        (["mongodb://ada:hunter2@host/db"], [f"mongodb://{LEFT_OUT}@host/db"]),
        (["https://host/a@b"], ["https://host/a@b"]),
    ],
)
def test_what_looks_like_a_secret_is_left_out(given: list[str], shown: list[str]) -> None:
    """Whatever way it is given on a command line."""
    assert without_secrets(given) == shown


def test_a_process_says_what_it_takes_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command, directory, versions, and the code with whether it was changed."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "-q"],
        [*identity, "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)  # noqa: S607
    monkeypatch.chdir(tmp_path)
    process_record.process_record.cache_clear()
    record = process_record.process_record(os.getpid())
    process_record.process_record.cache_clear()
    assert record["directory"] == str(tmp_path)
    assert record["packages"]["pyarrow"]
    assert record["git"]["dirty"] is False
    lines = command_of(record).splitlines()
    assert lines[0] == f"git checkout {record['git']['commit']}"
    assert lines[2] == f"cd {tmp_path}"


def test_no_git_and_no_job_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    process_record.process_record.cache_clear()
    record = process_record.process_record(os.getpid())
    process_record.process_record.cache_clear()
    assert "git" not in record
    assert "python" in record
