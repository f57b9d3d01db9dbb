"""The convolutions that a module holds, alone: what is left of it where the rest costs nothing."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_CONVOLUTION = torch.ops.aten.convolution.default


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of each convolution that is run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _CONVOLUTION:
            self.calls.append(list(args))
        return func(*args, **kwargs or {})


class Convolutions(nn.Module):
    """The convolutions that a module runs on some features, each on an input of its own.

    Args:
        module: that holds them.
        x: features for it.

    Attributes:
        inputs: of `forward`, random, in the shapes and layouts in which the module's convolutions get theirs.

    Raises:
        ValueError: it runs none.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> alone = Convolutions(model, torch.zeros(1, 3, 9, 9))
    >>> [tuple(y.shape) for y in alone(*alone.inputs)]
    [(1, 8, 7, 7), (1, 4, 7, 7)]
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        recorder = _Recorder()
        with torch.no_grad(), recorder:
            module(x)
        if not recorder.calls:
            raise ValueError(f"{type(module).__name__} runs no convolution")
        self.inputs = [torch.randn_like(call[0]) for call in recorder.calls]
        self.weights = nn.ParameterList(nn.Parameter(call[1].detach().clone()) for call in recorder.calls)
        self.biases = [None if call[2] is None else nn.Parameter(call[2].detach().clone()) for call in recorder.calls]
        for i, bias in enumerate(self.biases):
            self.register_parameter(f"bias{i}", bias)
        self.settings = [call[3:] for call in recorder.calls]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Convolve each input by its own weights."""
        each = zip(inputs, self.weights, self.biases, self.settings, strict=True)
        return tuple(torch.convolution(x, weight, bias, *settings) for x, weight, bias, settings in each)
