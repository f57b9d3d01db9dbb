"""Functions of features that are worked out again in the backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

# Larger tensors are mapped afresh by the allocator whenever they are made, which takes longer than to fill them.
PART = 8 * 2**20  # bytes


class ByHand(NamedTuple):
    """A function and its gradients, worked out in other ways than autograd's.

    Attributes:
        value: of x, in its shape and layout, and a small map to keep.
        gradients: of the value's gradient, x, the map and tensors that the value is made of besides: those of x and of
            them, None where one has no part.
    """

    value: Callable[[Tensor], tuple[Tensor, Tensor]]
    gradients: Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor | None]]]


def recomputed(
    function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, by_hand: ByHand | None = None
) -> Tensor:
    """function(x), of which only x is kept for the backward pass; the rest is worked out anew then.

    Args:
        function: of x and the parameters of the module, which gives each sample (N, ...) by itself; without side
            effects and random numbers.
        module: whose method it is.
        x: (N, C, *spatial).
        by_hand: the same function, if it has quicker gradients than those of autograd, which are left for theirs.

    >>> conv, x = nn.Conv1d(2, 3, 1), torch.ones(4, 2, 5)
    >>> recomputed(lambda x: conv(x).exp(), conv, x).sum().backward()
    >>> conv.weight.grad.shape
    torch.Size([3, 2, 1])
    """
    out: Tensor = _Recomputed.apply(function, by_hand, module, x, *module.parameters())
    return out


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], Tensor],
        by_hand: ByHand | None,
        module: nn.Module,
        x: Tensor,
        *own: Tensor,
    ) -> Tensor:
        device = "cpu" if x.is_meta else x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.function, ctx.by_hand, ctx.module = function, by_hand, module
        if by_hand is not None:
            with torch.autocast(device, enabled=False):
                y, small = by_hand.value(x.to(own[0].dtype))
            ctx.save_for_backward(x, *own, small)
            return y.to(x.dtype)
        ctx.save_for_backward(x, *own)
        return _concatenated([function(part) for part in _parts(x)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *own = ctx.saved_tensors
        small = own.pop() if ctx.by_hand is not None else None
        of_x, *of_own = needed = ctx.needs_input_grad[3:]
        twice = torch.is_grad_enabled()  # the gradient is to be differentiated too
        with torch.enable_grad():
            # Cut off from where they come from: a parameter may itself be made of x, which is another path.
            x, *own = (t.view_as(t) if twice else t if t.is_leaf else _cut(t) for t in (x, *own))
        if ctx.by_hand is not None and not twice:
            with torch.autocast(ctx.autocast[0], enabled=False), _with(ctx.module, own):
                kind, wanted = own[0].dtype, [t for t, need in zip(own, of_own, strict=True) if need]
                by_x, by_own = ctx.by_hand.gradients(gradient.to(kind), x.detach().to(kind), small, wanted)
            of_parts = iter(by_own)
            return None, None, None, by_x.to(x.dtype), *(next(of_parts) if need else None for need in of_own)
        with torch.enable_grad(), torch.autocast(*ctx.autocast), _with(ctx.module, own):
            found = []
            parts = [x] if twice else _parts(x)
            for part, after in zip(parts, gradient.split([len(part) for part in parts]), strict=True):
                wanted = [t for t, need in zip((part, *own), needed, strict=True) if need]
                y = ctx.function(part)
                found.append(torch.autograd.grad(y, wanted, after, create_graph=twice, allow_unused=True))
        of_parts = iter(zip(*found, strict=True))
        dx = _concatenated(next(of_parts)) if of_x else None
        return None, None, None, dx, *(_added(next(of_parts)) if need else None for need in of_own)


def _cut(t: Tensor) -> Tensor:
    return t.detach().requires_grad_(t.requires_grad)


def _parts(x: Tensor) -> Sequence[Tensor]:
    size = PART * x.shape[0] // (x.numel() * x.element_size())
    return x.split(max(size, 1)) if size < x.shape[0] else (x,)


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _added(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


@contextmanager
def _with(module: nn.Module, own: Sequence[Tensor]) -> Iterator[None]:
    """The module with the parameters it had in the forward pass, which torch.func.functional_call may have lent it."""
    now = list(module.parameters())
    if all(a is b for a, b in zip(now, own, strict=True)):
        yield
        return
    with _reparametrize_module(module, dict(zip(dict(module.named_parameters()), own, strict=True))):
        yield
