"""The read model of validation."""

from __future__ import annotations

import math
from typing import Any

import pytest

from projections import ReadModels, ReadModelStoppedError
from projections.testing import GivenEvent, ListedLog, event, rows

_SCORES = """
    SELECT iteration, dataset, parameters, criterion, score FROM validation_scores
    ORDER BY position, ordinal"""
_ITERATIONS = "SELECT iteration, scores FROM validation_iterations ORDER BY position, ordinal"


def _recorded(
    index: list[int | None], values: list[float | None] | None, lengths: Any, *, epoch: int = 0, **names: Any
) -> GivenEvent:
    data = {"run": "r", "epoch": epoch, "datasets": [], "parameters": [], "criteria": [], "lengths": lengths}
    return event("ValidationScoresRecorded", data | names, index=index, values=values)


_NAMES = {"datasets": ["d", "e"], "parameters": ["p"], "criteria": ["iou", "voi"]}


def test_scores_are_told_by_the_names_of_dataset_parameters_and_criterion() -> None:
    """The long form has one row a score."""
    given = [_recorded([10], [1, 2, 3, 4], [[2], [2]], **_NAMES)]

    assert rows(given, _SCORES) == [
        (10, "d", "p", "iou", 1.0),
        (10, "d", "p", "voi", 2.0),
        (10, "e", "p", "iou", 3.0),
        (10, "e", "p", "voi", 4.0),
    ]


def test_iterations_of_one_event_follow_each_other() -> None:
    """Values lie iteration after iteration, and ``ordinal`` counts them all."""
    given = [_recorded([10, 20, 20], [1, 2, 3], [[1]], **_NAMES)]
    sql = "SELECT iteration, score, ordinal FROM validation_scores ORDER BY position, ordinal"

    assert rows(given, sql) == [(10, 1.0, 0), (20, 2.0, 1), (20, 3.0, 2)]


def test_ragged_scores_keep_their_structure() -> None:
    """Each dataset has its own parameters, each parameters their own criteria."""
    given = [_recorded([10], [1, 2, 3], [[2, 0], [], [1]], **_NAMES)]
    sql = """
        SELECT dataset_index, parameters_index, criterion_index, score FROM validation_scores
        ORDER BY ordinal"""

    assert rows(given, sql) == [(0, 0, 0, 1.0), (0, 0, 1, 2.0), (2, 0, 0, 3.0)]
    assert rows(given, "SELECT lengths, scores FROM validation_iterations") == [
        ([[2, 0], [], [1]], [1.0, 2.0, 3.0])
    ]


def test_a_missing_name_reads_as_its_index() -> None:
    """Fewer names than indices, or a null one, leave no score without a name."""
    given = [_recorded([10], [1, 2], [[1], [1]], datasets=["d"], parameters=[None])]

    assert rows(given, _SCORES) == [(10, "d", "0", "0", 1.0), (10, "1", "0", "0", 2.0)]


def test_an_iteration_without_scores_is_an_iteration() -> None:
    """It has no row in the long form and one in ``validation_iterations``."""
    given = [_recorded([10, 20], None, []), _recorded([30], [], [[0]])]

    assert rows(given, _ITERATIONS) == [(10, []), (20, []), (30, [])]
    assert rows(given, _SCORES) == []


def test_nan_null_and_signed_zero_stay_what_they_are() -> None:
    """In both forms."""
    given = [_recorded([10], [math.nan, None, -0.0], [[3]])]

    assert repr(rows(given, _ITERATIONS)) == "[(10, [nan, None, -0.0])]"
    assert repr([score for *_, score in rows(given, _SCORES)]) == "[nan, None, -0.0]"


def test_events_of_one_shape_share_it_and_others_have_their_own() -> None:
    """A new criterion later in a run gets its own names, the earlier scores keep theirs."""
    given = [
        _recorded([10], [1], [[1]], **_NAMES),
        _recorded([20], [2], [[1]], **_NAMES),
        _recorded([30], [3], [[1]], **(_NAMES | {"criteria": ["f1"]})),
    ]
    read_models = ReadModels(ListedLog(given), threads=1)

    assert [row[3] for row in read_models.query(_SCORES)] == ["iou", "iou", "f1"]
    assert read_models.query("SELECT shape FROM history.validation_shapes ORDER BY 1").fetchall() == [
        (0,),
        (2,),
    ]


def test_an_epoch_keeps_what_lies_below_its_iteration() -> None:
    """As in training: the old branch leaves both views."""
    given = [
        _recorded([10, 20], [1, 2], [[1]]),
        event("ValidationEpochBegun", {"run": "r", "epoch": 1, "keeps_below": 20}),
        _recorded([20], [3], [[1]], epoch=1),
    ]

    assert rows(given, _ITERATIONS) == [(10, [1.0]), (20, [3.0])]
    assert [score for *_, score in rows(given, _SCORES)] == [1.0, 3.0]


def test_deleting_keeps_nothing() -> None:
    """The scores stay in the past."""
    given = [
        _recorded([10], [1], [[1]]),
        event("ValidationScoresDeleted", {"run": "r", "epoch": 1}),
    ]

    assert rows(given, _ITERATIONS) == []
    assert rows(given, "SELECT score FROM validation_scores_at(1)") == [(1.0,)]


@pytest.mark.parametrize(
    "malformed",
    [
        _recorded([10], [1, 2], [[1]]),
        _recorded([10], [1], None),
        _recorded([10], [1], [[2, -1]]),
        _recorded([10], [1], [[1], None]),
        _recorded([10], [1], [[1]], datasets=None),
    ],
    ids=["too many values", "no lengths", "negative length", "null length", "null names"],
)
def test_a_malformed_event_stops_the_read_model(malformed: GivenEvent) -> None:
    """Guessing would show scores that nobody recorded."""
    read_models = ReadModels(ListedLog([malformed]), threads=1)

    with pytest.raises(ReadModelStoppedError, match="validation_scores"):
        read_models.query("FROM validation_iterations")
