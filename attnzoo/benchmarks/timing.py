"""Time taken in turns, and the memory that autograd keeps for the backward pass."""

import ctypes
import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
LEAST = 3  # rounds, however long they take


@dataclass(frozen=True, slots=True)
class Effort:
    """How long something is timed.

    Attributes:
        rounds: in each of which everything that is compared has its turn.
        sample: the least time of one turn, s; what is faster is repeated within it.
        budget: after how many seconds no round beyond the third begins.
    """

    rounds: int = 9
    sample: float = 0.02
    budget: float = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the rounds, of one repetition, ms.

    Attributes:
        wall: by the clock.
        cpu: of all threads of this process.
        thread: of the thread that calls.
        rounds: how many there were.
        repeats: repetitions in each.
    """

    wall: float
    cpu: float
    thread: float
    rounds: int
    repeats: int


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, as other allocators do, and say whether it now does.

    By itself glibc hands large tensors back to the system, whose pages then take longer to fetch anew than a product
    takes; it falls on whoever comes first in a round: identical calls were seen to differ by 2.5 times.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never_mapped, never_trimmed = mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(never_mapped and never_trimmed)


def alternate(
    calls: Mapping[str, Callable[[], object]],
    effort: Effort = Effort(),
    once: Container[str] = (),
) -> dict[str, Timing]:
    """Time several calls in turns, so that what else the machine does falls on all of them alike.

    Args:
        calls: what is compared; each should have been called before, to warm up.
        effort: how long.
        once: what is known to take longer than a sample, and is not called to find that out.

    >>> sorted(alternate({"sleep": lambda: time.sleep(0.001), "nothing": lambda: None}, Effort(3, 0.001)))
    ['nothing', 'sleep']
    """
    repeats = {name: 1 if name in once else _repeats(call, effort.sample) for name, call in calls.items()}
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
    start, names = time.perf_counter(), list(calls)
    with _no_gc():
        for i in range(effort.rounds):
            if i >= LEAST and time.perf_counter() - start > effort.budget:
                break
            first = i % len(names)
            turns = names[first:] + names[:first]
            for name in turns[:: -1 if i % 2 else 1]:  # nobody always comes after the same one: it makes up to 8 %
                samples[name].append(_clocked(calls[name], repeats[name]))
    timings = {}
    for name, taken in samples.items():
        wall, cpu, thread = (1e3 * statistics.median(clock) for clock in zip(*taken, strict=True))
        timings[name] = Timing(wall, cpu, thread, len(taken), repeats[name])
    return timings


def _repeats(call: Callable[[], object], sample: float) -> int:
    fastest = math.inf
    for _ in range(5):  # a hiccup of the machine must not pass for the call's own time
        fastest = min(fastest, max(_clocked(call, 1)[0], 1e-6))
        if fastest > sample:
            break
    return max(1, math.ceil(sample / fastest))


def _clocked(call: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Seconds of one repetition: wall, process CPU, thread CPU."""
    before = time.perf_counter(), time.process_time(), time.thread_time()
    for _ in range(repeats):
        call()
    after = time.perf_counter(), time.process_time(), time.thread_time()
    wall, cpu, thread = ((b - a) / repeats for a, b in zip(before, after, strict=True))
    return wall, cpu, thread


@contextmanager
def _no_gc() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, beyond the inputs and the module's own tensors.

    Args:
        module: any.
        *inputs: of a forward pass; they need gradients where the training gives them some.

    >>> x = torch.zeros(2, 8, requires_grad=True)
    >>> saved_bytes(nn.Sequential(nn.Tanh(), nn.Linear(8, 3)), x)  # the linear layer's input
    64
    """
    own = {t.untyped_storage().data_ptr() for t in (*inputs, *module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()  # a storage counts once, however many views of it are kept
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = module(*inputs)
    del outputs  # only now: what was freed earlier could be counted under the address of something else
    return sum(size for address, size in kept.items() if address not in own)
