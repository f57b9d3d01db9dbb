"""Efficient multi-scale attention."""

from torch import Tensor

from attnzoo import nd
from attnzoo.registry import register


@register("ema", paper="https://arxiv.org/abs/2305.13563", site="out", year=2023, golden=True)
class EfficientMultiScaleAttention(nd.Gate):
    """Cross-spatial gate between a strip-gated branch and a 3x3 convolution of each group (Ouyang et al., 2023).

    All weights act on the C / groups channels of one group and are shared by the groups. The norm has one channel per
    group, so the pooled descriptor of its branch is the softmax of its bias, whatever the input: so it is in the
    authors' code. 3D: strips along T, H and W, and a cubic convolution.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups, the authors' `factor`; must divide C.

    Raises:
        ValueError: `groups` does not divide C.

    >>> sum(p.numel() for p in EfficientMultiScaleAttention(512).parameters())
    2624
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, groups: int = 32) -> None:
        super().__init__(channels, spatial_dims)
        c = nd.split(channels, groups)
        self.groups = groups
        self.norm = nd.GroupNorm(c, c)
        self.strip = nd.conv(spatial_dims)(c, c, 1)
        self.local = nd.conv(spatial_dims)(c, c, 3, padding=1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, groups, *spatial) of features x (N, C, *spatial)."""
        group_x = x.reshape(-1, x.shape[1] // self.groups, *x.shape[2:])
        gated = group_x
        for strip in nd.unstrip(self.strip(nd.strips(group_x)), x.shape[2:]):
            gated = gated * strip.sigmoid()
        w = nd.cross_spatial(self.norm(gated), self.local(group_x))
        return w.reshape(-1, self.groups, *x.shape[2:]).sigmoid()
