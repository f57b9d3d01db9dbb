"""Mixed local channel attention."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "mlca",
    paper="https://doi.org/10.1016/j.engappai.2023.106442",
    site="out",
    year=2023,
    golden=True,
    formula="y = x * (sigmoid(conv1d(mean(x))) + enlarge(sigmoid(conv1d(pool(x))))) / 2, pool to 5 x 5 cells",
)
class MixedLocalChannelAttention(nd.Gate):
    """ECA's channel gates of the whole map and of each cell of a coarse grid, mixed (Wan et al., 2023).

    A position's gate is the mean of those of the cells that its share of the map touches, one or two along an axis: the
    authors get it from a pool that is used to enlarge, here it is a product with a small matrix. 3D: the grid is along
    T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        cells: of the grid, along each axis; the authors' `local_size`.
        local_weight: of the cells' own gates, between 0 and 1; the rest is that of the whole map.
        kernel_size: odd length of the two convolutions along the channels; None is ECA's |log2(C) / 2 + 1 / 2| made
            odd.
        leak: whether the convolution of the cells runs on from the last channel of a cell into the first of the next,
            as in the authors' code; else each cell has an end.

    Raises:
        ValueError: an even `kernel_size`, no `cells`, a `local_weight` that is no share.

    >>> [sum(p.numel() for p in MixedLocalChannelAttention(c).parameters()) for c in (64, 256, 512, 2048)]
    [6, 10, 10, 14]
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        cells: int = 5,
        local_weight: float = 0.5,
        kernel_size: int | None = None,
        leak: bool = True,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if cells < 1:
            raise ValueError(f"cells={cells} must be at least 1")
        if not 0 <= local_weight <= 1:
            raise ValueError(f"local_weight={local_weight} must be between 0 and 1")
        if kernel_size is None:
            kernel_size = int(abs(math.log2(channels) + 1) / 2) // 2 * 2 + 1
        self.cells, self.local_weight, self.leak = cells, local_weight, leak
        self.conv = nn.Conv1d(1, 1, nd.odd(kernel_size), padding=kernel_size // 2, bias=False)
        self.conv_local = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        grid = _resized(x, [self.cells] * (x.ndim - 2))
        cells = grid.flatten(2).mT  # (N, cells, C)
        rows = (cells.flatten(1) if self.leak else cells.flatten(0, 1)).unsqueeze(1)
        mean = cells.mean(1, keepdim=True)
        if fast.usable(self, x):
            whole, own = fast.single_conv(self.conv, mean), fast.single_conv(self.conv_local, rows)
        else:
            whole, own = self.conv(mean), self.conv_local(rows)
        whole, own = whole.sigmoid(), own.sigmoid().reshape(cells.shape)
        return _resized(whole.lerp(own, self.local_weight).mT.reshape(grid.shape), x.shape[2:])


def _resized(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """Features x (N, C, *spatial) of another size: each position is the mean of those that its share covers.

    It is what an adaptive average pool gives, axis by axis, which compilers and exporters take for any size.
    """
    for axis, size in enumerate(spatial, 2):
        share = F.adaptive_avg_pool1d(torch.eye(x.shape[axis], dtype=x.dtype, device=x.device), size)
        if axis == x.ndim - 1:
            x = x @ share
        else:  # one product for each row of the batch, as counters see it only where it is spelt out
            shares = share.mT.expand(*x.shape[:axis], -1, -1)
            x = (shares @ x.flatten(axis + 1)).unflatten(axis + 1, x.shape[axis + 1 :])
    return x
