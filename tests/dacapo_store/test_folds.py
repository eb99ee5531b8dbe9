"""What is retrieved without views is what the views say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import FileStatsStore, TrainingStats, folds
from dacapo_store.base import Base
from dacapo_store.events import (
    EVENT_TYPES,
    TrainingEpochBegun,
    TrainingStatsDeleted,
    TrainingStatsRecorded,
    ValidationEpochBegun,
    ValidationScoresDeleted,
    ValidationScoresRecorded,
)
from dacapo_store.history import TRAINING, VALIDATION, Kind, folded
from eventstore import Event
from projections import ReadModelStoppedError

_EPOCHS = st.integers(0, 2)
_ITERATIONS = st.lists(st.integers(0, 3), max_size=3)
_NUMBERS = st.sampled_from([0.5, -0.0, float("nan"), None])
_SCORES = st.sampled_from([0.5, -0.0, float("nan"), float("inf")])


@st.composite
def _stats_recorded(draw: st.DrawFn) -> tuple[Any, list[int], list[Any]]:
    columns = draw(st.lists(st.sampled_from(["loss", "time", "rate", "accuracy"]), unique=True))
    index = draw(_ITERATIONS)
    values = draw(st.lists(_NUMBERS, min_size=len(index) * len(columns), max_size=len(index) * len(columns)))
    return TrainingStatsRecorded(run="", epoch=draw(_EPOCHS), columns=columns), index, values


@st.composite
def _scores_recorded(draw: st.DrawFn) -> tuple[Any, list[int], list[Any]]:
    lengths = draw(st.lists(st.lists(st.integers(0, 2), max_size=2), max_size=2))
    index = draw(_ITERATIONS)
    count = len(index) * sum(map(sum, lengths))
    values = draw(st.lists(_SCORES, min_size=count, max_size=count))
    names: dict[str, list[str]] = {"datasets": [], "parameters": [], "criteria": []}
    return ValidationScoresRecorded(run="", epoch=draw(_EPOCHS), lengths=lengths, **names), index, values


def _begun(kind: type[Any]) -> st.SearchStrategy[tuple[Any, None, None]]:
    facts = st.builds(kind, run=st.just(""), epoch=_EPOCHS, keeps_below=st.integers(0, 4))
    return facts.map(lambda fact: (fact, None, None))


def _deleted(kind: type[Any]) -> st.SearchStrategy[tuple[Any, None, None]]:
    return st.builds(kind, run=st.just(""), epoch=_EPOCHS).map(lambda fact: (fact, None, None))


_STATS = st.one_of(_stats_recorded(), _begun(TrainingEpochBegun), _deleted(TrainingStatsDeleted))
_TRAINING = st.lists(st.one_of(_stats_recorded(), _STATS), max_size=6)
_SCORED = st.one_of(_scores_recorded(), _begun(ValidationEpochBegun), _deleted(ValidationScoresDeleted))
_VALIDATION = st.lists(st.one_of(_scores_recorded(), _SCORED), max_size=6)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    """An empty base."""
    made = Base.at(tmp_path)
    yield made
    made.close()


def _append(base: Base, kind: Kind[Any], run: str, facts: Sequence[tuple[Any, Any, Any]]) -> None:
    for fact, index, values in facts:
        of_run = msgspec.structs.replace(fact, run=run)
        numbers = None if values is None else pa.array(values, pa.float64())
        base.append(kind.stream(run), [EVENT_TYPES.event(of_run, index=index, values=numbers)])


class _Cold(FileStatsStore):
    """A store that makes believe, to one of its ways, that the process has no views."""

    def cold(self) -> None:
        """From here on the fold answers, if it can."""
        self._base._views, self.views = None, self._base.views
        self._base.whole_folds = 0

    def warm(self) -> None:
        """From here on the views do."""
        self._base._views = self.views


def _exact_scores(store: FileStatsStore, run: str) -> list[tuple[int, str]]:
    """All scores, and behind them those at every other iteration."""
    found = [
        each
        for interval in (None, 2)
        for each in store.retrieve_validation_iteration_scores(run, validation_interval=interval)
    ]
    return [(each.iteration, repr(each.scores)) for each in found]


@given(st.lists(st.tuples(_TRAINING, _VALIDATION), min_size=1, max_size=3))
def test_fold_shows_what_the_views_show(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[Any], list[Any]]]
) -> None:
    """Whatever events there are, in whatever order of epochs, and as the run grows."""
    store = _Cold(_shared_base(tmp_path_factory) / "stats")
    run = f"run {store._base.log.next_position}"
    store._base.append("other", [Event("SomethingElse", {})])
    for training, validation in parts:
        _append(store._base, TRAINING, run, training)
        _append(store._base, VALIDATION, run, validation)
        store.cold()
        stats, scores = store.retrieve_training_stats(run), _exact_scores(store, run)
        store.warm()
        viewed = store.retrieve_training_stats(run)
        assert stats.identical(viewed)
        assert stats.columns == viewed.columns
        assert scores == _exact_scores(store, run)


_bases: list[Path] = []


def _shared_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One base for all examples, whose views need not be made anew: each example has a run of its own."""
    if not _bases:
        _bases.append(tmp_path_factory.mktemp("base"))
    return _bases[0]


