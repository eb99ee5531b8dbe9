"""The stores as they were: the same interface over an earlier state, which nothing changes."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from dacapo_store import (
    ConfigMissingError,
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    TrainingIterationStats,
)
from dacapo_store.base import Base
from eventstore import ReadOnlyLogError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A task that is stored, deleted and stored differently; a run whose tail was trained again."""
    configs, stats = FileConfigStore(tmp_path / "configs"), FileStatsStore(tmp_path / "stats")
    configs.store_task_config({"name": "t", "n": 1})  # 0
    stats.store_training_stats("run", [TrainingIterationStats(n, loss=1.0) for n in range(10)])  # 1
    configs.delete_task_config("t")  # 2
    configs.store_task_config({"name": "t", "n": 2})  # 3
    stats.store_training_stats("run", [TrainingIterationStats(n, loss=0.5) for n in range(5, 12)])  # 4, 5
    return tmp_path


def test_stores_answer_as_they_did_then(path: Path) -> None:
    """Configs, names, stats; what was deleted or replaced since is there."""
    for position, document, iterations in ((0, None, 0), (1, 1, 0), (2, 1, 10), (3, None, 10), (6, 2, 12)):
        configs = FileConfigStore(path / "configs", as_of=position)
        stats = FileStatsStore(path / "stats", as_of=position)
        assert configs.retrieve_task_config_names() == ([] if document is None else ["t"])
        assert len(stats.retrieve_training_stats("run").iterations) == iterations
        if document is None:
            with pytest.raises(ConfigMissingError):
                configs.retrieve_task_config("t")
        else:
            assert configs.retrieve_task_config("t", raw=True)["n"] == document


def test_the_past_stays_while_the_present_goes_on(path: Path) -> None:
    """What is stored now shows nowhere in it."""
    stats = FileStatsStore(path / "stats", as_of=2)
    FileStatsStore(path / "stats").delete_training_stats("run")
    assert stats.retrieve_training_stats("run").column("loss").tolist() == [1.0] * 10


def test_the_past_does_not_change(path: Path) -> None:
    """Every write is refused, with a way out, and nothing is written."""
    length = Base.at(path).log.next_position
    configs, stats = FileConfigStore(path / "configs", as_of=2), FileStatsStore(path / "stats", as_of=2)
    with pytest.raises(ReadOnlyLogError, match=r"as of position 2.*restore or rewind"):
        configs.store_task_config({"name": "new"})
    with pytest.raises(ReadOnlyLogError):
        configs.delete_task_config("t")
    with pytest.raises(ReadOnlyLogError):
        stats.store_training_stats("run", [TrainingIterationStats(99, loss=1.0)])
    assert Base.at(path).log.next_position == length


def test_a_time_is_as_good_as_a_position(path: Path) -> None:
    """With a zone; what lies outside the log is refused and said so."""
    log = Base.at(path).log
    third = list(log.read())[2].recorded_at
    before = FileConfigStore(path / "configs", as_of=third - timedelta(microseconds=1))
    assert before.retrieve_task_config("t", raw=True) == {"name": "t", "n": 1}
    assert (
        FileConfigStore(path / "configs", as_of=datetime.now(UTC)).retrieve_task_config("t", raw=True)["n"]
        == 2
    )
    with pytest.raises(ValueError, match="needs a time zone"):
        FileConfigStore(path / "configs", as_of=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="before the first event"):
        FileConfigStore(path / "configs", as_of="1999-01-01T00:00Z")
    with pytest.raises(ValueError, match="it has the positions 0 to 6"):
        FileConfigStore(path / "configs", as_of=7)
    with pytest.raises(ValueError, match="neither a position nor a time"):
        FileConfigStore(path / "configs", as_of="yesterday-ish")


def test_a_past_store_travels_to_other_processes(path: Path) -> None:
    """As path and position."""
    copy = pickle.loads(pickle.dumps(FileConfigStore(path / "configs", as_of=1)))
    assert copy.retrieve_task_config("t", raw=True) == {"name": "t", "n": 1}


def test_weights_are_those_of_then(path: Path) -> None:
    """Stored again since, or removed from view: the past loads its own file."""
    torch = pytest.importorskip("torch")
    weights = LocalWeightsStore(path)
    run = SimpleNamespace(name="run", model=torch.nn.Linear(1, 1, bias=False))
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    positions = []
    for value in (1.0, 2.0):
        torch.nn.init.constant_(run.model.weight, value)
        weights.store_weights(run, 5)
        positions.append(Base.at(path).log.next_position)
    for position, value in zip(positions, (1.0, 2.0), strict=True):
        then = LocalWeightsStore(path, as_of=position)
        assert then.retrieve_weights("run", 5).model["weight"].item() == value
    assert LocalWeightsStore(path, as_of=positions[0] - 1).latest_iteration("run") is None
    with pytest.raises(ReadOnlyLogError):
        LocalWeightsStore(path, as_of=positions[0]).remove("run", 5)
