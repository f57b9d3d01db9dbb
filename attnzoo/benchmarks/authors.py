"""Modules as their authors wrote them down: permuted copies, groups folded into the batch, broadcasts spelt out.

Each takes the weights of our module, whose fast form it is held against. MPE's authors released no code: it is written
as its paper's equations read.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The pooled axis first, then those that the kernel sees.
TRIPLET: dict[int, dict[str, tuple[int, ...]]] = {
    2: {"cw": (2, 1, 3), "hc": (3, 2, 1), "hw": (1, 2, 3)},
    3: {"chw": (2, 1, 3, 4), "ctw": (3, 1, 2, 4), "cth": (4, 1, 2, 3), "thw": (1, 2, 3, 4)},
}
_POOL: dict[int, Callable[..., Tensor]] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class AsWritten(nn.Module):
    """The authors' formulation of one of our modules, with its weights.

    Args:
        name: one of FORMULATIONS.
        ours: the module, with its default options.

    >>> from attnzoo import create
    >>> ours, x = create("simam", 8), torch.randn(2, 8, 5, 7)
    >>> torch.testing.assert_close(AsWritten("simam", ours)(x), ours(x))
    """

    def __init__(self, name: str, ours: nn.Module) -> None:
        super().__init__()
        self.ours = ours
        self.formulation = FORMULATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        return self.formulation(self.ours, x)


def _pooled(x: Tensor, axis: int | None) -> Tensor:
    """Adaptive mean over all spatial axes but one, which comes first; over all if there is none."""
    dims = x.ndim - 2
    mean = _POOL[dims](x, tuple(None if a == axis else 1 for a in range(dims)))
    if axis is None:
        return mean
    return mean.permute(0, 1, axis + 2, *(a + 2 for a in range(dims) if a != axis))


def _strips(x: Tensor, mix: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Mixed means along each axis, each broadcastable to x."""
    sizes = list(x.shape[2:])
    parts = mix(torch.cat([_pooled(x, axis) for axis in range(len(sizes))], 2)).split(sizes, 2)
    return [part.transpose(2, axis + 2) for axis, part in enumerate(parts)]


def _triplet(ours: Any, x: Tensor) -> Tensor:
    products = []
    for name, order in TRIPLET[x.ndim - 2].items():
        branch = getattr(ours, name)
        moved = x.permute(0, *order).contiguous()
        pools = torch.cat((moved.max(1)[0].unsqueeze(1), moved.mean(1).unsqueeze(1)), 1)
        product = moved * branch.bn(branch.conv(pools)).sigmoid()
        back = [(0, *order).index(axis) for axis in range(x.ndim)]
        products.append(product.permute(back).contiguous())
    total: Tensor = sum(products[1:], products[0])
    return total * (1 / len(products))


def _sa(ours: Any, x: Tensor) -> Tensor:
    n, c, *spatial = x.shape
    by_channel, by_space = x.reshape(n * ours.groups, -1, *spatial).chunk(2, 1)
    by_channel = by_channel * (ours.cweight * _pooled(by_channel, None) + ours.cbias).sigmoid()
    by_space = by_space * (ours.sweight * ours.gn(by_space) + ours.sbias).sigmoid()
    both = torch.cat((by_channel, by_space), 1).reshape(n, 2, c // 2, *spatial)
    return both.transpose(1, 2).reshape(x.shape)


def _ca(ours: Any, x: Tensor) -> Tensor:
    def squeeze(strip: Tensor) -> Tensor:
        z: Tensor = ours.bn1(ours.conv1(strip))
        return z * (F.relu6(z + 3) / 6)

    y = x
    names = ("conv_h", "conv_w") if x.ndim == 4 else ("conv_t", "conv_h", "conv_w")
    for name, strip in reversed(list(zip(names, _strips(x, squeeze), strict=True))):
        y = y * getattr(ours, name)(strip).sigmoid()
    return y


def _simam(ours: Any, x: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    n = x[0, 0].numel() - 1
    squared = (x - x.mean(axes, keepdim=True)).pow(2)
    energy = squared / (4 * (squared.sum(axes, keepdim=True) / n + ours.regularisation)) + 0.5
    gated: Tensor = x * energy.sigmoid()
    return gated


def _cross_spatial(x1: Tensor, x2: Tensor) -> Tensor:
    """W (N, 1, *spatial): each map weighed by the softmax of the other's means."""
    of_x1, of_x2 = (F.softmax(_pooled(m, None).reshape(*m.shape[:2], 1).permute(0, 2, 1), -1) for m in (x1, x2))
    flat1, flat2 = (m.reshape(*m.shape[:2], -1) for m in (x1, x2))
    w = torch.matmul(of_x1, flat2) + torch.matmul(of_x2, flat1)
    return w.reshape(x1.shape[0], 1, *x1.shape[2:])


def _gated_by_strips(ours: Any, grouped: Tensor) -> Tensor:
    gated = grouped
    for strip in _strips(grouped, ours.strip):
        gated = gated * strip.sigmoid()
    return gated


def _ema(ours: Any, x: Tensor) -> Tensor:
    grouped = x.reshape(x.shape[0] * ours.groups, -1, *x.shape[2:])
    w = _cross_spatial(ours.norm(_gated_by_strips(ours, grouped)), ours.local(grouped))
    return (grouped * w.sigmoid()).reshape(x.shape)


def _mpe(ours: Any, x: Tensor) -> Tensor:
    grouped = x.reshape(x.shape[0] * ours.groups, -1, *x.shape[2:])
    x1 = ours.norm(_gated_by_strips(ours, grouped))
    features = [branch(grouped) for branch in ours.branches]
    weights = F.softmax(ours.branch_gate(_pooled(grouped, None)), 1).chunk(len(features), 1)
    weighted: Tensor = sum((w * f for w, f in zip(weights[1:], features[1:], strict=True)), weights[0] * features[0])
    w = _cross_spatial(x1, ours.concat(torch.cat(features, 1)) + weighted)
    return (grouped * w.sigmoid() + grouped).reshape(x.shape)


FORMULATIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "ca": _ca,
    "ema": _ema,
    "mpe": _mpe,
    "sa": _sa,
    "simam": _simam,
    "triplet": _triplet,
}
