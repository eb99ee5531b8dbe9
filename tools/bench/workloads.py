"""What contestants are given: the same numbers for all, and the same in each run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

SEED: Final = 7
_NAN_SHARE: Final = 0.1

Curve = tuple["npt.NDArray[np.int64]", "npt.NDArray[np.float64]", "npt.NDArray[np.float64]"]


def curve(iterations: int, *, first: int = 0) -> Curve:
    """A training's iterations, losses and times.

    Losses are float32 as a network's are, in doubles as ``loss.item()`` gives them; times are differences
    of clocks, with all the bits that those have.
    """
    generator = np.random.default_rng(SEED)
    steps = np.arange(first, first + iterations, dtype=np.int64)
    losses = (1.0 / np.sqrt(1.0 + steps / 100.0)) * (1.0 + 0.1 * generator.standard_normal(iterations))
    times = 0.25 + 0.01 * generator.random(iterations)
    return steps, losses.astype(np.float32).astype(np.float64), times


def nested_scores(iteration: int, shape: tuple[int, int, int] = (3, 20, 8)) -> list[list[list[float]]]:
    """The scores of one iteration, ``[dataset][parameters][criterion]``; one in ten is NaN."""
    generator = np.random.default_rng((SEED, iteration))
    scores = generator.random(shape)
    scores[generator.random(shape) < _NAN_SHARE] = np.nan
    nested: list[list[list[float]]] = scores.tolist()
    return nested


def digest(*arrays: Any) -> float:
    """A number that is the same only for the same arrays, bit by bit: 48 bits, which a float holds."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return float(int.from_bytes(content.digest()[:6], "little"))
