"""A small 2-D U-Net: two steps down, two up, with the skip connections that give it its name."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SCALE_STEPS = 2
"""Each step halves the image: heights and widths must be multiples of ``2 ** SCALE_STEPS``."""


class UNet(nn.Module):
    """Maps an image (batch, 1, height, width) to one logit for each pixel.

    Args:
        width: Feature maps at full resolution; each step down doubles them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(SCALE_STEPS + 1)]
        self.down = nn.ModuleList([_block(inputs, outputs) for inputs, outputs in pairwise([1, *widths])])
        self.up = nn.ModuleList([_block(upper + lower, upper) for upper, lower in pairwise(widths)])
        self.head = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """One logit for each pixel: above zero means gland."""
        features = image
        skipped = []
        for step, block in enumerate(self.down):
            features = block(features if step == 0 else nn.functional.max_pool2d(features, 2))
            skipped.append(features)
        for block, skip in zip(reversed(self.up), reversed(skipped[:-1]), strict=True):
            larger = nn.functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([skip, larger], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
