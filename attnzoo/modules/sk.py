"""Selective kernel convolution (SKNet)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register("sk", paper="https://arxiv.org/abs/1903.06586", site="conv")
class SelectiveKernel(nd.Attention):
    """Grouped convolutions of several kernel sizes, mixed channel by channel from their pooled sum (Li et al., 2019).

    It takes the place of a convolution. The defaults are those of the PyTorch port that the authors' lab points to
    (pppLang): convolutions with bias, true 5x5 kernels, nothing between the two linear maps of the selection.
    3D: cubic kernels; `dilated` keeps them affordable.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: stride of the convolutions, one number or one per axis.
        spatial_dims: 2 or 3.
        kernels: odd kernel edge of each branch.
        groups: groups of the convolutions; must divide both widths.
        reduction: the selection has max(min_width, out_channels // reduction) units.
        min_width: see `reduction`.
        dilated: whether kernels larger than 3 are 3x3 ones with dilation, as in the paper.
        norm: whether a batch norm and ReLU follow the first linear map of the selection, as in the paper.

    Raises:
        ValueError: groups or kernels that do not fit.

    >>> sum(p.numel() for p in SelectiveKernel(512).parameters())
    331808
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        kernels: Sequence[int] = (3, 5),
        groups: int = 32,
        reduction: int = 16,
        min_width: int = 32,
        dilated: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = channels if out_channels is None else out_channels
        nd.split(channels, groups)
        nd.split(width, groups)
        conv, strides = nd.conv(spatial_dims), stride if isinstance(stride, int) else tuple(stride)
        self.convs = nn.ModuleList()
        for k in kernels:
            size, dilation = (3, nd.odd(k) // 2) if dilated else (nd.odd(k), 1)
            branch = conv(channels, width, size, strides, k // 2, dilation, groups)
            self.convs.append(nn.Sequential(branch, nd.batch_norm(spatial_dims)(width), nn.ReLU()))
        hidden = nd.squeeze(width, reduction, min_width)
        self.fc: nn.Module = nn.Linear(width, hidden)
        if norm:
            self.fc = nn.Sequential(self.fc, nn.BatchNorm1d(hidden), nn.ReLU())
        self.fcs = nn.ModuleList(nn.Linear(hidden, width) for _ in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features x (N, C, *spatial) into (N, out_channels, *spatial / stride)."""
        self.check(x)
        branches = [conv(x) for conv in self.convs]
        pooled = self.fc(sum(branches[1:], branches[0]).mean(nd.axes(x)))
        weights = torch.stack([fc(pooled) for fc in self.fcs]).softmax(0)
        terms = [nd.expand(w, b) * b for w, b in zip(weights, branches, strict=True)]
        mixed: Tensor = sum(terms[1:], terms[0])
        return mixed
