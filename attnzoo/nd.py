"""All that differs between 1D, 2D and 3D features, and the base classes of the modules.

Features are (N, C, *spatial) with spatial = (L,), (H, W) or (T, H, W).
"""

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from attnzoo import fast

AXES = {1: "L", 2: "H, W", 3: "T, H, W"}
_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def conv(spatial_dims: int) -> Any:
    """The convolution class for features with `spatial_dims` spatial axes.

    >>> conv(3).__name__
    'Conv3d'
    """
    return _CONV[spatial_dims]


def batch_norm(spatial_dims: int) -> Any:
    """The batch normalisation class for features with `spatial_dims` spatial axes.

    >>> batch_norm(2).__name__
    'BatchNorm2d'
    """
    return _BATCH_NORM[spatial_dims]


def axes(x: Tensor) -> tuple[int, ...]:
    """The spatial axes of features x (N, C, *spatial).

    >>> axes(torch.zeros(1, 4, 2, 5, 5))
    (2, 3, 4)
    """
    return tuple(range(2, x.ndim))


def expand(v: Tensor, x: Tensor) -> Tensor:
    """Give v (N, C) as many trailing axes of size 1 as x (N, C, *spatial) has spatial axes.

    >>> expand(torch.zeros(2, 4), torch.zeros(2, 4, 7, 9)).shape
    torch.Size([2, 4, 1, 1])
    """
    return v.reshape(*v.shape, *(1,) * (x.ndim - 2))


def strips(x: Tensor) -> Tensor:
    """Directional pooling: the mean over all spatial axes but one, for each axis, one strip after the other.

    Args:
        x: (N, C, *spatial).

    Returns:
        (N, C, sum(spatial), 1, ...) with as many axes as x, so that a 1x1 convolution of x's dimension applies.

    >>> strips(torch.zeros(2, 4, 7, 9)).shape
    torch.Size([2, 4, 16, 1])
    """
    pooled = [fast.mean(x, [a for a in axes(x) if a != axis]) for axis in axes(x)] if x.ndim > 3 else [x]
    strip = torch.cat(pooled, 2)
    return strip.reshape(*strip.shape, *(1,) * (x.ndim - 3))


def unstrip(z: Tensor, spatial: Sequence[int]) -> list[Tensor]:
    """Split strips z (N, C, sum(spatial), 1, ...) into one tensor an axis, each broadcastable to (N, C, *spatial).

    >>> [tuple(s.shape) for s in unstrip(torch.zeros(2, 4, 16, 1), (7, 9))]
    [(2, 4, 7, 1), (2, 4, 1, 9)]
    """
    shapes = [[size if i == axis else 1 for i in range(len(spatial))] for axis, size in enumerate(spatial)]
    return [s.reshape(*z.shape[:2], *shape) for s, shape in zip(z.split(list(spatial), 2), shapes, strict=True)]


