"""Global attention mechanism."""

from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "gam",
    paper="https://arxiv.org/abs/2112.05561",
    site="out",
    year=2021,
    golden=True,
    checked="the copy in common use",
    formula="z = x * sigmoid(W2 relu(W1 x)); y = z * sigmoid(norm(conv_7(relu(norm(conv_7(z))))))",
)
class GlobalAttention(nd.Attention):
    """Channel gate from an MLP at each position, then a gate from two wide convolutions (Liu, Shao & Hoffmann, 2021).

    Nothing is pooled, and the convolutions are dense: it has about 200 times the parameters of CBAM. 3D: kernels
    3 x k x k, since k x k x k would cost too much.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: MLP and convolutions have C // reduction hidden channels, at least 1; the ports' `rate`.
        kernel_size: odd edge of the kernels.
        temporal_kernel: 3D only, odd kernel size along T; 3, or `kernel_size` where that is 1, if None.

    Raises:
        ValueError: an even kernel, `temporal_kernel` in 2D, a `reduction` that is not positive.

    >>> sum(p.numel() for p in GlobalAttention(64).parameters())
    102720
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 4,
        kernel_size: int = 7,
        temporal_kernel: int | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if temporal_kernel is not None and spatial_dims != 3:
            raise ValueError(f"temporal_kernel={temporal_kernel} needs spatial_dims=3, not {spatial_dims}")
        hidden = nd.squeeze(channels, reduction)
        conv, norm = nd.conv(spatial_dims), nd.batch_norm(spatial_dims)
        size = [nd.odd(kernel_size)] * spatial_dims
        if spatial_dims == 3:
            size[0] = min(3, kernel_size) if temporal_kernel is None else nd.odd(temporal_kernel, "temporal_kernel")
        padding = [s // 2 for s in size]
        self.channel = nn.Sequential(conv(channels, hidden, 1), nn.ReLU(), conv(hidden, channels, 1))
        self.spatial = nn.Sequential(
            conv(channels, hidden, size, padding=padding),
            norm(hidden),
            nn.ReLU(),
            conv(hidden, channels, size, padding=padding),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        x = x * self.channel(x).sigmoid()
        attended: Tensor = x * self.spatial(x).sigmoid()
        return attended
