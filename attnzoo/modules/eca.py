"""Efficient channel attention."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "eca",
    paper="https://arxiv.org/abs/1910.03151",
    site="out",
    year=2020,
    golden=True,
    formula="y = x * sigmoid(conv1d_3(mean(x))), along the channels",
)
class EfficientChannelAttention(nd.Gate):
    """Channel gate from a 1D convolution along the pooled channels (Wang et al., 2020).

    3D: the mean is over T, H and W; the rest is the same.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: odd length of the convolution. The authors' code has 3, their released networks one per stage
            (3, 5, 5, 7 in ResNet-50); None is the paper's |log2(C) / 2 + 1 / 2| made odd, as in timm.
        shared: whether all channels have the same weights; else each has its own for its neighbourhood, C * kernel_size
            in all (the authors' ECA-NS).

    Raises:
        ValueError: an even `kernel_size`.

    >>> [sum(p.numel() for p in EfficientChannelAttention(c, kernel_size=None).parameters()) for c in (64, 256, 2048)]
    [3, 5, 7]
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, kernel_size: int | None = 3, shared: bool = True
    ) -> None:
        super().__init__(channels, spatial_dims)
        if kernel_size is None:
            kernel_size = max(3, int(abs(math.log2(channels) + 1) / 2) // 2 * 2 + 1)
        self.padding = nd.odd(kernel_size) // 2
        self.shared = shared
        if shared:
            self.conv = nn.Conv1d(1, 1, kernel_size, padding=self.padding, bias=False)
        else:
            self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        pooled = fast.mean(x, nd.axes(x))
        if self.shared:
            line = pooled.unsqueeze(1)
            logits = (fast.single_conv(self.conv, line) if fast.usable(self, x) else self.conv(line)).squeeze(1)
        else:
            neighbourhoods = F.pad(pooled, (self.padding, self.padding)).unfold(1, 2 * self.padding + 1, 1)
            logits = self.conv(neighbourhoods).squeeze(2)
        return nd.expand(logits.sigmoid(), x)
