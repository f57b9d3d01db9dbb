"""What the fast forms of modules are made of: when they may be used, recomputation, and convolutions not carried out.

A module's definition stays the one that is read, exported and counted; a fast form stands beside it, gives the same
values and gradients, and is used in eager mode alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.utils.stateless import _reparametrize_module

from attnzoo import products


def usable(module: nn.Module, x: Tensor) -> bool:
    """Whether a fast form may stand in for the definition of a module.

    Not under what looks at, transforms or changes the operations of the definition or its layers: the compiler,
    tracers, exporters, functorch, forward-mode derivatives, hooks, parametrizations. On the CPU alone (and on the meta
    device, which stands for it), where it was measured.

    Args:
        module: whose layers the fast form does not call but takes the parameters of.
        x: its input.

    >>> usable(nn.Sequential(nn.Conv2d(4, 4, 1)), torch.zeros(1, 4, 2, 2))
    True
    """
    if not products.eager(x) or type(x) not in (Tensor, nn.Parameter) or not x.numel():
        return False
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks or hooks._global_backward_hooks:
        return False
    return not any(_altered(layer) for layer in module.modules() if layer is not module)


def _altered(layer: nn.Module) -> bool:
    """Whether a layer does more than its class says."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return bool(hooked) or "forward" in vars(layer) or hasattr(layer, "parametrizations")


# Larger tensors are mapped afresh by the allocator whenever they are made, which takes longer than to fill them.
PART = 8 * 2**20  # bytes


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, *own: Tensor) -> Tensor:
        device = "cpu" if x.is_meta else x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.function, ctx.module = function, module
        ctx.save_for_backward(x, *own)
        return _concatenated([function(part) for part in _parts(x)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *own = ctx.saved_tensors
        of_x, *of_own = needed = ctx.needs_input_grad[2:]
        twice = torch.is_grad_enabled()  # the gradient is to be differentiated too
        with torch.enable_grad():
            # Cut off from where they come from: a parameter may itself be made of x, which is another path.
            x, *own = (t.view_as(t) if twice else t if t.is_leaf else _cut(t) for t in (x, *own))
        with torch.enable_grad(), torch.autocast(*ctx.autocast), _with(ctx.module, own):
            found = []
            parts = [x] if twice else _parts(x)
            for part, after in zip(parts, gradient.split([len(part) for part in parts]), strict=True):
                wanted = [t for t, need in zip((part, *own), needed, strict=True) if need]
                y = ctx.function(part)
                found.append(torch.autograd.grad(y, wanted, after, create_graph=twice, allow_unused=True))
        of_parts = iter(zip(*found, strict=True))
        dx = _concatenated(next(of_parts)) if of_x else None
        return None, None, dx, *(_added(next(of_parts)) if need else None for need in of_own)


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


def recomputed(function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Tensor:
    """function(x), of which only x is kept for the backward pass; the rest is worked out anew then.

    Args:
        function: of x and the parameters of the module, which gives each sample (N, ...) by itself; without side
            effects and random numbers.
        module: whose method it is.
        x: (N, C, *spatial).

    >>> conv, x = nn.Conv1d(2, 3, 1), torch.ones(4, 2, 5)
    >>> recomputed(lambda x: conv(x).exp(), conv, x).sum().backward()
    >>> conv.weight.grad.shape
    torch.Size([3, 2, 1])
    """
    out: Tensor = _Recomputed.apply(function, module, x, *module.parameters())
    return out


@contextmanager
def _with(module: nn.Module, own: Sequence[Tensor]) -> Iterator[None]:
    """The module with the parameters it had in the forward pass, which torch.func.functional_call may have lent it."""
    now = list(module.parameters())
    if all(a is b for a, b in zip(now, own, strict=True)):
        yield
        return
    with _reparametrize_module(module, dict(zip(dict(module.named_parameters()), own, strict=True))):
        yield


def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """The product of features and gates, of which no partial product is kept.

    Args:
        x: (N, C, *spatial).
        *gates: with as many axes, each of x's size or of size 1.

    >>> gated(torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 1), 0.5), torch.full((1, 2, 1, 3), 0.5)).unique()
    tensor([0.2500])
    """
    return products.product(_all_of, _derivative_of_all, x, *gates)


def _all_of(_: Tensor, *gates: Tensor) -> Tensor:
    return math.prod(gates[1:], start=gates[0])


def _derivative_of_all(by_gate: Tensor, gate: Tensor, x: Tensor, *gates: Tensor) -> tuple[Tensor | None, ...]:
    others = [gates[:i] + gates[i + 1 :] for i in range(len(gates))]
    return None, *(math.prod(other, start=by_gate) for other in others)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, sums = kernel(query, key, value, scale=scale)
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, out, sums)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        if torch.is_grad_enabled():  # the kernel's gradient has none itself
            plain = (query @ key.mT * ctx.scale).softmax(-1) @ value
            return *torch.autograd.grad(plain, (query, key, value), gradient, create_graph=True), None
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return *kernel(gradient, query, key, value, out, sums, 0.0, False, scale=ctx.scale), None


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(query key' * scale) value, in one kernel that keeps no weights; it has derivatives of all orders.

    Args:
        query: (N, positions, d).
        key: (N, others, d).
        value: (N, others, d).
        scale: of the products.

    >>> attention(torch.zeros(2, 5, 4), torch.zeros(2, 3, 4), torch.ones(2, 3, 4), 0.5).shape
    torch.Size([2, 5, 4])
    """
    one_head = [t.contiguous().unsqueeze(1) for t in (query, key, value)]  # a position's channels side by side
    out: Tensor = _Attention.apply(*one_head, scale)
    return out.squeeze(1)


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

    >>> x, conv = torch.rand(2, 3, 5, 6), nn.Conv2d(3, 4, 3, padding=2, dilation=2)
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

    >>> x, conv = torch.rand(2, 3, 5, 6), nn.Conv2d(3, 4, 3, padding=2, dilation=2)
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
