"""A list that comes back grown is stored by what is new in it, and with the same outcome."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import FileStatsStore, ValidationIterationScores
from dacapo_store.base import Base

if TYPE_CHECKING:
    from pathlib import Path


class Stats:
    """Stats as DaCapo's: an object with a list of rows."""

    def __init__(self, rows: list[Any]) -> None:
        self.iteration_stats = rows


class Row:
    """A row that counts how often it is read."""

    def __init__(self, iteration: int, loss: float) -> None:
        self._iteration = iteration
        self.loss = loss
        self.time = 0.1
        self.reads = 0

    @property
    def iteration(self) -> int:
        """The iteration, counted."""
        self.reads += 1
        return self._iteration


@pytest.fixture
def store(tmp_path: Path) -> FileStatsStore:
    """A stats store of a new base."""
    return FileStatsStore(tmp_path / "stats")


def _rows(first: int, stop: int, loss: float = 0.5) -> list[Any]:
    return [Row(iteration, loss) for iteration in range(first, stop)]


def _stored(store: FileStatsStore, run: str = "run") -> list[tuple[int, float]]:
    return [(row.iteration, row.loss) for row in store.retrieve_training_stats(run).iteration_stats]


def test_rows_that_were_stored_are_not_read_again(store: FileStatsStore) -> None:
    """A call costs what is new."""
    stats = Stats(_rows(0, 5))
    store.store_training_stats("run", stats)
    reads = [row.reads for row in stats.iteration_stats]
    stats.iteration_stats += _rows(5, 7)
    store.store_training_stats("run", stats)
    assert [row.reads for row in stats.iteration_stats[:5]] == reads
    assert _stored(store) == [(iteration, 0.5) for iteration in range(7)]


def test_same_list_again_writes_nothing(store: FileStatsStore) -> None:
    """Nothing new, nothing written."""
    stats = Stats(_rows(0, 5))
    store.store_training_stats("run", stats)
    position = Base.at(store.path.parent).log.next_position
    store.store_training_stats("run", stats)
    assert Base.at(store.path.parent).log.next_position == position


def test_list_cut_and_grown_again_is_noticed(store: FileStatsStore) -> None:
    """The list is the same object, its rows are not."""
    stats = Stats(_rows(0, 5))
    store.store_training_stats("run", stats)
    stats.iteration_stats[3:] = _rows(3, 8, loss=0.25)
    store.store_training_stats("run", stats)
    assert _stored(store) == [(0, 0.5), (1, 0.5), (2, 0.5), *((n, 0.25) for n in range(3, 8))]


def test_rows_that_go_back_behind_the_first_are_noticed(store: FileStatsStore) -> None:
    """What begins earlier may cut what lies below."""
    store.store_training_stats("run", Stats(_rows(0, 3)))
    stats = Stats(_rows(2, 5, loss=0.25))
    store.store_training_stats("run", stats)
    stats.iteration_stats += _rows(1, 2, loss=0.125)
    store.store_training_stats("run", stats)
    assert _stored(store) == [(0, 0.5), (2, 0.25), (3, 0.25), (4, 0.25), (1, 0.125)]


def test_what_others_did_in_between_is_noticed(store: FileStatsStore) -> None:
    """Stats that were deleted are stored again, all of them."""
    stats = Stats(_rows(0, 5))
    store.store_training_stats("run", stats)
    store.delete_training_stats("run")
    store.store_training_stats("run", stats)
    assert len(_stored(store)) == 5


def test_one_object_may_be_stored_for_two_runs(store: FileStatsStore) -> None:
    """What one run has, another may not."""
    stats = Stats(_rows(0, 5))
    store.store_training_stats("one", stats)
    store.store_training_stats("two", stats)
    assert _stored(store, "one") == _stored(store, "two")


def test_unchanged_scores_are_not_read_again(store: FileStatsStore) -> None:
    """DaCapo stores the scores of a validation twice."""
    scores = SimpleNamespace(scores=[ValidationIterationScores(10, [[[0.5]]])])
    store.store_validation_iteration_scores("run", scores)
    scores.scores.append(ValidationIterationScores(20, [[[0.25]]]))
    for _ in range(2):
        store.store_validation_iteration_scores("run", scores)
    assert [row.iteration for row in store.retrieve_validation_iteration_scores("run")] == [10, 20]


def test_what_is_remembered_goes_with_the_object(store: FileStatsStore) -> None:
    """A trainer's rows are not kept alive."""
    stats = Stats(_rows(0, 5))
    row = weakref.ref(stats.iteration_stats[0])
    store.store_training_stats("run", stats)
    del stats
    gc.collect()
    assert row() is None


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 12), min_size=1, max_size=4)),
        st.tuples(st.just("cut"), st.integers(0, 8)),
        st.tuples(st.just("replace"), st.integers(0, 8)),
        st.tuples(st.just("reverse"), st.just(0)),
        st.tuples(st.just("delete"), st.just(0)),
    ),
    max_size=8,
)


@given(_STEPS)
def test_outcome_is_that_of_a_list_never_seen(tmp_path: Path, steps: list[tuple[str, Any]]) -> None:
    """Whatever is done to the list in place, storing it is as storing an object that is new each time."""
    store = FileStatsStore(tmp_path / "stats")
    runs = [f"{kind} {Base.at(tmp_path).log.next_position}" for kind in ("same", "new")]
    stats = Stats(_rows(0, 3))
    for number, (what, argument) in enumerate(steps):
        rows = stats.iteration_stats
        if what == "append":
            rows += [Row(iteration, float(number)) for iteration in argument]
        elif what == "cut":
            del rows[argument:]
        elif what == "replace" and argument < len(rows):
            rows[argument] = Row(rows[argument].iteration, float(number))
        elif what == "reverse":
            rows.reverse()
        elif what == "delete":
            for run in runs:
                store.delete_training_stats(run)
        for run, each in zip(runs, (stats, Stats(list(rows))), strict=True):
            store.store_training_stats(run, each)
        assert _stored(store, runs[0]) == _stored(store, runs[1])
