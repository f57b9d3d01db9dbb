"""Sums of convolutions, over channels or positions, without the convolutions."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_convs(x: Tensor, convs: Sequence[Any], weights: Sequence[Tensor]) -> Tensor:
    """The sum over convolutions and their channels of weights * conv(x), without any conv(x).

    A weighted sum of the channels of a convolution is a convolution to one channel, by the weighted sum of the kernels:
    one product of x with all taps, and the sum of what each gives, moved to its place.

    Args:
        x: (N, C, *spatial).
        convs: convolutions with a bias, of stride 1, whose outputs have the size of x, dense or depthwise.
        weights: for each of them (N, its output channels); (1, ...) if they are the same for all samples.

    Returns:
        (N, *spatial).

    >>> x, conv = torch.rand(2, 3, 5, 6), torch.nn.Conv2d(3, 4, 3, padding=2, dilation=2)
    >>> torch.allclose(weighted_convs(x, [conv], [torch.ones(1, 4)]), conv(x).sum(1), atol=1e-5)
    True
    """
    sizes = x.shape[2:]
    kernels, moves, bias = [], [], torch.zeros((), dtype=x.dtype, device=x.device)
    for conv, w in zip(convs, weights, strict=True):
        offsets = _offsets(conv)
        within = [t for t, o in enumerate(offsets) if all(abs(i) < size for i, size in zip(o, sizes, strict=True))]
        moves += [offsets[t] for t in within]
        taps = conv.weight.flatten(2).permute(2, 0, 1)  # (taps, output channels, C); depthwise (taps, C, 1)
        if len(within) < len(offsets):
            taps = taps[within]
        kernel = w * taps.transpose(1, 2) if conv.groups > 1 else w @ taps  # (taps, N, C)
        kernels.append(kernel)
        bias = bias + w @ conv.bias
    kernel = torch.cat(kernels).transpose(0, 1)
    products = (kernel.expand(x.shape[0], -1, -1) @ x.flatten(2)).unflatten(2, sizes).unbind(1)
    moved = [_moved(product, move) for product, move in zip(products, moves, strict=True)]
    return sum(moved[1:], moved[0]) + bias.reshape(-1, *(1,) * len(sizes))


def conv_means(x: Tensor, convs: Sequence[Any]) -> list[Tensor]:
    """The mean over positions of each conv(x), without any conv(x): a linear map of the sums of x that each tap sees.

    Args:
        x: (N, C, *spatial).
        convs: convolutions of stride 1 whose outputs have the size of x, dense or depthwise.

    Returns:
        For each of them (N, its output channels).

    >>> x, conv = torch.rand(2, 3, 5, 6), torch.nn.Conv2d(3, 4, 3, padding=2, dilation=2)
    >>> torch.allclose(conv_means(x, [conv])[0], conv(x).mean((2, 3)), atol=1e-6)
    True
    """
    taps = [tap for conv in convs for tap in _offsets(conv)]
    seen = x.flatten(2) @ (_positions_read(x, taps) / x[0, 0].numel())  # (N, C, taps)
    means = []
    for conv, mine in zip(convs, seen.split([len(_offsets(conv)) for conv in convs], 2), strict=True):
        if conv.groups > 1:
            mean = (mine * conv.weight.flatten(1)).sum(2)
            means.append(mean if conv.bias is None else mean + conv.bias)
        else:
            means.append(F.linear(mine.flatten(1), conv.weight.flatten(1), conv.bias))
    return means


def _offsets(conv: Any) -> list[tuple[int, ...]]:
    """Where each tap of a convolution looks, from the position of the output."""
    axes = zip(conv.kernel_size, conv.dilation, strict=True)
    return list(product(*([dilation * (t - size // 2) for t in range(size)] for size, dilation in axes)))


def _moved(x: Tensor, offset: Sequence[int]) -> Tensor:
    """x (N, *spatial) read at position + offset, zero beyond the border."""
    return F.pad(x, [pad for o in reversed(offset) for pad in (-o, o)]) if any(offset) else x


def _positions_read(x: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
    """(positions, taps): 1 where a tap comes to read that position of x (N, C, *spatial), 0 where it never does."""
    read = x.new_ones(1, len(offsets))
    for axis, size in enumerate(x.shape[2:]):
        moves = torch.tensor([o[axis] for o in offsets], device=x.device)
        from_ = torch.arange(size, device=x.device).unsqueeze(1) - moves
        inside = ((from_ >= 0) & (from_ < size)).to(x.dtype)
        read = (read.unsqueeze(1) * inside).flatten(0, 1)
    return read
