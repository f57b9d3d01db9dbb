"""Efficient multi-scale attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "ema",
    paper="https://arxiv.org/abs/2305.13563",
    site="out",
    year=2023,
    golden=True,
    formula="per group: z = W [mean_w(x), mean_h(x)]; a = norm(x * sigmoid(z_h) * sigmoid(z_w)); b = conv_3(x); "
    "y = x * sigmoid(softmax(mean(a)) @ b + softmax(mean(b)) @ a)",
)
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
        group_x = x.reshape(-1, x.shape[1] // self.groups, *x.shape[2:])  # groups in the batch
        x1 = self.norm(fast.gated(group_x, *nd.strip_gates(self.strip, group_x)))
        inferred = not torch.is_grad_enabled() and fast.compiled(x, self)  # its gradients, compiled, take longer
        w = self._sums(x1, group_x) if inferred else nd.cross_spatial(x1, self.local(group_x))
        return w.reshape(x.shape[0], self.groups, *x.shape[2:]).sigmoid()

    def _sums(self, x1: Tensor, group_x: Tensor) -> Tensor:
        """The same without the convolved map, whose sums over positions and channels are all that is asked for."""
        x11 = nd.mean_of_normed(self.norm, x1).softmax(1)
        x12 = fast.conv_means(group_x, [self.local])[0].softmax(1)
        x11_x2 = fast.weighted_convs(group_x, [self.local], [x11])
        return x11_x2 + (x12.unsqueeze(1) @ x1.flatten(2)).reshape(x11_x2.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        self.check(x)
        if not fast.usable(self, x):
            return super().forward(x)
        return fast.recomputed(super().forward, self, x, fast.ByHand(self._fast, self._fast_gradients))

    def _fast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same without the two maps, of which the gate needs sums over positions and channels only."""
        return fast.cross_gated(x, self.groups, self._maps, self.norm.eps)

    def _fast_gradients(
        self, by_y: Tensor, x: Tensor, gate: Tensor, own: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        return fast.cross_gradients(by_y, x, gate, self._maps, self.norm.eps, own)

    def _maps(self, strips: Tensor, seen: Tensor) -> fast.CrossMaps:
        """What the gate is made of besides the features, from their means along axes and under the taps."""
        local = self.local.weight.flatten(1)
        logits = self.strip.weight.flatten(1) @ strips + self.strip.bias.unsqueeze(1)
        x11 = self.norm.bias.softmax(0)  # where each channel is normed by itself, its mean is the bias
        x12 = F.linear(seen.flatten(1), local, self.local.bias).softmax(1)
        kernel = (x11 @ local).unflatten(0, seen.shape[1:]).T
        constant = x12 @ self.norm.bias + x11 @ self.local.bias
        return fast.CrossMaps(logits, x12 * self.norm.weight, kernel, constant.unsqueeze(1))
