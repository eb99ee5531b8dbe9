"""The stats store: the rule of storing, what comes back, and what a call costs in events."""

from __future__ import annotations

import itertools
import math
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dacapo_store import (
    FileStatsStore,
    MongoStatsStore,
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base
from dacapo_store.stats_store import SUBSAMPLE_POINTS_MAX, LogStatsStore, subsampled

RUN = "run_7"


@pytest.fixture(params=["files", "mongo"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LogStatsStore:
    """A stats store on a fresh base."""
    if request.param == "mongo":
        return MongoStatsStore(*request.getfixturevalue("mongodb"), files=tmp_path)
    return FileStatsStore(tmp_path / "stats")


@pytest.fixture
def file_store(tmp_path: Path) -> FileStatsStore:
    """A stats store on a fresh base in a directory."""
    return FileStatsStore(tmp_path / "stats")


@pytest.fixture
def base(store: LogStatsStore) -> Base:
    """The base of that store."""
    return store._base


def losses(*pairs: tuple[int, float]) -> TrainingStats:
    """Training stats with a loss each."""
    return TrainingStats([TrainingIterationStats(iteration, loss=loss) for iteration, loss in pairs])


def stored_losses(store: LogStatsStore, run: Any = RUN) -> list[tuple[int, float | None]]:
    """What the store shows of a run's losses."""
    return [(row.iteration, row.loss) for row in store.retrieve_training_stats(run).iteration_stats]


def scores(*pairs: tuple[int, list[list[list[float]]]]) -> list[ValidationIterationScores]:
    """Validation scores, iteration by iteration."""
    return [ValidationIterationScores(iteration, nested) for iteration, nested in pairs]


def stored_scores(store: LogStatsStore, **options: Any) -> list[tuple[int, list[list[list[float]]]]]:
    """What the store shows of a run's scores."""
    return [(row.iteration, row.scores) for row in store.retrieve_validation_iteration_scores(RUN, **options)]


def single(*pairs: tuple[int, float]) -> list[ValidationIterationScores]:
    """Scores of one dataset, one set of parameters, one criterion."""
    return scores(*((iteration, [[[score]]]) for iteration, score in pairs))


def recorded_rows(base: Base) -> list[int]:
    """How many rows each event of the base holds."""
    return [0 if event.index is None else len(event.index) for event in base.log.read()]


# --- what comes back


def test_an_unknown_run_has_empty_stats_and_no_scores(store: LogStatsStore) -> None:
    """A trainer asks for both before it has stored anything."""
    assert len(store.retrieve_training_stats(RUN).iteration_stats) == 0
    assert store.retrieve_training_stats(RUN).trained_until() == 0
    assert store.retrieve_validation_iteration_scores(RUN) == []


def test_a_run_may_be_an_object_with_a_name(store: LogStatsStore) -> None:
    """DaCapo passes names mostly, and run objects at times."""
    store.store_training_stats(SimpleNamespace(name=RUN), losses((0, 1.0)))
    assert stored_losses(store) == stored_losses(store, SimpleNamespace(name=RUN)) == [(0, 1.0)]


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_run_without_a_name_is_refused(store: LogStatsStore, name: Any) -> None:
    """An empty name would be a mistake that nobody finds again."""
    with pytest.raises(ValueError, match="name"):
        store.store_training_stats(name, losses((0, 1.0)))
    with pytest.raises(ValueError, match="name"):
        store.retrieve_validation_iteration_scores(name)


def test_names_of_runs_are_data_here(file_store: FileStatsStore) -> None:
    """A name that could be no folder is one in the log all the same, and leaves no folder."""
    for name in ("../../escape", "a/b", "ü λ", "x' OR '1'='1"):
        file_store.store_training_stats(name, losses((0, float(len(name)))))
    assert stored_losses(file_store, "a/b") == [(0, 3.0)]
    assert stored_losses(file_store, "x' OR '1'='1") == [(0, 12.0)]
    assert {path.name for path in file_store.path.parent.iterdir()} <= {"events", "views"}


def test_floats_come_back_bit_by_bit(store: LogStatsStore) -> None:
    """NaN, infinities, -0.0 and denormals are what they were."""
    odd = [math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1]
    store.store_training_stats(RUN, losses(*enumerate(odd)))
    store.store_validation_iteration_scores(RUN, single(*enumerate(odd)))
    back = store.retrieve_training_stats(RUN).column("loss")
    assert back.tobytes() == struct.pack("<7d", *odd)
    assert struct.pack("<7d", *(nested[0][0][0] for _, nested in stored_scores(store))) == back.tobytes()


def test_any_named_scalar_is_stored(store: LogStatsStore) -> None:
    """Loss and time are no more than two scalars among others, each of which a row may lack."""
    rows = [
        TrainingIterationStats(0, loss=1.0, time=0.5),
        TrainingIterationStats(1, loss=0.5, learning_rate=0.01),
        TrainingIterationStats(2, learning_rate=math.nan),
        TrainingIterationStats(3),
    ]
    store.store_training_stats(RUN, TrainingStats(rows))
    back = store.retrieve_training_stats(RUN)
    assert list(back.iteration_stats) == rows
    assert back.present("learning_rate").tolist() == [False, True, True, False]


def test_stats_of_dacapos_make_are_stored(store: LogStatsStore) -> None:
    """Objects with the attributes that DaCapo's have are enough."""
    rows = [SimpleNamespace(iteration=i, loss=np.float64(1 / (i + 1)), time=0.1) for i in range(3)]
    store.store_training_stats(RUN, SimpleNamespace(iteration_stats=rows))
    assert stored_losses(store) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_leaves_of_scores_come_back_as_floats(store: LogStatsStore) -> None:
    """Ints and numpy's numbers among the scores become Python floats."""
    store.store_validation_iteration_scores(RUN, scores((5, [[[1, np.float64(0.5), math.inf]]])))
    ((_, nested),) = stored_scores(store)
    assert nested == [[[1.0, 0.5, math.inf]]]
    assert [type(leaf) for leaf in nested[0][0]] == [float, float, float]


@pytest.mark.parametrize(
    "nested", [[], [[]], [[[]]], [[[0.1, 0.2]], [[0.3, 0.4]]], [[[1.0], [2.0, 3.0]], [], [[4.0]]]]
)
def test_scores_of_any_shape_come_back(store: LogStatsStore, nested: list[list[list[float]]]) -> None:
    """Datasets, parameters and criteria may be ragged or missing."""
    store.store_validation_iteration_scores(RUN, scores((1, nested), (2, [[[0.5]]])))
    assert stored_scores(store) == [(1, nested), (2, [[[0.5]]])]


def test_order_and_repeated_iterations_stay_as_given(store: LogStatsStore) -> None:
    """The stores sort nothing and merge nothing."""
    pairs = [(3, 0.3), (1, 0.1), (1, 0.2), (2, 0.4)]
    store.store_training_stats(RUN, [TrainingIterationStats(i, loss=loss) for i, loss in pairs])
    store.store_validation_iteration_scores(RUN, single(*pairs))
    assert stored_losses(store) == pairs
    assert [(iteration, nested[0][0][0]) for iteration, nested in stored_scores(store)] == pairs


# --- the rule; "validation scores: new ones erase old ones …" in DaCapo's own stores


def test_scores_of_new_iterations_keep_the_old_ones(store: LogStatsStore) -> None:
    """[100, 200, 300], then [400], leaves all four."""
    store.store_validation_iteration_scores(RUN, single((100, 0.1), (200, 0.2), (300, 0.3)))
    store.store_validation_iteration_scores(RUN, single((400, 0.4)))
    assert [iteration for iteration, _ in stored_scores(store)] == [100, 200, 300, 400]


def test_training_stats_of_only_new_iterations_are_kept(store: LogStatsStore) -> None:
    """A list that holds only what is new is not dropped."""
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5)))
    store.store_training_stats(RUN, losses((2, 0.25)))
    assert stored_losses(store) == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_a_resumed_runs_changed_tail_counts(store: LogStatsStore) -> None:
    """Trained to 3, resumed at 2 and trained to 4: the new tail is what is seen."""
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5), (2, 0.4), (3, 0.3)))
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5), (2, 0.45), (3, 0.35), (4, 0.2)))
    assert stored_losses(store) == [(0, 1.0), (1, 0.5), (2, 0.45), (3, 0.35), (4, 0.2)]


