"""Shuffle attention (SA-Net)."""

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "sa",
    paper="https://arxiv.org/abs/2102.00240",
    site="out",
    aliases=["shuffle"],
    year=2021,
    golden=True,
    formula="per group, of halves u and v: y = shuffle([u * sigmoid(a mean(u) + b), v * sigmoid(c norm(v) + d)])",
)
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
        y = fast.product(_affine_gate, _affine_derivative, x, *self._maps(x))
        # Channel shuffle with two groups over all C: output channel 2j + i is channel i * C/2 + j.
        last = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        if x.is_contiguous() or not x.is_contiguous(memory_format=last):
            shuffled: Tensor = y.unflatten(1, (2, -1)).transpose(1, 2).reshape(x.shape)
        else:
            shuffled = y.movedim(1, -1).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
        return shuffled

    def _maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Slope and shift (N, C, 1, ...) of the logits, an affine map of features x (N, C, *spatial)."""
        mean, variance = (m.unflatten(1, (self.groups, 2, -1)).unbind(2) for m in fast.moments(x, nd.axes(x)))
        by_mean = self.cweight * mean[0] + self.cbias
        weight, bias = (p.view_as(self.sweight) for p in (self.gn.weight, self.gn.bias))
        slope = self.sweight * weight * (variance[1] + self.gn.eps).rsqrt()
        shift = self.sweight * bias + self.sbias - slope * mean[1]
        halves = (torch.zeros_like(slope), slope), (by_mean, shift)
        return tuple(torch.stack(half, 2).flatten(1, 3) for half in halves)


def _affine_gate(x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    return (x * slope).add_(shift).sigmoid_()


def _affine_derivative(
    by_gate: Tensor, gate: Tensor, x: Tensor, slope: Tensor, shift: Tensor
) -> tuple[Tensor | None, ...]:
    by_logits = torch.ops.aten.sigmoid_backward(by_gate, gate)
    return by_logits * slope, by_logits * x, by_logits
