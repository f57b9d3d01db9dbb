"""Means, maxima and moments of features, in as few passes over memory as there can be."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attnzoo.fast import when
from attnzoo.fast.pieces import memory_order, pieces, reduced


def mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The mean of x over some axes.

    Args:
        x: any.
        axes: not negative.

    >>> mean(torch.tensor([[1.0, 2.0]]), [1])
    tensor([1.5000])
    """
    if not torch.is_grad_enabled() and (x.is_contiguous() or len(axes) == x.ndim - 2):
        return x.mean(list(axes))  # at once, since of small features calls cost more than the mean
    if not when.eager(x):
        return x.mean(list(axes))
    if not torch.is_grad_enabled():
        return reduced(torch.mean, x, axes)
    out: Tensor = _Mean.apply(x, tuple(axes))
    return out


class _Mean(Function):
    """Its gradient is spread out where it is added to others, and not before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.axes = x.shape, axes
        return reduced(torch.mean, x, axes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        kept = [1 if axis in ctx.axes else size for axis, size in enumerate(ctx.shape)]
        pooled = torch.Size(ctx.shape).numel() // max(1, torch.Size(kept).numel())
        return (gradients[0] / max(1, pooled)).reshape(kept).expand(ctx.shape), None


def moments(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean of x over some axes, not the first, and the mean square of what is left; the axes stay with size 1.

    torch's own `var` goes through x one value at a time.

    Args:
        x: any.
        axes: from 1 on.

    >>> moments(torch.tensor([[1.0, 3.0]]), [1])
    (tensor([[2.]]), tensor([[1.]]))
    """
    return _Moments.apply(x, list(axes)) if when.eager(x) else _moments(x, list(axes))


def _moments(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    centre = x.mean(axes, keepdim=True)
    return centre, (x - centre).square().mean(axes, keepdim=True)


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
        ctx.axes = axes
        parts = [_moments(of_x, axes) for (of_x,) in pieces(x)]
        centre, variance = (torch.cat(each) for each in zip(*parts, strict=True))
        ctx.save_for_backward(x, centre)
        return centre, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x, centre), (by_centre, by_variance) = ctx.saved_tensors, gradients
        elements = max(1, x.numel() // max(1, centre.numel()))
        slope, shift = 2 * by_variance / elements, by_centre / elements
        if torch.is_grad_enabled():  # for derivatives of this one
            return (x - centre) * slope + shift, None
        total = torch.empty_like(x)
        shift -= slope * centre
        for to, of_x, of_slope, of_shift in pieces(total, x, slope, shift):
            torch.mul(of_x, of_slope, out=to).add_(of_shift)
        return total, None


def max_and_mean(x: Tensor, *axes: int) -> list[tuple[Tensor, Tensor]]:
    """For each of some axes the maximum and the mean of x along it.

    The gradient of a maximum goes to one position, as that of `max`; that of `amax` would be shared among equal ones.

    Args:
        x: any.
        *axes: not negative.

    >>> max_and_mean(torch.tensor([[1.0, 2.0]]), 0, 1)
    [(tensor([1., 2.]), tensor([1., 2.])), (tensor([2.]), tensor([1.5000]))]
    """
    if when.eager(x):
        pools = iter(_MaxAndMean.apply(x, axes))
        return list(zip(pools, pools, strict=True))
    if when.compiled(x):
        return [(_Highest.apply(x, axis), x.mean(axis)) for axis in axes]
    return [(x.max(axis).values, x.mean(axis)) for axis in axes]


class _MaxAndMean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.axes, (ctx.order, ctx.back) = x.shape, axes, memory_order(x)
        pools, where = [], []
        for axis in axes:
            if ctx.needs_input_grad[0]:
                along = ctx.back[axis]
                highest, index = x.permute(ctx.order).max(along, keepdim=True)
                pools.append(highest.permute(ctx.back).squeeze(axis))
                where.append(index.to(torch.uint8 if x.shape[axis] <= 256 else torch.int32))
            else:
                pools.append(reduced(torch.amax, x, (axis,)))
            pools.append(reduced(torch.mean, x, (axis,)))
        ctx.save_for_backward(*where)
        return tuple(pools)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # In the order of x's memory, so that the gradient gets the same.
        total = gradients[0].new_empty([ctx.shape[axis] for axis in ctx.order])
        axes = [axis for axis in ctx.axes for _ in range(2)]
        spread = [g.unsqueeze(a).permute(ctx.order).contiguous() for g, a in zip(gradients, axes, strict=True)]
        for i, (by_mean, axis) in enumerate(zip(spread[1::2], ctx.axes, strict=True)):
            share = by_mean / ctx.shape[axis]
            total.copy_(share) if i == 0 else total.add_(share)
        for by_max, index, axis in zip(spread[::2], ctx.saved_tensors, ctx.axes, strict=True):
            total.scatter_add_(ctx.back[axis], index.long(), by_max)
        return total.permute(ctx.back), None


class _Highest(Function):
    """The maximum in operations that the compiler carries out on many numbers at a time, unlike the places of `max`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        highest = x.amax(axis, keepdim=True)
        place = torch.where(x == highest, _places(x, axis, x.shape[axis]), x.shape[axis]).amin(axis, keepdim=True)
        ctx.save_for_backward(place)
        ctx.axis, ctx.size = axis, x.shape[axis]
        return highest.squeeze(axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (place,), gradient = ctx.saved_tensors, gradients[0].unsqueeze(ctx.axis)
        return torch.where(_places(place, ctx.axis, ctx.size) == place, gradient, 0.0), None


def _places(x: Tensor, axis: int, size: int) -> Tensor:
    """0 to size - 1 along one axis, with as many axes as x."""
    numbers = torch.arange(size, dtype=torch.int32, device=x.device)
    return numbers.reshape([size if each == axis else 1 for each in range(x.ndim)])
