"""Training stats and validation scores of runs: DaCapo's stats store over the log.

Owns the way of a store call: fold what is new of the run's stream, decide by the rule of
``history``, append with the stream version that was decided on, and decide anew when another
process was faster. Whatever is retrieved is asked of the SQL views, where this process has any; else the fold
answers, which says the same (``folds``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from dacapo_store.base import Base, check_text
from dacapo_store.folds import history_of, history_to_show, keep, key_of
from dacapo_store.given_before import Given, GivenBefore, rows_held
from dacapo_store.history import (
    TRAINING,
    VALIDATION,
    History,
    Kind,
    Rows,
    appended,
    deleting,
    storing,
)
from dacapo_store.names import run_name_of
from dacapo_store.rows import Scalar, Scores, Structure, TrainingRows, ValidationRows
from dacapo_store.scalar_logger import FLUSH_ROWS, FLUSH_SECONDS, ScalarLogger
from dacapo_store.scalars import as_iteration, describe
from dacapo_store.store_paths import absolute_path, base_of_store
from dacapo_store.training_iteration_stats import OWN_NAMES
from dacapo_store.training_stats import TrainingStats, as_training_stats
from dacapo_store.training_table import Column, StatsTable
from dacapo_store.validation_scores import (
    ValidationIterationScores,
    flatten_scores,
    score_names,
    unflatten_scores,
)
from eventstore import NO_STREAM, ExpectedVersionError, ReadOnlyLogError

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from upath import UPath

    from dacapo_store.moments import Moment
    from eventstore import Event

R = TypeVar("R", bound=Rows)
_ScoresRow = tuple[int, Sequence[Sequence[int]], Sequence[float]]

SUBSAMPLE_POINTS_MAX: Final = 1000
"""How many points ``subsample`` leaves at most."""

_STATS: Final = """
    SELECT iteration, loss, time FROM training_stats_at($position) WHERE run = $run
    ORDER BY position, ordinal"""

_OTHER_SCALARS: Final = """
    SELECT DISTINCT name FROM training_scalars_at($position)
    WHERE run = $run AND name NOT IN ('loss', 'time') ORDER BY name"""

_SCALAR: Final = """
    SELECT value FROM training_stats_at($position) AS stats LEFT JOIN (
        SELECT position, ordinal, value FROM training_scalars_at($position) WHERE run = $run AND name = $name
    ) USING (position, ordinal)
    WHERE stats.run = $run ORDER BY position, ordinal"""

_SCORES: Final = """
    SELECT iteration, lengths, scores FROM validation_iterations
    WHERE run = $run AND iteration % $interval = 0 ORDER BY position, ordinal"""


class StatsStore(ABC):
    """Keeps what training and validation measured, run by run.

    A run is given by its name or as an object that has a ``name``. Names need not have been stored
    as configs.

    The rule of storing, for stats and scores alike, with X given and S stored; *ends* and *begins*
    mean the greatest and the least iteration. X empty: nothing happens. X ends before S ends: X
    replaces S. Otherwise what S has below X's begin stays, and X follows. What leaves the view by
    this stays in the history.
    """

    @abstractmethod
    def store_training_stats(self, run_name: Any, stats: Any) -> None:
        """Store the training stats of a run, all of them or only the new ones.

        Once this returns they are durable. What is stored already is not written again, so a
        trainer may pass its whole list after each iteration. Any number of processes may store
        at once.

        Args:
            run_name: The run.
            stats: A ``TrainingStats``, DaCapo's own, or a list of iteration stats.

        Raises:
            ValueError: The name is empty, or the stats cannot be stored; the text says why.
            TypeError: ``stats`` is none of what is accepted.
        """

    @abstractmethod
    def scalar_logger(
        self,
        run_name: Any,
        *,
        columns: Iterable[str] = (),
        flush_rows: int = FLUSH_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
        spool: bool = True,
    ) -> ScalarLogger:
        """Make a logger for loops that have scalars to store thousands of times a second.

        Its rows are training stats like those of ``store_training_stats``, and any number of them
        make one commit. Nothing that it has accepted is lost when the process is killed. Use it in a
        ``with`` statement, or close it.

        Args:
            run_name: The run.
            columns: Names of scalars, in case the first call will not have all of them. Other names
                may come at any time.
            flush_rows: Flush when there are so many rows.
            flush_seconds: Flush, and wait for the disk, when this long has passed since it was last
                done: how much of a loop that goes on a power cut may take.
            spool: Without a spool a call costs less, and a kill takes the rows since the last flush.

        Raises:
            ValueError: The name of the run or of a column cannot be one, or a number is out of range.
            eventstore.ReadOnlyLogError: The store was opened read-only.
        """

    @abstractmethod
    def retrieve_training_stats(self, run_name: Any, subsample: bool = False) -> TrainingStats:  # noqa: FBT001, FBT002 - DaCapo's signature
        """The training stats of a run, in the order in which they were given.

        Args:
            run_name: The run. One that is unknown has empty stats.
            subsample: Leave at most 1,000 points, evenly by iteration, the last among them.

        Raises:
            ValueError: The name is empty.
        """

    @abstractmethod
    def store_validation_iteration_scores(self, run_name: Any, scores: Any) -> None:
        """Store the validation scores of a run, all of them or only the new ones.

        As ``store_training_stats``. Names of datasets, parameters and criteria are recorded with
        the scores they came with; scores that differ in nothing else are not written again.

        Args:
            run_name: The run.
            scores: A ``ValidationScores``, DaCapo's own, or a list of iteration scores.

        Raises:
            ValueError: The name is empty, or the scores cannot be stored; the text says why.
            TypeError: ``scores`` is none of what is accepted.
        """

    @abstractmethod
    def retrieve_validation_iteration_scores(
        self,
        run_name: Any,
        subsample: bool = False,  # noqa: FBT001, FBT002 - DaCapo's signature
        validation_interval: int | None = None,
    ) -> list[ValidationIterationScores]:
        """The validation scores of a run, in the order in which they were given.

        Args:
            run_name: The run. One that is unknown has none.
            subsample: Leave at most 1,000 points, evenly by iteration, the last among them.
            validation_interval: Keep only iterations that are multiples of this, before
                subsampling.

        Raises:
            ValueError: The name is empty, or the interval is less than 1.
        """

    @abstractmethod
    def delete_training_stats(self, run_name: Any) -> None:
        """Take a run's training stats out of view; what was there stays in the history.

        Raises:
            ValueError: The name is empty. A run without stats is no error.
        """

    @abstractmethod
    def delete_validation_scores(self, run_name: Any) -> None:
        """Take a run's validation scores out of view; what was there stays in the history.

        Raises:
            ValueError: The name is empty. A run without scores is no error.
        """


class LogStatsStore(StatsStore):
    """The stats store over the log of a base."""

    _base: Base

    def store_training_stats(self, run_name: Any, stats: Any) -> None:
        """Store the training stats of a run; see ``StatsStore``."""
        self._store(TRAINING, run_name_of(run_name), stats, "iteration_stats", _training_rows)

    def scalar_logger(
        self,
        run_name: Any,
        *,
        columns: Iterable[str] = (),
        flush_rows: int = FLUSH_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
        spool: bool = True,
    ) -> ScalarLogger:
        """Make a logger for hot loops; see ``StatsStore``."""
        if self._base.read_only:
            raise ReadOnlyLogError(f"{self!r} was opened read-only: nothing can be logged to it")
        return ScalarLogger(
            self._base,
            run_name_of(run_name),
            columns=columns,
            flush_rows=flush_rows,
            flush_seconds=flush_seconds,
            spool=spool,
        )

    def retrieve_training_stats(self, run_name: Any, subsample: bool = False) -> TrainingStats:  # noqa: FBT001, FBT002 - DaCapo's signature
        """The training stats of a run; see ``StatsStore``."""
        run = run_name_of(run_name)
        self._base.settle_if_possible()
        with self._base.log.one_look():
            history = self._history_to_show(TRAINING, run)
            stats = self._viewed_stats(run) if history is None else _stats_of(history.rows)
        return stats.take(subsampled(stats.iterations)) if subsample else stats

    def store_validation_iteration_scores(self, run_name: Any, scores: Any) -> None:
        """Store the validation scores of a run; see ``StatsStore``."""
        rows_of = partial(_validation_rows, names=tuple(map(tuple, score_names(scores))))
        self._store(VALIDATION, run_name_of(run_name), scores, "scores", rows_of)

    def retrieve_validation_iteration_scores(
        self,
        run_name: Any,
        subsample: bool = False,  # noqa: FBT001, FBT002 - DaCapo's signature
        validation_interval: int | None = None,
    ) -> list[ValidationIterationScores]:
        """The validation scores of a run; see ``StatsStore``."""
        run = run_name_of(run_name)
        if validation_interval is not None and validation_interval < 1:
            raise ValueError(f"validation_interval is 1 or more, or None for all, not {validation_interval}")
        interval = 1 if validation_interval is None else validation_interval
        self._base.settle_if_possible()
        with self._base.log.one_look():
            history = self._history_to_show(VALIDATION, run)
            if history is None:
                rows = self._viewed_scores(run, interval)
            else:
                rows = _scores_of(history.rows.take(history.rows.iterations % interval == 0))
        if subsample:
            rows = [rows[place] for place in subsampled([iteration for iteration, *_ in rows])]
        return [
            ValidationIterationScores(iteration, unflatten_scores(lengths, values))
            for iteration, lengths, values in rows
        ]

    def delete_training_stats(self, run_name: Any) -> None:
        """Take a run's training stats out of view; see ``StatsStore``."""
        run = run_name_of(run_name)
        self._decide(TRAINING, run, lambda history: deleting(TRAINING, run, history))

    def delete_validation_scores(self, run_name: Any) -> None:
        """Take a run's validation scores out of view; see ``StatsStore``."""
        run = run_name_of(run_name)
        self._decide(VALIDATION, run, lambda history: deleting(VALIDATION, run, history))

    def _history_to_show(self, kind: Kind[R], run: str) -> History[R] | None:
        check_text(run)
        return history_to_show(self._base, kind, run)

    def _viewed_stats(self, run: str) -> TrainingStats:
        """The run's training stats, as the views have them."""
        # There are several queries and one state: another process may store between them.
        as_of = {"position": self._base.log.next_position, "run": run}
        table: dict[str, npt.NDArray[Any]] = self._base.query(_STATS, as_of).fetchnumpy()
        iterations = table.pop("iteration")
        for (name,) in self._base.query(_OTHER_SCALARS, as_of).fetchall():
            table[name] = self._base.query(_SCALAR, {**as_of, "name": name}).fetchnumpy()["value"]
        return TrainingStats.from_columns(iterations, table)

    def _viewed_scores(self, run: str, interval: int) -> list[_ScoresRow]:
        """The run's scores at multiples of an interval, as the views have them."""
        rows: list[_ScoresRow] = self._base.query(_SCORES, {"run": run, "interval": interval}).fetchall()
        return rows

    def _store(
        self, kind: Kind[R], run: str, given: Any, attribute: str, rows_of: Callable[[Any], R]
    ) -> None:
        """Store what an object holds, or only what is behind the rows that it held before."""
        held = getattr(given, attribute, None)
        before = _given_before.find(given, key_of(self._base, kind, run))
        stored = before and self._stored_behind(kind, run, before, held, rows_of)
        stored = stored or self._stored_whole(kind, run, given, held, rows_of)
        if stored is not None:
            _given_before.put(given, stored)

    def _stored_behind(
        self, kind: Kind[R], run: str, before: Given, held: Any, rows_of: Callable[[Any], R]
    ) -> Given | None:
        """Store the rows behind those that were given before; None when all must be looked at.

        By the rule everything in view stays when what is new begins where the rows before began, or
        behind that: then the outcome is what is in view and the new rows.
        """
        log, stream = self._base.log, kind.stream(run)
        if kind is TRAINING:
            self._base.settle(stream)
        if log.stream_version(stream) != before.events - 1:
            return None
        grown = before.rows.grown(held)
        if grown is None:
            return None
        known, new = grown
        if not len(new):
            log.sync()
            return replace(before, rows=known)
        rows = rows_of(new)
        if rows.iterations.min() < before.begins:
            return None
        known.read_as(rows)
        events = rows.recorded(run, before.epoch)
        try:
            self._base.append(stream, events, expected=before.events - 1, trains=run)
        except ExpectedVersionError:
            return None
        return replace(before, rows=known, events=before.events + len(events))

    def _stored_whole(
        self, kind: Kind[R], run: str, given: Any, held: Any, rows_of: Callable[[Any], R]
    ) -> Given | None:
        """Store all rows; None when there are none, or when they are not held in a way that can be known."""
        copied = rows_held(held)
        rows = rows_of(given if copied is None else copied[1])
        after = self._decide(kind, run, lambda history: storing(kind, run, history, rows), trains=run)
        if copied is None or not len(rows):
            return None
        known = copied[0]
        known.read_as(rows)
        return Given(
            key_of(self._base, kind, run), known, int(rows.iterations.min()), after.epoch, after.events
        )

    def _decide(
        self,
        kind: Kind[R],
        run: str,
        decision: Callable[[History[R]], list[Event]],
        *,
        trains: str | None = None,
    ) -> History[R]:
        """Append what is decided on the run's history, and decide anew if that has moved on.

        Returns:
            The history up to and with what was appended.
        """
        if kind is TRAINING:
            self._base.settle(kind.stream(run))
        while True:
            with self._base.log.one_look():
                history = history_of(self._base, kind, run)
                events = decision(history)
                if not events:
                    self._base.log.sync()
                    return history
            expected = history.events - 1 if history.events else NO_STREAM
            try:
                self._base.append(kind.stream(run), events, expected=expected, trains=trains)
            except ExpectedVersionError:
                continue
            # Not read again: nobody has come in between, and what follows the next call will read.
            after = appended(history, events)
            keep(self._base, kind, run, after)
            return after


