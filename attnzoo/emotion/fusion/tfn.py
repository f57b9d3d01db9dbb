"""Tensor fusion network."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


@register("tfn", paper="https://arxiv.org/abs/1707.07250", year=2017)
class TFN(Fusion):
    """Outer product [h_v; 1] x [h_a; 1]: each modality alone and all their products (Zadeh et al., 2017).

    h_v and h_a come from small networks of three layers; two more layers follow the product.

    Args:
        width: d of each input.
        segments: T; any.
        hidden: units of the small networks; the product has (hidden + 1)^2 entries.
        post: units of the two layers after the product, and of the output.
        dropout: of the product.

    Raises:
        ValueError: `hidden` or `post` is not positive, or `dropout` is no probability.

    >>> sum(p.numel() for p in TFN(2048, 16).parameters())
    291392
    """

    def __init__(self, width: int, segments: int, *, hidden: int = 32, post: int = 128, dropout: float = 0.15) -> None:
        check_positive(hidden=hidden, post=post)
        super().__init__(width, segments, post)
        self.visual = _layers(width, hidden, hidden, hidden)
        self.audio = _layers(width, hidden, hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.post = _layers((hidden + 1) ** 2, post, post)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, post)."""
        v, a = (pad(h, (0, 1), value=1.0) for h in (self.visual(visual), self.audio(audio)))
        product = torch.einsum("bti,btj->btij", v, a).flatten(2)
        fused: Tensor = self.post(self.dropout(product))
        return fused


def _layers(*sizes: int) -> nn.Sequential:
    pairs = pairwise(sizes)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))
