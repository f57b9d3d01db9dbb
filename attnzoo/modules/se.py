"""Squeeze-and-excitation."""

from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "se",
    paper="https://arxiv.org/abs/1709.01507",
    site="out",
    year=2018,
    golden=True,
    checked="moskomule's port (the authors' code is Caffe)",
    formula="y = x * sigmoid(W2 relu(W1 mean(x)))",
)
class SqueezeExcitation(nd.Gate):
    """Channel gate from globally pooled features (Hu et al., 2018).

    timm's version has bias=True, divisor=8. 3D: the squeeze is the mean over T, H and W; the parameters are the same.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the bottleneck has C // reduction units, at least 1 (the ports build an empty layer when
            C < reduction, and the gate is then the constant 1/2).
        bias: whether the two projections have biases (the authors' Caffe code: yes; most PyTorch ports: no).
        divisor: None rounds C / reduction down; a number gives the nearest multiple of it, as in timm.

    Raises:
        ValueError: `reduction` or `divisor` is not positive.

    >>> sum(p.numel() for p in SqueezeExcitation(512).parameters())
    32768
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 16,
        bias: bool = False,
        divisor: int | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        hidden = nd.squeeze(channels, reduction, divisor=divisor)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
        )

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        return nd.expand(self.fc(fast.mean(x, nd.axes(x))).sigmoid(), x)
