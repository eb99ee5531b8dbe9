"""A new base from an old one: equal content, a past state, or without what must leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from dacapo_store import FileConfigStore, FileStatsStore, LocalWeightsStore, TrainingIterationStats
from dacapo_store.base import Base
from dacapo_store.replay import plan_replay, receipt_of, replay, same_content
from eventstore import DuplicateEventError, Event, EventLog, LogNotFoundError, verify_log


class _Run:
    name = "run"

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A base with all kinds of events, a password among them."""
    base = tmp_path / "old"
    configs, stats = FileConfigStore(base / "configs"), FileStatsStore(base / "stats")
    weights = LocalWeightsStore(base)
    configs.store_task_config({"name": "t", "password": "hunter2"})
    for begin in (0, 10, 5):
        rows = [TrainingIterationStats(n, loss=1.0 / (begin + n + 1)) for n in range(begin, begin + 10)]
        stats.store_training_stats("run", rows)
        weights.store_weights(_Run(), begin)
    weights.store_best(_Run(), 5, "crop", "voi")
    return base


def _events(base: Path) -> list[tuple[object, ...]]:
    with EventLog.open(base / "events", read_only=True) as log:
        return [
            (event.event_id, event.recorded_at, event.stream, event.stream_version, event.type, event.data)
            for event in log.read()
        ]


def test_a_whole_replay_has_equal_content(old: Path, tmp_path: Path) -> None:
    """Same ids, same times, same views; weights load; the receipt names the source's chain value."""
    receipt = replay(old, tmp_path / "new")
    assert _events(old) == _events(tmp_path / "new")
    assert same_content(old, tmp_path / "new", position=receipt.position)
    assert receipt.complete
    assert receipt.payloads == 3
    assert verify_log(old / "events", expect=receipt.chain).expected_at == receipt.position
    assert verify_log(tmp_path / "new" / "events", expect=receipt.new_chain).ok
    assert LocalWeightsStore(tmp_path / "new").retrieve_weights("run", 5).model
    found = receipt_of(tmp_path / "new")
    assert found is not None
    assert found["chain"] == receipt.chain
    assert receipt_of(old) is None


def test_a_replay_until_a_moment_branches_from_the_past(old: Path, tmp_path: Path) -> None:
    """Both go on by themselves."""
    position = Base.at(old).log.next_position // 2
    receipt = replay(old, tmp_path / "new", until=position)
    assert receipt.events == position
    assert same_content(old, tmp_path / "new", position=position)
    FileConfigStore(tmp_path / "new" / "configs").store_task_config({"name": "other"})
    assert FileConfigStore(old / "configs").retrieve_task_config_names() == ["t"]


def test_a_secret_leaves_by_a_transform(old: Path, tmp_path: Path) -> None:
    """Nothing of it is in any file of the new base."""

    def without_password(stream: str, event: Event) -> tuple[str, Event]:
        if event.type != "ConfigStored":
            return stream, event
        document = {key: value for key, value in event.data["document"].items() if key != "password"}
        return stream, replace(event, data={**event.data, "document": document})

    receipt = replay(old, tmp_path / "new", transform=without_password)
    assert not receipt.complete
    assert FileConfigStore(tmp_path / "new" / "configs").retrieve_task_config("t", raw=True) == {"name": "t"}
    assert not any(
        b"hunter2" in path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()
    )
    assert any(b"hunter2" in path.read_bytes() for path in (old / "events").glob("*.arrows"))


def test_events_are_chosen_by_type(old: Path, tmp_path: Path) -> None:
    """A base of configs alone, say."""
    receipt = replay(old, tmp_path / "new", types=["ConfigStored"])
    assert receipt.events == 1
    assert receipt.payloads == 0


@pytest.mark.parametrize(("until", "types"), [(None, None), (6, None), (None, ["ConfigStored"])])
def test_a_plan_says_what_a_replay_takes(
    old: Path, tmp_path: Path, until: int | None, types: list[str] | None
) -> None:
    """Events and weights files, and nothing is written."""
    plan = plan_replay(old, tmp_path / "new", until=until, types=types)
    assert not (tmp_path / "new").exists()
    receipt = replay(old, tmp_path / "new", until=until, types=types)
    assert (plan.position, plan.events, plan.payloads) == (receipt.position, receipt.events, receipt.payloads)


def test_a_replay_that_is_repeated_writes_nothing_twice(old: Path, tmp_path: Path) -> None:
    """One that was interrupted is simply repeated; another one is refused."""
    first = replay(old, tmp_path / "new", until=6)
    assert replay(old, tmp_path / "new", until=6) == first
    with pytest.raises(DuplicateEventError):
        replay(
            old, tmp_path / "new", transform=lambda stream, event: (stream, replace(event, data={"other": 1}))
        )


def test_a_target_that_is_not_empty_is_refused(old: Path, tmp_path: Path) -> None:
    """And so is one within the base, and a source that is no base."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        replay(old, tmp_path / "full")
    with pytest.raises(ValueError, match="within each other"):
        replay(old, old / "new")
    with pytest.raises(LogNotFoundError):
        replay(tmp_path / "none", tmp_path / "new")
