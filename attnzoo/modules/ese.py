"""Effective squeeze-and-excitation (VoVNetV2)."""

import torch.nn.functional as F
from torch import Tensor

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "ese",
    paper="https://arxiv.org/abs/1911.06667",
    site="out",
    year=2020,
    golden=True,
    formula="y = x * clip((W mean(x) + 3) / 6, 0, 1)",
)
class EffectiveSqueezeExcitation(nd.Gate):
    """SE without its bottleneck: one linear map of the pooled features, and a hard sigmoid (Lee & Park, 2020).

    The authors put it after the last convolution of each one-shot aggregation block, before the sum. Their `reduction`
    does nothing and is left out; timm's layer is the same. A gate cut off at 0 or 1 has no gradient. 3D: the squeeze is
    the mean over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.

    >>> sum(p.numel() for p in EffectiveSqueezeExcitation(512).parameters())
    262656
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims)
        self.fc = nd.conv(spatial_dims)(channels, channels, 1)  # named and shaped as theirs: their weights load

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        return F.hardsigmoid(self.fc(nd.expand(fast.mean(x, nd.axes(x)), x)))
