"""Products of features with a gate, and pools of features: few passes over memory, little kept for the backward pass.

Each function gives what its plain form gives, in values and gradients, and is that plain form wherever operations are
not carried out one by one on a CPU: under the compiler, exporters and functorch, with forward-mode derivatives, on
other devices.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

Spread = Callable[..., Tensor]
Derivative = Callable[..., tuple[Tensor | None, ...]]
PIECE = 2**20  # elements of x that a thread works on at a time, so that what is made of them stays in its cache


def eager(x: Tensor) -> bool:
    """Whether operations are carried out one by one, on the CPU (or the meta device, which stands for it).

    Args:
        x: the features.

    >>> eager(torch.zeros(1))
    True
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return x.device.type in ("cpu", "meta") and not (traced or transformed)


def product(spread: Spread, derivative: Derivative, x: Tensor, *maps: Tensor) -> Tensor:
    """x * spread(x, *maps), of which x and the maps alone are kept: the backward pass makes the gate anew.

    Args:
        spread: makes the gate of x and the maps, element by element, and of nothing else that has a gradient.
        derivative: of spread: gets the gradient of the gate, the gate, x and the maps, and gives the gradient of x (by
            way of the gate) and of each map, not yet summed over the axes along which the map has size 1; None stands
            for zeros.
        x: (N, C, *spatial).
        *maps: small tensors with as many axes as x, each of x's size or of size 1.

    >>> def shifted(x, shift):
    ...     return x + shift
    >>> def derivative(by_gate, gate, x, shift):
    ...     return by_gate, by_gate
    >>> product(shifted, derivative, torch.full((1, 2, 2, 2), 3.0), torch.ones(1, 2, 1, 1)).unique()
    tensor([12.])
    """
    if not eager(x) or any(m.numel() >= x.numel() for m in maps):
        return x * spread(x, *maps)
    out: Tensor = _Product.apply(spread, derivative, x, *maps)
    return out


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate.

    Args:
        x: (N, C, *spatial).
        gate: with as many axes, each of x's size or of size 1.

    >>> scale(torch.ones(1, 2, 2, 2), torch.tensor([[[[2.0]], [[3.0]]]])).sum((2, 3))
    tensor([[ 8., 12.]])
    """
    # Where there is nothing to keep, the product as it is: the map is small, and calls cost more than it.
    return product(_itself, _itself_derivative, x, gate) if torch.is_grad_enabled() else x * gate


def _itself(x: Tensor, gate: Tensor) -> Tensor:
    return gate


def _itself_derivative(by_gate: Tensor, gate: Tensor, x: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return None, by_gate


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, spread: Spread, derivative: Derivative, x: Tensor, *maps: Tensor) -> Tensor:
        ctx.spread, ctx.derivative = spread, derivative
        ctx.save_for_backward(x, *maps)
        if spread is _itself or any(m.dtype != x.dtype for m in maps):
            return x * spread(x, *maps)
        y = torch.empty_like(x)
        for to_y, of_x, *of_maps in _pieces(y, x, *maps):
            torch.mul(of_x, spread(of_x, *of_maps), out=to_y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, *maps), (gradient,), needed = ctx.saved_tensors, gradients, ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # for derivatives of this one
            inputs = [t.view_as(t) for t in (x, *maps)]
            wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
            y = inputs[0] * ctx.spread(*inputs)
            found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
            return None, None, *(next(found) if n else None for n in needed)
        # No views are returned: autograd adds in place only to what is no other tensor's memory.
        totals = [torch.empty_like(x), *(torch.zeros_like(m) for m in maps)]
        order, _ = _memory_order(x)
        permuted = (t.permute(order) for t in (x, gradient, *totals, *maps))
        for of_x, of_y, *rest in _pieces(*permuted):
            to, of_maps = rest[: len(totals)], rest[len(totals) :]
            gate = ctx.spread(of_x, *of_maps)
            parts = ctx.derivative(of_y * of_x, gate, of_x, *of_maps)
            torch.mul(of_y, gate, out=to[0])
            for total, part in zip(to, parts, strict=True):
                if part is not None:
                    total += part.sum_to_size(total.shape)
        return None, None, *(t if n else None for t, n in zip(totals, needed, strict=True))


def by_sample(
    function: Callable[[Tensor], Tensor],
    quick: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """function(x), of which x alone is kept for the backward pass.

    Args:
        function: of each sample on its own, to a result like it, and of nothing else that has a gradient.
        quick: the same, in any way that autograd need not understand.
        derivative: of function: gets the gradient of its result and x, and gives the gradient of x.
        x: (N, ...).

    >>> by_sample(torch.square, torch.square, lambda by_y, x: 2 * by_y * x, torch.full((2, 1), 3.0))
    tensor([[9.],
            [9.]])
    """
    if not eager(x):
        return function(x)
    out: Tensor = _BySample.apply(function, quick, derivative, x)
    return out


class _BySample(Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], Tensor],
        quick: Callable[[Tensor], Tensor],
        derivative: Callable[..., Tensor],
        x: Tensor,
    ) -> Tensor:
        ctx.function, ctx.derivative = function, derivative
        ctx.save_for_backward(x)
        return _by_pieces(quick, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (by_y,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():  # for derivatives of this one
            return None, None, None, torch.autograd.grad(ctx.function(x), x, by_y, create_graph=True)[0]
        return None, None, None, _by_pieces(ctx.derivative, by_y, x)


def _by_pieces(function: Callable[..., Tensor], *of: Tensor) -> Tensor:
    whole = torch.empty_like(of[-1])
    for to, *piece in _pieces(whole, *of):
        if to is whole:
            return function(*piece)
        to.copy_(function(*piece))
    return whole


def mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The mean of x over some axes.

    Args:
        x: any.
        axes: not negative.

    >>> mean(torch.tensor([[1.0, 2.0]]), [1])
    tensor([1.5000])
    """
    if not eager(x):
        return x.mean(list(axes))
    if not torch.is_grad_enabled():
        return _reduced(torch.mean, x, axes)
    out: Tensor = _Mean.apply(x, tuple(axes))
    return out


