"""The attention of VAANet, as far as features pooled over space allow."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


class TemporalAttention(nn.Module):
    """A weight for each segment, from the scores of all; not normalised (Zhao et al., 2020).

    Scores are tanh(BN(w^T x_t)), weights ReLU(W scores + b) with b = 1 at the start.

    Args:
        width: of the features.
        segments: T, which the square matrix W fixes.

    Raises:
        ValueError: another number of segments in the input.

    >>> TemporalAttention(8, 4)(torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(self, width: int, segments: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.bn = nn.BatchNorm1d(1)
        self.mix = nn.Linear(segments, segments)
        nn.init.ones_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights (B, T), none negative, of segments (B, T, width)."""
        if x.shape[1] != self.mix.in_features:
            raise ValueError(f"temporal attention was made for {self.mix.in_features} segments, not for {x.shape[1]}")
        scores = self.bn(self.score(x).transpose(1, 2)).squeeze(1).tanh()
        weights: Tensor = self.mix(scores).relu()
        return weights


@register("vaanet", paper="https://arxiv.org/abs/2003.00832", year=2020)
class VAANet(Fusion):
    """Channel and temporal attention on the picture, temporal attention on the sound (Zhao et al., 2020).

    f = ReLU(BN(W v)), times k softmax(W_c tanh(f)) over its k channels; a becomes tanh(BN(a)); then each stream times
    its segments' weights, side by side. What needs maps is left out, as the features are pooled over space: the spatial
    attention, which over one position is 1, and the convolution over positions before W_c.

    Args:
        width: d of each input.
        segments: T, which the temporal attention fixes.
        hidden: k, to which the visual feature is reduced.

    Raises:
        ValueError: `hidden` is not positive.

    >>> VAANet(8, 4, hidden=6)(torch.randn(2, 4, 8), torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 14])
    """

    def __init__(self, width: int, segments: int, *, hidden: int = 512) -> None:
        check_positive(hidden=hidden)
        super().__init__(width, segments, hidden + width)
        self.reduce = nn.Linear(width, hidden, bias=False)
        self.reduce_bn = nn.BatchNorm1d(hidden)
        self.channels = nn.Linear(hidden, hidden, bias=False)
        self.visual_weights = TemporalAttention(hidden, segments)
        self.audio_bn = nn.BatchNorm1d(width)
        self.audio_weights = TemporalAttention(width, segments)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, hidden + d); its mean over T is VAANet's."""
        reduced = self.reduce(visual)
        v = self.reduce_bn(reduced.flatten(0, 1)).reshape_as(reduced).relu()
        v = v * self.channels(v.tanh()).softmax(-1) * v.shape[-1]
        a = self.audio_bn(audio.flatten(0, 1)).reshape_as(audio).tanh()
        return torch.cat((v * self.visual_weights(v).unsqueeze(2), a * self.audio_weights(a).unsqueeze(2)), -1)
