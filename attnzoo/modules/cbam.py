"""Convolutional block attention module."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from attnzoo import fast, nd
from attnzoo.registry import register

# Pools (N, C, *spatial) -> (N, C) besides the maximum, with which the mean comes too.
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: fast.mean(x, nd.axes(x)),
    # Of a channel that a ReLU left at zero the gradient is 0 here and NaN in the root of a sum of squares.
    "lp": lambda x: torch.linalg.vector_norm(x, dim=nd.axes(x)),
    "lse": lambda x: x.logsumexp(nd.axes(x)),
}


@register(
    "cbam",
    paper="https://arxiv.org/abs/1807.06521",
    site="out",
    year=2018,
    golden=True,
    formula="z = x * sigmoid(MLP(mean(x)) + MLP(max(x))); y = z * sigmoid(norm(conv_7([max_c(z), mean_c(z)])))",
)
class ConvolutionalBlockAttention(nd.Attention):
    """Channel gate from mean and max pooling, then a spatial gate from channel-wise max and mean (Woo et al., 2018).

    As in the authors' code: max before mean in the spatial gate, a batch norm after its convolution (absent from the
    paper's figure), momentum 0.01. 3D: pools over T, H and W, and a cubic kernel. timm's version has bias=False,
    divisor=1, mean_first=True, momentum=0.1.

    Args:
        channels: C of the (N, C, *spatial) input; the output has the same shape.
        spatial_dims: 2 or 3.
        reduction: the shared MLP has C // reduction hidden units, at least 1.
        kernel_size: odd edge of the spatial gate's kernel.
        bias: whether the MLP has biases.
        divisor: None rounds C / reduction down; a number gives the nearest multiple of it, as in timm.
        pools: of the channel gate, whose logits are added: "avg", "max", "lp" (the L2 norm), "lse" (log-sum-exp).
        spatial: whether there is a spatial gate.
        mean_first: whether the mean comes before the maximum in the spatial gate.
        momentum: of the spatial gate's batch norm.

    Raises:
        ValueError: an even `kernel_size`, no or unknown `pools`.

    >>> sum(p.numel() for p in ConvolutionalBlockAttention(512).parameters())
    33412
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int = 2,
        reduction: int = 16,
        kernel_size: int = 7,
        bias: bool = True,
        divisor: int | None = None,
        pools: Sequence[Literal["avg", "max", "lp", "lse"]] = ("avg", "max"),
        spatial: bool = True,
        mean_first: bool = False,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(channels, spatial_dims)
        self.pools = (pools,) if isinstance(pools, str) else tuple(pools)
        if not self.pools or not set(self.pools) <= {"max", *OTHERS}:
            raise ValueError(f"pools={pools!r} must hold one or more of avg, max, lp, lse")
        hidden = nd.squeeze(channels, reduction, divisor=divisor)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
        )
        self.spatial: nn.Module | None = None
        if spatial:
            self.spatial = nd.PooledGate(kernel_size, spatial_dims, mean_first=mean_first, momentum=momentum)

    def channel_gate(self, x: Tensor) -> Tensor:
        """Gate (N, C, 1, ...) of features x (N, C, *spatial); the pools share one MLP."""
        pooled = {}
        if "max" in self.pools:
            ((pooled["max"], pooled["avg"]),) = fast.max_and_mean(x.flatten(2), 2)
        logits = [self.mlp(pooled[pool] if pool in pooled else OTHERS[pool](x)) for pool in self.pools]
        return nd.expand(sum(logits[1:], logits[0]).sigmoid(), x)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features x (N, C, *spatial)."""
        self.check(x)
        channel_gate = self.channel_gate(x)
        scaled = fast.scale(x, channel_gate)
        if self.spatial is None:
            return scaled
        ((maximum, mean),) = fast.max_and_mean(scaled, 1)
        spatial_gate: Tensor = self.spatial(maximum, mean, axis=1)
        if not torch.is_grad_enabled() and fast.eager(x):
            return scaled.mul_(spatial_gate)  # no new memory, whose pages cost as much as the product
        if fast.compiled(x):
            return scaled * spatial_gate  # which makes `scaled` anew in the backward pass
        # Of x, which is kept for the backward pass anyway, and not of `scaled`, which then is not.
        return fast.product(_both, _both_derivative, x, channel_gate, spatial_gate)


def _both(x: Tensor, channel_gate: Tensor, spatial_gate: Tensor) -> Tensor:
    return channel_gate * spatial_gate


def _both_derivative(
    by_gate: Tensor, gate: Tensor, x: Tensor, channel_gate: Tensor, spatial_gate: Tensor
) -> tuple[Tensor | None, ...]:
    return None, by_gate * spatial_gate, by_gate * channel_gate
