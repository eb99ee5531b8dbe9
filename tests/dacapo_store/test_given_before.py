"""A list that comes back grown is stored by what is new in it, and with the same outcome."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import FileStatsStore, TrainingIterationStats, TrainingStats, ValidationIterationScores
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


@attrs.define(slots=False)
class AttrsRow:
    """A row of DaCapo's make: its ``==`` compares all of its fields."""

    iteration: int
    loss: float
    time: float = 0.1


@attrs.define(slots=False)
class CarelessRow:
    """A row whose ``==`` does not look at everything."""

    iteration: int
    loss: float = attrs.field(eq=False)
    time: float = 0.1


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


@pytest.mark.parametrize(
    ("kind", "losses", "replaced"),
    [
        (AttrsRow, [0.5, 0.25, 0.125], 0.75),
        (AttrsRow, [0.5, 0.0, 0.125], -0.0),
        (AttrsRow, [0.5, float("nan"), 0.125], 0.75),
        (CarelessRow, [0.5, 0.25, 0.125], 0.75),
        (Row, [0.5, 0.25, 0.125], 0.75),
    ],
)
def test_row_replaced_in_the_middle_is_noticed(
    store: FileStatsStore, kind: type[Any], losses: list[float], replaced: float
) -> None:
    """Whatever its class takes for equal: the numbers that come back are those of the list."""
    stats = Stats([kind(iteration, loss) for iteration, loss in enumerate(losses)])
    store.store_training_stats("run", stats)
    stats.iteration_stats[1] = kind(1, replaced)
    stats.iteration_stats.append(kind(3, 0.0625))
    store.store_training_stats("run", stats)
    found = store.retrieve_training_stats("run").column("loss")
    assert found.tobytes() == np.array([losses[0], replaced, losses[2], 0.0625]).tobytes()


def test_further_scalar_of_a_replaced_row_is_noticed(store: FileStatsStore) -> None:
    """A scalar that the class does not know is none that its ``==`` compares."""
    rows = [AttrsRow(0, 0.5), AttrsRow(1, 0.25)]
    for row, rate in zip(rows, (0.1, 0.2), strict=True):
        row.rate = rate  # type: ignore[attr-defined]
    stats = Stats(rows)
    store.store_training_stats("run", stats)
    stats.iteration_stats[0] = AttrsRow(0, 0.5)
    stats.iteration_stats[0].rate = 0.3
    store.store_training_stats("run", stats)
    assert store.retrieve_training_stats("run").column("rate").tolist() == [0.3, 0.2]


def test_columns_that_were_stored_are_not_compared_again(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of stats of ours a call takes what was appended since."""
    stats = TrainingStats.from_columns(range(5), {"loss": [0.5] * 5})
    store.store_training_stats("run", stats)
    monkeypatch.delattr("dacapo_store.history.TrainingRows.common_prefix")
    stats.add_iteration_stats(TrainingIterationStats(5, 0.25))
    store.store_training_stats("run", stats)
    assert _stored(store) == [*((n, 0.5) for n in range(5)), (5, 0.25)]


def test_threads_that_store_one_object_store_it_once(store: FileStatsStore) -> None:
    """Two calls may meet over what is known of the object."""
    stats = Stats([AttrsRow(n, 0.5) for n in range(20)])
    store.store_training_stats("run", stats)
    for first in range(20, 60, 10):
        stats.iteration_stats += [AttrsRow(n, 0.5) for n in range(first, first + 10)]
        threads = [threading.Thread(target=store.store_training_stats, args=("run", stats)) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert _stored(store) == [(n, 0.5) for n in range(first + 10)]


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


@given(st.sampled_from([Row, AttrsRow, CarelessRow, TrainingIterationStats]), _STEPS)
def test_outcome_is_that_of_a_list_never_seen(
    tmp_path: Path, kind: type[Any], steps: list[tuple[str, Any]]
) -> None:
    """Whatever is done to the list in place, storing it is as storing an object that is new each time."""
    store = FileStatsStore(tmp_path / "stats")
    runs = [f"{kind} {Base.at(tmp_path).log.next_position}" for kind in ("same", "new")]
    rows = [kind(iteration, 0.5) for iteration in range(3)]
    # Rows of ours lie in a table, which looks like a list.
    stats: Any = TrainingStats(rows) if kind is TrainingIterationStats else Stats(rows)
    for number, (what, argument) in enumerate(steps):
        rows = stats.iteration_stats
        if what == "append":
            rows += [kind(iteration, float(number)) for iteration in argument]
        elif what == "cut":
            del rows[argument:]
        elif what == "replace" and argument < len(rows):
            rows[argument] = kind(rows[argument].iteration, float(number))
        elif what == "reverse":
            rows.reverse()
        elif what == "delete":
            for run in runs:
                store.delete_training_stats(run)
        for run, each in zip(runs, (stats, Stats(list(rows))), strict=True):
            store.store_training_stats(run, each)
        assert _stored(store, runs[0]) == _stored(store, runs[1])
