"""How a process was started: enough to repeat it, and no secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import dacapo_store
from dacapo_store import FileStatsStore, TrainingIterationStats, process_record, provenance
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
        (["https://host/a?token=abc&x=1"], [f"https://host/a?token={LEFT_OUT}&x=1"]),
        (['{"api_key": "abc", "x": 1}'], [f'{{"api_key": {LEFT_OUT}, "x": 1}}']),
        (["-c", "login(password='a b')"], ["-c", f"login(password={LEFT_OUT})"]),
        (["--passes", "3", "--bypass=no"], ["--passes", "3", "--bypass=no"]),
    ],
)
def test_what_looks_like_a_secret_is_left_out(given: list[str], shown: list[str]) -> None:
    """Whatever way it is given on a command line."""
    assert without_secrets(given) == shown


@pytest.fixture(autouse=True)
def _looks_anew() -> Iterator[None]:
    remembered = (process_record.process_record, provenance._metadata, provenance._process_metadata)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


def test_a_process_says_what_it_takes_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command, directory, versions, and the code with whether it was changed."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "-q"],
        [*identity, "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)  # noqa: S607
    monkeypatch.chdir(tmp_path)
    record = process_record.process_record(os.getpid())
    assert record["directory"] == str(tmp_path)
    packages = record["packages"]
    assert packages == {name: metadata.version(name) for name in packages}
    assert {"dacapo-store", "numpy", "pyarrow", "torch"} <= set(packages)
    assert record["git"]["dirty"] is False
    lines = command_of(record).splitlines()
    assert lines[0] == f"cd {tmp_path}"
    assert lines[1] == f"git checkout {record['git']['commit']}"


def test_no_git_and_no_job_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    record = process_record.process_record(os.getpid())
    assert "git" not in record
    assert "python" in record


def test_a_deleted_directory_and_a_name_that_is_no_text_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer that was started in such a place stores its stats like any other."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("sys.orig_argv", ["python", os.fsdecode(b"train-\xff.py")])
    monkeypatch.setattr("sys.argv", [os.fsdecode(b"train-\xff.py")])
    store = FileStatsStore(tmp_path / "base" / "stats")
    store.store_training_stats("r", [TrainingIterationStats(0, loss=1.0)])
    (process,) = dacapo_store.open(tmp_path / "base").run("r")["processes"]
    assert process["argv"] == ["python", "train-\ufffd.py"]
    assert "directory" not in process


def test_each_process_that_trains_a_run_is_on_its_record_once(tmp_path: Path) -> None:
    """Stats, scores, weights and loggers tell; deleting, and adopting what a killed trainer left, do not."""
    code = """
import os, sys
from dacapo_store import FileStatsStore, TrainingIterationStats as Row
store = FileStatsStore(os.path.join(sys.argv[1], "stats"))
if sys.argv[2] == "train":
    store.store_training_stats("r", [Row(0, loss=1.0)])
    store.store_training_stats("r", [Row(0, loss=1.0), Row(1, loss=1.0)])
elif sys.argv[2] == "log":
    with store.scalar_logger("r") as logger:
        logger.add(7, loss=1.0)
elif sys.argv[2] == "be killed":
    logger = store.scalar_logger("r")
    logger.add(9, loss=1.0)
    os._exit(9)
else:
    store.delete_training_stats("r")
"""
    for what in ("train", "delete", "log", "be killed"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path, what, "--token", "abc"], check=what != "be killed"
        )
    processes = dacapo_store.open(tmp_path).run("r")["processes"]
    assert [process["argv"][-3] for process in processes] == ["train", "log", "be killed"]
    assert all(process["argv"][-1] == LEFT_OUT for process in processes)
    assert dacapo_store.open(tmp_path).run("r")["training"]["last_iteration"] == 9