@given(_TRAINING)
def test_fold_in_parts_is_as_viewed_as_the_fold_at_once(
    tmp_path_factory: pytest.TempPathFactory, facts: list[Any]
) -> None:
    """What is not sure to be shown alike stays so."""
    base = Base.at(_shared_base(tmp_path_factory))
    run = f"run {base.log.next_position}"
    base.append("other", [Event("SomethingElse", {})])
    history = TRAINING.unwritten()
    for fact in facts:
        _append(base, TRAINING, run, [fact])
        history = folded(history, base.log.read_stream(TRAINING.stream(run), history.events))
    assert (
        history.as_viewed
        == folded(TRAINING.unwritten(), base.log.read_stream(TRAINING.stream(run))).as_viewed
    )


def _stored(base: Base, run: str, iterations: int) -> None:
    stats = TrainingStats.from_columns(range(iterations), {"loss": [0.5] * iterations})
    FileStatsStore(base.path / "stats").store_training_stats(run, stats)


def test_no_views_are_made_for_a_run(base: Base) -> None:
    """Nor is DuckDB loaded, in a process that stores and retrieves."""
    program = f"""
import sys
from dacapo_store import FileStatsStore, TrainingIterationStats, ValidationIterationScores
store = FileStatsStore({str(base.path / "stats")!r})
store.store_training_stats("run", [TrainingIterationStats(0, 0.5, 0.1)])
store.store_validation_iteration_scores("run", [ValidationIterationScores(0, [[[0.5]]])])
assert store.retrieve_training_stats("run").trained_until() == 1
assert len(store.retrieve_validation_iteration_scores("run")) == 1
assert "duckdb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_views_that_are_there_are_asked(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has them folds nothing to show it."""
    _stored(base, "run", 3)
    base.query("FROM training_stats")
    monkeypatch.setattr(folds, "folded", None)
    assert FileStatsStore(base.path / "stats").retrieve_training_stats("run").trained_until() == 3


def test_the_past_is_folded_too(base: Base) -> None:
    """As of a position, without views."""
    _stored(base, "run", 3)
    position = base.log.next_position
    _stored(base, "run", 7)
    past = FileStatsStore(base.path / "stats", as_of=position)
    assert past.retrieve_training_stats("run").trained_until() == 3
    assert not past._base.has_views
    assert FileStatsStore(base.path / "stats").retrieve_training_stats("run").trained_until() == 7


def test_a_run_scattered_over_the_log_is_left_to_the_views(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small reads cost more."""
    monkeypatch.setattr(folds, "_JUMPS_MAX", 2)
    for iterations in range(1, 5):
        _stored(base, "run", iterations)
        base.append("other", [Event("SomethingElse", {})] * (folds._FAR_POSITIONS + 1))
    monkeypatch.setattr(folds, "_recent", folds._RecentFolds())
    store = FileStatsStore(base.path / "stats")
    assert store.retrieve_training_stats("run").trained_until() == 4
    assert base.has_views


def test_whoever_looks_at_many_runs_gets_views(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first few are folded, and the others asked of them."""
    monkeypatch.setattr(folds, "_WHOLE_FOLDS_MAX", 2)
    store = FileStatsStore(base.path / "stats")
    for run in ("a", "b", "c"):
        _stored(base, run, 3)
    monkeypatch.setattr(folds, "_recent", folds._RecentFolds())
    made = []
    for run in ("a", "a", "b", "c"):
        assert store.retrieve_training_stats(run).trained_until() == 3
        made.append(base.has_views)
    assert made == [False, False, False, True]


@pytest.mark.parametrize(
    "malformed",
    [
        Event("TrainingStatsRecorded", {"run": "run", "epoch": 0, "columns": ["loss"]}, index=[1], values=[]),
        Event(
            "TrainingStatsRecorded",
            {"run": "run", "epoch": 0, "columns": ["loss", "loss"]},
            index=[1],
            values=[0.5, 0.25],
        ),
        Event("TrainingStatsRecorded", {"run": "run", "epoch": 0}, index=[1], values=[]),
    ],
)
def test_what_no_store_writes_is_the_views_to_judge(base: Base, malformed: Event) -> None:
    """They say at which event they stop, and why."""
    base.append("training/run", [malformed])
    with pytest.raises(ReadModelStoppedError):
        FileStatsStore(base.path / "stats").retrieve_training_stats("run")


def test_event_of_a_newer_program_is_passed_over_as_in_the_views(base: Base) -> None:
    """The fold, on which nothing could be decided, does not answer."""
    _stored(base, "run", 3)
    base.append("training/run", [Event("TrainingStatsRecorded", {"of": "another shape"}, schema_version=2)])
    assert FileStatsStore(base.path / "stats").retrieve_training_stats("run").trained_until() == 3


def test_a_name_that_is_no_text_is_refused(base: Base) -> None:
    """With and without views."""
    for _ in range(2):
        with pytest.raises(ValueError, match="Unicode"):
            FileStatsStore(base.path / "stats").retrieve_training_stats("\ud800")
        base.query("FROM training_stats")
