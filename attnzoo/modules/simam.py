"""SimAM."""

import math

import torch
from torch import Tensor

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "simam",
    paper="https://proceedings.mlr.press/v139/yang21o.html",
    site="mid",
    year=2021,
    golden=True,
    formula="d = (x - mean(x))^2; y = x * sigmoid(d / (4 (sum(d) / (n - 1) + lambda)) + 1/2), n positions",
)
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
        return (distance * self._factor(distance) + 0.5).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        self.check(x)
        return fast.by_sample(lambda x: x * self.gate(x), self._scaled, self._derivative, x)

    def _factor(self, distance: Tensor) -> Tensor:
        """By which the distance enters the gate, (N, C, 1, ...)."""
        variance = distance.sum(nd.axes(distance), keepdim=True) / max(1, math.prod(distance.shape[2:]) - 1)
        return 1 / (4 * (variance + self.regularisation))

    def _scaled(self, y: Tensor, x: Tensor) -> None:
        """x * gate(x) in few passes."""
        distance = torch.sub(x, x.mean(nd.axes(x), keepdim=True), out=y).square_()
        distance.mul_(self._factor(distance)).add_(0.5).sigmoid_().mul_(x)

    def _derivative(self, by_x: Tensor, by_y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        axes, others = nd.axes(x), max(1, math.prod(x.shape[2:]) - 1)
        centred = torch.sub(x, x.mean(axes, keepdim=True), out=by_x)
        distance = centred.square()
        factor = self._factor(distance)
        gate = (distance * factor).add_(0.5).sigmoid_()
        by_logits = torch.ops.aten.sigmoid_backward(by_y * x, gate)
        by_variance = distance.mul_(by_logits).sum(axes, keepdim=True) * -4 * factor.square()
        by_centred = centred.mul_(by_logits.mul_(2 * factor).add_(2 * by_variance / others))
        by_centred.sub_(by_centred.mean(axes, keepdim=True)).add_(gate.mul_(by_y))
        return ()
