"""A copy of a network to run in its place, on the meta device, which is made as quick and as truthful as a real one."""

import contextlib
import copy
import functools
import gc
import inspect
import random
import sys
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnzoo.profiling.conventions import kind
from attnzoo.profiling.inputs import reason


def plain(model: Any) -> nn.Module:
    """The network inside what torch.compile or DataParallel wrapped around it, or whose forward was compiled alone.

    Args:
        model: any network, or its forward.

    Raises:
        ValueError: neither.

    >>> plain(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while True:
        inside = getattr(model, "_orig_mod", None)
        if inside is None:
            inside = _compiled(model)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = model.module
        elif isinstance(model, MethodType) and model.__func__ is getattr(type(model.__self__), "forward", None):
            inside = model.__self__
        if inside is None:
            break
        model = inside
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r} must be an nn.Module; wrap a function in one whose forward calls it")
    return model


def _compiled(function: Any) -> MethodType | None:
    """The method that torch.compile made a function of, None if that is not what it is."""
    if not hasattr(function, "_torchdynamo_orig_callable"):
        return None
    inside = inspect.unwrap(function, stop=inspect.ismethod)
    return inside if isinstance(inside, MethodType) else None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Random numbers and torch's switches as they were, whatever a forward does to them.

    >>> before = torch.get_rng_state()
    >>> with undisturbed():
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    # The fused fast path of nn.MultiheadAttention would hide its matrix products from the dispatcher.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with uncollected(), torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No collection of garbage: among the small objects of a network and of a pass it takes a quarter of the time.

    >>> with uncollected():
    ...     gc.isenabled()
    False
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Uncopyable(ValueError):
    """A network that cannot be copied."""


def twin(model: nn.Module, device: str) -> nn.Module:
    """A copy on another device, with nothing compiled; on "meta" its tensors have shapes but no memory.

    Args:
        model: any network; what is on the meta device already becomes zeros elsewhere.
        device: "meta" or "cpu".

    Raises:
        Uncopyable: it holds something that has no copy, such as a lock.

    >>> twin(nn.Linear(2, 3), "meta").weight.device
    device(type='meta')
    """

    def copied(t: Tensor) -> Tensor:
        if t.is_meta and device == "meta":  # zeros_like is worked out in Python there
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)
        return torch.zeros_like(t, device=device) if t.is_meta else t.detach().to(device, copy=True)

    memo: dict[int, Any] = {}
    with torch.no_grad():
        for module in model.modules():
            for held in (vars(module), module._buffers):
                memo.update({id(t): copied(t) for t in held.values() if isinstance(t, Tensor)})
        for p in model.parameters():
            memo[id(p)] = nn.Parameter(copied(p), requires_grad=p.requires_grad)
    for module in model.modules():
        leaf = _leaf(module, memo)
        if leaf is not None:
            memo[id(module)] = leaf
    try:
        made = copy.deepcopy(model, memo)
    except Exception as error:
        raise Uncopyable(f"this {type(model).__name__} cannot be copied, as profiling must: {reason(error)}") from error
    for parent in list(made.modules()):
        compiled = _compiled(vars(parent).get("forward"))
        if compiled is not None:
            vars(parent)["forward"] = copy.deepcopy(compiled, memo)  # bound to the copy
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = plain(child)
    return made


_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


def _leaf(module: nn.Module, memo: dict[int, Any]) -> nn.Module | None:
    """A copy of a layer of torch's own that holds plain values and copied tensors alone, as nearly all layers do.

    What `copy.deepcopy` makes of it, in a tenth of the time; None for any other module, which is left to that.
    """
    if not type(module).__module__.startswith("torch.nn.modules.") or module._modules:
        return None
    held: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers"):
            held[name] = {key: None if t is None else memo[id(t)] for key, t in value.items()}
        elif isinstance(value, dict | set | list) and not value:
            held[name] = type(value)()
        elif isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value)):
            held[name] = value
        else:
            return None
    made = type(module).__new__(type(module))
    vars(made).update(held)
    return made


class Remembering(TorchDispatchMode):
    """On the meta device, what an operation makes of the same shapes is the same: networks repeat their blocks.

    torch works it out anew each time, in Python.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return self.run(func, args, kwargs, call(func, args, kwargs))

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Any) -> Any:
        """The result of an operation, from memory if there was one of the same key.

        Args:
            func: an overload.
            args: of the call.
            kwargs: of the call.
            key: `call` of the three; with None nothing is remembered.
        """
        changes = isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable
        if key is None or (changes and kind(func) != "pointwise") or "out" in kwargs:
            return func(*args, **kwargs)
        if key not in self._made:
            out = func(*args, **kwargs)
            self._made[key] = look(out)
            return out
        return args[0] if changes else _like(self._made[key])


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What tells a call of an operation from others, but for the elements of tensors; None if those may matter.

    Args:
        func: an overload.
        args: of the call.
        kwargs: of the call.

    >>> relu = torch.ops.aten.relu.default
    >>> call(relu, (torch.zeros(2),), {}) == call(relu, (torch.ones(2),), {})
    True
    """
    if kind(func) in ("view", "declared", "unknown"):
        return None
    return func, look(args), look(tuple(kwargs.items()))


def look(value: Any) -> Any:
    """What tells a value from others, but for the elements of tensors.

    Args:
        value: an argument or a result of an operation.

    >>> look(torch.zeros(2)) == look(torch.ones(2))
    True
    """
    if isinstance(value, Tensor):
        return Tensor, value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple, *map(look, value)
    return type(value), value


def _like(look: Any) -> Any:
    """A value of that look."""
    kind, *rest = look
    if kind is Tensor:
        size, stride, dtype, device = rest
        return torch.empty_strided(size, stride, dtype=dtype, device=device)
    return tuple(map(_like, rest)) if kind is tuple else rest[0]


@functools.cache
def opened(func: FunctionType, training: bool) -> FunctionType:
    """A function of torch.nn.functional that hands over to no mode, so that a mode can see the functions it calls.

    Args:
        func: a function written there in Python.
        training: whether batch norm takes a single value per channel; it is asked for the memory of one example,
            where training has more.

    >>> opened(F.relu, False)(torch.tensor([-1.0, 1.0]))
    tensor([0., 1.])
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    replaced: dict[str, Any] = dict.fromkeys(names, lambda *_: False)
    if training:
        replaced["_verify_batch_size"] = lambda _: None
    inside = FunctionType(
        func.__code__, {**func.__globals__, **replaced}, func.__name__, func.__defaults__, func.__closure__
    )
    inside.__kwdefaults__ = func.__kwdefaults__
    return inside


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled-dot-product attention, on the meta device by the kernel that the CPU has for it, where it fits.

    Args:
        query: (N, heads, L, E) or (N, L, E).
        key: (N, heads, S, E), likewise.
        value: (N, heads, S, Ev), likewise.
        attn_mask: as in `F.scaled_dot_product_attention`, like what follows.
        dropout_p: share of the weights to drop.
        is_causal: whether a token sees those before it alone.
        scale: of the products; 1 / sqrt(E) if None.
        enable_gqa: whether heads share keys and values.

    >>> fused_attention(*torch.empty(3, 1, 2, 5, 8, device="meta")).shape
    torch.Size([1, 2, 5, 8])
    """
    if query.is_meta and query.ndim == 3 and attn_mask is None:
        q, k, v = (t.unsqueeze(1) for t in (query, key, value))
        return fused_attention(q, k, v, None, dropout_p, is_causal, scale, enable_gqa).squeeze(1)
    fits = query.is_meta and query.ndim == 4 and query.shape[-1] == value.shape[-1]
    if enable_gqa:
        fits = fits and query.shape[1] % key.shape[1] == 0 and key.shape[1] == value.shape[1]
    else:
        fits = fits and query.shape[:2] == key.shape[:2] == value.shape[:2]
    # With dropout the weights themselves are kept, in no fused kernel.
    if fits and not dropout_p and (attn_mask is None or not attn_mask.requires_grad):
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = fused(query, key, value, is_causal=is_causal, attn_mask=attn_mask, scale=scale)[0]
        return out
    options = {"scale": scale, "enable_gqa": enable_gqa}
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)  # type: ignore[arg-type]
