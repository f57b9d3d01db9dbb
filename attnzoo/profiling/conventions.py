"""What one operation costs, by convention. Counters differ in what they count, so the conventions are data.

* macs: multiply-accumulates of convolutions, matrix products and scaled-dot-product attention;
* torch: FLOPs of the same, two for a multiply-accumulate, as `torch.utils.flop_counter` reports them;
* fvcore: the macs without scaled-dot-product attention, plus what fvcore 0.1.5 charges for norms, adaptive average
  pooling and resizing of images;
* thop: what thop 0.1.1 charges the modules whose exact type it knows (of recurrent ones none); nothing for functional
  code, subclasses and bare parameters;
* all: two for a multiply-accumulate, plus elementwise work: one FLOP for an element that a pointwise operation writes
  or that a reduction or pool reads, and what `FLOPS_PER_ELEMENT` says for the few that do more. Left out is what a
  fused kernel does beside its products: the bias of a convolution, the softmax inside attention.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["view", "product", "pointwise", "reduction", "move", "declared", "unknown"]
Formula = Callable[..., int]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations whose tags in torch do not say what they are; an in-place one is found without its last underscore.
VIEWS = _names(
    "_unsafe_view empty empty_like empty_strided empty_permuted new_empty new_empty_strided resize resize_as set "
    "unsafe_split unsafe_split_with_sizes unsafe_chunk _assert_async _assert_scalar _assert_tensor_metadata "
    "_local_scalar_dense is_same_size item is_pinned sym_size sym_stride sym_numel"
)
MOVES = _names(
    "_to_copy _pin_memory arange as_strided_scatter bernoulli block_diag bucketize cat channel_shuffle clone "
    "col2im complex copy diag_embed diagonal_scatter embedding eye fill flip full full_like gather im2col index "
    "index_add index_copy index_fill index_put index_select lift_fresh_copy linspace logspace masked_scatter "
    "masked_select max_unpool2d max_unpool3d native_channel_shuffle new_full new_ones new_zeros nonzero one_hot ones "
    "ones_like pixel_shuffle pixel_unshuffle polar put repeat repeat_interleave roll rot90 scalar_tensor scatter "
    "scatter_add scatter_reduce searchsorted select_scatter slice_scatter stack take tril tril_indices triu "
    "triu_indices unfold_copy zero zeros zeros_like _efficientzerotensor"
)
POINTWISE = _names(
    "_prelu_kernel dropout glu hardswish log_sigmoid_forward masked_fill native_dropout prelu rrelu_with_noise "
    "softplus threshold addcmul addcdiv isin native_alpha_dropout"
)
REDUCTIONS = _names(
    "_fused_rms_norm _log_softmax _safe_softmax _softmax _weight_norm_interface argsort batch_norm_elemt bincount "
    "cudnn_batch_norm cummax cummin cumprod cumsum equal histc kthvalue logcumsumexp median mode "
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update "
    "native_batch_norm native_group_norm native_layer_norm nanmedian sort topk trace renorm"
)
GATHERS = {"embedding", "gather", "index", "index_select", "take"}  # of their table they read only what they write
WRITE_ONLY = {"bernoulli_", "copy_", "fill_", "normal_", "random_", "uniform_", "zero_"}  # of what they are given first
BATCH_NORMS = {
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "native_batch_norm",
}
# Matrix products for which torch has no formula: multiply-accumulates by the tensors that each is given.
PRODUCTS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("mv", "dot", "vdot"), lambda a, _: a.numel()),
    "addmv": lambda _, a, b: a.numel(),
    # nn.Bilinear: x W for each output, and the products with y.
    "_trilinear": lambda x, w, y: y.numel() * w.shape[0] * (w.shape[1] + 1),
    # One direction of one layer of nn.LSTM on a CPU.
    "mkldnn_rnn_layer": lambda x, w, r, *_: x.numel() // x.shape[-1] * (w.numel() + r.numel()),
}

# A mean and a sum of squares take a subtraction, a product and two sums; normalizing takes two more, an affine map two.
FLOPS_PER_ELEMENT = {
    **dict.fromkeys(BATCH_NORMS, 2),  # in eval mode a scale and a shift
    "native_layer_norm": 8,
    "native_group_norm": 8,
    "_fused_rms_norm": 4,
    **dict.fromkeys(("var", "var_mean", "std", "std_mean"), 4),
    **dict.fromkeys(
        ("_softmax", "_safe_softmax", "_log_softmax"), 5
    ),  # maximum, difference, exponential, sum, quotient
    **dict.fromkeys(("upsample_linear1d", "_upsample_linear1d"), 3),
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_bilinear2d_aa", "grid_sampler_2d", "cudnn_grid_sampler"), 7),
    **dict.fromkeys(("upsample_trilinear3d", "grid_sampler_3d"), 15),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), 31),
}

# What fvcore charges for an element of the output.
FVCORE_PER_OUTPUT = {"upsample_nearest2d": 1, "upsample_bilinear2d": 4, "grid_sampler_2d": 4, "grid_sampler_3d": 4}
# The argument that tells whether a norm is affine, for which fvcore charges 5 an element of the input, and else 4.
FVCORE_NORMS = {"native_layer_norm": 2, "native_group_norm": 1}
FVCORE_FREE = {"baddbmm", *PRODUCTS}

_declared: dict[Any, tuple[Formula | None, Formula | None]] = {}


def register_cost(op: Any, *, macs: Formula | None = None, elementwise: Formula | None = None) -> None:
    """Declare what an operation costs, so that `profile` knows it.

    The multiply-accumulates alone may as well be declared by `torch.utils.flop_counter.register_flop_formula`, as
    FLOPs. Each formula gets the arguments of the operation and its result as `out`, and returns a number.

    Args:
        op: an operation such as `torch.ops.mylib.scale`.
        macs: of one call; none by default.
        elementwise: elements written by one call, or read if it reduces; none by default.

    Raises:
        TypeError: neither macs nor elementwise, or an op that is none.

    >>> register_cost(torch.ops.aten.fft_hfft, elementwise=lambda x, *_, out: 2 * x.numel())
    """
    if macs is None and elementwise is None:
        raise TypeError(f"{op}: give macs=, elementwise= or both; elementwise=lambda *_, out: 0 declares it free")
    packet = getattr(op, "overloadpacket", op)
    if not isinstance(packet, torch._ops.OpOverloadPacket | torch._ops.HigherOrderOperator):
        raise TypeError(f"op={op!r} must be an operation such as torch.ops.mylib.scale")
    _declared[packet] = macs, elementwise


@cache
def _registry() -> Mapping[Any, Formula]:
    # Here because it loads Triton where there is one.
    from torch.utils.flop_counter import flop_registry

    # Of fused attention torch 2.13 and 2.14 have the formula for GPUs alone; others may yet be registered with torch.
    attention = flop_registry[torch.ops.aten._scaled_dot_product_flash_attention]
    return ChainMap(flop_registry, {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention})


def kind(func: Any) -> Kind:
    """What an operation of the dispatcher is.

    Args:
        func: an overload, such as `torch.ops.aten.add.Tensor`.

    >>> [kind(op) for op in (torch.ops.aten.mm.default, torch.ops.aten.amax.default, torch.ops.aten.view.default)]
    ['product', 'reduction', 'view']
    """
    packet = getattr(func, "overloadpacket", func)
    if packet in _declared:
        return "declared"
    return "product" if packet in _registry() else _kind(func)


@cache
def _kind(func: Any) -> Kind:
    if not isinstance(func, torch._ops.OpOverload):
        return "unknown"
    own = func.namespace in ("aten", "prim", "prims")
    name, tags = func.overloadpacket.__name__.rstrip("_"), func.tags
    makes = any("Tensor" in str(r.type) for r in func._schema.returns) or func._schema.is_mutable
    if func.is_view or torch.Tag.inplace_view in tags or (own and (name in VIEWS or not makes)):
        return "view"
    if own and name in PRODUCTS:
        return "product"
    if own and (name in MOVES or "_pad" in name or torch.Tag.view_copy in tags):
        return "move"
    if torch.Tag.reduction in tags and torch.Tag.pointwise not in tags:
        return "reduction"
    if own and (name in REDUCTIONS or "_pool" in name or name.startswith("pool")):
        return "reduction"
    if torch.Tag.pointwise in tags:
        return "pointwise"
    if own and (name in POINTWISE or "upsample_" in name or "grid_sampler" in name):
        return "pointwise"
    return "move" if own and torch.Tag.nondeterministic_seeded in tags else "unknown"


@cache
def composite(func: Any) -> bool:
    """Whether an operation is made of others, which arrive in its stead but in inference mode.

    Args:
        func: an overload.

    >>> composite(torch.ops.aten.linear.default), composite(torch.ops.aten.mm.default)
    (True, False)
    """
    key = "CompositeImplicitAutograd"
    return isinstance(func, torch._ops.OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def cost_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> dict[str, int]:
    """What one call costs: its share of every convention but thop's, and of elementwise, read, written and kernels.

    Args:
        func: an overload that is no view.
        args: of the call.
        kwargs: of the call.
        out: its result.

    >>> x = torch.empty(2, 3)
    >>> cost_of(torch.ops.aten.relu.default, (x,), {}, x)["elementwise"]
    6
    """
    packet = getattr(func, "overloadpacket", func)
    name, what = packet.__name__, kind(func)
    written = list(tensors(out)) or list(_mutated(func, args, kwargs))
    first_is_read = name not in WRITE_ONLY and not name.startswith("new_") and not name.endswith("_like")
    given = list(tensors(args if first_is_read else args[1:]))
    given += tensors([value for key, value in kwargs.items() if key != "out"])
    if name in BATCH_NORMS and not _in_training(args):
        written = written[:1]  # where the statistics are known, only meta tensors stand for them
    bytes_written = sum(map(_bytes, written))
    bytes_read = sum(map(_bytes, given))
    if name in GATHERS and what == "move":
        bytes_read += bytes_written - _bytes(given[0])

    macs = flops = elements = 0
    if what == "declared":
        formulas = _declared[packet]
        macs, elements = (formula(*args, **kwargs, out=out) if formula else 0 for formula in formulas)
    elif packet in _registry():
        flops = _registry()[packet](*args, **kwargs, out_val=out)
        macs = flops // 2
    elif what == "product":
        macs = PRODUCTS[name](*given)
    elif what == "pointwise":
        elements = sum(t.numel() for t in written)
    elif what == "reduction":
        elements = given[0].numel()
    if what == "declared":
        flops = 2 * macs
    return {
        "macs": macs,
        "torch": flops,
        "fvcore": _fvcore(name, args, out, macs),
        "all": 2 * macs + FLOPS_PER_ELEMENT.get(name, 1) * elements,
        "elementwise": elements,
        "read": bytes_read,
        "written": bytes_written,
        "kernels": 1,
    }


def _fvcore(name: str, args: tuple[Any, ...], out: Any, macs: int) -> int:
    if name in BATCH_NORMS:
        affine = args[1] is not None
        return int(args[0].numel()) * (4 + affine if _in_training(args) else 1 + affine)
    if name in FVCORE_NORMS:
        return int(args[0].numel()) * (4 + (args[FVCORE_NORMS[name]] is not None))
    if name in FVCORE_PER_OUTPUT:
        return FVCORE_PER_OUTPUT[name] * int(out.numel())
    return 0 if name in FVCORE_FREE else macs


def _in_training(args: tuple[Any, ...]) -> bool:
    """Whether a batch norm takes its statistics from its input: the one flag among its arguments says so."""
    return any(arg is True for arg in args)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments or results.

    Args:
        value: a tensor, a list or tuple, or anything else, which holds none.

    >>> len(list(tensors((torch.ones(2), [torch.ones(3)], 1))))
    2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    if isinstance(func, torch._ops.OpOverload):
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield from tensors(args[i] if i < len(args) else kwargs.get(argument.name))


def _bytes(t: Tensor) -> int:
    """What a tensor occupies, the repeats of an expanded one left out."""
    if t.layout is not torch.strided:
        return t.numel() * t.element_size()
    return t.element_size() * math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step)


def _conv(m: Any, x: Tensor, y: Tensor) -> int:
    return int(y.numel() * (x.shape[1] // m.groups) * math.prod(m.weight.shape[2:]))


def _norm(m: Any, x: Tensor, y: Tensor) -> int:
    return x.numel() * (4 if getattr(m, "affine", False) or getattr(m, "elementwise_affine", False) else 2)


def _adaptive_pool(m: Any, x: Tensor, y: Tensor) -> int:
    # In floating point and cut off, as there: a window may be no whole number of elements.
    return int((math.prod(i / o for i, o in zip(x.shape[2:], y.shape[2:], strict=True)) + 1) * y.numel())


def _softmax(m: Any, x: Tensor, y: Tensor) -> int:
    n = x.shape[-1 if m.dim is None else m.dim]
    return int(x.numel() // n * (3 * n - 1))


def _upsample(m: Any, x: Tensor, y: Tensor) -> int:
    return y.numel() * {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 259}.get(m.mode, 0)


# Modules that thop charges, by exact type: a formula of the module, its first input and its output.
THOP: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], int]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _conv),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm), _norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _norm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), lambda m, x, y: y.numel()),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive_pool),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d), _upsample),
    nn.Linear: lambda m, x, y: m.in_features * y.numel(),
    nn.PReLU: lambda m, x, y: x.numel(),
    nn.Softmax: _softmax,
}
