"""Softmax attention: between positions, of which no weights are kept, and to all of them at once."""

from typing import Any

import torch
from torch import Tensor


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


def weighted_mean(conv: Any, x: Tensor) -> Tensor:
    """The mean of features over positions, weighted by the softmax of a 1x1 convolution to one channel.

    Args:
        conv: with a bias, which makes no difference.
        x: (N, C, *spatial).

    Returns:
        (N, C).

    >>> x, conv = torch.rand(2, 3, 5, 4), torch.nn.Conv2d(3, 1, 1)
    >>> weights = conv(x).flatten(2).softmax(2)
    >>> torch.allclose(weighted_mean(conv, x), (weights * x.flatten(2)).sum(2))
    True
    """
    out: Tensor = _WeightedMean.apply(x.flatten(2), conv.weight.flatten(), conv.bias)
    return out


class _WeightedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weights = _weights(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, weights)
        return (weights @ x.mT).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # the weights are to be differentiated too
            weights = _weights(x, weight, bias)
        by_mean = gradients[0].unsqueeze(1)  # (N, 1, C)
        by_weights = by_mean @ x
        by_logits = weights * (by_weights - (weights * by_weights).sum(2, keepdim=True))  # (N, 1, positions)
        to_channels = torch.cat((by_mean, weight.expand_as(by_mean)), 1)  # (N, 2, C)
        to_positions = torch.cat((weights, by_logits), 1)
        side_by_side = x.stride(1) == 1 and x.stride(2) != 1  # the channels of a position
        by_x = (to_positions.mT @ to_channels).mT if side_by_side else to_channels.mT @ to_positions
        return by_x, (by_logits @ x.mT).sum((0, 1)), by_logits.sum().reshape(1)


def _weights(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias.view(1, 1, 1), weight.expand(x.shape[0], 1, -1), x).softmax(2)
