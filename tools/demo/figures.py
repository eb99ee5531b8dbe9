"""The demo's pictures: curves, segmentations, and the curves as of an earlier moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np

from tools.demo import record

mpl.use("Agg")  # before pyplot is imported: there need be no display

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from dacapo_store import Base

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart by colour-blind people, too (Okabe and Ito)."""

BIN_ITERATIONS: Final = 8


def draw_all(base: Base, folder: Path) -> list[Path]:
    """Draw everything.

    Returns:
        The files, in the order in which they are worth a look.
    """
    return [
        draw_curves(base, folder / "curves.png"),
        draw_segmentations(base, folder / "segmentations.png"),
        draw_time_travel(base, folder / "time_travel.png"),
    ]


def draw_curves(base: Base, path: Path) -> Path:
    """Loss and validation scores of all runs; what a killed trainer lost is drawn as well."""
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for run, colour in zip(record.runs(base), COLOURS, strict=False):
        stats = record.training_stats(base, run)
        _draw_losses(losses, stats.iterations, stats.column("loss"), colour=colour, label=run)
        _draw_dice(scores, record.dice_of(base, run), colour=colour, label=run)
    notes = [f"line: mean of {BIN_ITERATIONS} iterations; shade: their exact least and greatest"]
    notes += [_mark_rewind(losses, rewind) for rewind in record.rewinds(base)]
    losses.set(title="Training: loss", xlabel="iteration", ylabel="binary cross-entropy")
    losses.set_ylim(bottom=0)
    scores.set(title="Validation: dice, mean over both fields", xlabel="iteration", ylabel="dice")
    for axes in (losses, scores):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    losses.legend(frameon=False, loc="upper right")
    _note(losses, "\n".join(notes))
    _note(scores, "at the best threshold; the star is the best of the run")
    return _save(figure, path)


def draw_segmentations(base: Base, path: Path) -> Path:
    """For each validation field: the image, the truth, and each run's best prediction."""
    names = record.runs(base)
    fields = [
        name for (name,) in base.query("SELECT DISTINCT dataset FROM best_weights ORDER BY 1").fetchall()
    ]
    figure, grid = plt.subplots(
        len(fields),
        len(names) + 2,
        figsize=(2.6 * (len(names) + 2), 2.9 * len(fields)),
        layout="constrained",
        squeeze=False,
    )
    for row, field in zip(grid, fields, strict=True):
        found = [record.best_segmentation(base, run, field) for run in names]
        _show_image(row[0], found[0].raw, f"{field}: what the networks see")
        _show_image(row[1], found[0].raw, "the truth, from the stain")
        row[1].imshow(_overlay(found[0].truth, colour=(0.9, 0.62, 0.0)))
        for axes, result, colour in zip(row[2:], found, COLOURS, strict=False):
            probabilities = result.probabilities
            axes.imshow(probabilities, cmap="gray", vmin=0, vmax=1)
            axes.contour(result.truth, levels=[0.5], colors=["#e69f00"], linewidths=1.2)
            axes.set_title(f"{result.run}, iteration {result.iteration}", fontsize=9, color=colour)
            axes.set_axis_off()
    figure.supxlabel(
        "right: probability of gland, best weights by dice; orange: outline of the truth",
        fontsize=9,
        color="#666666",
    )
    return _save(figure, path)


def draw_time_travel(base: Base, path: Path) -> Path:
    """The losses as of the moment at which the first best weights were chosen, over today's."""
    moment = record.first_best(base)
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for run, colour in zip(record.runs(base), COLOURS, strict=False):
        now = record.training_stats(base, run)
        axes.plot(now.iterations, now.column("loss"), color="#cccccc", linewidth=0.9)
        iterations, losses = record.losses_as_of(base, run, moment.position)
        axes.plot(
            iterations, losses, color=colour, linewidth=1.4, label=f"{run}: {len(iterations)} iterations"
        )
    axes.set(
        title=f"As of position {moment.position}, when the first best weights were chosen",
        xlabel="iteration",
        ylabel="binary cross-entropy",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="as of then")
    _note(axes, "grey: everything that is known today")
    return _save(figure, path)


def _draw_losses(
    axes: Axes, iterations: NDArray[np.int64], losses: NDArray[np.float64], *, colour: str, label: str
) -> None:
    """Mean, least and greatest of each few iterations: no spike is hidden."""
    whole = len(losses) - len(losses) % BIN_ITERATIONS
    bins = losses[:whole].reshape(-1, BIN_ITERATIONS)
    middles = iterations[:whole].reshape(-1, BIN_ITERATIONS).mean(axis=1)
    axes.fill_between(middles, bins.min(axis=1), bins.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    axes.plot(middles, bins.mean(axis=1), color=colour, linewidth=1.6, label=label)


def _draw_dice(axes: Axes, scores: list[tuple[int, float]], *, colour: str, label: str) -> None:
    iterations, dice = zip(*scores, strict=True)
    axes.plot(iterations, dice, "o-", color=colour, linewidth=1.4, markersize=4, label=label)
    best = int(np.argmax(dice))
    axes.plot(iterations[best], dice[best], "*", color=colour, markersize=14)


def _mark_rewind(axes: Axes, rewind: record.Rewind) -> str:
    """Shade the iterations that were trained twice.

    Returns:
        What the shade means.
    """
    axes.axvspan(rewind.kept_below, rewind.kept_below + rewind.lost, color="#000000", alpha=0.08)
    return f"grey: {rewind.run} was killed, {rewind.lost} iterations were trained again"


def _show_image(axes: Axes, image: NDArray[np.float32], title: str) -> None:
    axes.imshow(image, cmap="gray")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _overlay(mask: NDArray[np.bool_], *, colour: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.dstack([*(np.full(mask.shape, part) for part in colour), mask * 0.45])


def _note(axes: Axes, text: str) -> None:
    axes.text(0.0, -0.16, text, transform=axes.transAxes, fontsize=8, color="#666666", va="top")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
