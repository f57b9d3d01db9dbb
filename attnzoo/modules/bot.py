"""Self-attention with relative positions, over the whole map (BoTNet) or in blocks (HaloNet)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "bot",
    paper="https://arxiv.org/abs/2101.11605",
    site="conv",
    year=2021,
    golden=True,
    checked="timm's layer",
    formula="q, k, v = W x; y = softmax(q^T k / sqrt(d) + q^T r) v, r for relative positions",
)
class BottleneckAttention(nd.Attention):
    """Self-attention over all positions, with learned relative ones, in place of a convolution (Srinivas et al., 2021).

    As in timm, since the authors released no PyTorch code; timm takes maps of `feat_size` alone. 3D: positions in T, H
    and W, and one table of relative positions for each axis.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: of the average pool that follows, one number or one per axis.
        spatial_dims: 2 or 3.
        heads: must divide out_channels.
        head_width: channels of a head's queries and keys; as of its values, out_channels // heads, if None.
        feat_size: size of the map that relative positions are learned for, one number or one per axis; on larger maps
            those that are farther apart share the farthest one.
        bias: whether the projections have biases.
        scaled_positions: whether the products with relative positions are divided by the root of the head's width too.

    Raises:
        ValueError: heads or sizes that do not fit.

    >>> sum(p.numel() for p in BottleneckAttention(512).parameters())
    793344
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        heads: int = 4,
        head_width: int | None = None,
        feat_size: int | Sequence[int] = 14,
        bias: bool = False,
        scaled_positions: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        width = channels if out_channels is None else out_channels
        sizes = nd.per_axis(feat_size, spatial_dims, "feat_size")
        self.heads, self.strides = heads, nd.per_axis(stride, spatial_dims)
        self.widths = _head_widths(width, heads, head_width)
        query, value = self.widths
        self.scale, self.scaled_positions = query**-0.5, scaled_positions
        self.qkv = nd.conv(spatial_dims)(channels, heads * (2 * query + value), 1, bias=bias)
        self.positions = _tables([2 * s - 1 for s in sizes], query)
        nn.init.trunc_normal_(self.qkv.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial), giving (N, out_channels, *spatial / stride)."""
        self.check(x)
        sizes, (width, value_width) = x.shape[2:], self.widths
        parts = self.qkv(x).flatten(2).split([self.heads * w for w in (width, width, value_width)], 1)
        query, key, value = (part.unflatten(1, (self.heads, -1)).mT for part in parts)  # (N, heads, positions, width)
        tables = []
        for size, table in zip(sizes, self.positions, strict=True):
            farthest, there = table.shape[0] // 2, torch.arange(size, device=x.device)
            tables.append(table[(there - there.unsqueeze(1)).clamp(-farthest, farthest) + farthest])
        scale = self.scale if self.scaled_positions else 1.0
        mask = _position_logits(query.unflatten(2, sizes) * scale, tables)
        attended = F.scaled_dot_product_attention(query, key, value, mask, scale=self.scale)
        return nd.mean_pool(nd.laid_out_as(attended.mT.flatten(1, 2).unflatten(2, sizes), x), self.strides)


@register(
    "halo",
    paper="https://arxiv.org/abs/2103.12731",
    site="conv",
    year=2021,
    golden=True,
    checked="timm's layer",
    formula="q, k, v = W x; y = softmax(q^T k / sqrt(d) + q^T r) v, over a block and its halo",
)
class HaloAttention(nd.Attention):
    """Self-attention in blocks, each of which sees a halo around it, in place of a convolution (Vaswani et al., 2021).

    As in timm, since the authors released no code: what is outside the map are keys and values of 0, and relative
    positions are learned. timm takes maps of whole blocks alone; here the last block may reach out of the map, and an
    axis that is shorter than a block is one without a halo. With a stride, relative positions are those of the queries
    that are left (timm's are as if there were no stride). 3D: cubic blocks, and one table of positions for each axis.

    Args:
        channels: C of the (N, C, *spatial) input.
        out_channels: C of the output, which is (N, out_channels, *spatial / stride); as `channels` if None.
        stride: one number or one per axis; every stride-th position is a query if the strides divide the block, else an
            average pool follows.
        spatial_dims: 2 or 3.
        heads: must divide out_channels.
        head_width: channels of a head's queries and keys; as of its values, out_channels // heads, if None.
        block_size: edge of a block.
        halo_size: by how much the keys reach beyond the block, on each side.
        bias: whether the projections have biases.
        scaled_positions: whether the products with relative positions are divided by the root of the head's width too.
        pool: whether the stride is always made by an average pool.

    Raises:
        ValueError: heads or sizes that do not fit.

    >>> sum(p.numel() for p in HaloAttention(512).parameters())
    789888
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int | Sequence[int] = 1,
        spatial_dims: int = 2,
        heads: int = 8,
        head_width: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        bias: bool = False,
        scaled_positions: bool = False,
        pool: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if block_size < 1 or halo_size < 0:
            raise ValueError(f"block_size={block_size} must be at least 1 and halo_size={halo_size} at least 0")
        self.block, self.halo, self.heads = block_size, halo_size, heads
        self.widths = _head_widths(channels if out_channels is None else out_channels, heads, head_width)
        query, value = self.widths
        self.scale, self.scaled_positions = query**-0.5, scaled_positions
        strides, ones = nd.per_axis(stride, spatial_dims), (1,) * spatial_dims
        pool = pool or any(block_size % s for s in strides)
        self.strides, self.pool_strides = (ones, strides) if pool else (strides, ones)
        conv = nd.conv(spatial_dims)
        self.query = conv(channels, heads * query, 1, self.strides, bias=bias)
        self.key_value = conv(channels, heads * (query + value), 1, bias=bias)
        self.positions = _tables([2 * (block_size + 2 * halo_size) - 1] * spatial_dims, query)
        for projection in (self.query, self.key_value):
            nn.init.trunc_normal_(projection.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial), giving (N, out_channels, *spatial / stride)."""
        self.check(x)
        axes, (width, value_width) = range(len(self.strides)), self.widths
        blocks = [min(self.block, size) for size in x.shape[2:]]
        halos = [self.halo if size >= self.block else 0 for size in x.shape[2:]]
        counts = [math.ceil(size / block) for size, block in zip(x.shape[2:], blocks, strict=True)]

        query = self.query(x)
        sizes, edges = query.shape[2:], [math.ceil(b / s) for b, s in zip(blocks, self.strides, strict=True)]
        whole = [count * edge for count, edge in zip(counts, edges, strict=True)]
        query = _padded(query, [(0, full - size) for full, size in zip(whole, sizes, strict=True)])
        for axis in reversed(axes):
            query = query.unflatten(2 + axis, (counts[axis], edges[axis]))
        query = query.unflatten(1, (self.heads, width))  # (N, heads, width, count, edge, count, edge, ...)
        pairs = [3 + 2 * axis for axis in axes]
        query = query.permute(0, 1, *pairs, *(p + 1 for p in pairs), 2)
        query = query.flatten(0, 1).flatten(1, len(axes))  # (N * heads, blocks, *edges, width)

        window = self.key_value(x)
        window = _padded(
            window, [(h, h + n * b - s) for h, n, b, s in zip(halos, counts, blocks, x.shape[2:], strict=True)]
        )
        for axis in axes:
            window = window.unfold(2 + axis, blocks[axis] + 2 * halos[axis], blocks[axis])
        window = window.unflatten(1, (self.heads, width + value_width)).movedim(2, -1)
        window = window.flatten(0, 1).flatten(1, len(axes)).flatten(2, -2)  # (N * heads, blocks, keys, width)
        key, value = window.split(self.widths, -1)
        value = value.contiguous()  # else the windows are kept whole for the backward pass, beside a copy of the keys

        tables = [
            self._table(table, *of)
            for table, *of in zip(self.positions, edges, self.strides, blocks, halos, strict=True)
        ]
        scale = self.scale if self.scaled_positions else 1.0
        mask = _position_logits(query * scale, tables)
        attended = F.scaled_dot_product_attention(query.flatten(2, -2), key, value, mask, scale=self.scale)

        attended = attended.unflatten(2, edges).unflatten(1, counts).unflatten(0, (x.shape[0], self.heads))
        order = [part for axis in axes for part in (2 + axis, 2 + len(axes) + axis)]
        out = attended.permute(0, 1, -1, *order).flatten(1, 2)  # (N, out_channels, count, edge, count, edge, ...)
        for axis in axes:
            out = out.flatten(2 + axis, 3 + axis).narrow(2 + axis, 0, sizes[axis])
        return nd.mean_pool(nd.laid_out_as(out, x), self.pool_strides)

    def _table(self, table: Tensor, queries: int, stride: int, block: int, halo: int) -> Tensor:
        """The vectors (queries, keys, width) of one axis of a block."""
        at = torch.arange(queries, device=table.device).unsqueeze(1) * stride
        seen = torch.arange(-halo, block + halo, device=table.device)
        return table[seen - at + self.halo + table.shape[0] // 2]


def _padded(x: Tensor, sides: Sequence[tuple[int, int]]) -> Tensor:
    """x (N, C, *spatial) with zeros before and after each axis."""
    if not any(sum(pair) for pair in sides):
        return x
    return F.pad(x, [amount for pair in reversed(sides) for amount in pair])


def _head_widths(channels: int, heads: int, head_width: int | None) -> tuple[int, int]:
    """Channels of a head's queries and keys, and of its values."""
    value = nd.split(channels, heads, "heads")
    if head_width is not None and head_width < 1:
        raise ValueError(f"head_width={head_width} must be at least 1, or None")
    return value if head_width is None else head_width, value


def _tables(lengths: Sequence[int], width: int) -> nn.ParameterList:
    """A vector for each relative position along each axis."""
    tables = nn.ParameterList(nn.Parameter(torch.empty(length, width)) for length in lengths)
    for table in tables:
        nn.init.trunc_normal_(table, std=width**-0.5)
    return tables


def _position_logits(query: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Products of queries with relative positions, summed over the axes.

    Args:
        query: (N, M, *queries, width), with one size an axis.
        tables: (queries, keys, width) of each axis.

    Returns:
        (N, M, all queries, all keys).
    """
    terms = []
    for axis, table in enumerate(tables):
        moved = query.movedim(2 + axis, 0)
        along = (moved.flatten(1, -2) @ table.mT).unflatten(1, moved.shape[1:-1]).movedim(0, 2 + axis)
        keys = [table.shape[1] if a == axis else 1 for a in range(len(tables))]
        terms.append(along.unflatten(-1, keys))
    logits: Tensor = sum(terms[1:], terms[0])
    return logits.flatten(2, 1 + len(tables)).flatten(3)
