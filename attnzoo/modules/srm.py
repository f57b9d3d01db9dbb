"""Style-based recalibration."""

import math

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "srm",
    paper="https://arxiv.org/abs/1903.10829",
    site="out",
    year=2019,
    golden=True,
    formula="y = x * sigmoid(norm(a * mean(x) + b * std(x)))",
)
class StyleRecalibration(nd.Gate):
    """Channel gate from the mean and the standard deviation of each channel (Lee, Kim & Nam, 2019).

    Channels do not mix. The authors leave its parameters out of weight decay. On a map of one position, where their
    code gives NaN, the deviation is about 0. 3D: mean and deviation over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        eps: added to the variance.

    >>> sum(p.numel() for p in StyleRecalibration(512).parameters())
    2048
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, eps: float = 1e-5) -> None:
        super().__init__(channels, spatial_dims)
        self.deviation = _Deviation(eps)
        self.cfc = nn.Parameter(torch.zeros(channels, 2))  # the channel-wise fully connected layer, of mean, deviation
        self.bn = nn.BatchNorm1d(channels)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        deviation = fast.recomputed(self.deviation, self.deviation, x) if fast.usable(self, x) else self.deviation(x)
        style: Tensor = self.bn(fast.mean(x, nd.axes(x)) * self.cfc[:, 0] + deviation * self.cfc[:, 1])
        return nd.expand(style.sigmoid(), x)


class _Deviation(nn.Module):
    """Standard deviation (N, C), unbiased, of features x (N, C, *spatial); torch's own takes one value at a time."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(x - x.mean(nd.axes(x), keepdim=True), dim=nd.axes(x))
        deviation: Tensor = (distance.square() / max(1, math.prod(x.shape[2:]) - 1) + self.eps).sqrt()
        return deviation
