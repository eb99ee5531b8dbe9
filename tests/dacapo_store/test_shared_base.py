"""A base that many hosts use: the stores, queries, logger and command on ``shared://``."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dacapo_store
from dacapo_store import (
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    Options,
    create_array_store,
    create_config_store,
    create_stats_store,
    create_weights_store,
)
from dacapo_store.base import Base
from dacapo_store.location import Location
from dacapo_store.replay import replay, same_content
from eventstore import Event, EventLog, verify_log


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def address(tmp_path: Path) -> str:
    """The address of a base."""
    return f"shared://{tmp_path}/base"


class _Run:
    name = "run_7"

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters())


def test_the_four_stores_share_one_history(address: str, tmp_path: Path) -> None:
    options = Options(runs_base_dir=address)
    create_config_store(options).store_task_config({"name": "cells", "channels": ("a", "b")})
    logger = create_stats_store(options).scalar_logger("run_7")
    for iteration in range(10):
        logger.add(iteration, loss=1.0 / (1 + iteration))
    logger.close()
    weights, run = create_weights_store(options), _Run()
    weights.store_weights(run, 9)
    assert weights.latest_iteration("run_7") == 9
    assert weights.retrieve_weights("run_7", 9).model.keys() == run.model.state_dict().keys()
    create_array_store(options)
    Base.at(address).close()
    store = dacapo_store.open(address, read_only=True)
    assert store.configs.retrieve_task_config("cells")["channels"] == ("a", "b")
    assert store.sql("SELECT count(*) FROM training_stats").fetchone() == (10,)
    assert store.weights.latest_iteration("run_7") == 9
    assert store.as_of(1).sql("SELECT count(*) FROM weights").fetchone() == (0,)
    assert (tmp_path / "base/events/log/00000000000000000000.arrow").is_file()
    assert verify_log(f"{address}/events").ok
    assert not list(tmp_path.glob("**/spool/*.spool"))


def test_all_ways_to_name_a_base_are_one_base(address: str, tmp_path: Path) -> None:
    base = Base.at(address)
    assert FileConfigStore(f"{address}/configs")._base is base
    assert FileStatsStore(f"{address}/stats")._base is base
    assert FileStatsStore(address)._base is base
    assert LocalWeightsStore(address)._base is base
    assert dacapo_store.open(f"{address}/")._base is base
    assert pickle.loads(pickle.dumps(base)) is base
    assert base.path == tmp_path / "base"
    assert str(FileConfigStore(f"{address}/configs").users) == f"{tmp_path}/base/configs/users"


def test_files_may_lie_elsewhere(address: str, tmp_path: Path) -> None:
    where = f"{address}?files={tmp_path}/files&patience_seconds=5"
    weights = LocalWeightsStore(where)
    weights.store_weights(_Run(), 3)
    assert (tmp_path / "files/run_7/checkpoints").is_dir()
    assert not (tmp_path / "base/run_7").exists()
    assert Location.of(where) == Location.of(weights._base.location.name)
    assert Location.of(where).inside("configs") == (
        f"{address}/configs?patience_seconds=5&files={tmp_path}/files"
    )


def test_a_path_and_an_address_do_not_mix(address: str, tmp_path: Path) -> None:
    """One folder holds one log: the other kind is refused, with a word on what to do."""
    Base.at(address).close()
    with pytest.raises(FileExistsError, match="open it as shared://"):
        FileConfigStore(tmp_path / "base/configs")
    with EventLog.open(tmp_path / "local") as log:
        log.append("s", [Event("A")])
    with pytest.raises(FileExistsError, match="log of one host"):
        EventLog.open(f"shared://{tmp_path}/local")


@pytest.mark.parametrize("wrong", ["ftp://host/base", "sharde:///data", "shared:///tmp/x?colour=red"])
def test_a_mistyped_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"shared://|colour"):
        Base.at(wrong)
    with pytest.raises(ValueError, match=r"shared://|colour"):
        FileConfigStore(f"{Options(runs_base_dir=wrong).base_path}")


def test_a_base_of_one_host_moves_by_replay(address: str, tmp_path: Path) -> None:
    local = FileConfigStore(tmp_path / "local/configs")
    for number in range(5):
        local.store_task_config({"name": f"task_{number}"})
    LocalWeightsStore(tmp_path / "local").store_weights(_Run(), 3)
    receipt = replay(tmp_path / "local", address)
    assert (receipt.events, receipt.missing) == (6, ())
    assert same_content(tmp_path / "local", address, position=6)
    assert LocalWeightsStore(address).latest_iteration("run_7") == 3


def _run(*arguments: str) -> Any:
    program = "from dacapo_store.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True
    )


def test_the_command_takes_addresses(address: str) -> None:
    FileConfigStore(f"{address}/configs").store_task_config({"name": "cells"})
    assert "cells" in _run("configs", "--base", address).stdout
    assert "clean: 1 event" in _run("verify", address).stdout
    assert "0 segments made" in _run("compact", address).stdout
    assert _run("snapshot", address).returncode == 0
    assert "for a base in a directory" in _run("repair", address).stderr
    assert "dacapo-store replay" in _run("backup", address, "/nowhere/x").stderr


def test_rows_of_a_killed_process_are_adopted(address: str) -> None:
    """They lie in a spool of this host until the next process opens the base."""
    program = (
        "import os, sys; from dacapo_store import FileStatsStore\n"
        f"logger = FileStatsStore({address!r} + '/stats').scalar_logger('run_7')\n"
        "for iteration in range(7): logger.add(iteration, loss=0.5)\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert FileStatsStore(f"{address}/stats").retrieve_training_stats("run_7").trained_until() == 7


def test_an_address_that_says_too_little_is_refused_without_its_password() -> None:
    """Errors end up in logs and in tickets."""
    with pytest.raises(ValueError, match=r"files=/a/folder") as refused:
        Location.of("mongodb://ada:hunter2@host/database")
    assert "mongodb://host/database" in str(refused.value)
    assert "hunter2" not in str(refused.value)
