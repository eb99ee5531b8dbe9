"""The forms in which an answer can be read."""

from __future__ import annotations

import numpy as np
import pytest

from projections import QueryResult, ReadModels
from projections.testing import ListedLog

_SQL = "SELECT range AS a, CASE WHEN range <> 1 THEN range / 2 END AS b FROM range(3)"


@pytest.fixture
def result() -> QueryResult:
    return ReadModels(ListedLog()).query(_SQL)


def test_rows_can_be_taken_one_by_one(result: QueryResult) -> None:
    """Until there are none."""
    assert result.columns == ["a", "b"]
    assert result.fetchone() == (0, 0.0)
    assert result.fetchmany(1) == [(1, None)]
    assert result.fetchall() == [(2, 1.0)]
    assert result.fetchone() is None


def test_rows_can_be_iterated(result: QueryResult) -> None:
    """As with any cursor."""
    assert list(result) == [(0, 0.0), (1, None), (2, 1.0)]


def test_columns_come_as_numpy_arrays_masked_where_null(result: QueryResult) -> None:
    """An absence is no NaN."""
    columns = result.fetchnumpy()

    assert columns["a"].tolist() == [0, 1, 2]
    assert np.ma.getmaskarray(columns["b"]).tolist() == [False, True, False]


def test_the_answer_comes_as_arrow_whatever_was_fetched(result: QueryResult) -> None:
    """And directly, without a result in between."""
    result.fetchone()

    expected = {"a": [0, 1, 2], "b": [0.0, None, 1.0]}
    assert result.arrow().to_pydict() == expected
    assert ReadModels(ListedLog()).arrow(_SQL).to_pydict() == expected


def test_the_answer_comes_as_a_data_frame(result: QueryResult) -> None:
    """Where pandas is installed."""
    pytest.importorskip("pandas")

    assert result.df()["a"].tolist() == [0, 1, 2]
