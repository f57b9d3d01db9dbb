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
        own = self.cweight, self.cbias, self.sweight, self.sbias, self.gn.weight, self.gn.bias
        # Of an odd number of groups one lies in both halves of the shuffle.
        if self.groups % 2 == 0 and x.is_contiguous() and fast.usable(self, x):
            return fast.by_sample(self._defined, self._quick, self._derivative, x, *own)
        return self._defined(x, *own)

    def _defined(self, x: Tensor, *own: Tensor) -> Tensor:
        """The module as a function of features and of its parameters."""
        y = fast.product(_affine_gate, _affine_derivative, x, *self._maps(x, *own))
        # Channel shuffle with two groups over all C: output channel 2j + i is channel i * C/2 + j.
        last = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        if x.is_contiguous() or not x.is_contiguous(memory_format=last):
            shuffled: Tensor = y.unflatten(1, (2, -1)).transpose(1, 2).reshape(x.shape)
        else:
            shuffled = y.movedim(1, -1).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
        return shuffled

    def _maps(
        self, x: Tensor, cweight: Tensor, cbias: Tensor, sweight: Tensor, sbias: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        """Slope and shift (N, C, 1, ...) of the logits, an affine map of features x (N, C, *spatial)."""
        mean, variance = (m.unflatten(1, (self.groups, 2, -1)).unbind(2) for m in fast.moments(x, nd.axes(x)))
        by_mean = cweight * mean[0] + cbias
        slope = sweight * weight.view_as(sweight) * (variance[1] + self.gn.eps).rsqrt()
        shift = sweight * bias.view_as(sweight) + sbias - slope * mean[1]
        halves = (torch.zeros_like(slope), slope), (by_mean, shift)
        return tuple(torch.stack(half, 2).flatten(1, 3) for half in halves)

    # The same with each half read where it lies, and written where the shuffle puts it. The logits of the second halves
    # are a group norm whose scale and shift hold both pairs of weights.

    def _quick(self, y: Tensor, x: Tensor, *own: Tensor) -> None:
        (u, v), (to_u, to_v) = self._halves(x), self._shuffled_halves(y)
        torch.mul(u, _gate_of_mean(u, *own[:2])[0], out=to_u)
        logits = self._normed(_flat(v), *own[2:])[0]
        torch.mul(v, logits.sigmoid_().view(v.shape), out=to_v)

    def _derivative(self, by_x: Tensor, by_y: Tensor, x: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        (u, v), (by_u, by_v), (of_u, of_v) = self._halves(x), self._halves(by_x), self._shuffled_halves(by_y)
        cweight, _, sweight, _, weight, bias = own

        gate, mean = _gate_of_mean(u, *own[:2])
        by_logits = (of_u * u).sum(nd.axes(u)[2:], keepdim=True) * gate * (1 - gate)
        torch.mul(of_u, gate, out=by_u).add_(by_logits * cweight / u[0, 0, 0, 0].numel())
        by_cweight, by_cbias = ((by_logits * by).sum((0, 1, 2)).unsqueeze(0) for by in (mean, 1))

        flat, of_flat = _flat(v), _flat(of_v)
        logits, mean, deviation, scale = self._normed(flat, *own[2:])
        gate = logits.sigmoid_()
        by_logits = torch.ops.aten.sigmoid_backward(of_flat * flat, gate)
        n, c, positions = flat.shape
        by_flat, by_scale, by_shift = torch.ops.aten.native_group_norm_backward(
            by_logits, flat, mean, deviation, scale, n, c, positions, c, [True, True, True]
        )
        torch.add(by_flat.view(v.shape), gate.mul_(of_flat).view(v.shape), out=by_v)
        by_scale, by_shift = (by.view(self.groups, -1).sum(0).view_as(sweight) for by in (by_scale, by_shift))
        by_sweight = by_scale * weight.view_as(sweight) + by_shift * bias.view_as(sweight)
        by_weight, by_bias = ((by * sweight).flatten() for by in (by_scale, by_shift))
        return by_cweight, by_cbias, by_sweight, by_shift, by_weight, by_bias

    def _halves(self, x: Tensor) -> tuple[Tensor, ...]:
        """The halves of each group of x (N, C, *spatial): (N, 2, groups / 2, C / (2 * groups), *spatial)."""
        halves: tuple[Tensor, ...] = x.unflatten(1, (2, self.groups // 2, 2, -1)).unbind(3)
        return halves

    def _shuffled_halves(self, y: Tensor) -> tuple[Tensor, ...]:
        """Where they lie in y (N, C, *spatial), whose channels are shuffled."""
        unshuffled = y.unflatten(1, (-1, 2)).transpose(1, 2)
        halves: tuple[Tensor, ...] = unshuffled.unflatten(2, (self.groups // 2, 2, -1)).unbind(3)
        return halves

    def _normed(
        self, flat: Tensor, sweight: Tensor, sbias: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of second halves (N, C / 2, positions), their means, inverse deviations and scale."""
        n, c, positions = flat.shape
        scale, shift = sweight.flatten() * weight, sweight.flatten() * bias + sbias.flatten()
        scale, shift = scale.repeat(self.groups), shift.repeat(self.groups)
        return *torch.native_group_norm(flat, scale, shift, n, c, positions, c, self.gn.eps), scale


def _gate_of_mean(u: Tensor, cweight: Tensor, cbias: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and mean of first halves."""
    mean = u.mean(nd.axes(u)[2:], keepdim=True)
    return (cweight * mean + cbias).sigmoid(), mean


def _flat(v: Tensor) -> Tensor:
    """Second halves as (N, C / 2, positions)."""
    return v.reshape(len(v), v.shape[1] * v.shape[2] * v.shape[3], -1)


def _affine_gate(x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    return (x * slope).add_(shift).sigmoid_()


def _affine_derivative(
    by_gate: Tensor, gate: Tensor, x: Tensor, slope: Tensor, shift: Tensor
) -> tuple[Tensor | None, ...]:
    by_logits = torch.ops.aten.sigmoid_backward(by_gate, gate)
    return by_logits * slope, by_logits * x, by_logits
