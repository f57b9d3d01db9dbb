"""Functions of each sample by itself, with derivatives written by hand."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attnzoo.fast import when
from attnzoo.fast.pieces import pieces

Quick = Callable[..., object]
Derivative = Callable[..., Sequence[Tensor]]


def by_sample(
    function: Callable[..., Tensor], quick: Quick, derivative: Derivative, x: Tensor, *parameters: Tensor
) -> Tensor:
    """function(x, *parameters), of which x and the parameters alone are kept for the backward pass.

    Args:
        function: of each sample on its own and of the parameters, to a result like x, and of nothing else that has a
            gradient.
        quick: the same of (y, x, *parameters), written into y, in any way that autograd need not understand.
        derivative: of function: gets (by_x, by_y, x, *parameters), by_y being the gradient of the result, writes that
            of x into by_x, and gives those of the parameters.
        x: (N, ...).
        *parameters: of the module.

    >>> square, x = torch.square, torch.full((2, 1), 3.0)
    >>> by_sample(square, lambda y, x: torch.square(x, out=y), lambda by_x, by_y, x: [], x)
    tensor([[9.],
            [9.]])
    """
    if not when.eager(x) or any(p.dtype != x.dtype for p in parameters):
        return function(x, *parameters)
    out: Tensor = _BySample.apply(function, quick, derivative, x, *parameters)
    return out


class _BySample(Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        quick: Quick,
        derivative: Derivative,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.derivative = function, derivative
        ctx.save_for_backward(x, *parameters)
        y = torch.empty_like(x)
        with torch.autocast("cpu", enabled=False):
            for to_y, of_x in pieces(y, x):
                quick(to_y, of_x, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, *parameters), (by_y,), needed = ctx.saved_tensors, gradients, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # for derivatives of this one
            inputs = [t.view_as(t) for t in (x, *parameters)]
            wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
            found = iter(torch.autograd.grad(ctx.function(*inputs), wanted, by_y, create_graph=True))
            return None, None, None, *(next(found) if n else None for n in needed)
        by_x = torch.empty_like(x)
        with torch.autocast("cpu", enabled=False):
            parts = [ctx.derivative(*piece, *parameters) for piece in pieces(by_x, by_y, x)]
        totals = (reduce(torch.add, part) for part in zip(*parts, strict=True))
        return None, None, None, *(t if n else None for t, n in zip((by_x, *totals), needed, strict=True))
