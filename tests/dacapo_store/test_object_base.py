"""A base whose log is in a bucket, weights in a folder or beside it, on a server that counts and fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dacapo_store
from dacapo_store import (
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    TrainingIterationStats,
    housekeeping,
)
from dacapo_store.base import Base
from dacapo_store.events import EVENT_TYPES, TrainingStatsRecorded
from eventstore import Event, EventLog
from projections import ANYTHING_NEW
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


def test_a_fresh_host_begins_with_what_another_has_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index and snapshot lie beside the log: the first query reads what came since."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with FaultyServer() as server:
        address = f"{server.address('base')}&files={tmp_path}/files"
        answers = []
        for host in ("one", "two", "three"):
            monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / host))
            server.requests.clear()
            base = Base.at(address)
            if host == "one":
                for iteration in range(700):
                    base.append("training/run", [_iteration(iteration)])
                assert housekeeping.publish(address, tail_limit=ANYTHING_NEW) is not None
            if host == "three":
                server.objects = {name: data for name, data in server.objects.items() if "/snap/" not in name}
            answers.append(base.query("SELECT count(*), max(iteration) FROM training_stats").fetchone())
            content = base.views._state.content
            assert content is not None
            assert (content.snapshot is None) == (host == "three")
            if host == "two":
                assert server.requests["get"] < 300, "the index, the snapshot, and the commits behind them"
            if host == "three":
                assert server.requests["get"] > 700, "all commits"
            base.close()
        assert answers == [(700, 699)] * 3
        assert not (tmp_path / "files" / "views").exists()


def _iteration(iteration: int) -> Event:
    fact = TrainingStatsRecorded(run="run", epoch=0, columns=["loss"])
    return EVENT_TYPES.event(fact, index=[iteration], values=[0.5])


def test_a_call_looks_once_and_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a request that takes time and costs money; nothing is asked while nothing is done."""
    # Whoever commits as fast as this looks now and then whether somebody asks for a turn.
    monkeypatch.setattr("eventstore.storage.numbered.turns._LOOK_EACH", 1_000_000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
    with FaultyServer() as server:
        address = f"{server.address('base')}&files={tmp_path}/files"
        configs, stats = FileConfigStore(address), FileStatsStore(address)
        scalars = stats.scalar_logger("run_7")
        configs.retrieve_task_config_names()

        def requests(call: Callable[[], object]) -> tuple[int, int]:
            server.requests.clear()
            call()
            asked, created = server.requests["get"] + server.requests["missed"], server.requests["create"]
            assert asked + created == server.requests.total()
            return asked, created

        def flushed() -> None:
            for iteration in range(100):
                scalars.add(iteration, loss=0.5)
            scalars.flush()

        def stored(count: int) -> None:
            stats.store_training_stats("run_8", [TrainingIterationStats(i, loss=0.5) for i in range(count)])

        assert requests(lambda: configs.store_task_config({"name": "cells"})) == (1, 1)
        assert requests(lambda: configs.store_task_config({"name": "cells"})) == (1, 0)
        assert requests(configs.retrieve_task_config_names) == (1, 0)
        flushed()
        assert requests(lambda: scalars.add(200, loss=0.5)) == (0, 0)
        assert requests(scalars.flush) == (1, 1)
        stored(10)
        assert requests(lambda: stored(20)) == (1, 1)
        assert requests(lambda: stored(20)) == (1, 0)
        assert requests(lambda: stats.retrieve_training_stats("run_8")) == (1, 0)
        Base.at(address).close()


def test_a_call_sees_what_was_there_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look is enough only if it is made within the call."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))
    with FaultyServer() as server:
        address = f"{server.address('base')}&files={tmp_path}/files"
        stats = FileStatsStore(address)
        assert stats.retrieve_training_stats("run").iteration_stats == []
        with EventLog.open(server.address("base/events")) as other:
            for iteration in range(3):
                other.append("training/run", [_iteration(iteration)])
                found = stats.retrieve_training_stats("run").iteration_stats
                assert [each.iteration for each in found] == list(range(iteration + 1))
            stats.store_training_stats("run", [TrainingIterationStats(i, loss=0.5) for i in range(5)])
            assert [event.stream_version for event in other.read_stream("training/run")] == [0, 1, 2, 3]
        Base.at(address).close()


def test_weights_cost_few_requests_and_no_listing(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To store: the object and the event. To retrieve: what the log has to say, and the object."""
    server.share = 0.0
    model = torch.nn.Linear(2, 2)
    run = SimpleNamespace(name="run_7", model=model, optimizer=torch.optim.Adam(model.parameters()))
    store = LocalWeightsStore(server.address("base"))
    store.store_weights(run, 1)

    def asked(call: Callable[[], object]) -> list[str]:
        server.answered.clear()
        call()
        return [re.sub(r"(log|objects)/.*", r"\1", request.partition("?")[0]) for request in server.answered]

    weights, log = "/bucket/base/run_7/checkpoints/objects", "/bucket/base/events/log"
    assert asked(lambda: store.store_weights(run, 2)) == [f"PUT {weights}", f"PUT {log}"]
    kept = asked(lambda: store.retrieve_weights("run_7", 2))
    assert set(kept) == {f"GET {log}"}
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")
    Base.at(server.address("base")).close()
    again = LocalWeightsStore(server.address("base"))
    again.latest_iteration("run_7")
    fetched = asked(lambda: again.retrieve_weights("run_7", 2))
    assert fetched.count(f"GET {weights}") == 1
    assert set(fetched) == {f"GET {weights}", f"GET {log}"}
    assert not any("list-type" in request for request in server.answered)
