"""The read model of training."""

from __future__ import annotations

import math

import pytest

from projections import ReadModels, ReadModelStoppedError
from projections.testing import GivenEvent, ListedLog, event, rows

_LONG = "SELECT iteration, name, value FROM training_scalars ORDER BY position, ordinal, name"
_WIDE = "SELECT iteration, loss, time FROM training_stats ORDER BY position, ordinal"
_ITERATIONS = "SELECT iteration FROM training_stats ORDER BY position, ordinal"


def _recorded(
    index: list[int | None],
    values: list[float | None],
    *,
    columns: list[str] | None = None,
    epoch: int = 0,
    run: str = "r",
) -> GivenEvent:
    data = {"run": run, "epoch": epoch, "columns": ["loss"] if columns is None else columns}
    return event("TrainingStatsRecorded", data, index=index, values=values)


def _begun(epoch: int, keeps_below: int, *, run: str = "r") -> GivenEvent:
    return event("TrainingEpochBegun", {"run": run, "epoch": epoch, "keeps_below": keeps_below})


def _deleted(epoch: int) -> GivenEvent:
    return event("TrainingStatsDeleted", {"run": "r", "epoch": epoch})


def test_the_columns_of_an_event_become_rows() -> None:
    """Values lie column after column; the order of the columns is the event's."""
    given = [_recorded([7, 8], [0.1, 0.2, 1.5, 2.5], columns=["time", "loss"])]

    assert rows(given, "FROM training_stats ORDER BY ordinal") == [
        ("r", 7, 1.5, 0.1, 0, 0, 0),
        ("r", 8, 2.5, 0.2, 0, 0, 1),
    ]


def test_what_events_say_alike_is_said_of_each() -> None:
    """Events with one text may have lists of different lengths, and another type may have their text."""
    alike = [_recorded([1, 2], [0.1, 0.2]), _recorded([], []), _recorded([3], [0.3])]
    data = {"run": "r", "epoch": 0, "columns": ["loss"]}
    others = [
        event("Other", data, index=[8], values=[0.8]),
        event("TrainingStatsRecorded", data, index=[9], values=[0.9], schema_version=2),
        event("Other", {"run": "s"}, index=[8], values=[0.8]),
    ]
    given = [others[0], *alike, *others, _recorded([4], [0.4], run="s"), _recorded([5], [0.5])]

    assert rows(given, "SELECT run, iteration, loss, position, ordinal FROM training_stats ORDER BY ALL") == [
        ("r", 1, 0.1, 1, 0),
        ("r", 2, 0.2, 1, 1),
        ("r", 3, 0.3, 3, 0),
        ("r", 5, 0.5, 8, 0),
        ("s", 4, 0.4, 7, 0),
    ]


def test_any_named_scalar_is_in_the_long_form() -> None:
    """``training_scalars`` holds loss and time and whatever else there is."""
    given = [_recorded([7, 8], [1.0, 2.0, 0.5, 0.25], columns=["loss", "lr"])]

    assert rows(given, _LONG) == [(7, "loss", 1.0), (7, "lr", 0.5), (8, "loss", 2.0), (8, "lr", 0.25)]


def test_position_and_ordinal_bring_the_scalars_of_a_row_together() -> None:
    """A repeated iteration does not mix its rows."""
    given = [_recorded([7, 7], [1.0, 2.0, 0.5, 0.25], columns=["loss", "lr"])]
    sql = """
        SELECT loss, value FROM training_stats JOIN training_scalars USING (position, ordinal)
        WHERE name = 'lr'"""

    assert sorted(rows(given, sql)) == [(1.0, 0.5), (2.0, 0.25)]


def test_an_absent_scalar_is_null_and_has_no_row_in_the_long_form() -> None:
    """A null item and a missing column are both an absence."""
    given = [_recorded([7, 8], [1.0, None, None, 0.25], columns=["loss", "lr"])]

    assert rows(given, _WIDE) == [(7, 1.0, None), (8, None, None)]
    assert rows(given, _LONG) == [(7, "loss", 1.0), (8, "lr", 0.25)]