def strip_gates(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """The gates sigmoid(conv(strips)), one an axis, each broadcastable to features x (EMA and MPE, section 3.2).

    Args:
        conv: a 1x1 convolution of x's dimension.
        x: (N, C, *spatial).

    >>> [tuple(gate.shape) for gate in strip_gates(nn.Conv2d(4, 4, 1), torch.zeros(2, 4, 7, 9))]
    [(2, 4, 7, 1), (2, 4, 1, 9)]
    """
    # Not parts of one sigmoid: the backward pass then has both, and torch 2.14's Inductor overwrites one in the other.
    return [logits.sigmoid() for logits in unstrip(conv(strips(x)), x.shape[2:])]


def cross_spatial(x1: Tensor, x2: Tensor) -> Tensor:
    """Weigh each of two maps by the softmax of the other's pooled channels, and add (EMA section 3.2, MPE section 3.2).

    Args:
        x1: (N, C, *spatial).
        x2: (N, C, *spatial).

    Returns:
        (N, *spatial), logits of a gate.

    >>> cross_spatial(torch.zeros(2, 4, 7, 9), torch.zeros(2, 4, 7, 9)).shape
    torch.Size([2, 7, 9])
    """
    x11, x12 = (m.mean(axes(m)).softmax(1).unsqueeze(1) for m in (x1, x2))  # (N, 1, C)
    w: Tensor = x11 @ x2.flatten(2) + x12 @ x1.flatten(2)
    return w.reshape(w.shape[0], *x1.shape[2:])


def laid_out_as(y: Tensor, x: Tensor) -> Tensor:
    """Features y in channels_last if x is, else contiguous: products of tokens come out in a layout of their own.

    >>> x = torch.zeros(2, 4, 7, 9).to(memory_format=torch.channels_last)
    >>> laid_out_as(torch.zeros(2, 8, 7, 9), x).stride() == torch.zeros(2, 7, 9, 8).movedim(3, 1).stride()
    True
    """
    return y.contiguous(memory_format=torch.contiguous_format if (last := channels_last(x)) is None else last)


def channels_last(x: Tensor) -> torch.memory_format | None:
    """The layout channels_last of features x (N, C, *spatial), or None if they are contiguous or have neither.

    >>> channels_last(torch.zeros(2, 4, 7, 9)) is None
    True
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return last if last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last) else None


def mean_pool(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Features x (N, C, *spatial) averaged over windows of the stride, of which the last may be cut off by the edge.

    Args:
        x: with two or three spatial axes.
        strides: one an axis.

    >>> mean_pool(torch.zeros(2, 4, 7, 9), (2, 2)).shape
    torch.Size([2, 4, 4, 5])
    """
    if max(strides) == 1:
        return x
    pool = F.avg_pool3d if len(strides) == 3 else F.avg_pool2d
    window = [min(stride, size) for stride, size in zip(strides, x.shape[2:], strict=True)]
    return pool(x, window, tuple(strides), ceil_mode=True)


def split(channels: int, groups: int, option: str = "groups", parts: int = 1) -> int:
    """Channels of one part of a group, where `groups` groups of `parts` parts divide them.

    Args:
        channels: C.
        groups: the number of equal groups.
        option: how the caller's user spells `groups`, for the message.
        parts: the number of equal parts of a group.

    Raises:
        ValueError: they do not divide `channels`; the message lists the groups that do.

    >>> split(512, 8), split(512, 8, parts=2)
    (64, 32)
    """
    if groups < 1 or channels % (groups * parts):
        fitting = [str(g) for g in range(1, channels // parts + 1) if channels % (g * parts) == 0]
        product = option if parts == 1 else f"{parts} * {option}"
        allowed = f"{option} may be one of {', '.join(fitting)}" if fitting else f"no {option} would do"
        raise ValueError(f"channels={channels} is not divisible by {product}={groups * parts}; {allowed}")
    return channels // (groups * parts)


def squeeze(channels: int, reduction: int, least: int = 1, divisor: int | None = None, keep: float = 0.0) -> int:
    """Width of a bottleneck: channels / reduction in whole numbers, but not less than `least`.

    Args:
        channels: C.
        reduction: by how much they are squeezed.
        least: lower bound; many ports have none and end up with an empty layer.
        divisor: None rounds down; a number gives the nearest multiple of it (of two the larger), one at least, as in
            timm.
        keep: with a divisor, the next multiple is taken where less than this share of channels / reduction would be
            left; timm has 0.9 in some modules.

    Raises:
        ValueError: `reduction` or `divisor` is not a positive number.

    >>> squeeze(512, 16), squeeze(64, 16), squeeze(64, 16, divisor=8)
    (32, 4, 8)
    """
    if reduction < 1:
        raise ValueError(f"reduction={reduction} must be at least 1")
    if divisor is None:
        return max(least, channels // reduction)
    if divisor < 1:
        raise ValueError(f"divisor={divisor} must be at least 1, or None")
    width = max(least, divisor, (2 * channels + reduction * divisor) // (2 * reduction * divisor) * divisor)
    return width + divisor if width < keep * channels / reduction else width


def per_axis(sizes: int | Sequence[int], spatial_dims: int, option: str = "stride") -> tuple[int, ...]:
    """A number for each spatial axis, where one may stand for all.

    Args:
        sizes: one positive number, or one per axis.
        spatial_dims: the number of axes.
        option: how the caller's user spells `sizes`, for the message.

    Raises:
        ValueError: another number of them, or one that is not positive.

    >>> per_axis(2, 3), per_axis((1, 2, 2), 3)
    ((2, 2, 2), (1, 2, 2))
    """
    each = (sizes,) * spatial_dims if isinstance(sizes, int) else tuple(sizes)
    if len(each) != spatial_dims or min(each) < 1:
        raise ValueError(f"{option}={sizes} must be a positive number, or one for each of {spatial_dims} axes")
    return each


def odd(kernel_size: int, option: str = "kernel_size") -> int:
    """A kernel size that has a middle.

    Args:
        kernel_size: edge of the kernel.
        option: how the caller's user spells it, for the message.

    Raises:
        ValueError: it is even or not positive.

    >>> odd(7)
    7
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"{option}={kernel_size} must be an odd number, such as 3, 5 or 7")
    return kernel_size


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that takes a single value per group too, as batch 1 at a 1x1 map has: it gives the bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features x (N, C, *spatial)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def mean_of_normed(norm: nn.GroupNorm, normed: Tensor) -> Tensor:
    """The mean over positions of what a group norm gives: its bias, where each channel is a group of its own.

    Args:
        norm: the norm.
        normed: (N, C, *spatial), which it gave.

    Returns:
        (N or 1, C).

    >>> mean_of_normed(nn.GroupNorm(4, 4), torch.zeros(2, 4, 7, 9)).shape
    torch.Size([1, 4])
    """
    if norm.num_groups == normed.shape[1]:
        return norm.bias.unsqueeze(0)
    return normed.mean(axes(normed))


class Attention(nn.Module):
    """Base of the modules: features (N, C, *spatial) in, features of the same shape out.

    Args:
        channels: C; None leaves it to the module to refuse other features than it was made for.
        spatial_dims: the number of spatial axes, or None likewise.

    Attributes:
        branch_names: of the parallel branches that it weighs against each other; empty for most modules.

    Raises:
        ValueError: `channels` is not a positive number.
    """

    branch_names: tuple[str, ...] = ()

    def __init__(self, channels: int | None = None, spatial_dims: int | None = None) -> None:
        super().__init__()
        if channels is not None and channels < 1:
            raise ValueError(f"channels={channels} must be at least 1")
        self.channels = channels
        self.spatial_dims = spatial_dims

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give each class a `__call__` of its own: of one for all torch.compile gives up after eight classes."""
        super().__init_subclass__(**kwargs)
        if "__call__" not in vars(cls):
            call = Attention.__call__
            own = FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
            own.__annotations__ = dict(call.__annotations__)
            cls.__call__ = own  # type: ignore[method-assign]

    def __call__(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial); torch.fx sees one node and does not look inside."""
        if isinstance(x, Proxy):
            leaf: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
            return leaf
        attended: Tensor = super().__call__(x)
        return attended

    def branch_weights(self, x: Tensor) -> Tensor:
        """Weights (N, branches) for features x (N, C, *spatial), averaged over channels; each row sums to 1."""
        raise NotImplementedError(f"{type(self).__name__} weighs no branches")

    def check(self, x: Tensor) -> None:
        """Refuse features that this module was not made for.

        Args:
            x: (N, C, *spatial).

        Raises:
            ValueError: another number of channels or of spatial axes.
        """
        if self.channels is None or self.spatial_dims is None:
            return
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} was made for (N, {self.channels}, {AXES[self.spatial_dims]}) "
                f"and got {tuple(x.shape)}; create it with channels={x.shape[1] if x.ndim > 1 else 'C'}, "
                f"spatial_dims={max(x.ndim - 2, 1)} for such features"
            )


class Gate(Attention):
    """Attention of the form x * gate(x). A module writes `gate` only; attention maps then come free.

    The gate has shape (N, C or 1, *spatial or 1s), or (N, G, *spatial) with one gate for each of G groups of C / G
    consecutive channels.
    """

    def gate(self, x: Tensor) -> Tensor:
        """The gate of features x (N, C, *spatial)."""
        raise NotImplementedError(f"{type(self).__name__} must define gate(x)")

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        self.check(x)
        gate = self.gate(x)
        if gate.shape[1] in (1, x.shape[1]):
            return fast.scale(x, gate)
        groups: Tensor = x.unflatten(1, (gate.shape[1], -1))
        return fast.scale(groups, gate.unsqueeze(2)).reshape(x.shape)


class SpreadGate(Gate):
    """A gate as large as the features, but made of small maps. A module writes `maps` only if it is their product.

    Else it writes `spread` and `derivative` too. The maps are kept for the backward pass, the gate is not.
    """

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Small maps of features x (N, C, *spatial): as many axes, some of size 1."""
        raise NotImplementedError(f"{type(self).__name__} must define maps(x)")

    def spread(self, x: Tensor, *maps: Tensor) -> Tensor:
        """The gate of features x (N, C, *spatial) and their maps, element by element: the product of the maps."""
        return fast.of_all(x, *maps)

    def derivative(self, by_gate: Tensor, gate: Tensor, x: Tensor, *maps: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative of `spread`, as `fast.product` wants it."""
        return fast.derivative_of_all(by_gate, gate, x, *maps)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of features x (N, C, *spatial)."""
        return self.spread(x, *self.maps(x))

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial) by their gate."""
        self.check(x)
        return fast.product(self.spread, self.derivative, x, *self.maps(x))


class PooledGate(nn.Module):
    """Spatial gate sigmoid(BN(conv([max; mean]))) of two maps pooled along one axis, as in CBAM and triplet attention.

    Args:
        kernel_size: odd edge of the convolution's kernel.
        spatial_dims: axes of the pooled map.
        mean_first: whether the convolution sees [mean; max].
        momentum: of the batch norm; the default is the authors', in both papers.
    """

    def __init__(
        self, kernel_size: int, spatial_dims: int, *, mean_first: bool = False, momentum: float = 0.01
    ) -> None:
        super().__init__()
        self.mean_first = mean_first
        self.conv = conv(spatial_dims)(2, 1, odd(kernel_size), padding=kernel_size // 2, bias=False)
        self.bn = batch_norm(spatial_dims)(1, momentum=momentum)

    def forward(self, maximum: Tensor, mean: Tensor, axis: int, order: Sequence[int] | None = None) -> Tensor:
        """The gate of features x (N, C, *spatial) that were pooled along an axis.

        Args:
            maximum: of x along the axis.
            mean: of x along the axis.
            axis: the axis pooled away, 1 for the channels.
            order: the axes of x in the order in which the kernel sees them; as they come if None.

        Returns:
            The gate, broadcastable to x: its size along `axis` is 1.
        """
        rest = [a for a in range(1, maximum.ndim + 1) if a != axis]
        pooled = torch.stack((mean, maximum) if self.mean_first else (maximum, mean), 1)
        if order is None or list(order) == rest:
            return self._squash(pooled).unsqueeze(axis)
        there = [0, 1, *(rest.index(a) + 2 for a in order)]
        back = [0, *(list(order).index(a) + 1 for a in rest)]
        return self._squash(pooled.permute(there)).permute(back).unsqueeze(axis)

    def _squash(self, pooled: Tensor) -> Tensor:
        quick = (fast.usable(self, pooled) or fast.compiled(pooled, self)) and not torch.is_autocast_enabled("cpu")
        logits = fast.narrow_conv(pooled, self.conv.weight) if quick else self.conv(pooled)
        gate: Tensor = self.bn(logits).sigmoid().squeeze(1)
        return gate


class Blend(nn.Module):
    """x + alpha * (attention(x) - x) with a learnable alpha = 0: an exact identity at the start that still trains.

    A saturated gate would have no gradient; alpha has one at once, and the attention from the first step on.

    Args:
        attention: any module that keeps the shape of its input.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Blend features x (N, C, *spatial) with their attended form."""
        blend: Tensor = x + self.alpha * (self.attention(x) - x)
        return blend


class Frames(nn.Module):
    """2D attention on each frame of a video on its own: T is folded into the batch.

    Args:
        attention: 2D attention that keeps the shape of its input.

    >>> Frames(nn.Identity())(torch.zeros(2, 4, 3, 7, 9)).shape
    torch.Size([2, 4, 3, 7, 9])
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the frames of features x (N, C, T, H, W)."""
        frames = x.transpose(1, 2)
        attended: Tensor = self.attention(frames.flatten(0, 1)).reshape(frames.shape)
        return attended.transpose(1, 2)