def test_stats_that_end_earlier_replace_the_stored_ones(store: LogStatsStore) -> None:
    """Whoever starts over says so by storing less."""
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5), (2, 0.4)))
    store.store_training_stats(RUN, losses((0, 0.9)))
    assert stored_losses(store) == [(0, 0.9)]


def test_storing_nothing_changes_nothing(store: LogStatsStore, base: Base) -> None:
    """Empty stats are no order to delete."""
    store.store_training_stats(RUN, losses((0, 1.0)))
    before = base.log.next_position
    store.store_training_stats(RUN, TrainingStats())
    store.store_validation_iteration_scores(RUN, [])
    assert base.log.next_position == before


def test_the_branch_that_left_the_view_stays_in_history(store: LogStatsStore, base: Base) -> None:
    """As of the time before the rewind, the old tail is what was seen."""
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5), (2, 0.4)))
    before = base.log.next_position
    store.store_training_stats(RUN, losses((1, 0.6), (2, 0.3), (3, 0.2)))
    sql = "SELECT iteration, loss FROM training_stats_at(?) WHERE run = ? ORDER BY position, ordinal"
    past = base.query(sql, [before, RUN]).fetchall()
    assert past == [(0, 1.0), (1, 0.5), (2, 0.4)]


# --- what a call writes; "each call rewrites the whole run"


