"""Bottleneck attention module."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "bam",
    paper="https://arxiv.org/abs/1807.06514",
    site="stage",
    year=2018,
    golden=True,
    formula="y = x * (1 + sigmoid(MLP(mean(x)) * s)); s = W2 conv_3(conv_3(W1 x)), both dilated by 4",
)
class BottleneckAttention(nd.SpreadGate):
    """Gate 1 + sigmoid of a channel branch times a dilated spatial branch (Park et al., 2018).

    The authors put one after each of the first three stages. Their code multiplies the branches and their paper adds
    them: the default is what the released weights were trained with. Their pooling window is H x H; ours is the whole
    map. In training the channel branch's norm needs a batch of two. 3D: pooling over T, H and W, cubic kernels.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: both branches have C // reduction hidden channels, at least 1.
        dilation: of the spatial branch's 3x3 convolutions.
        layers: how many of them there are.
        depth: hidden layers of the channel branch.
        combine: "mul" as in the code, "add" as in the paper.

    Raises:
        ValueError: an unknown `combine`.

    >>> sum(p.numel() for p in BottleneckAttention(512).parameters())
    68513
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 16,
        dilation: int = 4,
        layers: int = 2,
        depth: int = 1,
        combine: Literal["mul", "add"] = "mul",
    ) -> None:
        super().__init__(channels, spatial_dims)
        if combine not in ("mul", "add"):
            raise ValueError(f"combine={combine!r} must be 'mul' (the authors' code) or 'add' (their paper)")
        self.combine = combine
        conv, norm, hidden = nd.conv(spatial_dims), nd.batch_norm(spatial_dims), nd.squeeze(channels, reduction)
        widths = [channels, *[hidden] * depth]
        channel: list[nn.Module] = []
        for c, d in pairwise(widths):
            channel += [nn.Linear(c, d), nn.BatchNorm1d(d), nn.ReLU()]
        self.channel = nn.Sequential(*channel, nn.Linear(widths[-1], channels))
        spatial = [conv(channels, hidden, 1), norm(hidden), nn.ReLU()]
        for _ in range(layers):
            spatial += [conv(hidden, hidden, 3, padding=dilation, dilation=dilation), norm(hidden), nn.ReLU()]
        self.spatial = nn.Sequential(*spatial, conv(hidden, 1, 1))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits (N, C, 1, ...) by channel and (N, 1, *spatial) by position of features x (N, C, *spatial)."""
        spatial = self.spatial(x)  # first, since the compiler then keeps one tensor of x's size less
        return nd.expand(self.channel(fast.mean(x, nd.axes(x))), x), spatial

    def spread(self, x: Tensor, *maps: Tensor) -> Tensor:
        """Gate (N, C, *spatial)."""
        channel, spatial = maps
        logits = channel * spatial if self.combine == "mul" else channel + spatial
        return 1 + logits.sigmoid_()

    def derivative(self, by_gate: Tensor, gate: Tensor, x: Tensor, *maps: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative of `spread`."""
        channel, spatial = maps
        by_logits = torch.ops.aten.sigmoid_backward.grad_input(by_gate, gate - 1, grad_input=by_gate)
        return (
            (None, by_logits * spatial, by_logits * channel) if self.combine == "mul" else (None, by_logits, by_logits)
        )
