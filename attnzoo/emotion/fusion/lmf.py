"""Low-rank multimodal fusion."""

from torch import Tensor, nn

from attnzoo.emotion.fusion.registry import Fusion, check_positive, register


@register("lmf", paper="https://arxiv.org/abs/1806.00064", year=2018)
class LMF(Fusion):
    """A linear map of TFN's outer product whose tensor has a low rank: no product is built (Liu et al., 2018).

    h = sum_r (W_v^r [v; 1]) * (W_a^r [a; 1]). The sum stands outside the product: inside each factor it would add the
    ranks up to a single matrix, which is rank 1.

    Args:
        width: d of each input.
        segments: T; any.
        hidden: units of the output.
        rank: terms of the sum.

    Raises:
        ValueError: `hidden` or `rank` is not positive.

    >>> sum(p.numel() for p in LMF(2048, 16).parameters())
    2098176
    """

    def __init__(self, width: int, segments: int, *, hidden: int = 128, rank: int = 4) -> None:
        check_positive(hidden=hidden, rank=rank)
        super().__init__(width, segments, hidden)
        self.shape = (rank, hidden)
        # The column of W for the appended 1 is the bias.
        self.visual = nn.Linear(width, rank * hidden)
        self.audio = nn.Linear(width, rank * hidden)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Two features (B, T, d) -> one (B, T, hidden)."""
        products = (self.visual(visual) * self.audio(audio)).unflatten(-1, self.shape)
        fused: Tensor = products.sum(-2)
        return fused
