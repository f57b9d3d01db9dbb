"""Position attention and channel attention (DANet)."""

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register

PAPER = "https://arxiv.org/abs/1809.02983"


@register(
    "pam",
    paper=PAPER,
    site="stage",
    year=2019,
    golden=True,
    formula="q, k, v = W x; y = x + gamma * softmax(q^T k) v, softmax over the positions",
)
class PositionAttention(nd.Attention):
    """Each position adds the mean of all positions, weighted by a softmax of unscaled products (Fu et al., 2019).

    A learned factor that starts at 0 makes it an identity at first. The bias of the keys, which the authors have too,
    has no effect: it shifts all products of a query alike. 3D: positions in T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: queries and keys have C // reduction channels, at least 1; values have C.

    Raises:
        ValueError: `reduction` is not positive.

    >>> sum(p.numel() for p in PositionAttention(512).parameters())
    328321
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, reduction: int = 8) -> None:
        super().__init__(channels, spatial_dims)
        width = nd.squeeze(channels, reduction)
        self.widths = (width, width, channels)
        self.project = nd.conv(spatial_dims)(channels, sum(self.widths), 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        query, key, value = self.project(x).flatten(2).split(self.widths, 1)
        # Queries and keys are narrower than values: for that the CPU has no fused attention, and this is quicker.
        weights = (query.mT @ key).softmax(2)  # (N, positions, positions)
        attended: Tensor = (value @ weights.mT).unflatten(2, x.shape[2:])
        return x + self.gamma * attended


@register(
    "cam",
    paper=PAPER,
    site="stage",
    year=2019,
    golden=True,
    formula="y = x + gamma * softmax(-x x^T) x, softmax over the channels",
)
class ChannelAttention(nd.Attention):
    """Each channel adds a weighted mean over all channels, by a softmax of products of whole maps (Fu et al., 2019).

    A learned factor that starts at 0 makes it an identity at first. The authors' code weighs the channels that are the
    least alike most (their max - energy), their paper those that are the most alike. Energies are sums over positions:
    on large maps the softmax is all but an argmax, unless they are `scaled`. 3D: positions in T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        inverted: whether the energies have the sign of the authors' code; False has that of the paper.
        scaled: whether the energies are divided by the number of positions.

    >>> sum(p.numel() for p in ChannelAttention(512).parameters())
    1
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, inverted: bool = True, scaled: bool = False) -> None:
        super().__init__(channels, spatial_dims)
        self.sign = -1 if inverted else 1
        self.scaled = scaled
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        maps = x.flatten(2)
        factor = self.sign / maps.shape[2] if self.scaled else self.sign
        weights = (maps @ maps.mT * factor).softmax(2)  # (N, C, C)
        attended: Tensor = (weights @ maps).unflatten(2, x.shape[2:])
        return x + self.gamma * attended
