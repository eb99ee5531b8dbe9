"""Curves of runs that hide no spike: what is too dense to draw keeps each column's least and greatest.

A plot with more points than pixels must leave some out. Strides, samples and means leave out the one
iteration at which a training exploded; here each column of pixels keeps the rows with its minimum and
its maximum, its first and its last, so the drawing is the one that all points would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS: Final = 1500
"""How many columns a curve is drawn in at most: more than the pixels of a figure on a page."""

Query = Callable[[str, dict[str, Any]], Any]

_CURVE: Final = """
    SELECT iteration, value, epoch FROM training_scalars
    WHERE run = $run AND name = $scalar ORDER BY iteration, position, ordinal"""

_SCORES: Final = """
    SELECT iteration, dataset, max(score) AS greatest, min(score) AS least FROM validation_scores
    WHERE run = $run AND criterion = $criterion AND NOT isnan(score)
    GROUP BY iteration, dataset ORDER BY dataset, iteration"""

_CRITERIA: Final = """
    SELECT criterion FROM validation_scores WHERE list_contains($runs, run)
    GROUP BY criterion ORDER BY min(criterion_index), criterion"""


def envelope(places: npt.ArrayLike, values: npt.ArrayLike, columns: int = COLUMNS) -> npt.NDArray[np.int64]:
    """Which points to draw: of each of so many columns its first, last, least and greatest one.

    NaNs are no least and no greatest; a column of nothing else keeps its first and last.

    Args:
        places: Where the points lie, n numbers, ascending.
        values: How high, n floats.
        columns: How many columns there are at most.

    Returns:
        The indices of the points, ascending, at most 4 · ``columns``; all of them if they are fewer.
    """
    x, y = np.asarray(places, np.float64), np.asarray(values, np.float64)
    if len(x) <= 4 * columns:
        return np.arange(len(x))
    width = (x[-1] - x[0]) or 1.0
    column = np.minimum(((x - x[0]) / width * columns).astype(np.int64), columns - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    ends = np.append(starts[1:], len(x)) - 1
    by_height = np.lexsort((np.where(np.isnan(y), np.inf, y), column))
    from_above = np.lexsort((np.where(np.isnan(y), np.inf, -y), column))
    return np.unique(np.concatenate((starts, ends, by_height[starts], from_above[starts])))


def plot_runs(
    query: Query,
    runs: Sequence[str],
    *,
    scalar: str = "loss",
    criterion: str | None = None,
    higher_is_better: bool = True,
) -> Figure:
    """Draw training curves and, where there are any, validation scores below them.

    Args:
        query: Answers SQL over the public views.
        runs: The runs' names.
        scalar: Which scalar of the training.
        criterion: Which criterion of the validation; None is the first there is.
        higher_is_better: Of an iteration's parameters the best score is drawn: the greatest, or the least.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; ``pip install "dacapo-store[plot]"``.
        ValueError: None of the runs has this scalar or any score.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "drawing needs matplotlib: pip install 'dacapo-store[plot]'", name=error.name
        ) from error

    curves = {run: _columns(query(_CURVE, {"run": run, "scalar": scalar})) for run in runs}
    curves = {run: curve for run, curve in curves.items() if len(curve["iteration"])}
    criteria = [name for (name,) in query(_CRITERIA, {"runs": list(runs)}).fetchall()]
    chosen = criterion if criterion is not None else next(iter(criteria), None)
    if not curves and chosen not in criteria:
        raise ValueError(f"none of the runs {', '.join(runs)} has {scalar!r} or validation scores to draw")
    figure = Figure(figsize=(9, 7 if criteria else 4), layout="constrained")
    axes = figure.subplots(2 if chosen in criteria else 1, sharex=True, squeeze=False)[:, 0]
    for run, curve in curves.items():
        _draw_curve(axes[0], run, curve)
    axes[0].set_ylabel(scalar)
    if all(np.nanmin(curve["value"], initial=np.inf) > 0 for curve in curves.values()):
        axes[0].set_yscale("log")
    if chosen in criteria:
        for run in runs:
            scores = _columns(query(_SCORES, {"run": run, "criterion": chosen}))
            _draw_scores(axes[1], run, scores, "greatest" if higher_is_better else "least")
        axes[1].set_ylabel(chosen)
        axes[1].legend(fontsize="small")
    if curves:
        axes[0].legend(fontsize="small")
    axes[-1].set_xlabel("iteration")
    return figure


def _columns(answer: Any) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.ma.filled(column, np.nan)
        if np.ma.isMaskedArray(column) and column.dtype.kind == "f"
        else column
        for name, column in answer.fetchnumpy().items()
    }


def _draw_curve(axes: Axes, run: str, curve: dict[str, npt.NDArray[Any]]) -> None:
    shown = envelope(curve["iteration"], curve["value"])
    (line,) = axes.plot(curve["iteration"][shown], curve["value"][shown], label=run, linewidth=0.8)
    begun = np.flatnonzero(np.diff(curve["epoch"].astype(np.int64))) + 1
    for iteration in curve["iteration"][begun]:
        axes.axvline(iteration, color=line.get_color(), linestyle=":", linewidth=0.8)


def _draw_scores(axes: Axes, run: str, scores: dict[str, npt.NDArray[Any]], which: str) -> None:
    for dataset in dict.fromkeys(scores["dataset"].tolist()):
        rows = scores["dataset"] == dataset
        axes.plot(
            scores["iteration"][rows],
            scores[which][rows],
            marker="o",
            markersize=3,
            label=f"{run}, {dataset}",
        )
