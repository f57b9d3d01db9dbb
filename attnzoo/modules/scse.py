"""Spatial and channel squeeze-and-excitation (cSE, sSE, scSE)."""

from typing import Literal

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

PAPER = "https://arxiv.org/abs/1803.02579"


@register(
    "cse", paper=PAPER, site="stage", year=2018, golden=True, formula="y = x * sigmoid(W2 relu(W1 mean(x) + b1) + b2)"
)
class ChannelExcitation(nd.Gate):
    """Channel gate from globally pooled features, with biases and a wide bottleneck (Roy et al., 2018).

    The authors put it after each encoder and decoder block of a U-Net. 3D, as in their code: the squeeze is the mean
    over T, H and W; the parameters are the same.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the bottleneck has C // reduction units, at least 1.

    Raises:
        ValueError: `reduction` is not positive.

    >>> sum(p.numel() for p in ChannelExcitation(512).parameters())
    262912
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, reduction: int = 2) -> None:
        super().__init__(channels, spatial_dims)
        self.fc = _bottleneck(channels, reduction)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        return nd.expand(self.fc(fast.mean(x, nd.axes(x))).sigmoid(), x)


@register("sse", paper=PAPER, site="stage", year=2018, golden=True, formula="y = x * sigmoid(w x + b)")
class SpatialExcitation(nd.Gate):
    """Spatial gate from one linear map of the channels at each position (Roy et al., 2018).

    The weights that the authors' code takes for few-shot learning, which it tests for truth and so cannot use, are left
    out. 3D, as in their code: a gate for each position in T, H and W; the parameters are the same.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.

    >>> sum(p.numel() for p in SpatialExcitation(512).parameters())
    513
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims)
        self.conv = nd.conv(spatial_dims)(channels, 1, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, 1, *spatial) of features x (N, C, *spatial)."""
        gate: Tensor = self.conv(x).sigmoid()
        return gate


@register(
    "scse",
    paper=PAPER,
    site="stage",
    year=2018,
    golden=True,
    formula="y = max(x * sigmoid(W2 relu(W1 mean(x) + b1) + b2), x * sigmoid(w x + b))",
)
class ConcurrentExcitation(nd.SpreadGate):
    """The larger of the features under cSE's channel gate and under sSE's spatial gate (Roy et al., 2018).

    The port in segmentation_models_pytorch has reduction=16, combine="add". 3D, as in the authors' code: the squeeze
    is over T, H and W, with a gate for each position in them.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the bottleneck of the channel gate has C // reduction units, at least 1.
        combine: "max" takes the larger of the two gated features, "add" their sum.

    Raises:
        ValueError: `reduction` is not positive, or an unknown `combine`.

    >>> sum(p.numel() for p in ConcurrentExcitation(512).parameters())
    263425
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, reduction: int = 2, combine: Literal["max", "add"] = "max"
    ) -> None:
        super().__init__(channels, spatial_dims)
        if combine not in ("max", "add"):
            raise ValueError(f"combine={combine!r} must be 'max' or 'add'")
        self.combine = combine
        self.fc = _bottleneck(channels, reduction)
        self.conv = nd.conv(spatial_dims)(channels, 1, 1)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Channel gate (N, C, 1, ...) and spatial gate (N, 1, *spatial) of features x (N, C, *spatial)."""
        pooled = fast.mean(x, nd.axes(x))
        return nd.expand(self.fc(pooled).sigmoid(), x), self.conv(x).sigmoid()

    def spread(self, x: Tensor, *maps: Tensor) -> Tensor:
        """The gate (N, C, *spatial) by which features x become the sum of those under each gate, or the larger."""
        channel, spatial = maps
        return channel + spatial if self.combine == "add" else torch.lerp(channel, spatial, self._share(x, *maps))

    def derivative(self, by_gate: Tensor, gate: Tensor, x: Tensor, *maps: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative of `spread`."""
        if self.combine == "add":
            return None, by_gate, by_gate
        by_spatial = by_gate * self._share(x, *maps)
        return None, by_gate - by_spatial, by_spatial

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        if self.combine == "add" or torch.is_grad_enabled():
            return super().forward(x)
        self.check(x)
        channel, spatial = self.maps(x)
        return torch.maximum(x * channel, x * spatial)  # quick, but for its backward pass

    @staticmethod
    @torch.no_grad()
    def _share(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        """How much of the gate is the spatial one: 0, 1, or, where it makes no difference, 1 / 2.

        So that the derivatives are those of a maximum of the products, which shares between equal ones.
        """
        return (x * (spatial - channel)).sign().add(1).div(2).to(channel.dtype)


def _bottleneck(channels: int, reduction: int) -> nn.Sequential:
    hidden = nd.squeeze(channels, reduction)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
