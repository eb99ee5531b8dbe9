"""Plots that hide no spike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import FileStatsStore, TrainingIterationStats, TrainingStats, ValidationIterationScores
from dacapo_store.base import Base
from dacapo_store.plots import envelope, plot_runs


@given(st.data(), st.integers(1, 20))
def test_every_column_keeps_its_extremes(data: st.DataObject, columns: int) -> None:
    """First, last, least and greatest of each, whatever lies between; NaNs hide nothing."""
    number = data.draw(st.integers(1, 300))
    y = np.array(
        data.draw(st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=number, max_size=number))
    )
    x = np.sort(np.array(data.draw(st.lists(st.integers(0, 1000), min_size=number, max_size=number))))
    shown = envelope(x, y, columns)
    assert len(shown) <= max(4 * columns, 4)
    assert {shown[0], shown[-1]} == {0, number - 1}
    width = x[-1] - x[0]
    column = (
        np.minimum((x - x[0]) / width * columns, columns - 1).astype(int) if width else np.zeros(number, int)
    )
    for each in np.unique(column):
        here, drawn = y[column == each], y[shown[column[shown] == each]]
        if not np.isnan(here).all():
            assert np.nanmin(here) == np.nanmin(drawn)
            assert np.nanmax(here) == np.nanmax(drawn)


def test_one_spike_among_a_million_is_drawn() -> None:
    """At its very place, with a few thousand points in all."""
    losses = np.ones(1_000_000)
    losses[654_321] = 1e6
    shown = envelope(np.arange(1_000_000), losses)
    assert 654_321 in shown
    assert len(shown) <= 6000


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A run that was resumed, with scores of two datasets, and one without."""
    stats = FileStatsStore(tmp_path / "stats")
    stats.store_training_stats("a", TrainingStats([TrainingIterationStats(n, loss=1.0) for n in range(50)]))
    stats.store_training_stats("a", [TrainingIterationStats(n, loss=0.5) for n in range(30, 60)])
    stats.store_training_stats("b", [TrainingIterationStats(0, loss=-1.0)])
    scores = [[[0.5, float("nan")], [0.7, 0.1]], [[0.2, 0.3]]]
    stats.store_validation_iteration_scores("a", [ValidationIterationScores(20, scores)])
    return Base.at(tmp_path)


def test_a_figure_has_curves_scores_and_where_epochs_begin(base: Base) -> None:
    """Two axes: losses, with a dotted line where the run was resumed, and the best scores."""
    figure = plot_runs(base.views.query, ["a", "b"])
    losses, scores = figure.axes
    (curve, resumed, _) = losses.lines
    assert curve.get_ydata().tolist() == [1.0] * 30 + [0.5] * 30
    assert resumed.get_xdata()[0] == 30
    assert losses.get_yscale() == "linear"  # b has a loss below 0
    assert [line.get_ydata().tolist() for line in scores.lines] == [[0.7], [0.2]]


def test_what_cannot_be_drawn_is_an_error(base: Base) -> None:
    """No empty figure."""
    with pytest.raises(ValueError, match="none of the runs c has 'loss'"):
        plot_runs(base.views.query, ["c"])
