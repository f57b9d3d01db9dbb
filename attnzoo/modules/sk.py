"""Selective kernel convolution (SKNet)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "sk",
    paper="https://arxiv.org/abs/1903.06586",
    site="conv",
    year=2019,
    golden=True,
    checked="pppLang's port (the authors' code is Caffe)",
    formula="b_k = relu(norm(conv_k(x))); y = sum_k b_k * softmax_k(W_k W mean(sum_k b_k)), k = 3, 5",
)
class SelectiveKernel(nd.Attention):
    """Grouped convolutions of several kernel sizes, mixed channel by channel from their pooled sum (Li et al., 2019).

    It takes the place of a convolution. The defaults are those of the PyTorch port that the authors' lab points to
    (pppLang): biases, true 5x5 kernels, nothing between the two linear maps of the selection. The lab's own SK-ResNet
    (PytorchInsight) has kernels=(3, 3), groups=(1, 32), min_width=1, norm=True, bias=False; timm's version groups=1,
    min_width=1, divisor=8, dilated=True, norm=True, bias=False, split=True. 3D: cubic kernels; `dilated` keeps them
    affordable.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: stride of the convolutions, one number or one per axis.
        spatial_dims: 2 or 3.
        kernels: odd kernel edge of each branch.
        groups: groups of the convolutions, one number or one per branch; must divide both widths.
        reduction: the selection has max(min_width, out_channels // reduction) units.
        min_width: see `reduction`.
        divisor: None rounds out_channels / reduction down; a number gives the nearest multiple of it that keeps 0.9 of
            that, as in timm.
        dilated: whether kernels larger than 3 are 3x3 ones with dilation, as in the paper.
        norm: whether a batch norm and ReLU follow the first linear map of the selection, as in the paper.
        bias: whether convolutions and linear maps have biases.
        split: whether each branch sees its equal share of the input channels only.

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
        groups: int | Sequence[int] = 32,
        reduction: int = 16,
        min_width: int = 32,
        divisor: int | None = None,
        dilated: bool = False,
        norm: bool = False,
        bias: bool = True,
        split: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = channels if out_channels is None else out_channels
        self.split = split
        seen = nd.split(channels, len(kernels), "the number of branches") if split else channels
        each = (groups,) * len(kernels) if isinstance(groups, int) else tuple(groups)
        if len(each) != len(kernels) or not kernels:
            raise ValueError(f"kernels={tuple(kernels)} and groups={each} must have one entry per branch each")
        conv, strides = nd.conv(spatial_dims), stride if isinstance(stride, int) else tuple(stride)
        self.convs = nn.ModuleList()
        for k, g in zip(kernels, each, strict=True):
            nd.split(seen, g)
            nd.split(width, g)
            size, dilation = (3, nd.odd(k) // 2) if dilated else (nd.odd(k), 1)
            branch = conv(seen, width, size, strides, k // 2, dilation, g, bias)
            self.convs.append(nn.Sequential(branch, nd.batch_norm(spatial_dims)(width), nn.ReLU(inplace=True)))
        hidden = nd.squeeze(width, reduction, min_width, divisor, keep=0.9)
        self.fc: nn.Module = nn.Linear(width, hidden, bias)
        if norm:
            self.fc = nn.Sequential(self.fc, nn.BatchNorm1d(hidden), nn.ReLU())
        self.fcs = nn.ModuleList(nn.Linear(hidden, width, bias) for _ in kernels)
        self.branch_names = tuple(f"kernel {k}" for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features x (N, C, *spatial) into (N, out_channels, *spatial / stride)."""
        self.check(x)
        branches = self._branches(x)
        return fast.mixed(self._weights(branches), branches)

    def branch_weights(self, x: Tensor) -> Tensor:
        """Weights (N, branches) for features x (N, C, *spatial), averaged over channels."""
        return self._weights(self._branches(x)).mean(2).T

    def _branches(self, x: Tensor) -> list[Tensor]:
        parts = x.chunk(len(self.convs), 1) if self.split else (x,) * len(self.convs)
        each: Iterable[Any] = zip(self.convs, parts, strict=True)
        if fast.usable(self, x):
            return [relu(fast.conv_norm(conv, norm, part)) for (conv, norm, relu), part in each]
        return [branch(part) for branch, part in each]

    def _weights(self, branches: list[Tensor]) -> Tensor:
        """Weights (branches, N, out_channels), summing to 1 over the branches."""
        means = [fast.mean(branch, nd.axes(branch)) for branch in branches]
        pooled = self.fc(sum(means[1:], means[0]))
        return torch.stack([fc(pooled) for fc in self.fcs]).softmax(0)
