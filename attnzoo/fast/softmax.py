"""Softmax attention between positions, of which no weights are kept."""

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
