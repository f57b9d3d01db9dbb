"""Global context block (GCNet)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "gc",
    paper="https://arxiv.org/abs/1904.11492",
    site="out",
    year=2019,
    golden=True,
    formula="y = x + W2 relu(norm(W1 sum(x * softmax(w x)))), sum and softmax over the positions",
)
class GlobalContext(nd.Attention):
    """One attention-pooled context for all positions, added to the features or gating them (Cao et al., 2019).

    timm's version has reduction=8, fusion="mul", divisor=1, eps=1e-6. 3D: the attention is over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the transforms have C // reduction hidden units, the inverse of the authors' `ratio` (16, 4), and at
            least 2: the layer norm of a single unit would be its bias, whatever the input.
        pooling: "att" by a learned attention over the positions, or "avg".
        fusion: "add" (the authors' default), "mul" for a sigmoid gate, or both.
        divisor: None rounds C / reduction down; a number gives the nearest multiple of it, as in timm.
        eps: of the layer norm.

    Raises:
        ValueError: an unknown pooling or fusion.

    >>> sum(p.numel() for p in GlobalContext(512).parameters())
    33889
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 16,
        pooling: Literal["att", "avg"] = "att",
        fusion: Sequence[Literal["add", "mul"]] = ("add",),
        divisor: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(channels, spatial_dims)
        kinds = (fusion,) if isinstance(fusion, str) else tuple(fusion)
        if pooling not in ("att", "avg"):
            raise ValueError(f"pooling={pooling!r} must be 'att' or 'avg'")
        if not kinds or not set(kinds) <= {"add", "mul"}:
            raise ValueError(f"fusion={fusion!r} must hold 'add', 'mul' or both")
        hidden = nd.squeeze(channels, reduction, 2, divisor)
        self.mask: Any = nd.conv(spatial_dims)(channels, 1, 1) if pooling == "att" else None
        self.add = _transform(channels, hidden, eps) if "add" in kinds else None
        self.mul = _transform(channels, hidden, eps) if "mul" in kinds else None

    def context(self, x: Tensor) -> Tensor:
        """Pooled context (N, C) of features x (N, C, *spatial)."""
        if self.mask is None:
            return x.mean(nd.axes(x))
        if fast.usable(self, x) and not torch.is_autocast_enabled("cpu"):
            return fast.weighted_mean(self.mask, x)
        attention = self.mask(x).flatten(2).softmax(2)  # (N, 1, positions)
        pooled: Tensor = (x.flatten(2) @ attention.mT).squeeze(2)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        context, out = self.context(x), x
        if self.mul is not None:
            out = out * nd.expand(self.mul(context).sigmoid(), x)
        if self.add is not None:
            out = out + nd.expand(self.add(context), x)
        return out


def _transform(channels: int, hidden: int, eps: float) -> nn.Sequential:
    """Bottleneck on the context (N, C); the authors start it at zero: nothing is added, and a gate is 1/2."""
    last = nn.Linear(hidden, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden, eps), nn.ReLU(), last)
