"""Soft attention over time, in the style of DFAN."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


@register("dfan_style", paper="after the abstract of Qiu et al., Dual Focus Attention Network, 2020", year=2020)
class DFANStyle(Fusion):
    """Each stream chooses its segments by a softmax over time: a reconstruction after Qiu et al., 2020.

    Only the abstract was at hand: e_t = w^T tanh(W f_t + b), a = softmax(e), f = sum_t a_t f_t is the usual soft
    attention, not an equation of the paper. Its second focus, on regions of a frame, needs maps and is left out, and
    its three feature sets (action, object, scene) are here the picture and the sound.

    Args:
        width: d of each input.
        segments: T; any.
        hidden: units of the scores.

    Raises:
        ValueError: `hidden` is not positive.

    >>> DFANStyle(8, 4)(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4, 16])
    """

    def __init__(self, width: int, segments: int, *, hidden: int = 256) -> None:
        check_positive(hidden=hidden)
        super().__init__(width, segments, 2 * width)
        self.visual, self.audio = (
            nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False)) for _ in range(2)
        )

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, 2d); its mean over T is the attended sum."""
        streams = ((self.visual, visual), (self.audio, audio))
        return torch.cat([x * score(x).softmax(1) * x.shape[1] for score, x in streams], -1)
