"""Spatial and channel synergistic attention."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

AXES = {2: ("h", "w"), 3: ("t", "h", "w")}


@register(
    "scsa",
    paper="https://arxiv.org/abs/2407.05128",
    site="mid",
    year=2025,
    golden=True,
    formula="z = x * g(mean_w(x)) * g(mean_h(x)); g = sigmoid(norm(conv1d)); q, k, v = w * norm(pool_7(z)); "
    "y = z * sigmoid(mean(softmax(q k^T) v))",
)
class SpatialChannelSynergisticAttention(nd.SpreadGate):
    """Gates along each axis by kernels of several sizes, then one by self-attention of channels (Si et al., 2025).

    The kernels, one size for each group of channels, are shared by the axes; the self-attention sees the axis-gated
    features pooled in windows. On maps smaller than a window, where the authors' code fails, the window is the map;
    their "recombination", which calls a method that their code lacks, is here the strided convolution it stands for.
    3D: a third strip, along T, and cubic windows.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        heads: of the self-attention; must divide C (the authors' ImageNet ResNet-50: 1).
        window: edge of the windows; None pools the whole map.
        kernels: odd length of each group's kernel; their number must divide C.
        pool: "avg", "max" or "recombination" of the positions of a window.
        activation: of the gates, "sigmoid" or "softmax", over the positions of a strip and over the channels.
        bias: whether queries, keys and values have biases.

    Raises:
        ValueError: options that do not divide C, or are unknown.

    >>> sum(p.numel() for p in SpatialChannelSynergisticAttention(512).parameters())
    8192
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        heads: int = 1,
        window: int | None = 7,
        kernels: Sequence[int] = (3, 5, 7, 9),
        pool: Literal["avg", "max", "recombination"] = "avg",
        activation: Literal["sigmoid", "softmax"] = "sigmoid",
        bias: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if pool not in ("avg", "max", "recombination"):
            raise ValueError(f"pool={pool!r} must be 'avg', 'max' or 'recombination'")
        if activation not in ("sigmoid", "softmax"):
            raise ValueError(f"activation={activation!r} must be 'sigmoid' or 'softmax'")
        if window is not None and window < 1:
            raise ValueError(f"window={window} must be at least 1, or None for the whole map")
        if window is None and pool == "recombination":
            raise ValueError("window=None leaves nothing to pool='recombination'; give a window, such as 7")
        self.scale = nd.split(channels, heads, "heads") ** -0.5
        self.heads, self.window, self.pool, self.activation = heads, window, pool, activation
        width = nd.split(channels, len(kernels), "the number of kernels")
        self.convs = nn.ModuleList(nn.Conv1d(width, width, nd.odd(k), padding=k // 2, groups=width) for k in kernels)
        self.gap = max(kernels) // 2
        self.norms = [f"norm_{axis}" for axis in AXES[spatial_dims]]
        for name in self.norms:
            self.add_module(name, nd.GroupNorm(len(kernels), channels))
        if pool == "recombination":
            self.recombine = nd.conv(spatial_dims)(channels, channels, window, window, bias=False)
        self.norm = nd.GroupNorm(1, channels)
        self.query, self.key, self.value = (_Scale(channels, bias) for _ in "qkv")

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """One gate per axis of features x (N, C, *spatial), the first times that of the channels."""
        first, *others = self.axis_gates(x)
        return first * self.channel_gate(self._pooled(x, [first, *others])), *others

    def axis_gates(self, x: Tensor) -> list[Tensor]:
        """One gate for each axis of features x (N, C, *spatial), broadcastable to x."""
        spatial = x.shape[2:]
        # The zeros between the strips are each one's padding, so that one call convolves all.
        strips = [F.pad(s.flatten(2), (0, self.gap)) for s in nd.unstrip(nd.strips(x), spatial)]
        parts = torch.cat(strips, 2).chunk(len(self.convs), 1)
        quick, each = fast.usable(self, x), zip(self.convs, parts, strict=True)
        mixed = torch.cat([fast.strip_conv(conv, part) if quick else conv(part) for conv, part in each], 1)
        strips = [
            s[..., :size] for s, size in zip(mixed.split([s + self.gap for s in spatial], 2), spatial, strict=True)
        ]
        normed = [self._squash(self.get_submodule(name)(s), 2) for name, s in zip(self.norms, strips, strict=True)]
        return nd.unstrip(torch.cat(normed, 2), spatial)

    def channel_gate(self, pooled: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) from features (N, C, *windows), of which the channels attend to each other."""
        y = self.norm(pooled).flatten(2)
        query, key = (scale(y).unflatten(1, (self.heads, -1)) for scale in (self.query, self.key))
        weights = (query @ key.mT * self.scale).softmax(3)
        # The attended values are averaged over the windows; so may the values be, before.
        value = self.value(y.mean(2, keepdim=True)).unflatten(1, (self.heads, -1))
        return nd.expand(self._squash((weights @ value).flatten(1), 1), pooled)

    def _pooled(self, x: Tensor, gates: list[Tensor]) -> Tensor:
        """Gated features x (N, C, *spatial), pooled in windows."""
        if self.pool == "recombination":
            for gate in gates:
                x = fast.scale(x, gate)
            missing = [max(0, self.recombine.kernel_size[0] - size) for size in reversed(x.shape[2:])]
            pooled: Tensor = self.recombine(F.pad(x, [p for size in missing for p in (0, size)]))
            return pooled
        # Axis by axis, since a gate is the same, and positive, all along the other axes.
        for axis, gate in enumerate(gates, 2):
            size = x.shape[axis] if self.window is None else min(self.window, x.shape[axis])
            whole = fast.scale(x, gate).narrow(axis, 0, x.shape[axis] // size * size)
            windows: Tensor = whole.unflatten(axis, (-1, size))
            x = fast.max_and_mean(windows, axis + 1)[0][0] if self.pool == "max" else fast.mean(windows, [axis + 1])
        return x

    def _squash(self, logits: Tensor, axis: int) -> Tensor:
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(axis)


class _Scale(nn.Module):
    """Depthwise 1x1 convolution, as a product: torch convolves such channels one by one."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-1, 1)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (N, C, positions)."""
        return x * self.weight if self.bias is None else x * self.weight + self.bias.unsqueeze(1)
