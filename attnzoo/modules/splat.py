"""Split attention (ResNeSt)."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from attnzoo import nd
from attnzoo.registry import register


@register(
    "splat",
    paper="https://arxiv.org/abs/2004.08955",
    site="conv",
    year=2020,
    aliases=("resnest",),
    golden=True,
    formula="b_1, b_2 = relu(norm(conv_3(x))); y = sum_i b_i * softmax_i(W_i relu(norm(W mean(b_1 + b_2))))",
)
class SplitAttention(nd.Attention):
    """Splits of a grouped convolution, mixed channel by channel by weights from their pooled sum (Zhang et al., 2020).

    It takes the place of a convolution, its norm and its activation. timm's version has divisor=8. 3D: cubic kernels.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: stride, one number or one per axis.
        spatial_dims: 2 or 3.
        radix: the number of splits; with one, a sigmoid takes the place of the softmax.
        groups: groups of each split, the authors' cardinality; must divide both widths and that of the selection.
        reduction: the selection has max(min_width, channels * radix // reduction) units.
        min_width: see `reduction`.
        divisor: None rounds channels * radix / reduction down; a number gives the nearest multiple of it that keeps 0.9
            of that, as in timm.
        bias: whether the convolution has biases.
        pool: what makes the stride: the convolution itself (None), or a 3x3 average pool "after" it, as in the authors'
            ResNeSt, or "before" it, as in their fast ones.

    Raises:
        ValueError: a radix or groups that do not fit.

    >>> sum(p.numel() for p in SplitAttention(512).parameters())
    2756352
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        radix: int = 2,
        groups: int = 1,
        reduction: int = 4,
        min_width: int = 32,
        divisor: int | None = None,
        bias: bool = False,
        pool: Literal["after", "before"] | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = channels if out_channels is None else out_channels
        if radix < 1:
            raise ValueError(f"radix={radix} must be at least 1")
        if pool not in ("after", "before", None):
            raise ValueError(f"pool={pool!r} must be 'after', 'before' or None")
        nd.split(channels, groups, parts=radix)
        nd.split(width, groups)
        hidden = nd.squeeze(channels * radix, reduction, min_width, divisor, keep=0.9)
        nd.split(hidden, groups)
        strides = nd.per_axis(stride, spatial_dims)
        self.radix, self.groups, self.strides = radix, groups, strides
        self.pool = pool if max(strides) > 1 else None
        conv, norm = nd.conv(spatial_dims), nd.batch_norm(spatial_dims)
        own = 1 if self.pool else strides
        self.conv = conv(channels, width * radix, 3, own, 1, groups=groups * radix, bias=bias)
        self.bn0 = norm(width * radix)
        self.fc1 = conv(width, hidden, 1, groups=groups)
        self.bn1 = norm(hidden)
        self.fc2 = conv(hidden, width * radix, 1, groups=groups)
        self.branch_names = tuple(f"split {i + 1}" for i in range(radix)) if radix > 1 else ()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features x (N, C, *spatial) into (N, out_channels, *spatial / stride)."""
        self.check(x)
        splits = self._splits(x)
        weights = self._weights(splits).unbind(1)
        terms = [w * s for w, s in zip(weights, splits.chunk(self.radix, 1), strict=True)]
        mixed: Tensor = sum(terms[1:], terms[0])
        return self._pooled(mixed) if self.pool == "after" else mixed

    def branch_weights(self, x: Tensor) -> Tensor:
        """Weights (N, branches) for features x (N, C, *spatial), averaged over channels."""
        return self._weights(self._splits(x)).flatten(2).mean(2)

    def _splits(self, x: Tensor) -> Tensor:
        """The splits (N, radix * out_channels, *spatial), one after the other."""
        seen = self._pooled(x) if self.pool == "before" else x
        splits: Tensor = self.bn0(self.conv(seen)).relu()
        return splits

    def _weights(self, splits: Tensor) -> Tensor:
        """Weights (N, radix, out_channels, 1, ...), summing to 1 over the splits unless there is one."""
        pooled = splits.mean(nd.axes(splits), keepdim=True).unflatten(1, (self.radix, -1)).sum(1)
        logits = self.fc2(self.bn1(self.fc1(pooled)).relu())
        by_group = logits.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2)
        weights: Tensor = (by_group.softmax(1) if self.radix > 1 else by_group.sigmoid()).flatten(2, 3)
        return weights

    def _pooled(self, x: Tensor) -> Tensor:
        pool = F.avg_pool3d if self.spatial_dims == 3 else F.avg_pool2d
        # Padded by hand: avg_pool3d refuses maps that are smaller than its kernel before its own padding.
        return pool(F.pad(x, (1, 1) * len(self.strides)), 3, self.strides)