def test_the_whole_list_again_writes_only_what_is_new(store: LogStatsStore, base: Base) -> None:
    """A trainer passes everything from iteration 0 on, each time; one row an iteration is recorded."""
    every = [(iteration, 1 / (iteration + 1)) for iteration in range(50)]
    for end in range(10, 51, 10):
        store.store_training_stats(RUN, losses(*every[:end]))
    assert recorded_rows(base) == [10, 10, 10, 10, 10]
    assert stored_losses(store) == every


def test_identical_scores_stored_twice_are_one_event(store: LogStatsStore, base: Base) -> None:
    """DaCapo stores the same scores twice at each validation."""
    for _ in range(2):
        store.store_validation_iteration_scores(RUN, scores((10, [[[0.1, math.nan]]])))
    assert base.log.next_position == 1


def test_another_store_object_knows_what_is_stored(store: LogStatsStore, base: Base, tmp_path: Path) -> None:
    """DaCapo makes a new store for each call; none of them starts from nothing."""
    store.store_training_stats(RUN, losses((0, 1.0)))
    if isinstance(store, MongoStatsStore):
        again: LogStatsStore = MongoStatsStore(store.db_host, store.db_name, files=tmp_path)
    else:
        again = FileStatsStore(tmp_path / "stats")
    again.store_training_stats(RUN, losses((0, 1.0), (1, 0.5)))
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5)))
    assert recorded_rows(base) == [1, 1]


