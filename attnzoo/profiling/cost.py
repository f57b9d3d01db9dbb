"""What profiling reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Counter = Literal["fvcore", "macs", "thop", "torch", "all"]
COUNTERS: tuple[str, ...] = get_args(Counter)


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one module with all it holds, or of all attention together.

    Attributes:
        params: number of parameters, a shared one counted once.
        macs: multiply-accumulates.
        flops: in the convention of the whole `Cost`.
        bytes: read and written.
        kernels: operations that launch one.

    >>> from torch import nn
    >>> from attnzoo.profiling import profile
    >>> profile(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), (1, 3, 4, 4)).modules["1"].kernels
    1
    """

    params: int
    macs: int
    flops: int
    bytes: int
    kernels: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network or module costs: one forward pass in eval mode, and the memory that a training step keeps.

    A recurrent layer is taken apart into the steps of its cells: its `macs` are those of every device, but `kernels`,
    bytes and `saved` are not those of a device that has one kernel for all steps, as the CPU has for nn.LSTM.

    Attributes:
        params: number of parameters, a shared one counted once.
        trainable: how many of them require a gradient.
        macs: multiply-accumulates of convolutions, matrix products and attention.
        flops: the same pass in the convention of `counter`.
        counter: "fvcore", "macs", "thop", "torch" or "all"; `attnzoo.profiling.conventions` says what each counts.
        input_size: the sizes of the inputs, (N, C, *spatial) each.
        by_counter: the FLOPs in every convention.
        elementwise: elements that pointwise operations write, and that reductions, norms and pools read.
        bytes_read: by all kernels from their arguments, each as large as its elements are (an expanded tensor as it was
            before); caches and fusion would make it less.
        bytes_written: by all kernels; a view moves nothing.
        kernels: operations that launch one, which is all that are neither views nor bookkeeping.
        saved: bytes of activations kept for the backward pass in train mode, each storage once, without parameters and
            buffers but with the input. That is taken to need a gradient, as inside a network, unless some parameter
            is frozen. As on the CPU: other devices keep smaller masks of dropout. Gradients, the state of an optimizer
            and what a kernel takes for itself while it runs come on top. 0 where gradients are impossible, None where
            it was not measured.
        zeros: calls of each operation that `counter` counts as nothing, views left out.
        zeros_by_counter: the same for every convention.
        unknown: operations whose cost nobody has declared: custom ones, Fourier transforms, and the like. None of the
            conventions holds anything for them; `attnzoo.profiling.register_cost` declares one.
        modules: the share of each module, by its path in the state dict; "" is the whole. Wrappers do not show: what
            torch.compile or DataParallel holds has the path of the wrapper, without "_orig_mod" and "module".
        attention: the share of all attention, that of `attnzoo.attentions`.
        device: "meta", or "cpu" for a network that cannot run without values and was therefore run on a real copy.

    >>> from torch import nn
    >>> from attnzoo.profiling import profile
    >>> cost = profile(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), (1, 3, 4, 4))
    >>> cost.macs, cost.elementwise, cost.bytes_written
    (384, 128, 1024)
    """

    params: int
    trainable: int
    macs: int
    flops: int
    counter: Counter
    input_size: tuple[tuple[int, ...], ...]
    by_counter: Mapping[str, int]
    elementwise: int
    bytes_read: int
    bytes_written: int
    kernels: int
    saved: int | None
    zeros: Mapping[str, int]
    zeros_by_counter: Mapping[str, Mapping[str, int]] = field(repr=False)
    unknown: tuple[str, ...]
    modules: Mapping[str, Part] = field(repr=False)
    attention: Part
    device: str
