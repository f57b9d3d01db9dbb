"""Concatenation."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, register


@register("concat", paper="Electronics 2025, 14, 1886, section 3.1", year=2025)
class Concat(Fusion):
    """Both features side by side, then a linear map and ReLU.

    Args:
        width: d of each input, and of the output where they are mixed.
        segments: T; any.
        mix: whether the linear map and ReLU follow; without them the model's classifier makes it W [v; a] + b, the
            baseline of the literature.

    >>> Concat(8, 4)(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def __init__(self, width: int, segments: int, *, mix: bool = True) -> None:
        super().__init__(width, segments, width if mix else 2 * width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU()) if mix else nn.Identity()

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, d), or (B, T, 2d) unmixed."""
        fused: Tensor = self.mix(torch.cat((visual, audio), -1))
        return fused
