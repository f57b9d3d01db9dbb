"""Shuffle attention (SA-Net)."""

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register("sa", paper="https://arxiv.org/abs/2102.00240", site="out", aliases=["shuffle"], year=2021, golden=True)
class ShuffleAttention(nd.Attention):
    """Per group half the channels gated by their mean, half by their normalised map; a shuffle (Zhang & Yang, 2021).

    The few parameters are shared by all groups. 3D: means and statistics over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input, a multiple of 2 * groups; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups (the authors' ResNets: 64, which a width of 64 does not allow).

    Raises:
        ValueError: 2 * groups does not divide `channels` (the authors' code fails or splits unevenly).

    >>> sum(p.numel() for p in ShuffleAttention(512).parameters())
    24
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, groups: int = 64) -> None:
        super().__init__(channels, spatial_dims)
        half = nd.split(channels, groups, parts=2)
        shape = (1, half, *(1,) * spatial_dims)
        self.groups = groups
        self.cweight = nn.Parameter(torch.zeros(shape))
        self.cbias = nn.Parameter(torch.ones(shape))
        self.sweight = nn.Parameter(torch.zeros(shape))
        self.sbias = nn.Parameter(torch.ones(shape))
        self.gn = nd.GroupNorm(half, half)  # one channel per group: an instance norm with affine weights

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        by_channel, by_space = x.reshape(-1, 2, x.shape[1] // (2 * self.groups), *x.shape[2:]).unbind(1)
        mean = by_channel.mean(nd.axes(by_channel), keepdim=True)
        by_channel = by_channel * (self.cweight * mean + self.cbias).sigmoid()
        by_space = by_space * (self.sweight * self.gn(by_space) + self.sbias).sigmoid()
        # Channel shuffle with two groups over all C: output channel 2j + i is the concatenated channel i * C/2 + j.
        both = torch.stack((by_channel, by_space), 1).reshape(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:])
        shuffled = both.transpose(1, 2).reshape(x.shape)
        last = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        kept = not x.is_contiguous() and x.is_contiguous(memory_format=last)  # the shuffle loses this layout
        return shuffled.contiguous(memory_format=last) if kept else shuffled
