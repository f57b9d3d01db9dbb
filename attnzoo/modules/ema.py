"""Efficient multi-scale attention."""

from torch import Tensor

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "ema",
    paper="https://arxiv.org/abs/2305.13563",
    site="out",
    year=2023,
    golden=True,
    formula="per group: z = W [mean_w(x), mean_h(x)]; a = norm(x * sigmoid(z_h) * sigmoid(z_w)); b = conv_3(x); "
    "y = x * sigmoid(softmax(mean(a)) @ b + softmax(mean(b)) @ a)",
)
class EfficientMultiScaleAttention(nd.Gate):
    """Cross-spatial gate between a strip-gated branch and a 3x3 convolution of each group (Ouyang et al., 2023).

    All weights act on the C / groups channels of one group and are shared by the groups. The norm has one channel per
    group, so the pooled descriptor of its branch is the softmax of its bias, whatever the input: so it is in the
    authors' code. 3D: strips along T, H and W, and a cubic convolution.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups, the authors' `factor`; must divide C.

    Raises:
        ValueError: `groups` does not divide C.

    >>> sum(p.numel() for p in EfficientMultiScaleAttention(512).parameters())
    2624
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, groups: int = 32) -> None:
        super().__init__(channels, spatial_dims)
        c = nd.split(channels, groups)
        self.groups = groups
        self.norm = nd.GroupNorm(c, c)
        self.strip = nd.conv(spatial_dims)(c, c, 1)
        self.local = nd.conv(spatial_dims)(c, c, 3, padding=1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, groups, *spatial) of features x (N, C, *spatial)."""
        w = fast.recomputed(self._fast, self, x) if fast.usable(self, x) else self._cross_spatial(x)
        return w.sigmoid()

    def _cross_spatial(self, x: Tensor) -> Tensor:
        """Logits of the gate."""
        group_x = self._grouped(x)
        w = nd.cross_spatial(self._strip_gated(group_x), self.local(group_x))
        return w.reshape(x.shape[0], self.groups, *x.shape[2:])

    def _fast(self, x: Tensor) -> Tensor:
        """The same without the 3x3 convolution, whose result is needed in two sums only."""
        group_x = self._grouped(x)
        x1 = self._strip_gated(group_x)
        x11 = self.norm.bias.unsqueeze(0).softmax(1)  # where each channel is normed by itself, its mean is the bias
        x12 = fast.conv_means(group_x, [self.local])[0].softmax(1)
        x11_x2 = fast.weighted_convs(group_x, [self.local], [x11])
        w = x11_x2 + (x12.unsqueeze(1) @ x1.flatten(2)).reshape(x11_x2.shape)
        return w.reshape(x.shape[0], self.groups, *x.shape[2:])

    def _grouped(self, x: Tensor) -> Tensor:
        """Groups in the batch: (N * groups, C / groups, *spatial) of features x (N, C, *spatial)."""
        return x.reshape(-1, x.shape[1] // self.groups, *x.shape[2:])

    def _strip_gated(self, group_x: Tensor) -> Tensor:
        """group_x (N * groups, C / groups, *spatial) gated along each axis and normed."""
        gates = nd.unstrip(self.strip(nd.strips(group_x)).sigmoid(), group_x.shape[2:])
        x1: Tensor = self.norm(fast.gated(group_x, *gates))
        return x1
