"""Large selective kernel (LSKNet)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "lsk",
    paper="https://arxiv.org/abs/2303.09030",
    site="mid",
    year=2023,
    golden=True,
    formula="u = dwconv_5(x); b_1 = W1 u; b_2 = W2 dwconv_7(u); w = sigmoid(conv_7([mean_c, max_c])); "
    "y = x * W (w_1 * b_1 + w_2 * b_2)",
)
class LargeSelectiveKernel(nd.Gate):
    """Gate from a chain of depthwise kernels, each weighted per position by the pooled channels (Li et al., 2023).

    As in the authors' code the weights are sigmoids, and the gate is the mixed branches' projection itself. They put it
    between two 1x1 convolutions. 3D: cubic kernels.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernels: odd edge of each kernel; the branches have C // len(kernels) channels each.
        dilations: of each kernel.
        kernel_size: odd edge of the kernel that makes the weights.

    Raises:
        ValueError: kernels that are none or even, or another number of dilations.

    >>> sum(p.numel() for p in LargeSelectiveKernel(512).parameters())
    433350
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        kernels: Sequence[int] = (5, 7),
        dilations: Sequence[int] = (1, 3),
        kernel_size: int = 7,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if len(kernels) != len(dilations) or not kernels or min(dilations) < 1:
            raise ValueError(
                f"kernels={tuple(kernels)} and dilations={tuple(dilations)} must have one entry per branch each, "
                "the dilations at least 1"
            )
        conv, branches = nd.conv(spatial_dims), len(kernels)
        width = nd.squeeze(channels, branches)
        self.depthwise = nn.ModuleList(
            conv(channels, channels, nd.odd(k), 1, k // 2 * d, d, channels)
            for k, d in zip(kernels, dilations, strict=True)
        )
        self.reduce = nn.ModuleList(conv(channels, width, 1) for _ in kernels)
        self.weigh = conv(2, branches, nd.odd(kernel_size), padding=kernel_size // 2)
        self.expand = conv(width, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        seen, branches = x, []
        for depthwise, reduce in zip(self.depthwise, self.reduce, strict=True):
            seen = depthwise(seen)
            branches.append(reduce(seen))
        highest, means = zip(*(fast.max_and_mean(b, 1)[0] for b in branches), strict=True)
        pooled = torch.stack((torch.stack(means).mean(0), torch.stack(highest).max(0).values), 1)
        weights = self.weigh(pooled).sigmoid().split(1, 1)
        terms = [b * w for b, w in zip(branches, weights, strict=True)]
        gate: Tensor = self.expand(sum(terms[1:], terms[0]))
        return gate