def test_a_call_that_comes_second_decides_anew(
    store: LogStatsStore, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and appending another process stores: the rule is applied to what that left."""
    append = base.append

    def append_second(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(base, "append", append)
        store.store_training_stats(RUN, losses((0, 9.0), (1, 8.0), (2, 7.0)))
        return append(*arguments, **options)

    monkeypatch.setattr(base, "append", append_second)
    store.store_training_stats(RUN, losses((1, 0.5), (3, 0.2)))
    assert stored_losses(store) == [(0, 9.0), (1, 0.5), (3, 0.2)]


def test_a_store_on_the_base_itself_sees_the_same_history(tmp_path: Path) -> None:
    """Only the folder's name says that the base is its parent."""
    FileStatsStore(tmp_path).store_training_stats(RUN, losses((0, 1.0)))
    assert stored_losses(FileStatsStore(tmp_path / "stats")) == [(0, 1.0)]
    assert stored_losses(FileStatsStore(tmp_path / "elsewhere")) == []


def test_a_relative_path_is_resolved_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the working directory moves no history."""
    monkeypatch.chdir(tmp_path)
    store = FileStatsStore("stats")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.store_training_stats(RUN, losses((0, 1.0)))
    assert str(store.path) == str(tmp_path / "stats")
    assert str(store.training_stats.parent) == str(store.validation_scores.parent) == str(store.path)
    assert stored_losses(FileStatsStore(tmp_path / "stats")) == [(0, 1.0)]


def test_what_is_no_number_is_refused_and_nothing_stored(store: LogStatsStore, base: Base) -> None:
    """The text names the iteration."""
    row = SimpleNamespace(iteration=3, loss="0.5", time=1.0)
    with pytest.raises(TypeError, match="3"):
        store.store_training_stats(RUN, [row])
    assert base.log.next_position == 0


# --- deleting; "file stats lack … delete_validation_scores"


def test_deleted_stats_are_gone_and_may_be_stored_anew(store: LogStatsStore, base: Base) -> None:
    """Deleting stats and deleting scores are two things, and neither ends the run."""
    store.store_training_stats(RUN, losses((0, 1.0), (1, 0.5)))
    store.store_validation_iteration_scores(RUN, single((1, 0.1)))
    store.delete_training_stats(RUN)
    assert stored_losses(store) == []
    assert len(stored_scores(store)) == 1
    store.delete_validation_scores(RUN)
    assert stored_scores(store) == []
    store.store_training_stats(RUN, losses((0, 1.0)))
    store.store_validation_iteration_scores(RUN, single((1, 0.2)))
    assert (stored_losses(store), stored_scores(store)) == ([(0, 1.0)], [(1, [[[0.2]]])])


def test_deleting_what_is_not_there_does_nothing(store: LogStatsStore, base: Base) -> None:
    """Neither an error nor an event."""
    store.delete_training_stats(RUN)
    store.delete_validation_scores(RUN)
    assert base.log.next_position == 0


# --- fewer points; "file stats lack subsample, validation_interval …"


def test_few_points_are_all_shown(store: LogStatsStore) -> None:
    """Subsampling leaves alone what is small enough."""
    store.store_training_stats(RUN, losses((0, 1.0), (7, 0.5)))
    assert store.retrieve_training_stats(RUN, subsample=True) == store.retrieve_training_stats(RUN)


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> int:
    """A subsample has fewer, so that less must be stored to have more: MongoDB takes a while for each."""
    monkeypatch.setattr("dacapo_store.stats_store.SUBSAMPLE_POINTS_MAX", 100)
    return 100


def test_many_points_are_shown_evenly_with_the_last(store: LogStatsStore, few_points: int) -> None:
    """At most so many of 500 points, at one distance, and the last."""
    stats = TrainingStats.from_columns(np.arange(500), {"loss": np.linspace(1, 0, 500)})
    store.store_training_stats(RUN, stats)
    shown = store.retrieve_training_stats(RUN, subsample=True)
    iterations = shown.iterations
    assert len(iterations) <= few_points
    assert iterations[-1] == 499
    assert len(set(np.diff(iterations[:-1]).tolist())) == 1
    assert shown.column("loss").tolist() == stats.column("loss")[iterations].tolist()


@pytest.mark.parametrize(
    "iterations",
    [
        range(1001),
        range(200_000),
        range(1, 3_000_000, 100),
        [*range(0, 50_000, 7), 50_001],
        [5] * 3000,
        [*range(5000), *range(2500, 4000)],
        range(10_000, -10_000, -3),
    ],
    ids=["barely", "dense", "offset", "odd end", "repeated", "back and forth", "falling"],
)
def test_a_subsample_is_small_and_spread_and_has_the_last_point(iterations: Any) -> None:
    """Whatever the spacing: at most 1,000 points, no gap far above the even step, the last point in."""
    iterations = list(iterations)
    places = subsampled(iterations)
    shown = sorted(iterations[place] for place in places)
    assert places == sorted(set(places))
    assert len(places) <= SUBSAMPLE_POINTS_MAX
    assert max(iterations) in shown
    span = max(iterations) - min(iterations)
    assert all(after - before <= 3 * span / 900 + 1 for before, after in itertools.pairwise(shown))


def test_the_validation_interval_keeps_its_multiples(store: LogStatsStore) -> None:
    """With or without subsampling."""
    store.store_validation_iteration_scores(RUN, single(*((i, i / 10) for i in range(0, 100, 5))))
    for subsample in (False, True):
        kept = stored_scores(store, validation_interval=20, subsample=subsample)
        assert [iteration for iteration, _ in kept] == [0, 20, 40, 60, 80]


def test_scores_can_be_subsampled_without_an_interval(store: LogStatsStore, few_points: int) -> None:
    """Without one, the points' own distance is the step's unit."""
    store.store_validation_iteration_scores(RUN, single(*((i * 10, 0.5) for i in range(150))))
    iterations = [iteration for iteration, _ in stored_scores(store, subsample=True)]
    assert len(iterations) <= few_points
    assert iterations[-1] == 1490
    assert set(np.diff(iterations[:-1]).tolist()) == {20}


@pytest.mark.parametrize("interval", [0, -5])
def test_an_interval_below_one_is_refused(store: LogStatsStore, interval: int) -> None:
    """There are no multiples to keep."""
    with pytest.raises(ValueError, match="validation_interval"):
        store.retrieve_validation_iteration_scores(RUN, validation_interval=interval)


def test_a_base_and_its_copy_are_two_histories(tmp_path: Path) -> None:
    """They share a log id; what was stored in one since is no part of the other."""
    stats = [TrainingIterationStats(iteration, loss=1.0, time=0.1) for iteration in range(6)]
    one = FileStatsStore(tmp_path / "one" / "stats")
    one.store_training_stats("run", stats[:2])
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    one.store_training_stats("run", stats[:4])
    other = FileStatsStore(tmp_path / "other" / "stats")
    other.store_training_stats("run", stats[:3])
    assert len(one.retrieve_training_stats("run").iteration_stats) == 4
    assert len(other.retrieve_training_stats("run").iteration_stats) == 3
