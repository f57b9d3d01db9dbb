"""Tensors piece by piece, and in the order of their memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

PIECE = 2**20  # elements of x that a thread works on at a time, so that what is made of them stays in its cache


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors along the first axis, small enough for the cache; those of size 1 there are in all of them."""
    first = tensors[0]
    size = len(first)
    step = max(1, PIECE * torch.get_num_threads() * size // max(1, first.numel()))
    if step >= size or first.is_meta:
        yield tensors
        return
    for start in range(0, size, step):
        length = min(step, size - start)
        yield tuple(t.narrow(0, start, length) if len(t) == size else t for t in tensors)


def memory_order(x: Tensor) -> tuple[list[int], list[int]]:
    """The axes of x from the outermost in memory to the innermost, and the permutation back.

    Sums along an axis are quick only where their result lies in memory as their argument does, which torch sees to for
    such an order alone.
    """
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return order, [order.index(axis) for axis in range(x.ndim)]


def reduced(reduction: Callable[..., Tensor], x: Tensor, axes: Sequence[int]) -> Tensor:
    order, back = memory_order(x)
    kept = [axis for axis in order if axis not in axes]
    if kept == sorted(kept):  # the result lies as x does
        return reduction(x, axes)
    reduced = reduction(x.permute(order), [back[axis] for axis in axes], keepdim=True).permute(back)
    return reduced.squeeze(tuple(axes))
