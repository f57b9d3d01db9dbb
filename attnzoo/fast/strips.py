"""Maps that are the same along some axes, where the features' rows are short.

A loop over rows of a few elements costs more than a product with a matrix of zeros and ones, which spreads a map out or
sums it up in one go.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

SHORT = 8  # elements of a row


def short(x: Tensor) -> bool:
    """Whether features x (N, C, *spatial) have short rows, matrix products keep their precision, and nobody counts."""
    if x.ndim < 4 or not 1 < x.shape[-1] <= SHORT or not x.is_contiguous():
        return False
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return exact and not torch._C._len_torch_dispatch_stack()


def means(x: Tensor) -> Tensor:
    """The means of x (N, C, *spatial) over all spatial axes but one, for each axis: (N, C, sum(spatial)).

    >>> means(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[[1.5000, 3.5000, 2.0000, 3.0000]]])
    """
    averaged: Tensor = _Means.apply(x)
    return averaged


class _Means(Function):
    """Which keeps nothing, not even the matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.flatten(2) @ _weights(x.shape[2:], x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return (gradient @ _weights(ctx.shape[2:], gradient).T).reshape(ctx.shape)


def _weights(spatial: Sequence[int], like: Tensor) -> Tensor:
    members = along_each(spatial, like)
    return members / members.sum(0)


def along_each(spatial: Sequence[int], like: Tensor) -> Tensor:
    """(positions, sum(spatial)): 1 where a position of features lies at an index of an axis, axis after axis."""
    alone = [[size if a == axis else 1 for a in range(len(spatial))] for axis, size in enumerate(spatial)]
    return torch.cat([_members(sizes, spatial, like) for sizes in alone], 1)


def spread(m: Tensor, x: Tensor) -> Tensor:
    """A map m (N, C, ...) of size 1 along some spatial axes of x, with the size of x."""
    return (m.flatten(2) @ _members(m.shape[2:], x.shape[2:], x).T).reshape(x.shape)


def summed(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """x (N, C, *spatial) summed up to `sizes` (N, C, ...), which are 1 along some spatial axes."""
    return (x.flatten(2) @ _members(sizes[2:], x.shape[2:], x)).reshape(sizes)


def is_strip(m: Tensor, x: Tensor) -> bool:
    """Whether a map has the size of features x (N, C, *spatial) along some spatial axes, and size 1 along others."""
    alike = m.dtype == x.dtype and m.shape[:2] == x.shape[:2]
    return alike and 1 < math.prod(m.shape[2:]) < math.prod(x.shape[2:])


def _members(sizes: Sequence[int], spatial: Sequence[int], like: Tensor) -> Tensor:
    """(positions, prod(sizes)): 1 where a position of features belongs to an element of a map of these sizes."""
    elements = torch.arange(math.prod(sizes), device=like.device)
    of_position = elements.reshape(sizes).expand(spatial).reshape(-1, 1)
    return (of_position == elements).to(like.dtype)
