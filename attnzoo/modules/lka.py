"""Large kernel attention (VAN) and large separable kernel attention."""

from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import register


@register(
    "lka",
    paper="https://arxiv.org/abs/2202.09741",
    site="mid",
    year=2023,
    golden=True,
    formula="y = x * W dwconv_7(dwconv_5(x)), the outer dilated by 3",
)
class LargeKernelAttention(nd.Gate):
    """Gate from a large depthwise kernel, made of a small one and a dilated one, and a 1x1 (Guo et al., 2023).

    As in the authors' code the gate is the convolutions' output itself, without a norm or a sigmoid. They put it
    between two 1x1 convolutions. 3D: cubic kernels.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: edge of the kernel that is decomposed.
        dilation: d of the decomposition into an edge of 2 * d - 1 and a dilated one of kernel_size // d, which must be
            odd.

    Raises:
        ValueError: `kernel_size` and `dilation` that do not fit.

    >>> sum(p.numel() for p in LargeKernelAttention(512).parameters())
    301568
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, kernel_size: int = 21, dilation: int = 3) -> None:
        super().__init__(channels, spatial_dims)
        sizes = _decompose(kernel_size, dilation)
        self.local, self.dilated = (
            _depthwise(channels, (size,) * spatial_dims, d) for size, d in zip(sizes, (1, dilation), strict=True)
        )
        self.point = nd.conv(spatial_dims)(channels, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        gate: Tensor = self.point(self.dilated(self.local(x)))
        return gate


@register(
    "lska",
    paper="https://arxiv.org/abs/2309.01439",
    site="mid",
    year=2024,
    golden=True,
    formula="y = x * W d_h(d_w(l_h(l_w(x)))), l = dwconv1d_5, d = dwconv1d_7 dilated by 3, along W and H",
)
class LargeSeparableKernelAttention(nd.Gate):
    """Large kernel attention whose kernels are one per axis, one after the other (Lau, Po & Rehman, 2024).

    As in the authors' code along W, then along H, in each of the two. 3D: in each of the two a third kernel, along T,
    after those along W and H.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        kernel_size: length of the kernel that is decomposed; the authors have 7, 11, 23, 35, 41 and 53.
        dilation: d of the decomposition into a length of 2 * d - 1 and a dilated one of kernel_size // d, which must be
            odd; None is the authors' 2 for a kernel below 23, else 3.

    Raises:
        ValueError: `kernel_size` and `dilation` that do not fit.

    >>> sum(p.numel() for p in LargeSeparableKernelAttention(512).parameters())
    276992
    """

    def __init__(
        self, channels: int, *, spatial_dims: int = 2, kernel_size: int = 23, dilation: int | None = None
    ) -> None:
        super().__init__(channels, spatial_dims)
        if dilation is None:
            dilation = 2 if kernel_size < 23 else 3
        self.local, self.dilated = (
            nn.Sequential(
                *(
                    _depthwise(channels, tuple(size if a == axis else 1 for a in range(spatial_dims)), d)
                    for axis in reversed(range(spatial_dims))
                )
            )
            for size, d in zip(_decompose(kernel_size, dilation), (1, dilation), strict=True)
        )
        self.point = nd.conv(spatial_dims)(channels, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, *spatial) of features x."""
        gate: Tensor = self.point(self.dilated(self.local(x)))
        return gate


def _decompose(kernel_size: int, dilation: int) -> tuple[int, int]:
    """Sizes of the local and of the dilated kernel."""
    if dilation < 1:
        raise ValueError(f"dilation={dilation} must be at least 1")
    size = kernel_size // dilation
    if size < 1 or size % 2 == 0:
        raise ValueError(
            f"kernel_size={kernel_size} // dilation={dilation} must be an odd number, as 7 // 2, 21 // 3 or 35 // 3"
        )
    return 2 * dilation - 1, size


def _depthwise(channels: int, size: tuple[int, ...], dilation: int) -> nn.Module:
    padding = [k // 2 * dilation for k in size]
    layer: nn.Module = nd.conv(len(size))(channels, channels, size, 1, padding, dilation, channels)
    return layer
