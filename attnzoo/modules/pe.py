"""Project & excite."""

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "pe",
    paper="https://arxiv.org/abs/1906.04649",
    site="stage",
    year=2019,
    golden=True,
    formula="y = x * sigmoid(W2 relu(W1 (mean_w(x) + mean_h(x))))",
)
class ProjectExcite(nd.Gate):
    """Gate from the sum of the features' projections on each axis, by a bottleneck (Rickmann et al., 2019).

    The authors put it after each encoder and decoder block of a 3D U-Net. Their code squeezes the sum at each position;
    the squeeze is linear, so it is here taken of the T + H + W projected positions, with the same result. 3D, which
    theirs is: the projections on T, H and W; 2D: those on H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the bottleneck has C // reduction channels, at least 1.

    Raises:
        ValueError: `reduction` is not positive.

    >>> sum(p.numel() for p in ProjectExcite(512, spatial_dims=3).parameters())
    262912
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, reduction: int = 2) -> None:
        super().__init__(channels, spatial_dims)
        hidden = nd.squeeze(channels, reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nd.conv(spatial_dims)(hidden, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        squeezed = F.linear(nd.strips(x).flatten(2).mT, self.squeeze.weight).mT  # (N, hidden, T + H + W)
        total = nd.expand(self.squeeze.bias.unsqueeze(0), x)
        for strip in nd.unstrip(squeezed, x.shape[2:]):
            total = total + strip
        gate: Tensor = self.excite(total.relu_()).sigmoid()
        return gate
