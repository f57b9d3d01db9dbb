"""How long a forward pass takes on this machine."""

import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from attnzoo.profiling.inputs import Size, sizes_of

PASSES = 5  # that are timed, after one to warm up
SECONDS = 2.0  # after which no further pass begins: a table has ninety networks


def time_forward(model: nn.Module, input_size: Size, passes: int = PASSES, seconds: float = SECONDS) -> float:
    """Median time of a forward pass in eval mode on the CPU of this machine, s, after one to warm up.

    Args:
        model: a real one, not on the meta device.
        input_size: (N, C, *spatial), or one such size for each input.
        passes: that are timed at most.
        seconds: after which no further one begins; one is always timed.

    Raises:
        ValueError: an input size that is none.

    >>> time_forward(nn.Conv2d(3, 8, 1), (1, 3, 8, 8)) > 0
    True
    """
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=random) for size in sizes_of(input_size)]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    times: list[float] = []
    try:
        with torch.inference_mode():
            while len(times) < 2 or (len(times) <= passes and sum(times) < seconds):
                start = time.perf_counter()
                model(*inputs)
                times.append(time.perf_counter() - start)
    finally:
        for module, training in modes:
            module.training = training
    return statistics.median(times[1:])


def machine() -> str:
    """What the latency was measured on.

    >>> "torch" in machine()
    True
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
