"""Criss-cross attention (CCNet)."""

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "cca",
    paper="https://arxiv.org/abs/1811.11721",
    site="stage",
    year=2019,
    golden=True,
    formula="q, k, v = W x; y = x + gamma * softmax(q^T k) v, over the row and the column of each position",
)
class CrissCrossAttention(nd.Attention):
    """Each position adds a mean over its row and its column, weighted by one softmax (Huang et al., 2019).

    A learned factor that starts at 0 makes it an identity at first. It runs on any device (the authors' mask is made on
    a GPU). The bias of the keys, which the authors have too, has no effect. 3D: the lines along T, H and W through each
    position, which itself counts once.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: queries and keys have C // reduction channels, at least 1; values have C.
        recurrence: how often it is applied, with the same weights; the authors' networks have 2, by which each position
            has seen all others.

    Raises:
        ValueError: `reduction` or `recurrence` is not positive.

    >>> sum(p.numel() for p in CrissCrossAttention(512).parameters())
    328321
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, reduction: int = 8, recurrence: int = 1) -> None:
        super().__init__(channels, spatial_dims)
        if recurrence < 1:
            raise ValueError(f"recurrence={recurrence} must be at least 1")
        width = nd.squeeze(channels, reduction)
        self.widths = (width, width, channels)
        self.recurrence = recurrence
        self.project = nd.conv(spatial_dims)(channels, sum(self.widths), 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        for _ in range(self.recurrence):
            x = x + self.gamma * self._attend(x)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).split(self.widths, 1)
        energies = [_lines(query, axis).mT @ _lines(key, axis) for axis in nd.axes(x)]  # each (N, *rest, L, L)
        for i, energy in enumerate(energies[:-1]):  # the last line holds the position itself
            itself = torch.eye(energy.shape[-1], dtype=torch.bool, device=x.device)
            energies[i] = energy.masked_fill(itself, -torch.inf)
        per_position = [energy.movedim(-2, axis - 1) for energy, axis in zip(energies, nd.axes(x), strict=True)]
        weights = torch.cat(per_position, -1).softmax(-1).split(x.shape[2:], -1)  # each (N, *spatial, L)
        terms = []
        for axis, weight in zip(nd.axes(x), weights, strict=True):
            along = _lines(value, axis) @ weight.movedim(axis - 1, -1)  # (N, *rest, C, L)
            terms.append(along.movedim((-2, -1), (1, axis)))
        attended: Tensor = sum(terms[1:], terms[0])
        return attended


def _lines(x: Tensor, axis: int) -> Tensor:
    """Lines of x (N, c, *spatial) along one axis: (N, *rest, c, L)."""
    return x.movedim((1, axis), (-2, -1))
