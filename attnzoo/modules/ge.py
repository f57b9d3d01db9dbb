"""Gather-excite."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register


@register(
    "ge",
    paper="https://arxiv.org/abs/1810.12348",
    site="out",
    year=2018,
    golden=True,
    checked="third parties' ports and timm's layer",
    formula="y = x * sigmoid(mean(x)), or of the means around each position",
)
class GatherExcite(nd.Gate):
    """Channel gates from what is gathered around each position, or from the whole map (Hu et al., 2018).

    The defaults are the paper's GE-theta-minus, without parameters; GE-theta has learned=True, GE-theta-plus mlp=True
    as well. Gathered maps are enlarged by repetition. 3D: extents along T, H and W.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        extent: one position gathers `extent` in each direction: a power of two, or 0 for the whole map.
        learned: whether depthwise convolutions gather, log2(extent) of stride 2 or one as large as the map; else means.
        size: of the map, one number or one per axis; needed where learned convolutions gather the whole of it.
        mlp: whether a bottleneck of two 1x1 convolutions follows.
        reduction: the bottleneck has C // reduction channels, at least 1.
        bias: whether the convolutions have biases.

    Raises:
        ValueError: an `extent` that is no power of two, `size` missing or needless, a `reduction` that is not positive;
            in `forward`, a map of another size than `size`.

    >>> sum(p.numel() for p in GatherExcite(512, learned=True, size=7, bias=True).parameters())
    26624
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        extent: int = 0,
        learned: bool = False,
        size: int | Sequence[int] | None = None,
        mlp: bool = False,
        reduction: int = 16,
        bias: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims)
        if extent < 0 or extent == 1 or extent & (extent - 1):
            raise ValueError(f"extent={extent} must be a power of two, such as 2, 4 or 8, or 0 for the whole map")
        if (size is not None) != (learned and not extent):
            told = "is of no use" if size is not None else "must be told"
            raise ValueError(f"size={size} {told}: it is that of the map for learned=True with extent=0, and no other")
        self.extent = extent
        self.size = None if size is None else nd.per_axis(size, spatial_dims, "size")
        conv, norm = nd.conv(spatial_dims), nd.batch_norm(spatial_dims)
        self.gather: nn.Module | None = None
        if learned:
            layers: list[nn.Module] = []
            for _ in range(extent.bit_length() - 1 if extent else 1):
                shape = {"kernel_size": 3, "stride": 2, "padding": 1} if extent else {"kernel_size": self.size}
                layers += [conv(channels, channels, **shape, groups=channels, bias=bias), norm(channels), nn.ReLU()]
            self.gather = nn.Sequential(*layers[:-1])
        hidden = nd.squeeze(channels, reduction)
        self.mlp: nn.Module | None = None
        if mlp:
            self.mlp = nn.Sequential(
                conv(channels, hidden, 1, bias=bias), nn.ReLU(), conv(hidden, channels, 1, bias=bias)
            )

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x, or (N, C, 1, ...) of the whole map."""
        gathered = self._gather(x)
        gate: Tensor = (gathered if self.mlp is None else self.mlp(gathered)).sigmoid()
        return F.interpolate(gate, x.shape[2:]) if self.extent else gate

    def _gather(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[2:] != self.size:
            raise ValueError(
                f"GatherExcite was made with size={self.size} and got a map of {tuple(x.shape[2:])}; "
                f"an extent, or learned=False, takes any map"
            )
        if self.gather is not None:
            gathered: Tensor = self.gather(x)
            return gathered
        if not self.extent:
            return nd.expand(fast.mean(x, nd.axes(x)), x)
        e = self.extent
        if self.spatial_dims == 2:
            return _means(x, [e, e])
        # torch's pool of volumes takes neither one frame nor bfloat16.
        frames = _means(x.flatten(1, 2), [e, e]).unflatten(1, x.shape[1:3])
        around: Tensor = _means(frames.flatten(3), [e, 1]).unflatten(3, frames.shape[3:])
        return around


def _means(x: Tensor, extents: list[int]) -> Tensor:
    """Means over windows of 2 * extent - 1 about every `extent`-th position; what lies outside does not count."""
    return F.avg_pool2d(x, [2 * e - 1 for e in extents], extents, [e - 1 for e in extents], count_include_pad=False)
