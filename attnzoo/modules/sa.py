"""Shuffle attention (SA-Net)."""

import torch
import torch.nn.functional as F
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
        # The library's own shuffle keeps the layout and is quick; not all compilers and exporters know it.
        shuffled: Tensor = F.channel_shuffle(y, 2) if fast.eager(x) else _shuffled(y)
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

    # The same with copies of the halves, whose rows lie side by side; products go where the shuffle wants them. The
    # logits of the second halves are a group norm whose scale and shift hold both pairs of weights.

    def _quick(self, y: Tensor, x: Tensor, *own: Tensor) -> None:
        (u, v), (to_u, to_v) = _copies(self._halves(x)), self._shuffled_halves(y)
        torch.mul(u, _gate_of_mean(u, *own[:2])[0], out=to_u)
        torch.mul(v, self._normed(v, *own[2:])[0].sigmoid_().view_as(v), out=to_v)

    def _derivative(self, by_x: Tensor, by_y: Tensor, x: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        (u, v), (of_u, of_v) = _copies(self._halves(x)), _copies(self._shuffled_halves(by_y))
        by_u, by_v = self._halves(by_x)
        cweight, _, sweight, _, weight, bias = own

        gate, mean = _gate_of_mean(u, *own[:2])
        by_logits = torch.ops.aten.sigmoid_backward(u.mul_(of_u).sum(4, keepdim=True), gate)
        torch.addcmul(by_logits * (cweight.view(-1, 1) / u.shape[4]), of_u, gate, out=by_u)
        by_cweight, by_cbias = (by_logits * mean).sum((0, 1, 2)), by_logits.sum((0, 1, 2))

        logits, mean, deviation, scale = self._normed(v, *own[2:])
        gate = logits.sigmoid_().view_as(v)
        n, c, positions = logits.shape
        by_logits = torch.ops.aten.sigmoid_backward(of_v * v, gate)
        by_normed, by_scale, by_shift = torch.ops.aten.native_group_norm_backward(
            by_logits, v, mean, deviation, scale, n, c, positions, c, [True, True, True]
        )
        torch.addcmul(by_normed.view_as(v), of_v, gate, out=by_v)
        by_scale, by_shift = (by.view(self.groups, -1).sum(0) for by in (by_scale, by_shift))
        factor = sweight.flatten()
        by_sweight = torch.addcmul(by_scale * weight, by_shift, bias)
        by_own = by_cweight, by_cbias, by_sweight, by_shift, by_scale * factor, by_shift * factor
        return tuple(by.view_as(p) for by, p in zip(by_own, own, strict=True))

    def _halves(self, x: Tensor) -> tuple[Tensor, ...]:
        """The halves of each group of x (N, C, *spatial): (N, 2, groups / 2, C / (2 * groups), positions)."""
        halves: tuple[Tensor, ...] = x.flatten(2).unflatten(1, (2, self.groups // 2, 2, -1)).unbind(3)
        return halves

    def _shuffled_halves(self, y: Tensor) -> tuple[Tensor, ...]:
        """Where they lie in y (N, C, *spatial), whose channels are shuffled."""
        unshuffled = y.flatten(2).unflatten(1, (-1, 2)).transpose(1, 2)
        halves: tuple[Tensor, ...] = unshuffled.unflatten(2, (self.groups // 2, 2, -1)).unbind(3)
        return halves

    def _normed(
        self, v: Tensor, sweight: Tensor, sbias: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of second halves (N, C / 2, positions), their means, inverse deviations and scale."""
        flat = v.flatten(1, 3)
        n, c, positions = flat.shape
        factor = sweight.flatten()
        affine = factor * weight, torch.addcmul(sbias.flatten(), factor, bias)
        scale, shift = (t.expand(self.groups, -1).flatten() for t in affine)
        return *torch.native_group_norm(flat, scale, shift, n, c, positions, c, self.gn.eps), scale


def _copies(halves: tuple[Tensor, ...]) -> list[Tensor]:
    return [half.clone(memory_format=torch.contiguous_format) for half in halves]


def _gate_of_mean(u: Tensor, cweight: Tensor, cbias: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and mean of first halves."""
    mean = u.mean(4, keepdim=True)
    return torch.addcmul(cbias.view(-1, 1), cweight.view(-1, 1), mean).sigmoid_(), mean


def _shuffled(y: Tensor) -> Tensor:
    """Channel shuffle with two groups over all C: output channel 2j + i is channel i * C/2 + j."""
    shuffled: Tensor
    if nd.channels_last(y) is None:
        shuffled = y.unflatten(1, (2, -1)).transpose(1, 2).reshape(y.shape)
    else:
        shuffled = y.movedim(1, -1).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
    return shuffled


def _affine_gate(x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    return (x * slope).add_(shift).sigmoid_()


def _affine_derivative(
    by_gate: Tensor, gate: Tensor, x: Tensor, slope: Tensor, shift: Tensor
) -> tuple[Tensor | None, ...]:
    by_logits = torch.ops.aten.sigmoid_backward.grad_input(by_gate, gate, grad_input=by_gate)
    return by_logits * slope, by_logits * x, by_logits
