"""Normalisation-based attention."""

import torch
from torch import Tensor
from torch.func import functional_call

from attnzoo import nd
from attnzoo.registry import register


@register(
    "nam",
    paper="https://arxiv.org/abs/2111.12419",
    site="out",
    year=2021,
    golden=True,
    formula="y = x * sigmoid(w * norm(x)); w = |scale| / sum_c |scale|, scale that of the norm",
)
class NormalizationAttention(nd.Gate):
    """Gate from batch-normed features, each channel weighted by its share of the scales of the norm (Liu et al., 2021).

    The authors take that share from the scales' `.data`, so that no gradient reaches them through it; here it does
    unless `frozen`. 3D: statistics over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        frozen: whether the shares are constants to the gradient, as in the authors' code.

    >>> sum(p.numel() for p in NormalizationAttention(512).parameters())
    1024
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, frozen: bool = False) -> None:
        super().__init__(channels, spatial_dims)
        self.frozen = frozen
        self.bn = nd.batch_norm(spatial_dims)(channels)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        scale = self.bn.weight.abs()
        share = scale / scale.sum()
        share = share.detach() if self.frozen else share
        if torch._C._get_tracing_state():  # torch.jit.trace, which counters use, knows no functional_call
            logits: Tensor = self.bn(x) * nd.expand(share.unsqueeze(0), x)
            return logits.sigmoid()
        # Times scale and shift, not times the map.
        shared = {"weight": self.bn.weight * share, "bias": self.bn.bias * share}
        normed: Tensor = functional_call(self.bn, shared, (x,))
        return normed.sigmoid()
