"""Context anchor attention (PKINet)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "caa",
    paper="https://arxiv.org/abs/2403.06258",
    site="mid",
    year=2024,
    golden=True,
    formula="y = x * sigmoid(W2 dwconv1d_11(dwconv1d_11(W1 pool_7(x)))), along W, then along H",
)
class ContextAnchorAttention(nd.Gate):
    """Gate from locally pooled features and long depthwise kernels along each axis (Cai et al., 2024).

    The authors multiply a block's features by it. As in their code the pool counts the zeros around the map, so that it
    is smaller at the border. Their networks, whose kernels grow by 2 with each block of a stage, have neither norm nor
    activation (the default here); their class has both. 3D: a cubic pool, and a third kernel, along T, after those
    along W and H.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: odd length of the kernels.
        window: odd edge of the pool.
        norm: whether a batch norm and SiLU follow each of the two 1x1 convolutions.

    Raises:
        ValueError: an even `kernel_size` or `window`.

    >>> sum(p.numel() for p in ContextAnchorAttention(512).parameters())
    537600
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, kernel_size: int = 11, window: int = 7, norm: bool = False
    ) -> None:
        super().__init__(channels, spatial_dims)
        self.window = nd.odd(window, "window")
        self.before = _unit(channels, spatial_dims, norm)
        strips = []
        for axis in reversed(range(spatial_dims)):
            size = [nd.odd(kernel_size) if a == axis else 1 for a in range(spatial_dims)]
            padding = [k // 2 for k in size]
            strips.append(nd.conv(spatial_dims)(channels, channels, size, padding=padding, groups=channels))
        self.strips = nn.Sequential(*strips)
        self.after = _unit(channels, spatial_dims, norm)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        gate: Tensor = self.after(self.strips(self.before(_pool(x, self.window)))).sigmoid()
        return gate


def _pool(x: Tensor, window: int) -> Tensor:
    """Mean over windows of features x (N, C, *spatial), one axis after the other; the zeros around x count."""
    if not fast.eager(x):
        return _pooled(x, window)
    pooled: Tensor = _Pool.apply(x, window)
    return pooled


class _Pool(torch.autograd.Function):
    """It is its own adjoint, and so needs neither the features nor torch's backward pass of pools, which is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int) -> Tensor:
        ctx.window = window
        return _pooled(x, window)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _pool(gradients[0], ctx.window), None


def _pooled(x: Tensor, window: int) -> Tensor:
    along_h, along_w = ((window, 1), 1, (window // 2, 0)), ((1, window), 1, (0, window // 2))
    # Frame by frame and then along T, as torch has no pool of volumes in bfloat16 on a CPU.
    maps = F.avg_pool2d(F.avg_pool2d(x.flatten(1, -3), *along_w), *along_h).reshape(x.shape)
    return F.avg_pool2d(maps.flatten(3), *along_h).reshape(x.shape) if x.ndim == 5 else maps


def _unit(channels: int, spatial_dims: int, norm: bool) -> nn.Sequential:
    """A 1x1 convolution, and the authors' norm and activation if there are any."""
    layers: list[nn.Module] = [nd.conv(spatial_dims)(channels, channels, 1, bias=not norm)]
    if norm:
        layers += [nd.batch_norm(spatial_dims)(channels, eps=1e-3, momentum=0.03), nn.SiLU()]
    return nn.Sequential(*layers)
