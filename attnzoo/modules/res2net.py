"""Hierarchical residual-like convolutions within one block (Res2Net)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "res2net",
    paper="https://arxiv.org/abs/1904.01169",
    site="conv",
    year=2021,
    golden=True,
    formula="y_1 = f_1(x_1), y_i = f_i(x_i + y_(i-1)), y_s = x_s; f = relu(norm(conv_3)); y = [y_1, ..., y_s]",
)
class Res2Net(nd.Attention):
    """Channels in parts, each convolved after adding the result of the part before (Gao et al., 2021).

    It takes the place of a convolution: the last part passes through. In the first block of a stage the parts are not
    chained and the last one is average-pooled, as in the authors' code. 3D: cubic kernels and pools.

    Args:
        channels: C of the (N, C, *spatial) input and of the output (N, C, *spatial / stride).
        out_channels: must be C, or None.
        stride: stride of the convolutions, one number or one per axis.
        spatial_dims: 2 or 3.
        scale: number of parts; must divide C.
        first: whether this is the first block of a stage; None: if the stride is not 1, so that the first
            block of the authors' first stage, whose stride is 1, needs True.

    Raises:
        ValueError: `scale` does not divide C or is 1, `out_channels` is not C, or a stride without `first`.

    >>> sum(p.numel() for p in Res2Net(104).parameters())
    18408
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        scale: int = 4,
        first: bool | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if out_channels not in (None, channels):
            raise ValueError(f"out_channels={out_channels} must be channels={channels}: res2net keeps the width")
        width = nd.split(channels, scale, "scale")
        if scale < 2:
            raise ValueError(f"scale={scale} must be at least 2, since the last part is not convolved")
        strides = nd.per_axis(stride, spatial_dims)
        self.first = max(strides) > 1 if first is None else first
        if max(strides) > 1 and not self.first:
            raise ValueError(f"stride={stride} needs first=True: the parts cannot be chained across it")
        conv, norm = nd.conv(spatial_dims), nd.batch_norm(spatial_dims)
        self.strides = strides
        self.convs = nn.ModuleList(conv(width, width, 3, strides, 1, bias=False) for _ in range(scale - 1))
        self.bns = nn.ModuleList(norm(width) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features x (N, C, *spatial) into (N, C, *spatial / stride)."""
        self.check(x)
        *parts, last = x.chunk(len(self.convs) + 1, 1)
        outputs: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.bns, strict=True):
            chained = part + outputs[-1] if outputs and not self.first else part
            outputs.append(norm(conv(chained)).relu())
        if self.first:
            pool = F.avg_pool3d if self.spatial_dims == 3 else F.avg_pool2d
            # Padded by hand: avg_pool3d refuses maps that are smaller than its kernel before its own padding.
            last = pool(F.pad(last, (1, 1) * len(self.strides)), 3, self.strides)
        return torch.cat([*outputs, last], 1)
