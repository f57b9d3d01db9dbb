"""Coordinate attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

AXES = {2: ("h", "w"), 3: ("t", "h", "w")}


@register(
    "ca",
    paper="https://arxiv.org/abs/2103.02907",
    site="mid",
    aliases=["coord"],
    year=2021,
    golden=True,
    formula="z = hardswish(norm(W [mean_w(x), mean_h(x)])); y = x * sigmoid(W_h z_h) * sigmoid(W_w z_w)",
)
class CoordinateAttention(nd.SpreadGate):
    """Channel gates that keep the position along each axis (Hou et al., 2021).

    timm's version has reduction=24, divisor=8, bias=False. 3D: one strip and one expanding convolution per spatial axis
    (T, H, W), the squeeze shared as in 2D.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the squeeze has max(min_width, C // reduction) channels.
        min_width: see `reduction`; the authors' code has 8.
        divisor: None rounds C / reduction down; a number gives the nearest multiple of it, as in timm.
        bias: whether the convolutions have biases.

    Raises:
        ValueError: `reduction` or `divisor` is not positive.

    >>> sum(p.numel() for p in CoordinateAttention(512).parameters())
    25648
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 32,
        min_width: int = 8,
        divisor: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = nd.squeeze(channels, reduction, min_width, divisor)
        conv = nd.conv(spatial_dims)
        self.conv1 = conv(channels, width, 1, bias=bias)
        self.bn1 = nd.batch_norm(spatial_dims)(width)
        self.expand = [f"conv_{axis}" for axis in AXES[spatial_dims]]
        for name in self.expand:
            self.add_module(name, conv(width, channels, 1, bias=bias))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """One gate per axis, of size 1 along the others, of features x (N, C, *spatial)."""
        mix = fast.pointwise if fast.usable(self, x) else _called
        squeezed = nd.unstrip(F.hardswish(self.bn1(mix(self.conv1, nd.strips(x)))), x.shape[2:])
        expand = [self.get_submodule(name) for name in self.expand]
        return tuple(mix(conv, s).sigmoid() for conv, s in zip(expand, squeezed, strict=True))


def _called(conv: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = conv(x)
    return y
