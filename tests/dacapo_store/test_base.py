"""One base for a directory: shared, cheap, fork-safe, and who wrote what."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dacapo_store import FileStatsStore, TrainingIterationStats
from dacapo_store.base import Base
from dacapo_store.events import EVENT_TYPES, BestWeightsChosen, ConfigDeleted
from dacapo_store.provenance import git_commit, set_actor
from eventstore import NO_STREAM, LogClosedError, LogNotFoundError, StreamAppend

DELETED = ConfigDeleted(kind="tasks", name="t")


def test_a_process_has_one_base_for_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is named: absolute, relative, through a link."""
    base = Base.at(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("base")
    assert Base.at("base") is base
    assert Base.at(tmp_path / "link") is base


def test_a_relative_base_stays_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the working directory afterwards changes nothing."""
    monkeypatch.chdir(tmp_path)
    base = Base.at("base")
    monkeypatch.chdir("/")
    assert base.path == tmp_path / "base"


def test_a_base_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """An object that still holds files of the old one is not handed out again."""
    Base.at(tmp_path / "base").append("s", [DELETED])
    shutil.rmtree(tmp_path / "base")
    assert Base.at(tmp_path / "base").log.next_position == 0


def test_a_base_travels_to_another_process_as_its_directory(tmp_path: Path) -> None:
    """Stores can be handed to spawned workers."""
    store = FileStatsStore(tmp_path / "stats")
    copy = pickle.loads(pickle.dumps(store))
    copy.store_training_stats("run", [TrainingIterationStats(0, loss=1.0)])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(store.store_training_stats, ("run", [TrainingIterationStats(1, loss=2.0)]))
    assert [stats.loss for stats in store.retrieve_training_stats("run").iteration_stats] == [1.0, 2.0]


def test_a_process_that_leaves_a_base_open_ends_without_a_word(tmp_path: Path) -> None:
    """DuckDB's module lists what is left of it, if the process has loaded torch as well."""
    code = """
import sys
import torch
from dacapo_store import FileConfigStore, FileStatsStore, LocalWeightsStore, TrainingIterationStats
from dacapo_store.base import Base
stats, configs = FileStatsStore(sys.argv[1] + "/stats"), FileConfigStore(sys.argv[1] + "/configs")
stats.store_training_stats("r", [TrainingIterationStats(0, loss=1.0)])
configs.retrieve_run_config_names()
stats.retrieve_training_stats("r").trained_until()
answer = Base.at(sys.argv[1]).query("SELECT count(*) FROM training_stats")
answer.fetchall()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_read_only_base_must_exist(tmp_path: Path) -> None:
    """Looking makes nothing."""
    with pytest.raises(LogNotFoundError):
        Base.at(tmp_path / "none", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_reads_and_writes_with_what_it_inherited(tmp_path: Path) -> None:
    """Log and read models alike, while the parent goes on."""
    base = Base.at(tmp_path)
    base.append("s", [DELETED])
    assert base.query("SELECT count(*) FROM events").fetchone() == (1,)
    child = os.fork()
    if child == 0:
        try:
            base.append("s", [DELETED])
            os._exit(0 if base.query("SELECT count(*) FROM events").fetchone() == (2,) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert base.query("SELECT count(*) FROM events").fetchone() == (2,)


def test_a_decision_is_taken_anew_when_another_was_faster(tmp_path: Path) -> None:
    """It sees what came in between, and is appended once."""
    base = Base.at(tmp_path)
    seen: list[int] = []

    def decision(events: list[object]) -> list[ConfigDeleted]:
        seen.append(len(events))
        if len(seen) == 1:
            base.append("s", [DELETED])
        return [DELETED]

    commit = base.decide("s", decision)
    assert commit is not None
    assert seen == [0, 1]
    assert commit.last_stream_version == 1


def test_a_decision_may_be_to_do_nothing(tmp_path: Path) -> None:
    """Then nothing is written, and what was seen is durable."""
    base = Base.at(tmp_path)
    base.log.append_to_streams([StreamAppend("s", [EVENT_TYPES.event(DELETED)])], durability="os")
    assert base.decide("s", lambda _: []) is None
    assert base.log.durable_position == base.log.next_position == 1


def test_every_event_says_who_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, host, pid and program; the actor can be set."""
    monkeypatch.delenv("DACAPO_STORE_ACTOR", raising=False)
    base = Base.at(tmp_path)
    base.append("s", [DELETED], expected=NO_STREAM)
    set_actor("ada")
    try:
        base.append("s", [DELETED])
    finally:
        set_actor(None)
    first, second = (event.metadata for event in base.log.read())
    assert {"actor", "user", "host", "pid", "program"} <= set(first)
    assert first["pid"] == os.getpid()
    assert first["actor"] == first["user"]
    assert second["actor"] == "ada"


def test_the_actor_of_a_whole_process_comes_from_the_environment(tmp_path: Path) -> None:
    """For jobs that a scheduler starts in somebody's name."""
    program = "import sys; from dacapo_store.provenance import actor; print(actor())"
    environment = {**os.environ, "DACAPO_STORE_ACTOR": "night job"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert said.stdout.decode().strip() == "night job"


def test_the_git_commit_is_that_of_the_checkout_around(tmp_path: Path) -> None:
    """Loose and packed references, and a detached head; None outside a checkout."""
    git, below = tmp_path / ".git", tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert git_commit(below) is None or not tmp_path.is_relative_to("/tmp")  # noqa: S108 - a temporary folder
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(below) is None
    (git / "packed-refs").write_text("# pack-refs\n" + "1" * 40 + " refs/heads/main\n")
    assert git_commit(below) == "1" * 40
    (git / "refs" / "heads" / "main").write_text("2" * 40 + "\n")
    assert git_commit(below) == "2" * 40
    (git / "HEAD").write_text("3" * 40 + "\n")
    assert git_commit(below) == "3" * 40


def test_best_weights_and_configs_share_one_order(tmp_path: Path) -> None:
    """The four stores write one history."""
    base = Base.at(tmp_path)
    base.append("weights/run", [BestWeightsChosen(run="run", dataset="d", criterion="c", iteration=3)])
    base.append("config/tasks/t", [DELETED])
    assert [event.position for event in base.log.read()] == [0, 1]


def test_a_closed_base_is_opened_anew(tmp_path: Path) -> None:
    """Its files are given back; what was stored is there again."""
    base = Base.at(tmp_path)
    base.append("s", [DELETED])
    assert base.query("SELECT count(*) FROM events").fetchone() == (1,)
    base.close()
    with pytest.raises(LogClosedError):
        base.append("s", [DELETED])
    assert Base.at(tmp_path) is not base
    assert Base.at(tmp_path).log.next_position == 1


def test_a_base_whose_folder_is_gone_can_be_closed(tmp_path: Path) -> None:
    """Nothing is left to look after."""
    base = Base.at(tmp_path / "base")
    base.append("s", [DELETED])
    shutil.rmtree(tmp_path / "base")
    base.close()
    assert list(tmp_path.iterdir()) == []
