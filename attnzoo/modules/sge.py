"""Spatial group-wise enhance."""

import math

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

EPS = 1e-5  # of the authors
FEW = 64  # positions


@register(
    "sge",
    paper="https://arxiv.org/abs/1905.09646",
    site="out",
    year=2019,
    golden=True,
    formula="per group: s = sum_c(x * mean(x)); y = x * sigmoid(w (s - mean(s)) / std(s) + b)",
)
class SpatialGroupEnhance(nd.Gate):
    """Each group of channels gated by how like its mean each position is (Li, Hu & Yang, 2019).

    As in the authors' code the similarity is divided by its unbiased standard deviation plus 1e-5; on a map of one
    position, where that is undefined, the similarity is 0. 3D: means and deviations over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups; must divide C.

    Raises:
        ValueError: `groups` does not divide C.

    >>> sum(p.numel() for p in SpatialGroupEnhance(512).parameters())
    128
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, groups: int = 64) -> None:
        super().__init__(channels, spatial_dims)
        nd.split(channels, groups)
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, *(1,) * spatial_dims))
        self.bias = nn.Parameter(torch.ones(1, groups, *(1,) * spatial_dims))

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, groups, *spatial) of features x (N, C, *spatial)."""
        return self._gate(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        self.check(x)
        if x.is_contiguous() and fast.usable(self, x):
            return fast.by_sample(self._defined, self._quick, self._derivative, x, self.weight, self.bias)
        return super().forward(x)

    def _gate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        grouped: Tensor = x.unflatten(1, (self.groups, -1))
        similarity = (grouped * grouped.mean(nd.axes(grouped)[1:], keepdim=True)).sum(2)
        spatial = nd.axes(similarity)
        centred = similarity - similarity.mean(spatial, keepdim=True)
        # Not `std`, which warns of empty batches.
        deviation: Tensor = torch.linalg.vector_norm(centred, dim=spatial, keepdim=True)
        deviation = deviation / math.sqrt(max(1, math.prod(x.shape[2:]) - 1))
        return (weight * (centred / (deviation + EPS)) + bias).sigmoid()

    def _defined(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups, -1))
        y: Tensor = grouped * self._gate(x, weight, bias).unsqueeze(2)
        return y.reshape(x.shape)

    # The same with a gate that is made anew in the backward pass, on (N * groups, C / groups, positions).

    def _quick(self, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
        grouped = self._grouped(x)
        gate = self._normed(grouped, weight, bias)[0]
        torch.mul(grouped, gate, out=y.view(grouped.shape))

    def _derivative(self, by_x: Tensor, by_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        grouped, of_y, by_x = self._grouped(x), self._grouped(by_y), self._grouped(by_x)
        gate, normed, centred, deviation, mean = self._normed(grouped, weight, bias)
        by_gate = torch.mul(of_y, grouped, out=by_x).sum(1, keepdim=True)
        by_logits = torch.ops.aten.sigmoid_backward(by_gate, gate)
        by_normed = by_logits * self._each_group(weight, len(x))
        others = max(1, grouped.shape[2] - 1)
        positive = deviation.clamp_min(torch.finfo(x.dtype).tiny)  # of constant maps it is 0, and so is what it divides
        slope = (by_normed * normed).sum(2, keepdim=True) / (others * positive)
        by_centred = (by_normed - centred * slope) / (deviation + EPS)
        by_similarity = by_centred - by_centred.mean(2, keepdim=True)
        by_mean = _product(grouped, by_similarity.mT) / grouped.shape[2]
        torch.mul(of_y, gate, out=by_x).addcmul_(mean, by_similarity).add_(by_mean)
        by_weight, by_bias = (
            by.view(len(x), self.groups, -1).sum((0, 2)).view_as(weight) for by in (by_logits * normed, by_logits)
        )
        return by_weight, by_bias

    def _normed(self, grouped: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Gate, normed and centred similarity (N * groups, 1, positions), its deviation, and the means of x."""
        mean = grouped.mean(2, keepdim=True)
        similarity = _product(mean.mT, grouped)
        centred = similarity - similarity.mean(2, keepdim=True)
        deviation = torch.linalg.vector_norm(centred, dim=2, keepdim=True) / math.sqrt(max(1, grouped.shape[2] - 1))
        normed = centred / (deviation + EPS)
        samples = len(grouped) // self.groups
        logits = normed * self._each_group(weight, samples) + self._each_group(bias, samples)
        return logits.sigmoid_(), normed, centred, deviation, mean

    def _grouped(self, x: Tensor) -> Tensor:
        return x.reshape(len(x) * self.groups, x.shape[1] // self.groups, -1)

    def _each_group(self, parameter: Tensor, samples: int) -> Tensor:
        return parameter.view(-1).expand(samples, -1).reshape(-1, 1, 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b where one of them is a vector; of few positions elementwise, since there the library's calls cost more."""
    if max(a.shape[2], b.shape[2]) > FEW:
        return a @ b
    return (a * b.mT).sum(2, keepdim=True) if b.shape[2] == 1 else (a.mT * b).sum(1, keepdim=True)
