"""Axial attention (Axial-DeepLab)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "axial",
    paper="https://arxiv.org/abs/2003.07853",
    site="conv",
    year=2020,
    golden=True,
    formula="q, k, v = W x; y = softmax(q^T k + q^T r_q + k^T r_k) (v + r_v), along one axis after the other",
)
class AxialAttention(nd.Attention):
    """Self-attention along one axis after the other, with positions in queries, keys and values (Wang et al., 2020).

    It takes the place of a convolution. The authors' code takes lines of one length alone. 3D: along T, then H, then W;
    with axes=(1, 2) it is the 2D module on each frame.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: of the average pool that follows, one number or one per axis.
        spatial_dims: 2 or 3.
        groups: heads; out_channels must be divisible by 2 * groups.
        feat_size: size of the map that relative positions are learned for, one number or one per axis; on larger maps
            those that are farther apart share the farthest one.
        axes: the spatial axes to attend along, from 0, in this order; all if None.

    Raises:
        ValueError: groups, sizes or axes that do not fit.

    >>> sum(p.numel() for p in AxialAttention(512, axes=(0,)).parameters())
    542640
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        groups: int = 8,
        feat_size: int | Sequence[int] = 56,
        axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = channels if out_channels is None else out_channels
        sizes = nd.per_axis(feat_size, spatial_dims, "feat_size")
        self.axes = tuple(range(spatial_dims)) if axes is None else tuple(axes)
        if not self.axes or not set(self.axes) <= set(range(spatial_dims)):
            raise ValueError(f"axes={self.axes} must be some of {', '.join(map(str, range(spatial_dims)))}")
        self.strides = nd.per_axis(stride, spatial_dims)
        self.layers = nn.ModuleList(
            _AlongAxis(width if i else channels, width, groups, sizes[axis]) for i, axis in enumerate(self.axes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial), giving (N, out_channels, *spatial / stride)."""
        self.check(x)
        out = x
        for layer, axis in zip(self.layers, self.axes, strict=True):
            out = layer(out, 2 + axis)
        return nd.mean_pool(nd.laid_out_as(out, x), self.strides)


class _AlongAxis(nn.Module):
    """Self-attention along the lines of one axis.

    Args:
        channels: of the input.
        width: channels of the output.
        groups: heads.
        size: length of the lines that relative positions are learned for.
    """

    def __init__(self, channels: int, width: int, groups: int, size: int) -> None:
        super().__init__()
        half = nd.split(width, groups, parts=2)
        self.groups, self.widths = groups, (half, half, 2 * half)  # of queries, keys and values
        self.qkv = nn.Conv1d(channels, 2 * width, 1, bias=False)
        self.norm_qkv = nn.BatchNorm1d(2 * width)
        self.norm_similarity = nn.BatchNorm2d(3 * groups)
        self.norm_out = nn.BatchNorm1d(2 * width)
        self.positions = nn.Parameter(torch.empty(4 * half, 2 * size - 1))
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        nn.init.normal_(self.positions, std=(2 * half) ** -0.5)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Attend to features x (N, C, *spatial) along one axis."""
        moved = x.movedim((1, axis), (-2, -1))  # (N, *rest, C, L)
        # Laid out first: torch's norm has a wrong gradient where one comes back in the strides of a moved axis of 1.
        qkv = self.norm_qkv(self.qkv(moved.flatten(0, -3).contiguous()))
        lines = qkv.unflatten(1, (self.groups, -1))  # (lines, groups, 4 * half, L)
        query, key, value = lines.split(self.widths, 2)
        of_query, of_key, of_value = self._positions(x.shape[axis]).split(self.widths, 0)  # each (width, L, L)
        products = query.mT @ key, _by_position(query, of_query), _by_position(key, of_key).mT
        similarity = self.norm_similarity(torch.cat(products, 1)).unflatten(1, (3, self.groups)).sum(1)
        weights = similarity.softmax(3)
        attended = value @ weights.mT, _by_position(weights.mT, of_value.permute(2, 1, 0)).mT
        # The norm's channels are those of the two terms in turn.
        out = self.norm_out(torch.stack(attended, 3).flatten(1, 3)).unflatten(1, (-1, 2)).sum(2)
        back: Tensor = out.unflatten(0, moved.shape[:-2]).movedim((-2, -1), (1, axis))
        return back

    def _positions(self, length: int) -> Tensor:
        """The vectors (4 * half, L, L) of all pairs of positions on a line."""
        farthest, there = self.positions.shape[1] // 2, torch.arange(length, device=self.positions.device)
        return self.positions[:, (there.unsqueeze(1) - there).clamp(-farthest, farthest) + farthest]


def _by_position(lines: Tensor, vectors: Tensor) -> Tensor:
    """Products of each position i of the lines (N, groups, c, L) with its own vectors (c, i, J): (N, groups, i, J)."""
    moved = lines.movedim(3, 0)  # (L, N, groups, c)
    products: Tensor = (moved.flatten(1, 2) @ vectors.transpose(0, 1)).unflatten(1, moved.shape[1:3])
    return products.movedim(0, 2)
