from torch import Tensor, nn

from attnzoo import nd, register


@register("mine", paper="https://example.org/mine", year=2026, site="out")
class Mine(nd.Gate):
    """Channel gate from a linear map of the pooled features."""

    def __init__(self, channels: int, *, spatial_dims: int = 2, bias: bool = True) -> None:
        super().__init__(channels, spatial_dims)
        self.fc = nn.Linear(channels, channels, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        return nd.expand(self.fc(x.mean(nd.axes(x))).sigmoid(), x)
