"""Concatenation."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, register


@register("concat", paper="Electronics 2025, 14, 1886, section 3.1", year=2025)
class Concat(Fusion):
    """Both features side by side, then a linear map and ReLU.

    Args:
        width: d of each input and of the output.
        segments: T; any.

    >>> Concat(8, 4)(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def __init__(self, width: int, segments: int) -> None:
        super().__init__(width, segments, width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, d)."""
        fused: Tensor = self.mix(torch.cat((visual, audio), -1))
        return fused
