"""Any sequence of stats calls, through several stores, against a list that follows the rule.

After each call four things agree, bit by bit: the list, what the store retrieves without views and from
the SQL views, and the fold of the run's stream on which the next call will be decided.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dacapo_store import (
    FileStatsStore,
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base
from dacapo_store.history import TRAINING, VALIDATION, folded

EXAMPLES = settings().max_examples // 5  # of the profile: an example here is a whole history
RUNS = ["run_1", "run_2"]

Scalars = dict[str, float]
Row = tuple[int, Scalars]
Nested = list[list[list[float]]]

NUMBERS = st.sampled_from([0.0, -0.0, 0.5, 1.0, float("nan"), float("inf")])
SCALARS = st.dictionaries(st.sampled_from(["loss", "time", "rate"]), NUMBERS)
NESTED = st.lists(st.lists(st.lists(NUMBERS, max_size=2), max_size=2), max_size=2)
ITERATIONS = st.lists(st.integers(0, 8), max_size=5)
IN_ORDER = ITERATIONS.map(sorted)


def outcome(stored: list[tuple[int, object]], new: list[tuple[int, object]]) -> list[tuple[int, object]]:
    """The rule, in the words in which it is documented."""
    if not new:
        return stored
    iterations = [iteration for iteration, _ in new]
    if stored and max(iterations) < max(iteration for iteration, _ in stored):
        return new
    return [row for row in stored if row[0] < min(iterations)] + new


def exact_scalars(scalars: Scalars) -> object:
    """Scalars in a form that is equal only when the bits are."""
    return sorted((name, struct.pack("<d", value)) for name, value in scalars.items())


def exact_scores(nested: Nested) -> object:
    """Nested scores, likewise."""
    return [[[struct.pack("<d", leaf) for leaf in leaves] for leaves in dataset] for dataset in nested]


def training_stats(rows: list[Row]) -> TrainingStats:
    """Rows as a trainer would pass them."""
    return TrainingStats([TrainingIterationStats(iteration, **scalars) for iteration, scalars in rows])


class StatsMachine(RuleBasedStateMachine):
    """Two runs on one base; every call goes through a store of its own or an old one."""

    @initialize()
    def open_base(self) -> None:
        """Begin with an empty base and two stores on it."""
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.stores = [FileStatsStore(self.path / "stats"), FileStatsStore(self.path)]
        self.training: dict[str, list[Row]] = {run: [] for run in RUNS}
        self.validation: dict[str, list[tuple[int, Nested]]] = {run: [] for run in RUNS}

    @rule(
        run=st.sampled_from(RUNS), place=st.integers(0, 1), data=st.data(), iterations=ITERATIONS | IN_ORDER
    )
    def store_any_stats(self, run: str, place: int, data: st.DataObject, iterations: list[int]) -> None:
        """Whatever rows, in whatever order."""
        rows = [(iteration, data.draw(SCALARS)) for iteration in iterations]
        self.store_stats(run, place, rows)

    @rule(run=st.sampled_from(RUNS), place=st.integers(0, 1), kept=st.integers(0, 9), scalars=SCALARS)
    def store_grown_or_resumed_stats(self, run: str, place: int, kept: int, scalars: Scalars) -> None:
        """The list so far, or a front of it, with one more row."""
        front = self.training[run][:kept]
        self.store_stats(run, place, [*front, (front[-1][0] + 1 if front else 0, scalars)])

    def store_stats(self, run: str, place: int, rows: list[Row]) -> None:
        """Store rows and apply the rule to the list."""
        self.stores[place].store_training_stats(run, training_stats(rows))
        self.training[run] = outcome(self.training[run], rows)  # type: ignore[assignment, arg-type]

    @rule(
        run=st.sampled_from(RUNS), place=st.integers(0, 1), data=st.data(), iterations=ITERATIONS | IN_ORDER
    )
    def store_any_scores(self, run: str, place: int, data: st.DataObject, iterations: list[int]) -> None:
        """Whatever scores, in whatever order and shape."""
        self.store_scores(run, place, [(iteration, data.draw(NESTED)) for iteration in iterations])

    @rule(run=st.sampled_from(RUNS), place=st.integers(0, 1), kept=st.integers(0, 9), nested=NESTED)
    def store_grown_or_resumed_scores(self, run: str, place: int, kept: int, nested: Nested) -> None:
        """The scores so far, or a front of them, with one more iteration."""
        front = self.validation[run][:kept]
        self.store_scores(run, place, [*front, (front[-1][0] + 1 if front else 0, nested)])

    def store_scores(self, run: str, place: int, rows: list[tuple[int, Nested]]) -> None:
        """Store scores and apply the rule to the list."""
        self.stores[place].store_validation_iteration_scores(
            run, [ValidationIterationScores(*row) for row in rows]
        )
        self.validation[run] = outcome(self.validation[run], rows)  # type: ignore[assignment, arg-type]

    @rule(run=st.sampled_from(RUNS), place=st.integers(0, 1))
    def delete_stats(self, run: str, place: int) -> None:
        """Delete a run's training stats."""
        self.stores[place].delete_training_stats(run)
        self.training[run] = []

    @rule(run=st.sampled_from(RUNS), place=st.integers(0, 1))
    def delete_scores(self, run: str, place: int) -> None:
        """Delete a run's validation scores."""
        self.stores[place].delete_validation_scores(run)
        self.validation[run] = []

    @rule(run=st.sampled_from(RUNS))
    def store_again_what_is_stored(self, run: str) -> None:
        """What is in view already is not written again."""
        base = Base.at(self.path)
        before = base.log.next_position
        self.stores[0].store_training_stats(run, self.stores[1].retrieve_training_stats(run))
        self.stores[0].store_validation_iteration_scores(
            run, self.stores[1].retrieve_validation_iteration_scores(run)
        )
        assert base.log.next_position == before

    @rule()
    def make_a_new_store(self) -> None:
        """As DaCapo does at each validation."""
        self.stores = [self.stores[1], FileStatsStore(self.path / "stats")]

    @invariant()
    def views_and_folds_agree_with_the_list(self) -> None:
        """For both runs, stats and scores, while the process has no views, and then when it has."""
        base = Base.at(self.path)
        views, base._views, base.whole_folds = base.views, None, 0
        self.all_agree()
        assert not base.has_views
        base._views = views
        self.all_agree()

    def all_agree(self) -> None:
        """What the stores retrieve now, the folds and the lists."""
        log = Base.at(self.path).log
        for run in RUNS:
            expected = [(iteration, exact_scalars(scalars)) for iteration, scalars in self.training[run]]
            view = self.stores[0].retrieve_training_stats(run).iteration_stats
            fold = folded(TRAINING.unwritten(), log.read_stream(f"training/{run}")).rows
            scalars_of_rows = [
                {name: scalar.values[place] for name, scalar in fold.scalars.items() if scalar.present[place]}
                for place in range(len(fold))
            ]
            assert [(row.iteration, exact_scalars(dict(row.scalars))) for row in view] == expected
            assert [
                (iteration, exact_scalars(scalars))
                for iteration, scalars in zip(fold.iterations.tolist(), scalars_of_rows, strict=True)
            ] == expected
            self.scores_agree(run)

    def scores_agree(self, run: str) -> None:
        """The scores of a run, in the list, in the view and in the fold."""
        log = Base.at(self.path).log
        expected = [(iteration, exact_scores(nested)) for iteration, nested in self.validation[run]]
        view = self.stores[0].retrieve_validation_iteration_scores(run)
        fold = folded(VALIDATION.unwritten(), log.read_stream(f"validation/{run}")).rows
        assert [(row.iteration, exact_scores(row.scores)) for row in view] == expected
        assert [
            (iteration, [list(lengths) for lengths in scores.structure.lengths], scores.bits)
            for iteration, scores in zip(fold.iterations.tolist(), fold.scores, strict=True)
        ] == [
            (
                iteration,
                [[len(leaves) for leaves in dataset] for dataset in nested],
                np.array([leaf for dataset in nested for leaves in dataset for leaf in leaves]).tobytes(),
            )
            for iteration, nested in self.validation[run]
        ]

    def teardown(self) -> None:
        """Let go of the base."""
        if hasattr(self, "folder"):
            Base.at(self.path).close()
            self.folder.cleanup()


TestStatsMachine = StatsMachine.TestCase
TestStatsMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=10, deadline=None)
