"""Corrections: runs rewound and things restored by new events, each of which can be undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo_store import (
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    TrainingIterationStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base
from dacapo_store.corrections import restore, rewind
from dacapo_store.errors import MissingError, WeightsMissingError


class _Run:
    name = "run"

    def __init__(self, value: float = 0.0) -> None:
        self.model = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.model.weight, value)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A run of 60 iterations, validated and its weights stored after 20, 40 and 60; 60 is the best."""
    stats, weights = FileStatsStore(tmp_path / "stats"), LocalWeightsStore(tmp_path)
    for done in (20, 40, 60):
        rows = [TrainingIterationStats(n, loss=1.0 / (n + 1)) for n in range(done - 20, done)]
        stats.store_training_stats("run", rows)
        stats.store_validation_iteration_scores("run", [ValidationIterationScores(done, [[[0.1 * done]]])])
        weights.store_weights(_Run(float(done)), done)
        weights.store_best("run", done, "crop", "voi")
    return Base.at(tmp_path)


def _state(base: Base) -> dict[str, Any]:
    """What the stores answer."""
    stats, weights = FileStatsStore(base.path / "stats"), LocalWeightsStore(base.path)
    links = base.path / "run" / "checkpoints" / "iterations"
    return {
        "trained": stats.retrieve_training_stats("run").iterations.tolist(),
        "validated": [each.iteration for each in stats.retrieve_validation_iteration_scores("run")],
        "latest": weights.latest_iteration("run"),
        "best": weights.retrieve_best("run", "crop", "voi"),
        "links": sorted(int(path.name) for path in links.iterdir()),
    }


def test_a_rewound_run_is_as_it_was_when_it_had_trained_so_far(base: Base) -> None:
    """Stats, scores, weights, best and links at once, in one commit."""
    before = base.log.next_position
    rewind(base, "run", 40)
    assert _state(base) == {
        "trained": list(range(40)),
        "validated": [20, 40],
        "latest": 40,
        "best": 40,
        "links": [20, 40],
    }
    assert base.query("SELECT count(*) FROM training_stats_at(?)", [before]).fetchone() == (60,)
    with pytest.raises(WeightsMissingError):
        LocalWeightsStore(base.path).retrieve_weights("run", 60)


def test_a_rewind_that_changes_nothing_writes_nothing(base: Base) -> None:
    """It can be repeated; a dry run only says what it would do."""
    assert rewind(base, "run", 40, dry_run=True).position is None
    assert _state(base)["latest"] == 60
    done = rewind(base, "run", 40)
    assert done.position == base.log.next_position
    assert [stream for stream, _ in done.steps] == ["training/run", "validation/run", *["weights/run"] * 2]
    assert not rewind(base, "run", 40)
    assert base.log.next_position == done.position


def test_a_rewind_is_undone_by_restoring(base: Base) -> None:
    """Every row, score and file is there again; digests and numbers are those of before."""
    before, position = _state(base), base.log.next_position
    rewind(base, "run", 20)
    for kind in ("training", "validation", "weights"):
        restore(base, kind, "run", at=position)
    assert _state(base) == before
    weights = LocalWeightsStore(base.path).retrieve_weights("run", 60)
    assert weights.model["weight"].item() == 60.0


def test_training_goes_on_after_a_rewind_and_both_branches_stay(base: Base) -> None:
    """The new rows are the view, the old ones the history."""
    rewind(base, "run", 40)
    stats = FileStatsStore(base.path / "stats")
    stats.store_training_stats("run", [TrainingIterationStats(n, loss=7.0) for n in range(40, 50)])
    losses = stats.retrieve_training_stats("run").column("loss")
    assert losses[-1] == 7.0
    assert len(losses) == 50
    assert LocalWeightsStore(base.path).latest_iteration("run") == 40


def test_rows_that_a_logger_holds_are_rewound_with_the_others(base: Base) -> None:
    """They are recorded first, and cut like the rest."""
    with FileStatsStore(base.path / "stats").scalar_logger("run") as log:
        for iteration in range(60, 70):
            log.add(iteration, loss=0.1)
        rewind(base, "run", 65)
        assert _state(base)["trained"] == list(range(65))
    assert base.query("SELECT count(*) FROM training_stats WHERE run = 'run'").fetchone() == (65,)


def test_rewinding_what_never_was_is_an_error(base: Base) -> None:
    """With the names that are close."""
    with pytest.raises(MissingError, match="did you mean 'run'"):
        rewind(base, "rum", 3)
    with pytest.raises(ValueError, match="count from 0"):
        rewind(base, "run", -1)


def test_a_deleted_config_is_restored(tmp_path: Path) -> None:
    """As it was before the deletion, or as an earlier document."""
    configs = FileConfigStore(tmp_path / "configs")
    configs.store_task_config({"name": "t", "n": 1})
    configs.delete_task_config("t")
    base = Base.at(tmp_path)
    assert restore(base, "tasks", "t", dry_run=True)
    assert configs.retrieve_task_config_names() == []
    restore(base, "tasks", "t")
    assert configs.retrieve_task_config("t", raw=True) == {"name": "t", "n": 1}
    configs.delete_task_config("t")
    configs.store_task_config({"name": "t", "n": 2})
    restore(base, "tasks", "t", at=1)
    assert configs.retrieve_task_config("t", raw=True) == {"name": "t", "n": 1}
    assert not restore(base, "tasks", "t", at=1)
    with pytest.raises(MissingError, match="at that moment"):
        restore(base, "tasks", "t", at=2)


def test_weights_whose_files_are_gone_are_not_restored(base: Base) -> None:
    """Removing deletes them; the error says so and nothing is written."""
    position = base.log.next_position
    LocalWeightsStore(base.path).remove("run", 60)
    length = base.log.next_position
    with pytest.raises(MissingError, match="iteration 60 are gone"):
        restore(base, "weights", "run", at=position)
    assert base.log.next_position == length


_rows = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.5, -0.0, float("nan")])), max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(_rows, min_size=1, max_size=5), st.data())
def test_any_past_of_a_run_s_stats_can_be_restored(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[tuple[int, float]]], data: st.DataObject
) -> None:
    """Bit by bit and in its order, whatever came after it."""
    path = tmp_path_factory.mktemp("base")
    stats = FileStatsStore(path / "stats")
    base = Base.at(path)
    seen: list[tuple[int, Any]] = []
    for rows in calls:
        stats.store_training_stats("run", [TrainingIterationStats(n, loss=loss) for n, loss in rows])
        found = stats.retrieve_training_stats("run")
        seen.append((base.log.next_position, found))
    if base.log.next_position:
        position, wanted = data.draw(st.sampled_from(seen))
        restore(base, "training", "run", at=position)
        found = stats.retrieve_training_stats("run")
        assert found.iterations.tolist() == wanted.iterations.tolist()
        if len(wanted.iterations):
            assert np.array_equal(
                np.asarray(found.column("loss")).view(np.int64),
                np.asarray(wanted.column("loss")).view(np.int64),
            )
    base.close()
