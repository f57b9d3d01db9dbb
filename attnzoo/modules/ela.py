"""Efficient local attention."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "ela",
    paper="https://arxiv.org/abs/2403.01123",
    site="out",
    year=2024,
    golden=True,
    checked="a third party's port and timm's layer",
    formula="y = x * sigmoid(norm(conv1d_7(mean_w(x)))) * sigmoid(norm(conv1d_7(mean_h(x))))",
)
class EfficientLocalAttention(nd.SpreadGate):
    """Channel gates that keep the position along each axis, without a bottleneck (Xu & Wan, 2024).

    The defaults are ELA-B; ELA-T has kernel_size=5, norm_groups=32, ELA-S kernel_size=5, group_width=8 and ELA-L
    group_width=8. The authors released no code; timm's version has shared=False, norm_groups=1, act=True. 3D: one strip
    per spatial axis (T, H, W).

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: odd length of the convolutions along the strips.
        group_width: channels in one group of the convolutions; must divide C.
        norm_groups: groups of the norm; must divide C.
        shared: whether one convolution and one norm serve all strips; else each has its own.
        act: whether a SiLU comes before the sigmoid.

    Raises:
        ValueError: an even `kernel_size`, groups that do not divide C.

    >>> sum(p.numel() for p in EfficientLocalAttention(512).parameters())
    4608
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        kernel_size: int = 7,
        group_width: int = 1,
        norm_groups: int = 16,
        shared: bool = True,
        act: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        groups = nd.split(channels, group_width, "group_width")
        nd.split(channels, norm_groups, "norm_groups")
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, channels, nd.odd(kernel_size), padding=kernel_size // 2, groups=groups, bias=False),
                nd.GroupNorm(norm_groups, channels),
                nn.SiLU() if act else nn.Identity(),
            )
            for _ in range(1 if shared else spatial_dims)
        )

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """One gate per axis, of size 1 along the others, of features x (N, C, *spatial)."""
        gates: list[Tensor] = []
        compiled, mix = fast.compiled(x, self), None
        if compiled or fast.usable(self, x):
            mix = fast.column_conv if compiled and nd.channels_last(x) is not None else fast.strip_conv
        strips: Iterable[Any] = cycle(self.strips)
        for axis, (conv, norm, act) in zip(nd.axes(x), strips, strict=False):
            pooled = fast.mean(x, [a for a in nd.axes(x) if a != axis])
            shape = [size if a in (0, 1, axis) else 1 for a, size in enumerate(x.shape)]
            mixed = conv(pooled) if mix is None else mix(conv, pooled)
            gates.append(act(norm(mixed)).sigmoid().reshape(shape))
        return tuple(gates)
