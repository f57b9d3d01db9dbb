"""Convolutions that are carried out another way."""

from functools import reduce
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from attnzoo.fast import when

SHORT = 64  # positions
FEW = 2**22  # products of one number with another
VECTOR = 16  # numbers that are worked on at a time


def pointwise(conv: Any, x: Tensor) -> Tensor:
    """conv(x) of a 1x1 convolution, as a product of matrices.

    For a few positions, as in strips, the library's own takes up to twice as long, and in 3D ten times.

    Args:
        conv: dense, of kernel size and stride 1.
        x: (N, C, *spatial).

    >>> x, conv = torch.rand(2, 3, 5, 1), torch.nn.Conv2d(3, 4, 1)
    >>> torch.allclose(pointwise(conv, x), conv(x), atol=1e-6)
    True
    """
    by_position = F.linear(x.flatten(2).transpose(1, 2), conv.weight.flatten(1), conv.bias)
    y: Tensor = by_position.transpose(1, 2).contiguous().unflatten(2, x.shape[2:])
    return y


def conv_norm(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """norm(conv(x)), in training without the convolution's bias, which batch norm takes away again.

    The bias enters the running mean alone, and its gradient is exactly zero, not what is left of it by rounding.

    Args:
        conv: any convolution.
        norm: batch norm of its outputs.
        x: (N, C, *spatial).

    >>> conv, norm, x = torch.nn.Conv1d(4, 2, 1), torch.nn.BatchNorm1d(2), torch.rand(3, 4, 5)
    >>> torch.allclose(conv_norm(conv, norm, x), norm(conv(x)), atol=1e-5)
    True
    """
    if conv.bias is None or not norm.training or norm.running_mean is None:
        y: Tensor = norm(conv(x))
        return y
    bias = conv.bias.detach()
    unbiased = conv._conv_forward(x, _WithBias.apply(conv.weight, conv.bias), None)
    running_mean = norm.running_mean.data  # autograd keeps it too, though for its gradients in evaluation alone
    running_mean.sub_(bias)
    try:
        y = norm(unbiased)
    finally:
        running_mean.add_(bias)
    return y


class _WithBias(Function):
    """The weights, by way of which the bias has a gradient too: zero."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.bias = bias.shape
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0].new_zeros(ctx.bias)


def strip_conv(conv: Any, x: Tensor) -> Tensor:
    """conv(x), in training as a convolution of columns if it is depthwise with more taps than 3.

    The gradients of one along the last axis take the library up to five times as long. Compiled, short lines are
    columns too: the compiler lays out what comes of those so that it works on many channels at a time.

    Args:
        conv: of stride 1.
        x: (N, C, positions).

    >>> x, conv = torch.rand(2, 4, 5), torch.nn.Conv1d(4, 4, 3, padding=1, groups=4)
    >>> torch.allclose(strip_conv(conv, x), conv(x), atol=1e-6)
    True
    """
    wanted = torch.is_grad_enabled() or (x.shape[2] < VECTOR and when.compiled(x))
    if not wanted or conv.groups < x.shape[1] or conv.kernel_size[0] <= 3:
        y: Tensor = conv(x)
        return y
    return column_conv(conv, x).squeeze(3)


def column_conv(conv: Any, x: Tensor) -> Tensor:
    """conv(x) as columns (N, channels, positions, 1), which can lie in memory as channels_last features do.

    Args:
        conv: of stride 1.
        x: (N, C, positions).

    >>> x, conv = torch.rand(2, 4, 5), torch.nn.Conv1d(4, 4, 3, padding=1)
    >>> torch.allclose(column_conv(conv, x).squeeze(3), conv(x), atol=1e-6)
    True
    """
    padding = (conv.padding[0], 0)
    return F.conv2d(x.unsqueeze(3), conv.weight.unsqueeze(3), conv.bias, padding=padding, groups=conv.groups)


def single_conv(conv: Any, x: Tensor) -> Tensor:
    """conv(x) of a 1D convolution from one channel to one, as a product of its taps with what each output sees.

    The library takes up to twice as long, and five times for the gradients.

    Args:
        conv: without bias, of stride 1.
        x: (..., 1, positions).

    >>> x, conv = torch.rand(2, 1, 5), torch.nn.Conv1d(1, 1, 3, padding=1, bias=False)
    >>> torch.allclose(single_conv(conv, x), conv(x), atol=1e-6)
    True
    """
    mixed = torch.is_autocast_enabled("cpu")
    out: Tensor = conv(x) if mixed else _SingleConv.apply(x, conv.weight.flatten())
    return out


class _SingleConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        return _seen(x, taps) @ taps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, taps), (gradient,) = ctx.saved_tensors, gradients
        return _seen(gradient, taps) @ taps.flip(0), gradient.flatten() @ _seen(x, taps).flatten(0, -2)


def _seen(x: Tensor, taps: Tensor) -> Tensor:
    """(..., positions, taps): what each output of a convolution of lines x (..., positions) sees."""
    around = len(taps) // 2
    seen: Tensor = F.pad(x, (around, around)).unfold(-1, len(taps), 1)
    return seen


def narrow_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution of stride 1 between few channels, whose output has the size of its input.

    Positions along short axes are made channels, of which the library convolves many as fast as few: each output
    position is a channel whose kernel holds the taps where they fall on the input's positions, and zeros. Where all
    axes are long or there is little to do, the gradient to the input is a convolution too; the library's own takes
    twenty times as long.

    Args:
        x: (N, C, *spatial).
        weight: (K, C, *kernel) with odd edges.

    >>> narrow_conv(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))[0, 0]
    tensor([[4., 6., 4.],
            [6., 9., 6.],
            [4., 6., 4.]])
    """
    few = x.numel() * prod(weight.shape[2:]) < FEW
    short = [] if few else _short_axes(x)
    if when.compiled(x):
        return _by_channels(x, weight, short) if short else _same_conv(x, weight)
    out: Tensor = _ByChannels.apply(x, weight, short) if short else _NarrowConv.apply(x, weight)
    return out


def _short_axes(x: Tensor) -> list[int]:
    """The shortest spatial axes, not all, that have few positions together."""
    short: list[int] = []
    axes, positions = list(range(2, x.ndim)), 1
    while len(axes) > 1:
        axis = reduce(lambda a, b: b if x.shape[b] < x.shape[a] else a, axes)  # the compiler sorts no changing sizes
        positions *= x.shape[axis]
        if positions > SHORT:
            break
        short.append(axis)
        axes.remove(axis)
    return short


class _ByChannels(Function):
    """Keeps the features as they are and the kernel that is not spread, since both are far smaller."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, axes: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.axes = axes
        return _by_channels(x, weight, axes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,), axes = ctx.saved_tensors, gradients, ctx.axes
        if torch.is_grad_enabled():  # for derivatives of this one
            inputs = x.view_as(x), weight.view_as(weight)
            return *torch.autograd.grad(_by_channels(*inputs, axes), inputs, gradient, create_graph=True), None
        features, sizes = _as_channels(x, axes), [x.shape[axis] for axis in axes]
        with torch.enable_grad():
            weight = weight.detach().requires_grad_()
            kernel = _spread_kernel(weight, axes, sizes)
        by_features, by_kernel = _library_gradients(_as_channels(gradient, axes), features, kernel, to_x=True)
        (by_weight,) = torch.autograd.grad(kernel, weight, by_kernel)
        return _as_axes(by_features, axes, sizes), by_weight, None


def _by_channels(x: Tensor, weight: Tensor, axes: list[int]) -> Tensor:
    sizes = [x.shape[axis] for axis in axes]
    return _as_axes(_same_conv(_as_channels(x, axes), _spread_kernel(weight, axes, sizes)), axes, sizes)


def _as_channels(x: Tensor, axes: list[int]) -> Tensor:
    """x (N, C, *spatial) with some axes made channels."""
    rest = [axis for axis in range(2, x.ndim) if axis not in axes]
    return x.permute(0, 1, *axes, *rest).flatten(1, len(axes) + 1)


def _as_axes(x: Tensor, axes: list[int], sizes: list[int]) -> Tensor:
    """The inverse of `_as_channels`."""
    spread: Tensor = x.unflatten(1, (-1, *sizes))
    order = [0, 1, *axes, *(axis for axis in range(2, spread.ndim) if axis not in axes)]
    return spread.permute([order.index(axis) for axis in range(spread.ndim)])


def _spread_kernel(weight: Tensor, axes: list[int], sizes: list[int]) -> Tensor:
    """The kernel (K, C, *kernel) for features some of whose axes, of such sizes, are channels."""
    rest = [axis for axis in range(2, weight.ndim) if axis not in axes]
    outputs = list(range(weight.ndim, weight.ndim + len(axes)))
    for axis, size in zip(axes, sizes, strict=True):
        weight = _banded(weight, axis, size)  # its outputs' positions come behind all other axes
    kernel = weight.permute(0, *outputs, 1, *axes, *rest).flatten(len(axes) + 1, 2 * len(axes) + 1)
    return kernel.flatten(0, len(axes))


def _banded(weight: Tensor, axis: int, size: int) -> Tensor:
    """A kernel (..., taps, ...) as one (..., inputs, ..., outputs) with its taps where they lie for each output."""
    taps = weight.shape[axis]
    positions = torch.arange(size, device=weight.device)
    tap = positions.unsqueeze(1) - positions + taps // 2  # (inputs, outputs)
    inside = (tap >= 0) & (tap < taps)
    last = weight.movedim(axis, -1)
    banded: Tensor = last[..., tap.clamp(0, taps - 1)] * inside
    return banded.movedim(-2, axis)


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
            _, by_weight = _library_gradients(gradient, x, weight, to_x=False)
        return by_x, by_weight


def _same_conv(x: Tensor, weight: Tensor) -> Tensor:
    conv: Any = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    out: Tensor = conv(_plain(x), _plain(weight), padding=[k // 2 for k in weight.shape[2:]])
    return out


def _library_gradients(gradient: Tensor, x: Tensor, weight: Tensor, to_x: bool) -> tuple[Tensor, Tensor]:
    """The gradients of `_same_conv` to x, if wanted, and to its weight."""
    ones = [1] * (x.ndim - 2)
    padding, none = [k // 2 for k in weight.shape[2:]], [0] * len(ones)
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, ones, padding, ones, False, none, 1, [to_x, True, False]
    )
    return by_x, by_weight


def _plain(x: Tensor) -> Tensor:
    """A copy laid out as its shape says: `contiguous` leaves any stride to an axis of size 1, and is then mistaken."""
    return x.clone(memory_format=torch.contiguous_format)
