"""What a stats store does, on these stores in DaCapo's place and on DaCapo's file store."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest
from dacapo.experiments import (
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
    ValidationScores,
)
from dacapo.store.stats_store import StatsStore

NAN: Final = float("nan")


def row(iteration: int, loss: float = 0.5) -> Any:
    return TrainingIterationStats(iteration=iteration, loss=loss, time=0.25)


def training(*iterations: int, loss: float = 0.5) -> Any:
    return TrainingStats([row(iteration, loss) for iteration in iterations])


def validation(*iterations: int, score: Any = 0.5) -> Any:
    """Scores of one dataset under one set of parameters, by two criteria."""
    scores = ValidationScores(
        [SimpleNamespace(parameter_names=["threshold"])],
        [SimpleNamespace(name="crop")],
        SimpleNamespace(criteria=["dice", "voi"]),
    )
    for iteration in iterations:
        scores.add_iteration_scores(ValidationIterationScores(iteration, [[[score, NAN]]]))
    return scores


def trained(stores: Any) -> list[tuple[int, float]]:
    rows = stores.stats().retrieve_training_stats("run").iteration_stats
    return [(each.iteration, each.loss) for each in rows]


def validated(stores: Any) -> list[int]:
    return [each.iteration for each in stores.stats().retrieve_validation_iteration_scores("run")]


def bits(values: Any) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def test_it_is_a_stats_store(stores: Any) -> None:
    assert isinstance(stores.stats(), StatsStore)
    assert str(stores.stats().path) == str(stores.base / "stats")


def test_an_unknown_run_has_no_stats_and_no_scores(stores: Any) -> None:
    stats = stores.stats().retrieve_training_stats("nobody")
    assert stats == TrainingStats()
    assert stats.trained_until() == 0
    assert stores.stats().retrieve_validation_iteration_scores("nobody") == []


def test_stats_come_back_in_dacapos_classes_bit_by_bit(stores: Any) -> None:
    """NaN, infinity, -0.0 and a subnormal number among them, in the order that they were given."""
    losses = [0.1, NAN, math.inf, -0.0, 5e-324]
    rows = [TrainingIterationStats(iteration=n, loss=loss, time=n / 3) for n, loss in enumerate(losses)]
    stores.stats().store_training_stats("run", TrainingStats(rows))
    back = stores.stats().retrieve_training_stats("run")
    assert type(back) is TrainingStats
    assert {type(each) for each in back.iteration_stats} == {TrainingIterationStats}
    assert [each.iteration for each in back.iteration_stats] == list(range(5))
    assert bits(each.loss for each in back.iteration_stats) == bits(losses)
    assert bits(each.time for each in back.iteration_stats) == bits(n / 3 for n in range(5))


def test_what_comes_back_goes_on_as_a_trainer_needs_it(stores: Any) -> None:
    """A list that grows, of rows that ``to_xarray`` takes."""
    stores.stats().store_training_stats("run", training(0, 1))
    stats = stores.stats().retrieve_training_stats("run")
    stats.add_iteration_stats(row(2))
    assert stats.trained_until() == 3
    assert stats.to_xarray().values.tolist() == [0.5, 0.5, 0.5]
    stores.stats().store_training_stats("run", stats)
    assert [iteration for iteration, _ in trained(stores)] == [0, 1, 2]


def test_the_whole_list_again_and_again_is_stored_once(stores: Any) -> None:
    stats = training()
    for iteration in range(10):
        stats.add_iteration_stats(row(iteration))
        stores.stats().store_training_stats("run", stats)
    stores.stats().store_training_stats("run", stats)
    assert [iteration for iteration, _ in trained(stores)] == list(range(10))


def test_stats_that_end_before_the_stored_ones_replace_them(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1, 2, 3))
    stores.stats().store_training_stats("run", training(0, 1, loss=0.75))
    assert trained(stores) == [(0, 0.75), (1, 0.75)]


@pytest.mark.defect("a list that holds only new iterations is dropped in silence")
def test_new_iterations_alone_are_added(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1, 2, 3))
    stores.stats().store_training_stats("run", training(4, 5))
    assert [iteration for iteration, _ in trained(stores)] == list(range(6))


@pytest.mark.defect("the changed tail of a resumed run is ignored")
def test_what_a_resumed_run_has_computed_anew_counts(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1, 2, 3))
    resumed = training(0, 1)
    for iteration in (2, 3, 4):
        resumed.add_iteration_stats(row(iteration, 0.75))
    stores.stats().store_training_stats("run", resumed)
    assert trained(stores) == [(0, 0.5), (1, 0.5), (2, 0.75), (3, 0.75), (4, 0.75)]


def test_empty_stats_change_nothing(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1))
    stores.stats().store_training_stats("run", training())
    assert [iteration for iteration, _ in trained(stores)] == [0, 1]


def test_stats_of_one_run_are_not_those_of_another(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1))
    stores.stats().store_training_stats("other", training(0))
    stores.stats().delete_training_stats("other")
    assert [iteration for iteration, _ in trained(stores)] == [0, 1]


def test_deleted_stats_are_gone_and_the_scores_are_not(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1))
    stores.stats().store_validation_iteration_scores("run", validation(1))
    stores.stats().delete_training_stats("run")
    assert trained(stores) == []
    assert validated(stores) == [1]


def test_deleting_stats_that_are_not_there_does_nothing(stores: Any) -> None:
    stores.stats().delete_training_stats("run")
    assert trained(stores) == []


@pytest.mark.defect("the file stats store has no delete_validation_scores")
def test_deleted_scores_are_gone_and_the_stats_are_not(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(0, 1))
    stores.stats().store_validation_iteration_scores("run", validation(1))
    stores.stats().delete_validation_scores("run")
    assert validated(stores) == []
    assert [iteration for iteration, _ in trained(stores)] == [0, 1]


def test_scores_come_back_in_dacapos_class_bit_by_bit(stores: Any) -> None:
    """Ragged ones, with NaN and -0.0; whatever kind of number went in is a Python float."""
    scores = validation()
    nested = [[[1, np.float64(0.1), NAN]], [[-0.0], [math.inf, 2.5]]]
    scores.add_iteration_scores(ValidationIterationScores(100, nested))
    stores.stats().store_validation_iteration_scores("run", scores)
    (back,) = stores.stats().retrieve_validation_iteration_scores("run")
    assert type(back) is ValidationIterationScores
    assert back.iteration == 100
    assert [[len(parameters) for parameters in dataset] for dataset in back.scores] == [[3], [1, 2]]
    flat = [leaf for dataset in back.scores for parameters in dataset for leaf in parameters]
    assert bits(flat) == bits([1.0, 0.1, NAN, -0.0, math.inf, 2.5])


def test_scores_come_back_as_python_floats(stores: Any) -> None:
    stores.stats().store_validation_iteration_scores("run", validation(100, score=np.float64(0.5)))
    stores.stats().store_validation_iteration_scores("run", validation(100, 200, score=1))
    back = stores.stats().retrieve_validation_iteration_scores("run")
    assert {type(leaf) for each in back for leaf in each.scores[0][0]} == {float}


def test_the_same_scores_twice_are_stored_once(stores: Any) -> None:
    """DaCapo stores them after each validation in two places."""
    scores = validation(100, 200)
    for _ in range(2):
        stores.stats().store_validation_iteration_scores("run", scores)
    assert validated(stores) == [100, 200]


def test_scores_that_end_before_the_stored_ones_replace_them(stores: Any) -> None:
    stores.stats().store_validation_iteration_scores("run", validation(100, 200, 300))
    stores.stats().store_validation_iteration_scores("run", validation(100, 150))
    assert validated(stores) == [100, 150]


@pytest.mark.defect("new scores erase the old ones")
def test_new_scores_alone_are_added(stores: Any) -> None:
    stores.stats().store_validation_iteration_scores("run", validation(100, 200, 300))
    stores.stats().store_validation_iteration_scores("run", validation(400))
    assert validated(stores) == [100, 200, 300, 400]


@pytest.mark.defect("the file stats store does not know subsample")
def test_subsampled_stats_are_few_and_have_the_last(stores: Any) -> None:
    stores.stats().store_training_stats("run", training(*range(5000)))
    rows = stores.stats().retrieve_training_stats("run", subsample=True).iteration_stats
    assert 500 <= len(rows) <= 1000
    assert rows[-1].iteration == 4999


@pytest.mark.defect("the file stats store does not know validation_interval")
def test_scores_at_an_interval(stores: Any) -> None:
    stores.stats().store_validation_iteration_scores("run", validation(100, 150, 200, 250))
    back = stores.stats().retrieve_validation_iteration_scores("run", validation_interval=100)
    assert [each.iteration for each in back] == [100, 200]
    back = stores.stats().retrieve_validation_iteration_scores("run", subsample=True)
    assert [each.iteration for each in back] == [100, 150, 200, 250]


def bytes_written() -> int:
    """What this process has written so far, to whatever."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar"))
    return int(line.split()[1])


@pytest.mark.defect("each call rewrites the whole run")
def test_storing_one_more_iteration_costs_one_iteration(stores: Any) -> None:
    stats = training(*range(5000))
    stores.stats().store_training_stats("run", stats)
    stats.add_iteration_stats(row(5000))
    before = bytes_written()
    stores.stats().store_training_stats("run", stats)
    assert bytes_written() - before < 20_000
