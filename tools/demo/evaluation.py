"""How well a prediction agrees with the truth, by three criteria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from skimage import measure, metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGHER_IS_BETTER: Final = {"dice": True, "jaccard": True, "voi": False}


@dataclass(frozen=True)
class Threshold:
    """Parameters of the post-processing: what is above the threshold is a gland."""

    threshold: float

    def __str__(self) -> str:
        """The name that the stores use for these parameters."""
        return f"threshold_{self.threshold:g}"

    def segment(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where the glands are."""
        segmentation: NDArray[np.bool_] = probabilities > self.threshold
        return segmentation


@dataclass(frozen=True)
class EvaluationScores:
    """The criteria by which each segmentation is judged, by name."""

    criteria: tuple[str, ...]

    def evaluate(self, segmentation: NDArray[np.bool_], truth: NDArray[np.bool_]) -> list[float]:
        """One score for each criterion, in their order."""
        scores = {
            "dice": _overlap(segmentation, truth, weight=2.0),
            "jaccard": _overlap(segmentation, truth, weight=1.0),
            "voi": _variation_of_information(segmentation, truth),
        }
        return [scores[criterion] for criterion in self.criteria]


def is_better(criterion: str, score: float, than: float | None) -> bool:
    """Whether a score beats the best so far (None: there is none yet)."""
    if than is None:
        return True
    return score > than if HIGHER_IS_BETTER[criterion] else score < than


def _overlap(segmentation: NDArray[np.bool_], truth: NDArray[np.bool_], *, weight: float) -> float:
    """Dice's coefficient (weight 2) or Jaccard's index (weight 1)."""
    both = float(np.count_nonzero(segmentation & truth))
    differing = float(np.count_nonzero(segmentation ^ truth))
    return weight * both / (weight * both + differing)


def _variation_of_information(segmentation: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Bits by which the connected regions of one tell nothing of the other's: 0 is perfect."""
    split, merge = metrics.variation_of_information(measure.label(truth), measure.label(segmentation))
    return float(split + merge)
