"""Products of features with a gate, of which the features and small maps alone are kept for the backward pass."""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attnzoo.fast import when
from attnzoo.fast.pieces import memory_order, pieces

Spread = Callable[..., Tensor]
Derivative = Callable[..., tuple[Tensor | None, ...]]


def product(spread: Spread, derivative: Derivative, x: Tensor, *maps: Tensor) -> Tensor:
    """x * spread(x, *maps), of which x and the maps alone are kept: the backward pass makes the gate anew.

    Args:
        spread: makes the gate of x and the maps, element by element, and of nothing else that has a gradient.
        derivative: of spread: gets the gradient of the gate, the gate, x and the maps, and gives the gradient of x (by
            way of the gate) and of each map, not yet summed over the axes along which the map has size 1; None stands
            for zeros. It may overwrite its first argument.
        x: (N, C, *spatial).
        *maps: small tensors with as many axes as x, each of x's size or of size 1.

    >>> def shifted(x, shift):
    ...     return x + shift
    >>> def derivative(by_gate, gate, x, shift):
    ...     return by_gate, by_gate
    >>> product(shifted, derivative, torch.full((1, 2, 2, 2), 3.0), torch.ones(1, 2, 1, 1)).unique()
    tensor([12.])
    """
    if not when.eager(x) or any(m.numel() >= x.numel() for m in maps):
        return x * spread(x, *maps)
    if not torch.is_grad_enabled():
        return _product(spread, x, *maps)
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
    if not torch.is_grad_enabled() or not when.eager(x) or x.dtype != gate.dtype:
        return x * gate
    out: Tensor = _Scale.apply(x, gate)
    return out


class _Scale(Function):
    """Its gradients have one memory: that of x lies where the product was that is summed for the gate's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, gate), (gradient,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():  # for derivatives of this one
            return gradient * gate, (gradient * x).sum_to_size(gate.shape)
        by_x, by_gate = torch.empty_like(x), torch.zeros_like(gate)
        for to_x, of_y, of_x, of_gate, to_gate in pieces(by_x, gradient, x, gate, by_gate):
            to_gate += torch.mul(of_y, of_x, out=to_x).sum_to_size(to_gate.shape)
            torch.mul(of_y, of_gate, out=to_x)
        return tuple(t if n else None for t, n in zip((by_x, by_gate), ctx.needs_input_grad, strict=True))


def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """The product of features and gates, of which no partial product is kept.

    Args:
        x: (N, C, *spatial).
        *gates: with as many axes, each of x's size or of size 1.

    >>> gated(torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 1), 0.5), torch.full((1, 2, 1, 3), 0.5)).unique()
    tensor([0.2500])
    """
    return product(of_all, derivative_of_all, x, *gates)


def of_all(x: Tensor, *gates: Tensor) -> Tensor:
    """The product of gates, the `spread` of `gated`."""
    return reduce(operator.mul, gates)


def derivative_of_all(by_gate: Tensor, gate: Tensor, x: Tensor, *gates: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of `of_all`."""
    others = [gates[:i] + gates[i + 1 :] for i in range(len(gates))]
    return None, *(by_gate * reduce(operator.mul, other) if other else by_gate for other in others)


def _product(spread: Spread, x: Tensor, *maps: Tensor) -> Tensor:
    in_order, laid_out, back = _in_memory_order(x, maps)
    gate = spread(in_order, *laid_out)
    if gate.dtype != x.dtype or gate.stride() != in_order.stride() or any(gate is m for m in laid_out):
        return x * gate.permute(back)
    if x.is_contiguous():
        return gate.mul_(x)  # no second tensor of x's size, whose memory takes longer to reach than the product
    y = torch.empty_like(x)  # and no view of the gate, which nobody could add to in place
    torch.mul(in_order, gate, out=y.permute([back.index(axis) for axis in range(len(back))]))
    return y


def _in_memory_order(x: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[int]]:
    """Features and maps with the axes in the order of x's memory, the maps' too, and the permutation back.

    What is made of maps of another order is slow to make, and slower to multiply with x.
    """
    order, back = memory_order(x)
    return x.permute(order), [m.permute(order).contiguous() for m in maps], back


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, spread: Spread, derivative: Derivative, x: Tensor, *maps: Tensor) -> Tensor:
        ctx.spread, ctx.derivative = spread, derivative
        ctx.save_for_backward(x, *maps)
        return _product(spread, x, *maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, *maps), (gradient,), needed = ctx.saved_tensors, gradients, ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # for derivatives of this one
            inputs = [t.view_as(t) for t in (x, *maps)]
            wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
            y = inputs[0] * ctx.spread(*inputs)
            found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
            return None, None, *(next(found) if n else None for n in needed)
        by_x = torch.empty_like(x)
        x, maps, back = _in_memory_order(x, maps)
        order = [back.index(axis) for axis in range(len(back))]
        totals = [torch.zeros_like(m) for m in maps]
        for of_x, of_y, to_x, *rest in pieces(x, gradient.permute(order), by_x.permute(order), *totals, *maps):
            to, of_maps = rest[: len(maps)], rest[len(maps) :]
            gate = ctx.spread(of_x, *of_maps)
            by_gate = torch.mul(of_y, of_x, out=to_x)  # where the gradient of x comes afterwards
            by_way_of_gate, *parts = ctx.derivative(by_gate, gate, of_x, *of_maps)
            for total, part in zip(to, parts, strict=True):
                if part is not None:
                    total += part.sum_to_size(total.shape)
            torch.mul(of_y, gate, out=to_x)
            if by_way_of_gate is not None:
                to_x += by_way_of_gate
        # No view of x's size is returned: autograd adds in place only to what is no other tensor's memory.
        gradients = (by_x, *(t.permute(back) for t in totals))
        return None, None, *(t if n else None for t, n in zip(gradients, needed, strict=True))
