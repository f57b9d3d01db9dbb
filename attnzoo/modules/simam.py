"""SimAM."""

import math

from torch import Tensor

from attnzoo import nd
from attnzoo.registry import register


@register("simam", paper="https://proceedings.mlr.press/v139/yang21o.html", site="mid", year=2021, golden=True)
class SimpleAttention(nd.Gate):
    """Parameter-free gate: how far each position is from the mean of its channel (Yang et al., 2021).

    On a map of one position, where the authors' code gives NaN, the distance is 0. The authors attend to the output of
    a block's second convolution before its norm (`inject` with where={"layer*.*.conv2": "after"}). 3D: mean and
    variance over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        regularisation: added to the variance, the authors' lambda (their ImageNet networks: 0.1).

    >>> sum(p.numel() for p in SimpleAttention(512).parameters())
    0
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, regularisation: float = 1e-4) -> None:
        super().__init__(channels, spatial_dims)
        self.regularisation = regularisation

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        distance = (x - x.mean(nd.axes(x), keepdim=True)).square()
        variance = distance.sum(nd.axes(x), keepdim=True) / max(1, math.prod(x.shape[2:]) - 1)
        return (distance / (4 * (variance + self.regularisation)) + 0.5).sigmoid()
