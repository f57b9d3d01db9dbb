"""What a cross-spatial gate sums over channels: a strip-gated, normed map and a convolution, neither of them made."""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from attnzoo.fast.pieces import PIECE

# Positions up to which rows are summed, and spread out again, by a product with zeros and ones: a loop over many short
# rows takes longer.
SHORT = 128


class CrossMaps(NamedTuple):
    """The small maps that `cross_sums` is made of.

    Attributes:
        logits: of the gate of each strip (N, c, sum(spatial)).
        weights: of the normed channels (N, c).
        kernel: of the convolution (taps, c).
        constant: (N, 1).
    """

    logits: Tensor
    weights: Tensor
    kernel: Tensor
    constant: Tensor


Maps = Callable[[Tensor, Tensor], CrossMaps]


def cross_gated(x: Tensor, groups: int, maps: Maps, eps: float) -> tuple[Tensor, Tensor]:
    """x * gate, with gate = sigmoid(weights @ norm(x * gates) + kernel * x + constant), * also for the convolution.

    Args:
        x: (N, C, *spatial), of which each channel is normed by itself.
        groups: of channels, each of which has its own gate: they are folded into the batch, c = C / groups.
        maps: makes the small maps of two sorts of means of x: along each axis (N, c, sum(spatial)), and of what each
            tap of a kernel of edge 3 sees of it, zeros included (N, c, taps).
        eps: of the norm.

    Returns:
        As x, and the gate (N, groups, positions).

    >>> zeros = torch.zeros(1, 1)
    >>> y, gate = cross_gated(torch.ones(1, 1, 2, 2), 1, lambda z, _: CrossMaps(z, zeros, zeros.expand(9, 1), zeros), 1)
    >>> y
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]])
    """
    y, spatial, step = torch.empty_like(x), x.shape[2:], _step(x)
    gate = x.new_empty(len(x), groups, prod(spatial))
    taps = x.new_empty(step * groups, 3 ** len(spatial), prod(spatial))
    for of_x, of_y, of_gate in zip(x.split(step), y.split(step), gate.split(step), strict=True):
        flat, sums = _grouped(of_x, groups), of_gate.flatten(0, 1)
        small = maps(*_means(_pools(flat, spatial), spatial))
        room = _room(of_y, flat)
        centred, scale = _normed(flat, _spread(small.logits.sigmoid(), spatial), eps, room)
        weights = small.weights * scale
        torch.add((weights.unsqueeze(1) @ centred)[:, 0], small.constant, out=sums)
        seen = torch.bmm(small.kernel.expand(len(flat), -1, -1), flat, out=taps[: len(flat)])
        _cut(seen, spatial)
        for tap, move in zip(seen.unbind(1), _moves(spatial), strict=True):
            _ahead(sums, -move).add_(_ahead(tap, move))
        torch.mul(flat, sums.sigmoid_().unsqueeze(1), out=room)
        if not of_y.is_contiguous():
            of_y.copy_(room.view(of_y.shape))
    return y, gate


