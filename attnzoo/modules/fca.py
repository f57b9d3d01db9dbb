"""Frequency channel attention (FcaNet)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register

# The authors' orders of frequencies (along H, along W) on a 7 x 7 map: by accuracy on their own, and from the lowest.
_BEST = "0060011451300032463552655334226165264154421423316", "0105202006046352633351124211305341522565441366446"
_LOWEST = "00110221203401301234501234561234", "01012012230043154321065432106543"
ORDERS = {"top": _BEST, "low": _LOWEST, "bot": tuple(digits[::-1] for digits in _BEST)}


@register(
    "fca",
    paper="https://arxiv.org/abs/2012.11879",
    site="out",
    year=2021,
    golden=True,
    formula="y = x * sigmoid(W2 relu(W1 sum(x * cos_g))), a cosine for each group of channels",
)
class FrequencyChannelAttention(nd.Gate):
    """SE whose squeeze is a different frequency of the cosine transform for each group of channels (Qin et al., 2021).

    Maps of another size than `size` are averaged down, or spread, to it. The basis is orthonormal, so frequency 0 is
    the mean times the square root of the number of positions. A buffer holds it once for each frequency, where the
    authors' has it once for each channel. 3D: the frequencies along H and W of the mean over T.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the bottleneck has C // reduction units, at least 1.
        size: edge of the map that is transformed, at least 7; the authors' networks have 56, 28, 14 and 7 in their four
            stages. Frequencies are times size // 7.
        frequencies: how many there are, 1 to 32; must divide C.
        order: which these are, in the authors' words: "top", "low" or "bot".

    Raises:
        ValueError: a `size` below 7, where all frequencies of the authors' code are 0; `frequencies` or `order` that do
            not fit.

    >>> sum(p.numel() for p in FrequencyChannelAttention(512).parameters())
    32768
    """

    basis: Tensor

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 16,
        size: int = 7,
        frequencies: int = 16,
        order: Literal["top", "low", "bot"] = "top",
    ) -> None:
        super().__init__(channels, spatial_dims)
        if size < 7:
            raise ValueError(f"size={size} must be at least 7, the size that the frequencies are told for")
        if order not in ORDERS or frequencies > 32:
            raise ValueError(
                f"order={order!r} must be one of {', '.join(ORDERS)}, and frequencies={frequencies} up to 32"
            )
        nd.split(channels, frequencies, "frequencies")
        waves = _cosines(size)[:: size // 7]
        along_h, along_w = ([int(f) for f in o[:frequencies]] for o in ORDERS[order])
        self.register_buffer("basis", waves[along_h].unsqueeze(2) * waves[along_w].unsqueeze(1))
        hidden = nd.squeeze(channels, reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial)."""
        frames = x.mean(2) if self.spatial_dims == 3 else x
        # To pool the features and to spread the basis is the same, and the basis is small.
        basis = self.basis
        for axis in (1, 2):
            if frames.shape[axis + 1] != basis.shape[axis]:
                share = F.adaptive_avg_pool1d(
                    torch.eye(frames.shape[axis + 1], dtype=basis.dtype, device=x.device), basis.shape[axis]
                )
                basis = (basis.transpose(axis, 2) @ share.mT).transpose(axis, 2)
        groups = frames.unflatten(1, (len(basis), -1))  # (N, frequencies, C / frequencies, H, W)
        spectrum = (groups * basis.unsqueeze(1)).sum((3, 4)).flatten(1)
        return nd.expand(self.fc(spectrum).sigmoid(), x)


def _cosines(size: int) -> Tensor:
    """Orthonormal cosines (frequency, position), both of `size`."""
    number = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * number.unsqueeze(1) * (number + 0.5)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.float()
