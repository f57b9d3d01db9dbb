"""One pass over the dispatcher, on a copy without memory: exact for functional, shared, subclassed, hooked and 3D code.

What each operation costs stands in `attnzoo.profiling.conventions`.
"""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from attnzoo.inject import Attached, attentions
from attnzoo.profiling.conventions import THOP, composite, cost_of, kind, tensors
from attnzoo.profiling.cost import COUNTERS, Cost, Counter, Part
from attnzoo.profiling.inputs import Size, Sizes, reason, sizes_of
from attnzoo.profiling.twin import Remembering, Uncopyable, call, fused_attention, opened, plain, twin, undisturbed


def profile(
    model: nn.Module,
    input_size: Size = (1, 3, 224, 224),
    *,
    counter: Counter = "fvcore",
    memory: bool = True,
) -> Cost:
    """Parameters, FLOPs, memory traffic and training memory of a network or a module; the model is not touched.

    It runs without memory or computation, on a copy on the meta device; only a network that needs the values of its
    tensors runs on a real copy, on the CPU. Of a compiled or wrapped (DataParallel) network the plain one is counted.
    Hooks run on the copy: once in eval mode, and once in train mode for the memory.

    Args:
        model: any module.
        input_size: (N, C, *spatial), or one such size for each input.
        counter: the convention of `Cost.flops`.
        memory: whether to measure `Cost.saved`, which takes a pass of its own, in train mode.

    Raises:
        ValueError: an unknown counter, an input size that the model cannot take, no model, or one that cannot be copied
            (the line says which).

    >>> profile(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 10)).macs == 3 * 8 * 3 * 3 * 10 * 10
    True
    """
    if counter not in COUNTERS:
        raise ValueError(f"counter {counter!r} must be one of {', '.join(COUNTERS)}")
    size, model = sizes_of(input_size), plain(model)
    with undisturbed():
        try:
            device, (tally, saved) = "meta", _measure(model, size, counter, memory, "meta")
        except Uncopyable:
            raise
        except Exception:
            # Most likely the size; but a network may need values, and each says so in its own way. So it is tried.
            try:
                device, (tally, saved) = "cpu", _measure(model, size, counter, memory, "cpu")
            except Exception as error:
                with contextlib.suppress(Exception):  # indices, as an embedding takes
                    device, (tally, saved) = "meta", _measure(model, size, counter, memory, "meta", torch.long)
                    return _cost(model, tally, saved, counter, size, device)
                raise ValueError(
                    f"input size {', '.join(map(str, size))} cannot go through this {type(model).__name__}: "
                    f"{reason(error)}"
                ) from error
    return _cost(model, tally, saved, counter, size, device)


def _cost(model: nn.Module, tally: "_Tally", saved: int | None, counter: Counter, size: Sizes, device: str) -> Cost:
    total = tally.sums[""]
    parameters = list(model.parameters())
    held: dict[nn.Module, frozenset[Tensor]] = {}
    _parameters(tally.modules[""], held)
    return Cost(
        params=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=total["macs"],
        flops=total[counter],
        counter=counter,
        input_size=size,
        by_counter={name: total[name] for name in COUNTERS},
        elementwise=total["elementwise"],
        bytes_read=total["read"],
        bytes_written=total["written"],
        kernels=total["kernels"],
        saved=saved,
        zeros=dict(tally.zeros[counter]),
        zeros_by_counter={name: dict(zeros) for name, zeros in tally.zeros.items()},
        unknown=tuple(sorted(tally.unknown)),
        modules={path: tally.part(held[module], tally.sums[path]) for path, module in tally.modules.items()},
        attention=tally.part(set().union(*(held[module] for module in tally.attentions)), tally.attention),
        device=device,
    )


