"""Cross-modal temporal erasing network."""

import torch
from torch import Tensor, nn

from attnzoo.emotion.fusion.cross_attention import MultiHead
from attnzoo.emotion.fusion.registry import Fusion, check_positive, register
from attnzoo.emotion.fusion.vaanet import TemporalAttention


class NonLocal(nn.Module):
    """Attention among the segments of one stream: BN(W_o softmax(theta phi^T / sqrt(inner)) g) + alpha x.

    Args:
        width: of the features.
        inner: of queries, keys and values.

    >>> NonLocal(8, 4)(torch.randn(2, 3, 8)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.bn = nn.BatchNorm1d(width)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Segments (B, T, width) -> the same shape."""
        read = nn.functional.scaled_dot_product_attention(self.theta(x), self.phi(x), self.g(x))
        out: Tensor = self.bn(self.out(read).flatten(0, 1)).reshape_as(x) + self.alpha * x
        return out


@register(
    "cten", paper="Zhang, Wang and Yang, Weakly Supervised Video Emotion Detection and Prediction, CVPR", year=2023
)
class CTEN(Fusion):
    """Attention in and between the streams, and training with segments erased by their weight (Zhang et al., 2023).

    Each stream passes a non-local block; v' = v + A(a, v) and a' = a + A(v, a) side by side, where the first argument
    of A asks, times the weights of VAANet's temporal attention. The 0.2 dropout before the classifier is the model's.

    The authors sample new frames from the segments that erasing keeps; here their features are stretched over T.

    Args:
        width: d of each input.
        segments: T, which the temporal attention fixes.
        inner: of the non-local blocks.
        heads: of the attention between the streams.
        theta: the threshold of erasing stands at theta of the way from the least to the greatest weight.

    Raises:
        ValueError: `heads` does not divide d, `inner` is not positive, or `theta` is not between 0 and 1.

    >>> CTEN(8, 4, inner=4, heads=2)(torch.randn(2, 4, 8), torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 16])
    """

    def __init__(self, width: int, segments: int, *, inner: int = 256, heads: int = 8, theta: float = 0.7) -> None:
        check_positive(inner=inner)
        if not 0 <= theta <= 1:
            raise ValueError(f"theta={theta} must be from 0 to 1")
        super().__init__(width, segments, 2 * width)
        self.theta = theta
        self.visual_intra, self.audio_intra = NonLocal(width, inner), NonLocal(width, inner)
        self.audio_asks, self.visual_asks = (MultiHead(width, heads, rectify=True) for _ in range(2))
        self.weights = TemporalAttention(2 * width, segments)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, 2d); its mean over T is CTEN's."""
        return self._weighted(visual, audio)[0]

    def passes(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """Three of (B, T, 2d): all segments, those below the threshold, and the others."""
        fused, weights = self._weighted(visual, audio)
        threshold = torch.lerp(weights.amin(1), weights.amax(1), self.theta).unsqueeze(1)
        outs = [fused]
        for kept in (weights < threshold, weights >= threshold):
            index = _stretch(kept).unsqueeze(2)
            outs.append(self(*(x.take_along_dim(index, 1) for x in (visual, audio))))
        return tuple(outs)

    def _weighted(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        v, a = self.visual_intra(visual), self.audio_intra(audio)
        joined = torch.cat((v + self.audio_asks(a, v), a + self.visual_asks(v, a)), -1)
        weights = self.weights(joined)
        return joined * weights.unsqueeze(2), weights


def _stretch(chosen: Tensor) -> Tensor:
    """Indices (B, T) of the chosen segments (B, T), in order and repeated evenly to T; of all where none is chosen.

    >>> _stretch(torch.tensor([[False, True, False, True], [False] * 4])).tolist()
    [[1, 1, 3, 3], [0, 1, 2, 3]]
    """
    chosen = chosen | ~chosen.any(1, keepdim=True)  # equal weights have none below their threshold
    first = (~chosen).int().argsort(dim=1, stable=True)
    steps = torch.arange(chosen.shape[1], device=chosen.device)
    return first.gather(1, steps * chosen.sum(1, keepdim=True) // chosen.shape[1])