class FileStatsStore(LogStatsStore):
    """The stats store of a base directory.

    Making one is cheap: all stores of a base share one open log.

    Args:
        path: ``<base>/stats``, or any other directory, which is then a base of its own.
        read_only: Open the base without writing to it, not even a lock.
        as_of: Look at the store as it was at this position or time, read-only.

    Attributes:
        path: The absolute path; with ``training_stats`` and ``validation_scores`` below it these
            are names that DaCapo knows. The stats themselves lie in the log.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, read_only: bool = False, as_of: Moment | None = None
    ) -> None:
        self.path: UPath = absolute_path(path, "stats")
        base = base_of_store(path, self.path, "stats")
        self._base = Base.at(base, read_only=read_only, as_of=as_of)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def training_stats(self) -> UPath:
        """What DaCapo calls the place of the training stats."""
        return self.path / "training_stats"

    @property
    def validation_scores(self) -> UPath:
        """What DaCapo calls the place of the validation scores."""
        return self.path / "validation_scores"


_given_before = GivenBefore()


def _stats_of(rows: TrainingRows) -> TrainingStats:
    """Stats in the order of columns in which the views give them; they share the rows' memory."""
    table = StatsTable(rows.iterations)
    others = sorted(name for name in rows.scalars if name not in OWN_NAMES)
    for name in [*OWN_NAMES, *others]:
        scalar = rows.scalar(name)
        if scalar.present.any():
            whole = scalar.present.all()
            values = scalar.values if whole else np.where(scalar.present, scalar.values, np.nan)
            table.columns[name] = Column(values, None if whole else scalar.present)
    return TrainingStats(table)


