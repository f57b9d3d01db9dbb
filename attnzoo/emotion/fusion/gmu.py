"""Gated multimodal unit."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


@register("gmu", paper="https://arxiv.org/abs/1702.01992", year=2017)
class GMU(Fusion):
    """One gate per unit, from both raw features, weighs picture against sound (Arevalo et al., 2017).

    z = sigmoid(W_z [v; a]), h = z * tanh(W_v v) + (1 - z) * tanh(W_a a), without biases.

    Args:
        width: d of each input.
        segments: T; any.
        hidden: units of the output; None for d.

    Raises:
        ValueError: `hidden` is not positive.

    >>> sum(p.numel() for p in GMU(2048, 16, hidden=512).parameters())
    4194304
    """

    def __init__(self, width: int, segments: int, *, hidden: int | None = None) -> None:
        hidden = width if hidden is None else hidden
        check_positive(hidden=hidden)
        super().__init__(width, segments, hidden)
        self.visual = nn.Linear(width, hidden, bias=False)
        self.audio = nn.Linear(width, hidden, bias=False)
        self.gate = nn.Linear(2 * width, hidden, bias=False)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, hidden)."""
        gate = self.gate(torch.cat((visual, audio), -1)).sigmoid()
        fused: Tensor = gate * self.visual(visual).tanh() + (1 - gate) * self.audio(audio).tanh()
        return fused