def cross_gradients(
    by_y: Tensor, x: Tensor, gate: Tensor, maps: Maps, eps: float, own: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of `cross_gated`.

    Args:
        by_y: of its first result.
        x: its argument.
        gate: its second result.
        maps: its argument.
        eps: its argument.
        own: what the maps are made of besides the means.

    Returns:
        Those of x and of each of `own`, None where it has no part.
    """
    by_x, by_own, spatial, groups, step = torch.empty_like(x), [], x.shape[2:], gate.shape[1], _step(x)
    positions = gate.shape[2]
    taps = x.new_zeros(step * groups, 3 ** len(spatial), positions)
    for of_x, of_y, of_gate, to in zip(*(t.split(step) for t in (x, by_y, gate, by_x)), strict=True):
        flat, of_y, of_gate = _grouped(of_x, groups), _grouped(of_y, groups), of_gate.flatten(0, 1)
        with torch.enable_grad():
            pools = [pool.requires_grad_() for pool in _pools(flat, spatial)]
            small = maps(*_means(pools, spatial))
        by_flat = _room(to, flat)
        by_sum = torch.mul(of_y, flat, out=by_flat).sum(1) * of_gate * (1 - of_gate)
        strips, weights = small.logits.detach().sigmoid(), small.weights.detach()
        spread = _spread(strips, spatial)
        centred, scale = _normed(flat, spread, eps, torch.empty_like(flat))
        total = by_sum.sum(1, keepdim=True)
        by_weights = scale * torch.mul(centred, by_sum.unsqueeze(1), out=by_flat).sum(2)
        # By way of the norm the gradient of x * gates is straight * by_sum + slope * centred + shift.
        straight = scale * weights
        slope, shift = -scale * straight * by_weights / positions, -straight * total / positions
        torch.mul(centred, slope.unsqueeze(2), out=by_flat)
        by_flat.add_(shift.unsqueeze(2)).addcmul_(straight.unsqueeze(2), by_sum.unsqueeze(1)).mul_(spread)
        by_logits = _strip_sums(torch.mul(by_flat, flat, out=centred), spatial) * (1 - strips)
        seen = taps[: len(flat)]
        for tap, move in zip(seen.unbind(1), _moves(spatial), strict=True):
            _ahead(tap, move).copy_(_ahead(by_sum, -move))
        _cut(seen, spatial)
        after = zip(small, (by_logits, by_weights, (seen @ flat.mT).sum(0), total), strict=True)
        made, by_made = zip(*(pair for pair in after if pair[0].requires_grad), strict=True)  # parameters may be frozen
        found = torch.autograd.grad(made, (*pools, *own), by_made, allow_unused=True)
        by_own.append(found[len(pools) :])
        _add_pools(by_flat, found[: len(pools)], spatial)
        by_flat.addcmul_(of_y, of_gate.unsqueeze(1))
        by_flat.baddbmm_(small.kernel.detach().T.expand(len(flat), -1, -1), seen)
        if not to.is_contiguous():
            to.copy_(by_flat.view(to.shape))
    return by_x, [None if parts[0] is None else sum(parts[1:], parts[0]) for parts in zip(*by_own, strict=True)]


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(N * groups, C / groups, positions) of x (N, C, *spatial), with the positions side by side in memory."""
    if not x.is_contiguous():
        # A transposition of each sample: torch is quick at those alone.
        samples = x.movedim(1, -1).flatten(1, -2)
        x = samples.new_empty(len(x), samples.shape[2], samples.shape[1])
        for to, sample in zip(x, samples, strict=True):
            to.copy_(sample.T)
    return x.reshape(len(x) * groups, x.shape[1] // groups, -1)


def _step(x: Tensor) -> int:
    return min(len(x), max(1, PIECE // prod(x.shape[1:])))


def _room(to: Tensor, flat: Tensor) -> Tensor:
    """Memory like `flat`: fresh pages cost as much as filling them, and that of the result is there."""
    return to.view(flat.shape) if to.is_contiguous() else torch.empty_like(flat)


def _normed(flat: Tensor, gate: Tensor, eps: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """flat * gate (N, c, positions) less the mean of each channel, and one over the deviation of each (N, c)."""
    centred = torch.mul(flat, gate, out=out)
    centred -= centred.mean(2, keepdim=True)
    variance = torch.linalg.vector_norm(centred, dim=2).square() / flat.shape[2]
    return centred, (variance + eps).rsqrt()


def _pools(flat: Tensor, spatial: Sequence[int]) -> list[Tensor]:
    """Sums of x (N, c, positions) that all means can be made of."""
    if flat.shape[2] <= SHORT:
        return [(flat.flatten(0, 1) @ _read(flat, spatial)).unflatten(0, flat.shape[:2])]
    x = flat.unflatten(2, spatial)
    return [x.flatten(3).sum(3), x.sum(2), x[:, :, 0].contiguous(), x[:, :, -1].contiguous()]


def _add_pools(to: Tensor, by_pools: Sequence[Tensor], spatial: Sequence[int]) -> None:
    """Add the gradient to x of `_pools` to that of x (N, c, positions)."""
    if to.shape[2] <= SHORT:
        to.view(-1, to.shape[2]).addmm_(by_pools[0].flatten(0, 1), _read(to, spatial).T)
        return
    along, across, first, last = by_pools
    maps = to.unflatten(2, spatial).flatten(3)
    maps += along.unsqueeze(3)
    maps += across.flatten(2).unsqueeze(2)
    maps[:, :, 0] += first.flatten(2)
    maps[:, :, -1] += last.flatten(2)


def _means(pools: Sequence[Tensor], spatial: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Means along each axis and of what each tap sees, from the pools."""
    positions, dims = prod(spatial), len(spatial)
    if positions <= SHORT:
        strips, seen = pools[0].split([sum(spatial), 3**dims], 2)
    else:
        along, across, first, last = pools
        strips = torch.cat((along, *_rest(across)), 2)
        seen = torch.stack((across - last, across, across - first), 2)
        for axis in range(3, dims + 2):
            whole, first, last = seen.sum(axis), seen.select(axis, 0), seen.select(axis, -1)
            seen = torch.stack((whole - last, whole, whole - first), axis)
        seen = seen.flatten(2)
    sizes = torch.cat([strips.new_full((size,), size / positions) for size in spatial])
    return strips * sizes, seen / positions


def _spread(strips: Tensor, spatial: Sequence[int]) -> Tensor:
    """The product (N, c, positions) of strips (N, c, sum(spatial)), each the same across its axis."""
    each, sizes = strips.split(list(spatial), 2), list(spatial)
    if prod(spatial) <= SHORT:
        members = _members(strips, spatial).split(sizes, 1)
        spread = [
            (strip.flatten(0, 1) @ m.T).unflatten(0, strips.shape[:2]) for strip, m in zip(each, members, strict=True)
        ]
    else:
        shapes = [[size if a == axis else 1 for a in range(len(sizes))] for axis, size in enumerate(sizes)]
        spread = [strip.unflatten(2, shape) for strip, shape in zip(each, shapes, strict=True)]
    together: Tensor = prod(spread[1:], start=spread[0])
    return together.flatten(2)


def _strip_sums(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """The sums of x (N, c, positions) along each axis: (N, c, sum(spatial))."""
    if x.shape[2] <= SHORT:
        sums: Tensor = (x.flatten(0, 1) @ _members(x, spatial)).unflatten(0, x.shape[:2])
        return sums
    maps = x.unflatten(2, spatial)
    along, across = maps.flatten(3).sum(3), maps.sum(2)
    return torch.cat((along, *_rest(across)), 2)


def _rest(across: Tensor) -> list[Tensor]:
    """The sums along the axes after the first, from those over the first (N, c, *rest)."""
    return [across] if across.ndim == 3 else [across.sum(3), across.sum(2)]


def _members(like: Tensor, spatial: Sequence[int]) -> Tensor:
    """(positions, sum(spatial)): 1 where a position is one of a row's."""
    each = []
    for axis, size in enumerate(spatial):
        eye = torch.eye(size, dtype=like.dtype, device=like.device)
        shape = [size if a == axis else 1 for a in range(len(spatial))]
        each.append(eye.unflatten(0, shape).expand(*spatial, size).flatten(0, -2))
    return torch.cat(each, 1)


def _read(like: Tensor, spatial: Sequence[int]) -> Tensor:
    """(positions, sum(spatial) + taps): 1 where a position is one of a row's, and where a tap comes to read it."""
    read = like.new_ones(1, 1)
    for size in spatial:
        inside = like.new_ones(size, 3)
        inside[-1, 0] = inside[0, 2] = 0
        read = (read[:, None, :, None] * inside[None, :, None, :]).flatten(0, 1).flatten(1)
    return torch.cat((_members(like, spatial), read), 1)


def _moves(spatial: Sequence[int]) -> list[int]:
    """How many positions ahead each tap looks."""
    strides = [prod(spatial[axis + 1 :]) for axis in range(len(spatial))]
    offsets = product((-1, 0, 1), repeat=len(spatial))
    return [sum(o * stride for o, stride in zip(offset, strides, strict=True)) for offset in offsets]


def _ahead(x: Tensor, move: int) -> Tensor:
    """x (N, positions) without its first positions, or its last if the move is backwards."""
    positions = x.shape[1]
    left = max(0, positions - abs(move))
    return x.narrow(1, min(max(0, move), positions), left)


def _cut(taps: Tensor, spatial: Sequence[int]) -> None:
    """Zero what the moves of taps (N, taps, positions) would carry over a border into the next row."""
    dims = len(spatial)
    maps = taps.unflatten(2, spatial).unflatten(1, [3] * dims)
    for axis in range(1, dims):
        for tap, border in ((0, -1), (2, 0)):
            maps.select(1 + dims + axis, border).select(1 + axis, tap).zero_()
