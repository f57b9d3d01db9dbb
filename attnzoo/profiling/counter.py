"""One pass over the dispatcher, on a copy without memory: exact for functional, shared, subclassed, hooked and 3D code.

Counters differ in what they count, so the conventions are data:

* macs: multiply-accumulates of convolutions, matrix products and scaled-dot-product attention;
* torch: twice that, as `torch.utils.flop_counter` reports it;
* fvcore: the macs without scaled-dot-product attention, plus fvcore's charges for norms, adaptive pooling and resizing.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Counter = Literal["fvcore", "macs", "torch"]
COUNTERS: tuple[str, ...] = get_args(Counter)

# What fvcore charges per element of the input (or, for resizing, of the output), for a network in eval mode.
FVCORE_PER_INPUT = {
    "native_batch_norm": 2,
    "_native_batch_norm_legit_no_training": 2,
    "cudnn_batch_norm": 2,
    "native_group_norm": 5,
    "native_layer_norm": 5,
}
FVCORE_PER_OUTPUT = {"upsample_nearest2d": 1, "upsample_bilinear2d": 4}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network or module costs.

    Attributes:
        params: number of parameters.
        trainable: how many of them require a gradient.
        macs: multiply-accumulates of one forward pass (convolutions, matrix products, attention).
        flops: the same pass in the convention of `counter`.
        counter: "fvcore", "macs" or "torch".
        input_size: the sizes of the inputs, (N, C, *spatial) each.
    """

    params: int
    trainable: int
    macs: int
    flops: int
    counter: Counter
    input_size: tuple[tuple[int, ...], ...]


def profile(
    model: nn.Module,
    input_size: Sequence[int] | Sequence[Sequence[int]] = (1, 3, 224, 224),
    *,
    counter: Counter = "fvcore",
) -> Cost:
    """Parameters and FLOPs of a network or a module, in eval mode; the model itself is not touched.

    Args:
        model: any module.
        input_size: (N, C, *spatial), or one such size for each input.
        counter: the convention of `Cost.flops`.

    Raises:
        ValueError: an unknown counter, or an input size that the model cannot take.

    >>> profile(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 10)).macs == 3 * 8 * 3 * 3 * 10 * 10
    True
    """
    if counter not in COUNTERS:
        raise ValueError(f"counter {counter!r} must be one of {', '.join(COUNTERS)}")
    several = [tuple(one) for one in input_size if isinstance(one, Sequence)]
    size = tuple(several) if several else (tuple(int(n) for n in cast(Sequence[int], input_size)),)
    parameters = list(model.parameters())
    tally = _Tally()
    # The fused fast path of nn.MultiheadAttention would hide its matrix products from the dispatcher.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        ghost = _meta_copy(model).eval()
        with torch.no_grad(), _Pools(tally), tally:
            ghost(*(torch.empty(one, device="meta") for one in size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"input size {', '.join(map(str, size))} cannot go through this {type(model).__name__}: {reason}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    flops = {"macs": tally.macs, "torch": 2 * tally.macs, "fvcore": tally.fvcore}[counter]
    return Cost(
        params=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=tally.macs,
        flops=flops,
        counter=counter,
        input_size=size,
    )


def _meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no memory."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    for b in model.buffers():
        memo[id(b)] = b.detach().to("meta")
    return copy.deepcopy(model, memo).to("meta")


class _Tally(TorchDispatchMode):
    """Counts every operation that reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry

        self._formulas: dict[Any, Callable[..., int]] = flop_registry
        self.macs = 0
        self.fvcore = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        op, name = func.overloadpacket, func.overloadpacket.__name__
        if op in self._formulas:
            macs = self._formulas[op](*args, **kwargs, out_val=out) // 2
            self.macs += macs
            if "scaled_dot_product" not in name:
                self.fvcore += macs
        elif name in FVCORE_PER_INPUT:
            self.fvcore += FVCORE_PER_INPUT[name] * args[0].numel()
        elif name in FVCORE_PER_OUTPUT:
            self.fvcore += FVCORE_PER_OUTPUT[name] * out.numel()
        return out


class _Pools(TorchFunctionMode):
    """Sees adaptive_avg_pool2d, which fvcore charges, before the dispatcher turns it into a mean, which it does not."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self.tally = tally

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch._C._nn.adaptive_avg_pool2d, F.adaptive_avg_pool2d):
            x: Tensor = args[0]
            self.tally.fvcore += math.prod(x.shape)
        return func(*args, **kwargs or {})
