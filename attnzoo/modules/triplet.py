"""Triplet attention."""

from torch import Tensor

from attnzoo import fast, nd
from attnzoo.registry import register

# For each branch the axes that its kernel sees, in the authors' order; the axis that is missing is pooled away.
PLANES: dict[int, dict[str, tuple[int, ...]]] = {
    2: {"cw": (1, 3), "hc": (2, 1), "hw": (2, 3)},
    3: {"chw": (1, 3, 4), "ctw": (1, 2, 4), "cth": (1, 2, 3), "thw": (2, 3, 4)},
}


@register(
    "triplet",
    paper="https://arxiv.org/abs/2010.03045",
    site="out",
    year=2021,
    golden=True,
    formula="y = x * (g_cw + g_hc + g_hw) / 3; g = sigmoid(norm(conv_7([max, mean]))) over the axis left out",
)
class TripletAttention(nd.SpreadGate):
    """Gates between each pair of the axes C, H and W, averaged (Misra et al., 2021).

    The authors multiply x by each gate and average the products; one product with the averaged gate is the same.
    3D: four branches, each pooling one of C, T, H, W away and convolving the other three, averaged.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: odd edge of the kernels.
        spatial: whether there is the branch that pools C away.

    Raises:
        ValueError: an even `kernel_size`.

    >>> sum(p.numel() for p in TripletAttention(512).parameters())
    300
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__(channels, spatial_dims)
        self.planes = {plane: order for plane, order in PLANES[spatial_dims].items() if spatial or 1 in order}
        for plane in self.planes:
            self.add_module(plane, nd.PooledGate(kernel_size, spatial_dims))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each plane's gate of features x (N, C, *spatial), of size 1 along the axis pooled away."""
        pooled = [(set(range(1, x.ndim)) - set(order)).pop() for order in self.planes.values()]
        pools = fast.max_and_mean(x, *pooled)
        return tuple(
            self.get_submodule(plane)(*pool, axis, order)
            for (plane, order), pool, axis in zip(self.planes.items(), pools, pooled, strict=True)
        )

    def spread(self, x: Tensor, *maps: Tensor) -> Tensor:
        """The average of the gates, (N, C, *spatial)."""
        total = maps[0] + maps[1]  # as large as the features: each of the two spans the axis that the other pools
        for gate in maps[2:]:
            total += gate
        return total.div_(len(maps))

    def derivative(self, by_gate: Tensor, gate: Tensor, x: Tensor, *maps: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative of `spread`."""
        share = by_gate.div_(len(maps))
        return None, *(share for _ in maps)
