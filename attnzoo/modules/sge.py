"""Spatial group-wise enhance."""

import math

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


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
        grouped: Tensor = x.unflatten(1, (self.groups, -1))
        similarity = (grouped * grouped.mean(nd.axes(grouped)[1:], keepdim=True)).sum(2)
        spatial = nd.axes(similarity)
        centred = similarity - similarity.mean(spatial, keepdim=True)
        # Not `std`, which warns of empty batches.
        deviation: Tensor = torch.linalg.vector_norm(centred, dim=spatial, keepdim=True)
        deviation = deviation / math.sqrt(max(1, math.prod(x.shape[2:]) - 1))
        return (self.weight * (centred / (deviation + 1e-5)) + self.bias).sigmoid()