class _Mean(Function):
    """Its gradient is spread out where it is added to others, and not before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.axes = x.shape, axes
        return _reduced(torch.mean, x, axes)

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
    return _Moments.apply(x, list(axes)) if eager(x) else _moments(x, list(axes))


def _moments(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    centre = x.mean(axes, keepdim=True)
    return centre, (x - centre).square().mean(axes, keepdim=True)


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
        ctx.axes = axes
        parts = [_moments(of_x, axes) for (of_x,) in _pieces(x)]
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
        for to, of_x, of_slope, of_shift in _pieces(total, x, slope, shift):
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
    if not eager(x):
        return [(x.max(axis).values, x.mean(axis)) for axis in axes]
    pools = iter(_MaxAndMean.apply(x, axes))
    return list(zip(pools, pools, strict=True))


class _MaxAndMean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.axes, (ctx.order, ctx.back) = x.shape, axes, _memory_order(x)
        pools, where = [], []
        for axis in axes:
            if ctx.needs_input_grad[0]:
                along = ctx.back[axis]
                highest, index = x.permute(ctx.order).max(along, keepdim=True)
                pools.append(highest.permute(ctx.back).squeeze(axis))
                where.append(index.to(torch.uint8 if x.shape[axis] <= 256 else torch.int32))
            else:
                pools.append(_reduced(torch.amax, x, (axis,)))
            pools.append(_reduced(torch.mean, x, (axis,)))
        ctx.save_for_backward(*where)
        return tuple(pools)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # In the order of x's memory, so that the gradient gets the same.
        shape = [ctx.shape[axis] for axis in ctx.order]
        spread = [g.unsqueeze(axis).permute(ctx.order) for g, axis in zip(gradients, _twice(ctx.axes), strict=True)]
        total = sum(m / ctx.shape[axis] for m, axis in zip(spread[1::2], ctx.axes, strict=True)).expand(shape)
        total = total.contiguous() if len(ctx.axes) > 1 else total.clone(memory_format=torch.contiguous_format)
        for m, index, axis in zip(spread[::2], ctx.saved_tensors, ctx.axes, strict=True):
            total.scatter_add_(ctx.back[axis], index.long(), m)
        return total.permute(ctx.back), None


def _twice(axes: Sequence[int]) -> list[int]:
    return [axis for axis in axes for _ in range(2)]


def narrow_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution of stride 1 between few channels, whose output has the size of its input.

    The library's gradient to the input of so few channels takes twenty times the convolution that it is equal to.

    Args:
        x: (N, C, *spatial).
        weight: (K, C, *kernel) with odd edges.

    >>> narrow_conv(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))[0, 0]
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    out: Tensor = _NarrowConv.apply(x, weight)
    return out


class _NarrowConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _same_conv(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = _same_conv(gradient, weight.flip(list(range(2, weight.ndim))).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            ones = [1] * (x.ndim - 2)
            padding, none = [k // 2 for k in weight.shape[2:]], [0] * len(ones)
            by_weight = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ones, padding, ones, False, none, 1, [False, True, False]
            )[1]
        return by_x, by_weight


def _same_conv(x: Tensor, weight: Tensor) -> Tensor:
    conv: Any = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    out: Tensor = conv(x, weight, padding=[k // 2 for k in weight.shape[2:]])
    return out


def _memory_order(x: Tensor) -> tuple[list[int], list[int]]:
    """The axes of x from the outermost in memory to the innermost, and the permutation back.

    Sums along an axis are quick only where their result lies in memory as their argument does, which torch sees to for
    such an order alone.
    """
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return order, [order.index(axis) for axis in range(x.ndim)]


def _reduced(reduction: Callable[..., Tensor], x: Tensor, axes: Sequence[int]) -> Tensor:
    if x.is_contiguous():
        return reduction(x, axes)
    order, back = _memory_order(x)
    reduced = reduction(x.permute(order), [back[axis] for axis in axes], keepdim=True).permute(back)
    return reduced.squeeze(tuple(axes))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
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
