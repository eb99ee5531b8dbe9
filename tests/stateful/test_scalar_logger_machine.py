"""Loggers, their kills, and stores over the same run, in any order, against a list.

After each step the run's view and its fold agree with the list, and each row that a logger accepted is
recorded exactly once. A kill is played by letting go of a logger's file with nothing else done; in some, the
event was made and the logger never knew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dacapo_store import FileStatsStore, TrainingIterationStats
from dacapo_store.base import Base
from dacapo_store.history import TRAINING, folded
from dacapo_store.scalar_logger import ScalarLogger
from eventstore.spool import left_over

EXAMPLES = settings().max_examples // 5  # of the profile: an example here is a whole history
RUN = "run"
DERIVED = 8

Row = tuple[int, dict[str, float]]

ITERATIONS = st.integers(0, 12)
NAMES = st.sets(st.sampled_from(["loss", "time", "rate"]))


def below(rows: list[Row], iteration: int) -> list[Row]:
    return [row for row in rows if row[0] < iteration]


def outcome(stored: list[Row], new: list[Row]) -> list[Row]:
    """The rule of storing, in the words in which it is documented."""
    iterations = [iteration for iteration, _ in new]
    if stored and max(iterations) < max(iteration for iteration, _ in stored):
        return new
    return below(stored, min(iterations)) + new


class LoggerMachine(RuleBasedStateMachine):
    """One run: at most one logger of this process, stores of it, and those of somebody else."""

    @initialize()
    def open_base(self) -> None:
        """Begin with an empty base."""
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.store = FileStatsStore(self.path / "stats")
        self.rows: list[Row] = []
        self.accepted: list[float] = []
        self.logger: ScalarLogger | None = None
        self.begun = self.ended = False

    @precondition(lambda self: self.logger is None)
    @rule(flush_rows=st.sampled_from([1, 2, 1000]), columns=NAMES)
    def make_a_logger(self, flush_rows: int, columns: set[str]) -> None:
        """It says nothing until its first row."""
        self.logger = self.store.scalar_logger(
            RUN, flush_rows=flush_rows, flush_seconds=1e9, columns=sorted(columns)
        )
        self.begun = self.ended = False

    @precondition(lambda self: self.logger is not None)
    @rule(iteration=ITERATIONS, names=NAMES)
    def add(self, iteration: int, names: set[str]) -> None:
        """One row, ahead or not."""
        assert self.logger is not None
        number = float(len(self.accepted))
        scalars = {"n": number, **dict.fromkeys(sorted(names), number / 2)}
        self.logger.add(iteration, **scalars)
        self.accepted.append(number)
        greatest = max((known for known, _ in self.rows), default=-1)
        if self.ended and iteration <= greatest:
            return  # history at once
        self.rows = [*below(self.rows, iteration), (iteration, scalars)]
        self.begun, self.ended = True, False

    @precondition(lambda self: self.logger is not None and not self.ended)
    @rule(iteration=ITERATIONS, steps=st.lists(st.integers(1, 3), min_size=1, max_size=6))
    def add_some(self, iteration: int, steps: list[int]) -> None:
        """Rows that wait together for their flush."""
        for step in steps:
            self.add(iteration, {"loss"})
            iteration += step

    @precondition(lambda self: self.logger is not None)
    @rule(durable=st.booleans())
    def flush(self, *, durable: bool) -> None:
        """Changes nothing that can be seen here."""
        assert self.logger is not None
        self.logger.flush(durable=durable)

    @precondition(lambda self: self.logger is not None)
    @rule()
    def close(self) -> None:
        """Likewise."""
        assert self.logger is not None
        self.logger.close()
        self.logger = None

    @precondition(lambda self: self.logger is not None)
    @rule(recorded=st.booleans(), iteration=ITERATIONS)
    def kill(self, *, recorded: bool, iteration: int) -> None:
        """The process ends, perhaps right after the event, before the logger could know of it."""
        assert self.logger is not None
        if not self.ended:
            self.add(iteration, {"rate"})
        if recorded and self.logger._spool is not None:
            self.logger._spool.restart = lambda _: None  # type: ignore[method-assign]
            self.logger._flush("os")
        if self.logger._spool is not None:
            self.logger._spool.close()
        self.logger._end("killed")
        self.logger = None

    @rule(iterations=st.lists(ITERATIONS, min_size=1, max_size=3))
    def store_stats(self, iterations: list[int]) -> None:
        """Stats of a trainer that does not log; over the logger's, behind them, or both."""
        rows: list[Row] = [(iteration, {"m": 1.0}) for iteration in iterations]
        self.store.store_training_stats(RUN, [TrainingIterationStats(i, **scalars) for i, scalars in rows])
        self._follow(outcome(self.rows, rows))

    @rule()
    def delete_stats(self) -> None:
        """All leave the view; a logger goes on."""
        self.store.delete_training_stats(RUN)
        self._follow([])

    def _follow(self, rows: list[Row]) -> None:
        if self.begun and rows[: len(self.rows)] != self.rows:
            self.ended = True
        self.rows = rows

    @precondition(lambda self: self.logger is not None and not self.ended)
    @rule(iteration=ITERATIONS, iterations=st.lists(ITERATIONS, min_size=1, max_size=3), delete=st.booleans())
    def another_process_interferes(self, iteration: int, iterations: list[int], *, delete: bool) -> None:
        """It cannot flush this logger. What the view becomes is the epoch rule's; no row gets lost."""
        assert self.logger is not None
        base = self.store._base
        self.add(iteration, {"loss"})
        base.loggers.discard(self.logger)
        self.store.store_training_stats(RUN, [TrainingIterationStats(i, m=2.0) for i in iterations])
        if delete:
            self.store.delete_training_stats(RUN)
        base.loggers.add(self.logger)
        self.logger.close()
        self.logger = None
        found = self.store.retrieve_training_stats(RUN).iteration_stats
        self.rows = [(row.iteration, dict(row.scalars)) for row in found]

    @invariant()
    def view_and_fold_agree_with_the_list(self) -> None:
        """And nothing is left over but the spool of a living logger."""
        view = self.store.retrieve_training_stats(RUN).iteration_stats
        assert [(row.iteration, dict(row.scalars)) for row in view] == self.rows
        log = Base.at(self.path).log
        fold = folded(TRAINING.unwritten(), log.read_stream(f"training/{RUN}")).rows
        assert fold.iterations.tolist() == [iteration for iteration, _ in self.rows]
        assert len(left_over(self.path / "events")) <= (self.logger is not None)
        self.each_row_is_recorded_once()

    def each_row_is_recorded_once(self) -> None:
        """By an event with a derived id; a store call may record rows again, under other ids."""
        log = Base.at(self.path).log
        recorded: list[float] = []
        for event in log.read_stream(f"training/{RUN}"):
            if event.event_id.version == DERIVED:
                assert event.index is not None
                assert event.values is not None
                place = event.data["columns"].index("n") * len(event.index)
                recorded += event.values[place : place + len(event.index)].to_pylist()
        assert recorded == self.accepted

    def teardown(self) -> None:
        """Let go of the base."""
        if hasattr(self, "folder"):
            Base.at(self.path).close()
            self.folder.cleanup()


TestLoggerMachine = LoggerMachine.TestCase
TestLoggerMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=12, deadline=None)
