"""Attention of each stream's segments to those of the other."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


class MultiHead(nn.Module):
    """Multi-head attention over segments.

    Args:
        width: of queries, keys and output.
        heads: among which the width is divided.
        rectify: ReLU after each of the four linear maps, as CTEN has it.

    Raises:
        ValueError: `heads` does not divide `width`.

    >>> MultiHead(8, 2)(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, *, rectify: bool = False) -> None:
        super().__init__()
        check_positive(heads=heads)
        if width % heads:
            raise ValueError(f"heads={heads} must divide the width {width}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.activation: nn.Module = nn.ReLU() if rectify else nn.Identity()

    def forward(self, query: Tensor, other: Tensor) -> Tensor:
        """Segments (B, T, width) that ask, and (B, S, width) that are keys and values -> (B, T, width)."""
        maps = ((self.query, query), (self.key, other), (self.value, other))
        q, k, v = (self.activation(m(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m, x in maps)
        read = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.activation(self.out(read))
        return out


@register("cross_attention", paper="https://arxiv.org/abs/1706.03762", year=2017)
class CrossAttention(Fusion):
    """The segments of each stream read those of the other by multi-head attention (Vaswani et al., 2017).

    v' = v + A(v, a), a' = a + A(a, v), then both side by side; the first argument of A asks.

    Args:
        width: d of each input.
        segments: T; any.
        hidden: to which both are projected first; None leaves them as they are.
        heads: of each attention.

    Raises:
        ValueError: `heads` does not divide `hidden`, or one of them is not positive.

    >>> sum(p.numel() for p in CrossAttention(2048, 16, hidden=512).parameters())
    4199424
    """

    def __init__(self, width: int, segments: int, *, hidden: int | None = None, heads: int = 8) -> None:
        size = width if hidden is None else hidden
        check_positive(hidden=size)
        super().__init__(width, segments, 2 * size)
        self.project_visual, self.project_audio = (
            nn.Identity() if hidden is None else nn.Linear(width, size) for _ in range(2)
        )
        self.visual_reads, self.audio_reads = MultiHead(size, heads), MultiHead(size, heads)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, 2 x hidden)."""
        v, a = self.project_visual(visual), self.project_audio(audio)
        return torch.cat((v + self.visual_reads(v, a), a + self.audio_reads(a, v)), -1)
