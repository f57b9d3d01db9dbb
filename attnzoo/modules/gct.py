"""Gated channel transformation."""

from typing import Literal

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register

ORDERS = {"l2": 2, "l1": 1}


@register(
    "gct",
    paper="https://arxiv.org/abs/1909.11519",
    site="mid",
    year=2020,
    golden=True,
    formula="s = alpha * |x|_2; y = x * (1 + tanh(gamma * s / sqrt(mean_c(s^2)) + beta))",
)
class GatedChannelTransformation(nd.Gate):
    """Channel gate 1 + tanh in which channels compete or cooperate by their norms (Yang et al., 2020).

    It starts as the identity. The authors put one in front of every convolution, the stem and the shortcuts included
    (`inject` with where={"layer*.*.conv*": "before"}), and leave `beta` out of weight decay. 3D: norms over T, H
    and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        norm: "l2", or "l1", of each channel; the norm across the channels goes with it.
        eps: added to the sums of squares, and to the mean of absolute values.

    Raises:
        ValueError: an unknown `norm`.

    >>> sum(p.numel() for p in GatedChannelTransformation(512).parameters())
    1536
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, norm: Literal["l2", "l1"] = "l2", eps: float = 1e-5
    ) -> None:
        super().__init__(channels, spatial_dims)
        if norm not in ORDERS:
            raise ValueError(f"norm={norm!r} must be 'l2' or 'l1'")
        self.norm, self.eps = norm, eps
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        norm = torch.linalg.vector_norm(x, ORDERS[self.norm], dim=nd.axes(x))
        if self.norm == "l2":
            embedding = self.alpha * (norm.square() + self.eps).sqrt()
            across = (embedding.square().mean(1, keepdim=True) + self.eps).sqrt()
        else:
            embedding = self.alpha * norm
            across = embedding.abs().mean(1, keepdim=True) + self.eps
        return nd.expand(1 + (embedding * self.gamma / across + self.beta).tanh(), x)