def _scores_of(rows: ValidationRows) -> list[_ScoresRow]:
    return [
        (iteration, scores.structure.lengths, np.frombuffer(scores.bits, np.float64).tolist())
        for iteration, scores in zip(rows.iterations.tolist(), rows.scores, strict=True)
    ]


def _training_rows(given: Any) -> TrainingRows:
    stats = as_training_stats(given)
    return TrainingRows(
        stats.iterations,
        {name: Scalar.of(stats.column(name), stats.present(name)) for name in stats.columns},
    )


def _validation_rows(scores: Any, names: tuple[tuple[str, ...], ...]) -> ValidationRows:
    rows = getattr(scores, "scores", scores)
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes):
        raise TypeError(f"expected validation scores or a list of iteration scores, not {describe(scores)}")
    return ValidationRows.of_pairs(_validation_row(row, *names) for row in rows)


def _validation_row(row: Any, *names: tuple[str, ...]) -> tuple[int, Scores]:
    if not hasattr(row, "iteration") or not hasattr(row, "scores"):
        raise TypeError(f"expected the scores of an iteration, with both as attributes, not {describe(row)}")
    lengths, values = flatten_scores(row.scores)
    structure = Structure(tuple(map(tuple, lengths)), *names)
    iteration = as_iteration(row.iteration, where="validation scores")
    return iteration, Scores(structure, np.array(values, np.float64).tobytes())


def subsampled(iterations: npt.ArrayLike) -> list[int]:
    """Which of these points to show: all if they are few, else evenly by iteration.

    The axis is cut into equal steps, multiples of the distance that the points keep themselves
    where they keep one, and each step is shown by its first point; the last point is shown, too.
    As long as the step is the same, a growing run shows the same points.

    Returns:
        The places of at most ``SUBSAMPLE_POINTS_MAX`` points, in their order.
    """
    points = np.asarray(iterations, dtype=np.int64)
    if len(points) <= SUBSAMPLE_POINTS_MAX:
        return list(range(len(points)))
    first, last = int(points.min()), int(points.max())
    spacing = max(int(np.gcd.reduce(points - first)), 1)
    # A span of s steps touches at most s + 2 of them, and the last point may come on top.
    step = -(-(last - first) // (SUBSAMPLE_POINTS_MAX - 3))
    step = max(-(-step // spacing) * spacing, 1)
    _, places = np.unique(points // step, return_index=True)
    return sorted({*places.tolist(), len(points) - 1 - int(points[::-1].argmax())})
