"""A base whose log is in a bucket and whose weights are in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dacapo_store
from dacapo_store import FileConfigStore, FileStatsStore, LocalWeightsStore
from dacapo_store.base import Base
from tools.stores.faulty_server import FaultyServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Serve an unreliable bucket."""
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with FaultyServer(share=0.1) as server:
        yield server


def test_the_stores_work_on_a_bucket(server: FaultyServer, tmp_path: Path) -> None:
    path, _, query = server.address("base").partition("?")
    address = f"{path}?{query}&files={tmp_path}/files"
    FileConfigStore(f"{path}/configs?{query}&files={tmp_path}/files").store_task_config({"name": "cells"})
    with FileStatsStore(address).scalar_logger("run_7") as scalars:
        for iteration in range(100):
            scalars.add(iteration, loss=0.5)
    model = torch.nn.Linear(2, 2)
    run = SimpleNamespace(name="run_7", model=model, optimizer=torch.optim.Adam(model.parameters()))
    LocalWeightsStore(address).store_weights(run, 100)
    Base.at(address).close()
    store = dacapo_store.open(address, read_only=True)
    assert store.configs.retrieve_task_config_names() == ["cells"]
    assert store.sql("SELECT count(*), max(iteration) FROM training_stats").fetchone() == (100, 99)
    assert store.weights.latest_iteration("run_7") == 100
    assert (tmp_path / "files/run_7/checkpoints").is_dir()
    assert {path.rpartition("/")[0] for path in server.objects} == {
        "/bucket/base/events",
        "/bucket/base/events/log",
    }


def test_a_bucket_needs_a_folder_for_files(server: FaultyServer) -> None:
    """Weights in the bucket itself are not there; a base must say where they lie."""
    with pytest.raises(ValueError, match=r"add \?files="):
        Base.at(server.address("base"))
    assert server.objects == {}
