"""Convolutional block attention module."""

from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register("cbam", paper="https://arxiv.org/abs/1807.06521", site="out")
class ConvolutionalBlockAttention(nd.Attention):
    """Channel gate from mean and max pooling, then a spatial gate from channel-wise max and mean (Woo et al., 2018).

    As in the authors' code: max before mean in the spatial gate, a batch norm after its convolution (absent from the
    paper's figure), momentum 0.01. 3D: pools over T, H and W, and a cubic kernel.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the shared MLP has C // reduction hidden units, at least 1.
        kernel_size: odd edge of the spatial gate's kernel.
        bias: whether the MLP has biases (the authors' code: yes; timm: no).

    Raises:
        ValueError: an even `kernel_size`.

    >>> sum(p.numel() for p in ConvolutionalBlockAttention(512).parameters())
    33412
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, reduction: int = 16, kernel_size: int = 7, bias: bool = True
    ) -> None:
        super().__init__(channels, spatial_dims)
        hidden = nd.squeeze(channels, reduction)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
        )
        self.spatial = nd.PooledGate(kernel_size, spatial_dims)

    def channel_gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial); both pools share one MLP."""
        mean, peak = x.mean(nd.axes(x)), x.flatten(2).max(2).values
        return nd.expand((self.mlp(mean) + self.mlp(peak)).sigmoid(), x)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        x = x * self.channel_gate(x)
        gated: Tensor = x * self.spatial(x, axis=1)
        return gated
