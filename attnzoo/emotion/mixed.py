"""Mixed precision on a CPU, around a defect of its convolutions."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class PaddedFirst(TorchFunctionMode):
    """Pads the input of a convolution beforehand where its window is larger than the input.

    oneDNN 3.13, in torch 2.15 on a CPU with bf16 instructions, otherwise gives random gradients of such weights and
    writes beyond its memory: in 3D ResNets of 16 frames from layer3 on. What is computed is the same.

    >>> import torch
    >>> features, weight = torch.ones(1, 1, 2, 7, 7), torch.ones(1, 1, 3, 3, 3)
    >>> with PaddedFirst():
    ...     padded = F.conv3d(features, weight, padding=1)
    >>> torch.equal(padded, F.conv3d(features, weight, padding=1))
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, F.conv3d):
            return _conv(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv(
    conv: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    axes = weight.ndim - 2
    dilations = [dilation] * axes if isinstance(dilation, int) else dilation
    windows = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    if not isinstance(padding, str) and any(w > n for w, n in zip(windows, input.shape[-axes:], strict=True)):
        pads = [padding] * axes if isinstance(padding, int) else padding
        input = F.pad(input, [pad for each in reversed(pads) for pad in (each, each)])
        padding = 0
    return conv(input, weight, bias, stride, padding, dilation, groups)