def _measure(
    model: nn.Module,
    size: Sizes,
    counter: Counter,
    memory: bool,
    device: str,
    dtype: torch.dtype | None = None,
) -> tuple["_Tally", int | None]:
    copied = twin(model, device)
    own = next((p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex()), None)
    with torch.device(device):
        inputs = [torch.rand(one, dtype=own) if dtype is None else torch.zeros(one, dtype=dtype) for one in size]
        original = {id(t) for t in [*model.parameters(), *model.buffers()]}
        remembering = Remembering() if device == "meta" else None
        tally = _Tally(copied.eval(), counter, original, remembering)
        with torch.no_grad(), _Whole(tally), tally:
            copied(*inputs)
        tally.release()
        with remembering or contextlib.nullcontext():
            return tally, _saved(copied, inputs) if memory else None


def _saved(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Bytes that one forward pass keeps for the backward pass, in eval mode where it cannot run in train mode."""
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    trained = all(p.requires_grad for p in model.parameters())
    for mode in (True, False):
        kept: dict[int, torch.UntypedStorage] = {}  # which also keeps their identities from being given to others

        def keep(t: Tensor, kept: dict[int, torch.UntypedStorage] = kept) -> Any:
            storage = t.untyped_storage()
            kept[storage._cdata] = storage

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept)
        with contextlib.suppress(Exception), torch.enable_grad(), _Whole(None), hooks:
            model.train(mode)(*(x.detach().requires_grad_(trained and x.is_floating_point()) for x in inputs))
            return sum(storage.nbytes() for identity, storage in kept.items() if identity not in own)
    return 0


@dataclass(frozen=True, slots=True)
class _Frame:
    """A module whose forward is running: all paths it counts for, and whether thop has charged it as a whole."""

    path: str
    paths: frozenset[str]
    attention: bool
    charged: bool


class _Tally(TorchDispatchMode):
    """Counts every operation that reaches the dispatcher, for the modules of one network that are running then.

    Args:
        model: a copy in eval mode, which gets hooks.
        counter: the convention of the subtotals.
        original: identities of the tensors of what it is a copy of, which are not to be touched.
        remembering: gives the results of what was done before, if not None.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, counter: Counter, original: Set[int], remembering: Remembering | None) -> None:
        super().__init__()
        self.counter = counter
        self.original = original
        self.remembering = remembering
        self.modules: dict[str, nn.Module] = {}
        self.sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.attention: collections.Counter[str] = collections.Counter()
        self._costs: dict[Any, dict[str, int]] = {}
        self._sums: dict[Any, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.attentions = list(attentions(model).values())
        self.zeros: dict[str, collections.Counter[str]] = {each: collections.Counter() for each in COUNTERS}
        self.unknown: set[str] = set()
        self.whole = False  # inside a function that fvcore charges as a whole
        self._paths: dict[nn.Module, list[str]] = collections.defaultdict(list)
        for path, module in _named(model):
            self.modules.setdefault(path, module)
            self._paths[module].append(path)
        self._frames = [_Frame("", frozenset([""]), False, False)]
        self._handles = []
        for module in self._paths:
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hooks; what it does counts for the module that calls it
            self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
            self._handles.append(module.register_forward_hook(self._leave, with_kwargs=True, always_call=True))

    def release(self) -> None:
        """Take the hooks off, and give all that stand above a module their share of what it did."""
        for handle in self._handles:
            handle.remove()
        for (paths, attention), cost in self._sums.items():
            for path in paths:
                self.sums[path].update(cost)
            if attention:
                self.attention.update(cost)

    def part(self, parameters: Set[Tensor], total: Mapping[str, int]) -> Part:
        """The share of some modules, given their parameters and their sums."""
        return Part(
            params=sum(p.numel() for p in parameters),
            macs=total["macs"],
            flops=total[self.counter],
            bytes=total["read"] + total["written"],
            kernels=total["kernels"],
        )

    def add(self, cost: Mapping[str, int]) -> None:
        """Charge what is running now."""
        frame = self._frames[-1]
        self._sums[frame.paths, frame.attention].update(cost)

    def _enter(self, module: nn.Module, _: Any) -> None:
        caller = self._frames[-1]
        inside = f"{caller.path}." if caller.path else ""
        # A shared module has several paths; the one next below its caller is meant.
        names = self._paths[module]
        below = [name for name in names if f"{name}.".startswith(inside)]
        path = min(below or names, key=lambda name: name.count("."))
        above = [path[:i] for i, letter in enumerate(path) if letter == "."]
        self._frames.append(
            _Frame(
                path,
                caller.paths | {path, *above},
                caller.attention or any(module is each for each in self.attentions),
                caller.charged or type(module) in THOP,
            )
        )

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        # With always_call it is also called where forward raised, which a caller may catch.
        charged = type(module) in THOP and not self._frames[-2].charged
        if charged and isinstance(out, Tensor):
            self.add({"thop": THOP[type(module)](module, (*args, *kwargs.values())[0], out)})
        self._frames.pop()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(id(t) in self.original for t in tensors([*args, *kwargs.values()])):
            raise ValueError(
                "it runs on a copy, whose forward calls the model itself; where forward was replaced, bind the new one "
                "to the model by types.MethodType"
            )
        if func is torch.ops.aten.dropout.default and not args[2]:
            return args[0]  # torch 2.13 would copy it in inference mode
        what = kind(func)
        if what not in ("product", "declared") and composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        key = call(func, args, kwargs)
        out = func(*args, **kwargs) if self.remembering is None else self.remembering.run(func, args, kwargs, key)
        if what == "view":
            return out
        name = getattr(func, "overloadpacket", func).__name__
        if getattr(func, "namespace", "aten") != "aten":
            name = f"{func.namespace}::{name}"
        if key is None:
            cost = cost_of(func, args, kwargs, out)
        else:  # of the same shapes it is the same: networks repeat their blocks
            if key not in self._costs:
                self._costs[key] = cost_of(func, args, kwargs, out)
            cost = self._costs[key]
        if what == "unknown":
            self.unknown.add(name)
        if self.whole:
            cost = {**cost, "fvcore": 0}
        self.add(cost)
        charged = {"thop": self._frames[-1].charged, "fvcore": self.whole}
        for counter, zeros in self.zeros.items():
            if not charged.get(counter) and not cost.get(counter):
                zeros[name] += 1
        return out


def _named(module: nn.Module, path: str = "", above: tuple[nn.Module, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Each module by its path in the state dict, where attention attached to a module does not show; shared ones often.

    A module that stands above itself is not gone through again.
    """
    yield path, module
    for name, child in module._modules.items():
        if child is not None and not any(child is each for each in (*above, module)):
            hidden = isinstance(module, Attached) and name == "base"
            yield from _named(child, path if hidden else f"{path}.{name}".lstrip("."), (*above, module))


def _parameters(module: nn.Module, held: dict[nn.Module, frozenset[Tensor]]) -> frozenset[Tensor]:
    """Of a module those of its own and of all below it; `held` gets them for each, gone through once for all."""
    if module not in held:
        held[module] = frozenset()  # for one that stands below itself
        own = (p for p in module._parameters.values() if p is not None)
        held[module] = frozenset(own).union(*(_parameters(child, held) for child in module.children()))
    return held[module]


# Functions that fvcore sees as one operation, of which it charges the first alone.
FVCORE_WHOLE = {"adaptive_avg_pool2d", "scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"}


class _Whole(TorchFunctionMode):
    """Sees functions before they are taken apart, on the meta device otherwise than where they will run.

    fvcore charges adaptive_avg_pool2d, but not the mean that the dispatcher gets of it; and recurrent layers nothing.
    Attention over tokens becomes one kernel, as on a real device.

    Args:
        tally: of the pass; None while memory is measured.
    """

    def __init__(self, tally: _Tally | None) -> None:
        super().__init__()
        self.tally = tally

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in FVCORE_WHOLE:
            if getattr(func, "__globals__", None) is not vars(F):
                return func(*args, **kwargs)
            with self:
                return opened(func, self.tally is None)(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            func = fused_attention
        if self.tally is None:
            return func(*args, **kwargs)
        if name == "adaptive_avg_pool2d":
            self.tally.add({"fvcore": (*args, *kwargs.values())[0].numel()})
        else:
            self.tally.zeros["fvcore"][name] += 1
        self.tally.whole = True
        try:
            return func(*args, **kwargs)
        finally:
            self.tally.whole = False
