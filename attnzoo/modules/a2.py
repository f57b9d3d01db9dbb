"""Double attention (A2-Nets)."""

from torch import Tensor

from attnzoo import nd
from attnzoo.registry import register


@register(
    "a2",
    paper="https://arxiv.org/abs/1810.11579",
    site="stage",
    year=2018,
    golden=True,
    checked="nguyenvo09's port",
    formula="f, m, v = W x; y = x + W_z f softmax(m)^T softmax_c(v), the first softmax over the positions",
)
class DoubleAttention(nd.Attention):
    """Features gathered by attention maps over all positions, and given out again to each position (Chen et al., 2018).

    The authors released no code; the copy most used (nguyenvo09) has residual=False. 3D, as in the paper: the maps are
    over T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: C // reduction features are gathered, at least 1; the paper's c_m, which is C / 4.
        maps: by how many attention maps, the paper's c_n; as many as features if None.
        residual: whether the result is added to x, as in the paper, or stands alone.

    Raises:
        ValueError: `reduction` or `maps` is not positive.

    >>> sum(p.numel() for p in DoubleAttention(512).parameters())
    263040
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 4,
        maps: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = nd.squeeze(channels, reduction)
        if maps is not None and maps < 1:
            raise ValueError(f"maps={maps} must be at least 1, or None")
        count = width if maps is None else maps
        self.widths = (width, count, count)
        self.residual = residual
        conv = nd.conv(spatial_dims)
        self.project = conv(channels, sum(self.widths), 1)
        self.out = conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        features, maps, vectors = self.project(x).flatten(2).split(self.widths, 1)
        gathered = features @ maps.softmax(2).mT  # (N, features, maps)
        given: Tensor = self.out((gathered @ vectors.softmax(1)).unflatten(2, x.shape[2:]))
        return x + given if self.residual else given
