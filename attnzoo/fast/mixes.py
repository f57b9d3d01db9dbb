"""Weighted sums of branches, of which no product is made in full."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attnzoo.fast import when
from attnzoo.fast.pieces import reduced


def mixed(weights: Tensor, branches: Sequence[Tensor]) -> Tensor:
    """The sum of branches, each times its weights; they alone are kept, and no product is made in full.

    Args:
        weights: (branches, N, C).
        branches: each (N, C, *spatial).

    >>> mixed(torch.tensor([[[0.25]], [[0.75]]]), [torch.ones(1, 1, 2), torch.zeros(1, 1, 2)])
    tensor([[[0.2500, 0.2500]]])
    """
    if when.eager(branches[0]) and all(branch.dtype == weights.dtype for branch in branches):
        out: Tensor = _Mixed.apply(weights, *branches)
        return out
    return _mixed(weights, branches)


def _mixed(weights: Tensor, branches: Sequence[Tensor]) -> Tensor:
    first, *others = zip(_as_maps(weights, branches[0]), branches, strict=True)
    total = first[0] * first[1]
    for weight, branch in others:
        total = torch.addcmul(total, weight, branch)
    return total


def _as_maps(weights: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Of weights (branches, N, C), one tensor a branch, with as many axes as x."""
    return weights.reshape(*weights.shape, *(1,) * (x.ndim - 2)).unbind()


class _Mixed(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *branches: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *branches)
        first, *others = zip(_as_maps(weights, branches[0]), branches, strict=True)
        total = first[0] * first[1]
        for weight, branch in others:
            total.addcmul_(weight, branch)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights, *branches), (gradient,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():  # for derivatives of this one
            # As views, since weights may be made of the branches, which is another path.
            weights, *branches = inputs = [t.view_as(t) for t in (weights, *branches)]
            wanted = [t for t, need in zip(inputs, ctx.needs_input_grad, strict=True) if need]
            found = iter(torch.autograd.grad(_mixed(weights, branches), wanted, gradient, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        by_weights, by_branches = torch.empty_like(weights), []
        axes = list(range(2, gradient.ndim))
        for to, weight, branch in zip(by_weights, _as_maps(weights, gradient), branches, strict=True):
            both = gradient * branch
            to.copy_(reduced(torch.sum, both, axes))
            by_branches.append(torch.mul(gradient, weight, out=both))
        return by_weights, *by_branches
