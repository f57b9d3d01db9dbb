"""Multi-scale parallel synergistic enhancement (MPE)."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

Fusion = Literal["dynamic", "mean", "max", "static"]
Combine = Literal["both", "weighted", "concat"]
Temporal = Literal["full", "unit", "spatial", "folded"]
OPTIONS = {
    "fusion": ("dynamic", "mean", "max", "static"),
    "combine": ("both", "weighted", "concat"),
    "temporal": ("full", "unit", "spatial", "folded"),
}


@register(
    "mpe",
    paper="https://doi.org/10.3390/electronics14091886",
    site="mid",
    year=2025,
    formula="per group: a as in EMA; f_d = conv_3(x) dilated by d; "
    "b = W [f_1, f_3, f_5] + sum_d softmax_d(G mean(x)) * f_d; "
    "y = x + x * sigmoid(softmax(mean(a)) @ b + softmax(mean(b)) @ a)",
    checked="its paper's equations, written out a second time",
)
class MultiScaleParallelEnhancement(nd.Gate):
    """Cross-spatial gate between a strip-gated branch and parallel dilated convolutions (Electronics 2025, 14, 1886).

    Section 3.2 of the paper. All weights act on the C / groups channels of one group and are shared by the groups,
    which are folded into the batch. 3D: three strips, Conv3d branches, the rest unchanged.

    Where the paper is silent or contradicts itself, this is decided: the descriptors are paired crosswise,
    W = X11 X21 + X12 X22, since the printed X11 X12' + X21 X22' is a matrix over channels that the printed elementwise
    output cannot use; softmax acts on the pooled descriptors alone; one 1x1 convolution serves all strips; the
    branches' convolutions have a bias and neither norm nor activation; the gating network is one layer, with bias (its
    192 weights at C = 512, G = 8 are the paper's count); dilations are (1, 3, 5) as in section 3.2 and not 1, 2, 3;
    groups are 8 as in the text (10, the best in Figure 5, divides no width of a ResNet).

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups; must divide C.
        dilations: dilation of each branch's 3x3 convolution (Table 3, Figure 6).
        fusion: how the branches are weighted (Table 4): "dynamic" by a gating network on the pooled input, "static"
            by learned weights, "mean", or "max" elementwise.
        combine: "both" adds the weighted sum and a 1x1 convolution of the concatenated branches; or one of the two.
        depthwise: one filter per channel in the branches, the reading nearest to the cost the paper claims.
        norm_groups: groups of the group norm after the strips; None is one per channel, as in EMA, which makes X11
            independent of the input; 1 makes it informative.
        residual: whether x is added to the gated features.
        temporal: 3D only. "full" dilates the 3x3x3 kernels along T too; "unit" has dilation 1 along T (to prefer when
            T is small and the outer taps would read padding only); "spatial" has 1x3x3 kernels; "folded" applies the 2D
            module to each frame.

    Raises:
        ValueError: `groups` does not divide C, no dilations, or an unknown fusion, combine or temporal.

    >>> mpe = MultiScaleParallelEnhancement(512, groups=8)
    >>> sum(p.numel() for p in mpe.parameters()), mpe.branch_gate.weight.numel()
    (127619, 192)
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        groups: int = 8,
        dilations: Sequence[int] = (1, 3, 5),
        fusion: Fusion = "dynamic",
        combine: Combine = "both",
        depthwise: bool = False,
        norm_groups: int | None = None,
        residual: bool = True,
        temporal: Temporal = "full",
    ) -> None:
        super().__init__(channels, spatial_dims)
        for option, value in (("fusion", fusion), ("combine", combine), ("temporal", temporal)):
            if value not in OPTIONS[option]:
                raise ValueError(f"{option}={value!r} must be one of {', '.join(OPTIONS[option])}")
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations={tuple(dilations)} must be one or more positive numbers, such as (1, 3, 5)")
        if combine == "concat" and fusion != "dynamic":
            raise ValueError(f"combine='concat' weights no branches: fusion={fusion!r} would do nothing; drop one")
        if temporal != "full" and spatial_dims != 3:
            raise ValueError(f"temporal={temporal!r} needs spatial_dims=3, not {spatial_dims}")
        c, n = nd.split(channels, groups), len(dilations)
        if norm_groups is not None:
            nd.split(c, norm_groups, "norm_groups")
        self.groups, self.residual, self.temporal = groups, residual, temporal
        self.fusion, self.combine = fusion, combine

        conv = nd.conv(2 if temporal == "folded" else spatial_dims)
        self.strip = conv(c, c, 1)
        self.norm = nd.GroupNorm(norm_groups or c, c)
        self.branches = nn.ModuleList()
        for d in dilations:
            size, dilation = [3] * spatial_dims, [d] * spatial_dims
            if temporal == "folded":
                size, dilation = size[1:], dilation[1:]
            elif temporal != "full":
                size[0], dilation[0] = (3 if temporal == "unit" else 1), 1
            padding = tuple(k // 2 * r for k, r in zip(size, dilation, strict=True))
            self.branches.append(
                conv(c, c, tuple(size), padding=padding, dilation=tuple(dilation), groups=c if depthwise else 1)
            )
        if combine != "concat" and fusion == "dynamic":
            self.branch_gate = conv(c, n, 1)
        if combine != "concat" and fusion == "static":
            self.branch_logits = nn.Parameter(torch.zeros(n))
        if combine != "weighted":
            self.concat = conv(n * c, c, 1)
        if combine != "concat" and fusion != "max":
            self.branch_names = tuple(f"dilation {d}" for d in dilations)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, groups, *spatial) of features x (N, C, *spatial): sigmoid(W), plus 1 for the residual."""
        maps = x.transpose(1, 2).flatten(0, 1) if self.temporal == "folded" else x
        linear = self.combine == "concat" or self.fusion != "max"
        if linear and fast.usable(self, maps):
            w = fast.recomputed(self._fast, self, maps)
        else:
            w = self._fast(maps) if linear and fast.compiled(maps, self) else self._cross_spatial(maps)
        if self.temporal == "folded":
            w = w.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        return w.sigmoid() + 1 if self.residual else w.sigmoid()

    def _cross_spatial(self, x: Tensor) -> Tensor:
        """W (N, groups, *spatial) of features x (N, C, *spatial)."""
        group_x = self._grouped(x)
        x2 = self._fuse([branch(group_x) for branch in self.branches], group_x)
        w = nd.cross_spatial(self._strip_gated(group_x), x2)
        return w.reshape(x.shape[0], self.groups, *x.shape[2:])

    def _fast(self, x: Tensor) -> Tensor:
        """The same without the branches, which W, linear in them, needs in two sums only: over positions and channels.

        X12 is the softmax of X2's mean over positions, and X11 X21 a sum over X2's channels.
        """
        group_x, branches = self._grouped(x), list(self.branches)
        x1 = self._strip_gated(group_x)
        means = [nd.expand(mean, group_x) for mean in fast.conv_means(group_x, branches)]
        x12 = self._fuse(means, group_x).flatten(1).softmax(1)
        x11 = nd.mean_of_normed(self.norm, x1).softmax(1)
        shares = torch.zeros_like(x11).unsqueeze(1)  # (N * groups or 1, branches, c): what X11 X21 takes of each
        constant = x11.new_zeros(1)
        if self.combine != "weighted":
            shares = shares + (x11 @ self.concat.weight.flatten(1)).unflatten(1, (len(branches), -1))
            constant = x11 @ self.concat.bias
        if self.combine != "concat":
            shares = shares + self._weights(group_x).unsqueeze(2) * x11.unsqueeze(1)
        x11_x21 = fast.weighted_convs(group_x, branches, shares.unbind(1)) + nd.expand(constant.unsqueeze(1), x)[:, 0]
        w = x11_x21 + (x12.unsqueeze(1) @ x1.flatten(2)).reshape(x11_x21.shape)
        return w.reshape(x.shape[0], self.groups, *x.shape[2:])

    def _strip_gated(self, group_x: Tensor) -> Tensor:
        """X1: group_x (N * groups, c, *spatial) gated along each axis and normed."""
        gates = nd.strip_gates(self.strip, group_x)
        x1: Tensor = self.norm(fast.gated(group_x, *gates))
        return x1

    def branch_weights(self, x: Tensor) -> Tensor:
        """Weights (N, branches) for features x (N, C, *spatial), averaged over groups, and over frames if folded."""
        maps = x.transpose(1, 2).flatten(0, 1) if self.temporal == "folded" else x
        return self._weights(self._grouped(maps)).reshape(x.shape[0], -1, len(self.branches)).mean(1)

    def _grouped(self, x: Tensor) -> Tensor:
        """Groups in the batch: (N * groups, c, *spatial) of features x (N, C, *spatial)."""
        return x.reshape(-1, x.shape[1] // self.groups, *x.shape[2:])

    def _weights(self, group_x: Tensor) -> Tensor:
        """Weights of the branches, summing to 1: (N * groups, branches) for group_x (N * groups, c, *spatial)."""
        if self.fusion == "dynamic":
            logits: Tensor = self.branch_gate(group_x.mean(nd.axes(group_x), keepdim=True)).flatten(1)
            return logits.softmax(1)
        n = len(self.branches)
        weights = self.branch_logits.softmax(0) if self.fusion == "static" else group_x.new_full((n,), 1 / n)
        return weights.expand(group_x.shape[0], n)

    def _fuse(self, features: list[Tensor], group_x: Tensor) -> Tensor:
        """One map (N * groups, c, *spatial) from those of the branches."""
        terms: list[Tensor] = []
        if self.combine != "weighted":
            terms.append(self.concat(torch.cat(features, 1)))
        if self.combine != "concat" and self.fusion == "max":
            terms.append(reduce(torch.maximum, features))
        elif self.combine != "concat":
            weights = self._weights(group_x).unbind(1)
            terms += [nd.expand(w.unsqueeze(1), f) * f for w, f in zip(weights, features, strict=True)]
        return sum(terms[1:], terms[0])
