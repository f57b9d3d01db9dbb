"""Pyramid squeeze attention (EPSANet)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "epsa",
    paper="https://arxiv.org/abs/2105.14447",
    site="conv",
    aliases=["psa"],
    year=2022,
    golden=True,
    formula="b_k = conv_k(x); y = [b_k * softmax_k(sigmoid(W2 relu(W1 mean(b_k))))], k = 9, 7, 5, 3",
)
class PyramidSqueezeAttention(nd.Attention):
    """Grouped convolutions of several kernel sizes, weighted against each other per channel (Zhang et al., 2022).

    It takes the place of a convolution: every branch sees all input channels and gives an equal part of the output
    (the authors' code; the paper splits the input first). The branches are concatenated last to first, as in the code.
    3D: cubic kernels, or `temporal_kernel` x k x k.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: stride of the convolution, one number or one per axis.
        spatial_dims: 2 or 3.
        kernels: odd kernel edge of each branch.
        groups: groups of each branch's convolution; they must divide the branch's channels and `channels`.
        reduction: the shared squeeze has (branch channels) // reduction units, at least 1.
        temporal_kernel: 3D only, odd kernel size along T; as along H and W if None.

    Raises:
        ValueError: channels, kernels and groups that do not fit together.

    >>> sum(p.numel() for p in PyramidSqueezeAttention(512).parameters())
    1734792
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        kernels: Sequence[int] = (3, 5, 7, 9),
        groups: Sequence[int] = (1, 4, 8, 16),
        reduction: int = 16,
        temporal_kernel: int | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if len(kernels) != len(groups) or not kernels:
            raise ValueError(f"kernels={tuple(kernels)} and groups={tuple(groups)} must have one entry per branch each")
        if temporal_kernel is not None and spatial_dims != 3:
            raise ValueError(f"temporal_kernel={temporal_kernel} needs spatial_dims=3, not {spatial_dims}")
        width = nd.split(channels if out_channels is None else out_channels, len(kernels), "the number of branches")
        conv = nd.conv(spatial_dims)
        self.convs = nn.ModuleList()
        for k, g in zip(kernels, groups, strict=True):
            if g < 1 or width % g or channels % g:
                raise ValueError(
                    f"groups={tuple(groups)} do not divide the {width} channels of a branch (of {channels} in all); "
                    f"give groups that do, such as groups={(1,) * len(kernels)}"
                )
            size = [k] * spatial_dims
            if temporal_kernel is not None:
                size[0] = temporal_kernel
            if any(s % 2 == 0 for s in size):
                raise ValueError(f"kernels={tuple(kernels)} and temporal_kernel={temporal_kernel} must be odd numbers")
            padding = tuple(s // 2 for s in size)
            strides = stride if isinstance(stride, int) else tuple(stride)
            self.convs.append(conv(channels, width, tuple(size), strides, padding, groups=g, bias=False))
        hidden = nd.squeeze(width, reduction)
        self.fc1 = conv(width, hidden, 1)
        self.fc2 = conv(hidden, width, 1)
        self.branch_names = tuple(f"kernel {k}" for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features x (N, C, *spatial) into (N, out_channels, *spatial / stride)."""
        self.check(x)
        branches = [conv(x) for conv in self.convs]
        weights = self._weights(branches)
        return torch.cat([b * w for b, w in reversed(list(zip(branches, weights, strict=True)))], 1)

    def branch_weights(self, x: Tensor) -> Tensor:
        """Weights (N, branches) for features x (N, C, *spatial), averaged over channels."""
        return self._weights([conv(x) for conv in self.convs]).flatten(2).mean(2).T

    def _weights(self, branches: list[Tensor]) -> Tensor:
        """Weights (branches, N, out_channels / branches, 1, ...), summing to 1 over the branches."""
        squeezed = [self.fc2(self.fc1(b.mean(nd.axes(b), keepdim=True)).relu()).sigmoid() for b in branches]
        return torch.stack(squeezed).softmax(0)
