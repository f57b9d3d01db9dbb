"""Linear context transform."""

from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "lct",
    paper="https://arxiv.org/abs/1909.03834",
    site="out",
    year=2020,
    golden=True,
    checked="changzy00's port",
    formula="y = x * sigmoid(w * norm(mean(x)) + b), norm within groups of channels",
)
class LinearContextTransform(nd.Gate):
    """Channel gate from pooled features that are normalised within groups of channels (Ruan et al., 2020).

    The authors released no code. The ports disagree on the start: here the weight is 0 and the bias 1, so that all
    gates start alike. The variance is the mean of squared deviations, not the difference of two means of a port, in
    which digits cancel. 3D: the pool is over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        groups: number of groups; must divide C and leave two channels at least in each.
        eps: of the norm.

    Raises:
        ValueError: `groups` does not divide C, or leaves one channel in each, whose norm would be 0.

    >>> sum(p.numel() for p in LinearContextTransform(512).parameters())
    1024
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, groups: int = 16, eps: float = 1e-5) -> None:
        super().__init__(channels, spatial_dims)
        if nd.split(channels, groups) == 1:
            raise ValueError(
                f"groups={groups} leaves one of channels={channels} in each, whose norm is 0 whatever the input; "
                f"give fewer groups"
            )
        self.norm = nd.GroupNorm(groups, channels, eps)
        nn.init.zeros_(self.norm.weight)
        nn.init.ones_(self.norm.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        logits: Tensor = self.norm(fast.mean(x, nd.axes(x)))
        return nd.expand(logits.sigmoid(), x)
