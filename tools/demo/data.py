"""The images: fields of one real micrograph that scikit-image's own wheel carries.

It is a section of human colon, in which antibodies have stained the glands brown (DAB) and
haematoxylin the nuclei blue. The networks see it in grey. The truth that they are trained and
scored on is not drawn by a pathologist: it is computed here from the colours, which the networks
never see, by separating the stains and closing the gaps. That is a fair task (brown and blue have
the same grey, so texture has to be learned) and an honest score, of agreement with that rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from skimage import color, data, filters, morphology

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS: Final = {
    "upper": (slice(0, 288), slice(0, 512)),
    "crypt": (slice(304, 512), slice(0, 240)),
    "gland": (slice(304, 512), slice(240, 480)),
}
"""Regions of the micrograph (rows, columns): the first is for training, the others for validation.
A strip of 16 rows between them belongs to neither."""

STAIN_SMOOTHING_PIXELS: Final = 1.5
GAP_RADIUS_PIXELS: Final = 7
SMALLEST_REGION_PIXELS: Final = 400


@dataclass(frozen=True)
class Field:
    """One region of the micrograph: what the network sees, and what it should find."""

    name: str
    raw: NDArray[np.float32]
    truth: NDArray[np.bool_]


@cache
def field(name: str) -> Field:
    """The region of this name, grey values standardised over the whole micrograph."""
    grey, truth = _micrograph()
    region = FIELDS[name]
    return Field(name=name, raw=grey[region], truth=truth[region])


@cache
def _micrograph() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    colours = data.immunohistochemistry()[..., :3]
    grey = color.rgb2gray(colours)
    standardised = ((grey - grey.mean()) / grey.std()).astype(np.float32)
    return standardised, _stained_glands(colours)


def _stained_glands(colours: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the brown stain is, with the nuclei inside the glands filled in."""
    brown = color.rgb2hed(colours)[..., 2]
    smooth = filters.gaussian(brown, STAIN_SMOOTHING_PIXELS)
    stained = smooth > filters.threshold_otsu(smooth)
    closed = morphology.closing(stained, morphology.disk(GAP_RADIUS_PIXELS))
    without_holes = ~_without_specks(~closed)
    return _without_specks(without_holes)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its connected regions below ``SMALLEST_REGION_PIXELS``."""
    labels = morphology.label(mask)
    large = np.bincount(labels.ravel()) >= SMALLEST_REGION_PIXELS
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept


def training_batch(
    field: Field, *, size: int, edge: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``size`` random square crops, each turned and mirrored at random, with their truth."""
    rows, columns = field.raw.shape
    raws: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.float32]] = []
    for _ in range(size):
        top = generator.integers(rows - edge + 1)
        left = generator.integers(columns - edge + 1)
        region = (slice(top, top + edge), slice(left, left + edge))
        turns, mirrored = int(generator.integers(4)), generator.integers(2)
        for crops, image in ((raws, field.raw), (truths, field.truth.astype(np.float32))):
            crop = np.rot90(image[region], turns)
            crops.append(crop[:, ::-1] if mirrored else crop)
    return np.stack(raws)[:, None], np.stack(truths)[:, None]