def test_nan_and_signed_zero_stay_what_they_are() -> None:
    """NaN is a number here, not an absence."""
    ((_, loss, time),) = rows([_recorded([7], [math.nan, -0.0], columns=["loss", "time"])], _WIDE)

    assert math.isnan(loss)
    assert math.copysign(1, time) == -1


def test_rows_come_back_in_the_order_they_were_given() -> None:
    """Repeated and falling iterations are kept, across events."""
    given = [_recorded([5, 5, 1], [1, 2, 3]), _recorded([0], [4])]

    assert rows(given, _WIDE) == [(5, 1.0, None), (5, 2.0, None), (1, 3.0, None), (0, 4.0, None)]


def test_an_event_without_columns_still_counts_its_iterations() -> None:
    """An iteration without a scalar is an iteration."""
    assert rows([_recorded([7], [], columns=[])], _WIDE) == [(7, None, None)]


def test_an_epoch_keeps_what_lies_below_its_iteration() -> None:
    """The old branch leaves the view where the new epoch cuts."""
    given = [_recorded([0, 1, 2], [0, 0, 0]), _begun(1, 1), _recorded([1], [9], epoch=1)]

    assert rows(given, _WIDE) == [(0, 0.0, None), (1, 9.0, None)]
    assert rows(given, "SELECT iteration FROM training_stats_at(2)") == [(0,)]
    assert rows(given, "SELECT count(*) FROM training_stats_at(1)") == [(3,)]


def test_a_later_epoch_that_keeps_more_brings_nothing_back() -> None:
    """The lowest of all later cuts counts."""
    given = [_recorded([0, 1, 2], [0, 0, 0]), _begun(1, 1), _begun(2, 3)]

    assert rows(given, _ITERATIONS) == [(0,)]


def test_rows_that_arrive_late_for_an_ended_epoch_go_to_history() -> None:
    """A spool adopted after a rewind does not bring its rows back into the view."""
    given = [_begun(1, 2), _recorded([1, 2], [0, 0], epoch=0)]

    assert rows(given, _ITERATIONS) == [(1,)]


def test_deleting_keeps_nothing() -> None:
    """Not even negative iterations, and not the past."""
    given = [_recorded([-5, 0], [0, 0]), _deleted(1)]

    assert rows(given, _ITERATIONS) == []
    assert rows(given, "SELECT count(*) FROM training_stats_at(1)") == [(2,)]


def test_an_epoch_is_its_runs_alone() -> None:
    """Another run's rewind leaves this run as it is."""
    given = [_recorded([0, 1], [0, 0]), _begun(1, 0, run="other")]

    assert rows(given, _ITERATIONS) == [(0,), (1,)]


@pytest.mark.parametrize(
    "malformed",
    [
        _recorded([1, 2], [1.0]),
        _recorded([], [1.0]),
        event("TrainingStatsRecorded", {"run": "r", "epoch": 0, "columns": ["loss"]}, values=[1.0]),
        event("TrainingStatsRecorded", {"run": "r", "epoch": 0, "columns": ["loss"]}, index=[1]),
        _recorded([1], [1.0, 2.0], columns=["loss", "loss"]),
        _recorded([None], [1.0]),
        event("TrainingStatsRecorded", {"run": "r", "columns": []}),
        event("TrainingStatsRecorded", {"run": None, "epoch": 0, "columns": []}),
        event("TrainingStatsRecorded", {"run": "r", "epoch": 0, "columns": None}, index=[1], values=[1.0]),
        GivenEvent("TrainingStatsRecorded", "not JSON"),
    ],
    ids=[
        "too few values",
        "values for no iteration",
        "values without index",
        "index without values",
        "column twice",
        "null iteration",
        "no epoch",
        "null run",
        "null columns",
        "no JSON",
    ],
)
def test_a_malformed_event_stops_the_read_model(malformed: GivenEvent) -> None:
    """Guessing would show numbers that nobody recorded."""
    read_models = ReadModels(ListedLog([_recorded([1], [1.0]), malformed]), threads=1)

    with pytest.raises(ReadModelStoppedError) as stopped:
        read_models.query("FROM training_stats")

    assert (stopped.value.read_model, stopped.value.position) == ("training_stats", 1)
