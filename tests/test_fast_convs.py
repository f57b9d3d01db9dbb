"""Fast forms of the modules that hold convolutions: equal to their definitions, and small in memory."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnzoo
from attnzoo import fast
from attnzoo.contract import runner
from attnzoo.fast import cross, recompute

CASES: list[tuple[str, dict[str, Any]]] = [
    ("ema", {"groups": 4}),
    *(("mpe", {"groups": 2, "combine": combine}) for combine in ("both", "weighted", "concat")),
    *(("mpe", {"groups": 2, "fusion": fusion}) for fusion in ("static", "mean", "max")),
    ("mpe", {"groups": 4, "norm_groups": 2, "depthwise": True, "residual": False}),
    ("mpe", {"groups": 2, "dilations": (2,), "norm_groups": 1}),
    ("nl", {"reduction": 8}),
    ("nl", {"reduction": 8, "scale": True, "subsample": True}),
]
FOLDED: list[tuple[str, dict[str, Any], int]] = [
    ("mpe", {"groups": 2, "temporal": temporal}, 3) for temporal in ("unit", "spatial", "folded")
]
EVERYWHERE = [(name, options, dims) for name, options in CASES for dims in (2, 3)] + FOLDED
SIZES = {2: (9, 4), 3: (3, 4, 6)}  # some axes shorter than the reach of dilation 5


def make(name: str, dims: int, options: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    subject = runner.Subject(name, 16, dims, options)
    return subject.module().train().double(), subject.features(3, SIZES[dims], torch.float64)


def by_definition(module: nn.Module, x: Tensor) -> Tensor:
    """The output where a layer is watched: fast forms do not call it, so that the definition is used."""
    watched = [part.register_forward_hook(lambda *_: None) for part in module.modules() if part is not module]
    assert not fast.usable(module, x)
    try:
        out: Tensor = module(x)
    finally:
        for hook in watched:
            hook.remove()
    assert fast.usable(module, x)
    return out


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("name", "options", "dims"), EVERYWHERE)
def test_equals_its_definition(name: str, options: dict[str, Any], dims: int, last: bool) -> None:
    module, x = make(name, dims, options)
    if last:
        x = x.contiguous(memory_format=runner.CHANNELS_LAST[dims])
    x.requires_grad_()
    r = torch.randn_like(x)
    results = [y(x) for y in (module, lambda x: by_definition(module, x))]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    wanted = [x, *module.parameters()]
    gradients = [torch.autograd.grad((y * r).sum(), wanted, allow_unused=True) for y in results]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(
            torch.zeros(()).double() if ours is None else ours,
            torch.zeros(()).double() if theirs is None else theirs,
            rtol=1e-9,
            atol=1e-9,
        )
    with torch.no_grad():
        torch.testing.assert_close(module(x), results[1], rtol=1e-9, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options", "dims"), EVERYWHERE)
def test_in_parts_as_in_one(name: str, options: dict[str, Any], dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large features are worked on a few samples at a time."""
    module, x = make(name, dims, options)
    x.requires_grad_()
    wanted = [x, *module.parameters()]
    whole = module(x)
    of_whole = torch.autograd.grad(whole.square().sum(), wanted)
    monkeypatch.setattr(recompute, "PART", 1)
    parts = module(x)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(parts.square().sum(), wanted), of_whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(9, 4), (1, 1), (2, 1), (3, 4, 6), (1, 5, 2)])
@pytest.mark.parametrize("short", [0, cross.SHORT], ids=["long", "short"])
def test_ema_of_long_and_short_maps_in_parts(
    size: tuple[int, ...], short: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross, "SHORT", short)
    monkeypatch.setattr(cross, "PIECE", 16 * math.prod(size))  # a sample at a time
    module = runner.Subject("ema", 16, len(size), {"groups": 4}).module().train().double()
    x = torch.randn(3, 16, *size, dtype=torch.float64) + 2
    if last:
        x = x.contiguous(memory_format=runner.CHANNELS_LAST[len(size)])
    wanted = [x.requires_grad_(), *module.parameters()]
    results = [module(x), by_definition(module, x)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    assert results[0].stride() == x.stride()
    r = torch.randn_like(x)
    ours, theirs = (torch.autograd.grad((y * r).sum(), wanted) for y in results)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [*CASES[:2], CASES[-2]])
def test_second_derivatives(name: str, options: dict[str, Any]) -> None:
    module, x = make(name, 2, options)
    x = x[:2].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(module, (x,), fast_mode=True)


@pytest.mark.parametrize("frozen", ["x", "parameters"])
@pytest.mark.parametrize(("name", "options"), CASES[:2])
def test_gradients_of_what_needs_one(name: str, options: dict[str, Any], frozen: str) -> None:
    module, x = make(name, 2, options)
    x.requires_grad_()
    expected = torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])
    if frozen == "x":
        x, expected = x.detach(), expected[1:]
        module(x).square().sum().backward()
        found = [p.grad for p in module.parameters()]
    else:
        module.requires_grad_(False)
        found, expected = list(torch.autograd.grad(module(x).square().sum(), [x])), expected[:1]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES[:2])
def test_lent_parameters(name: str, options: dict[str, Any]) -> None:
    """The parameters of torch.func.functional_call are those of the backward pass too, though taken back by then."""
    module, x = make(name, 2, options)
    x.requires_grad_()
    lent = {key: nn.Parameter(p.detach() * 2) for key, p in module.named_parameters()}
    y = torch.func.functional_call(module, lent, (x,))
    other, _ = make(name, 2, options)
    other.load_state_dict(lent)
    found = torch.autograd.grad(y.sum(), [x, *lent.values()])
    for ours, theirs in zip(found, torch.autograd.grad(other(x).sum(), [x, *other.parameters()]), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch itself, for forward-mode derivatives
@pytest.mark.parametrize(("name", "options"), CASES[:2])
def test_under_transforms_and_the_compiler(name: str, options: dict[str, Any]) -> None:
    module, x = make(name, 2, options)
    expected = module(x)
    each = torch.func.vmap(lambda sample: module(sample.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-9)
    _, along = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    nearly = (module(x + 1e-6) - module(x - 1e-6)) / 2e-6
    torch.testing.assert_close(along, nearly, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
    try:
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-9, atol=1e-9)
    finally:
        torch.compiler.reset()


def kept(module: nn.Module, x: Tensor) -> int:
    """Elements kept for the backward pass, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x.requires_grad_())
    return sum(s.nbytes() for at, s in storages.items() if at not in own) // x.element_size()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["ema", "mpe"])
def test_keeps_x_and_its_gate_alone(name: str, dims: int, last: bool) -> None:
    groups, channels, size = 4, 32, (6, 5, 7)[:dims]
    module = attnzoo.create(name, channels, spatial_dims=dims, groups=groups)
    x = torch.randn(2, channels, *size)
    if last:
        x = x.contiguous(memory_format=runner.CHANNELS_LAST[dims])
    gate = 2 * groups * math.prod(size)
    # mpe's gate is sigmoid(W) + 1: both are kept, the sigmoid for its own derivative
    assert kept(module, x) <= x.numel() + 2 * gate


def test_nl_keeps_no_affinities() -> None:
    x = torch.randn(2, 16, 12, 12)
    assert kept(attnzoo.create("nl", 16, reduction=8), x) < 8 * x.numel() < 2 * 144 * 144 * 2


@pytest.mark.parametrize("name", ["ema", "mpe"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_of_mixed_precision_are_those_of_the_definition(name: str, dtype: torch.dtype) -> None:
    module = attnzoo.create(name, 32, groups=4)
    for x in (torch.randn(2, 32, 6, 5), torch.randn(2, 32, 6, 5).to(dtype)):
        x.requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            ours, theirs = module(x), by_definition(module, x)
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.05, atol=0.05)
        ours.float().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == x.dtype


@pytest.mark.parametrize("options", [{}, {"dilation": 3, "padding": 3}, {"groups": 6}])
@pytest.mark.parametrize("size", [(9, 7), (2, 1)])
def test_sums_of_convolutions_without_them(options: dict[str, Any], size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 6, 3, **{"padding": 1, **options}).double()
    x, w = torch.randn(2, 6, *size, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    y = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding, dilation=conv.dilation, groups=conv.groups)
    torch.testing.assert_close(fast.weighted_convs(x, [conv], [w]), torch.einsum("nc,nchw->nhw", w, y))
    torch.testing.assert_close(fast.conv_means(x, [conv])[0], y.mean((2, 3)))


class Scaled(nn.Module):
    """x times exp of a parameter, recomputed or not; a second parameter takes no part."""

    def __init__(self, fast_form: bool) -> None:
        super().__init__()
        self.fast_form = fast_form
        self.log = nn.Parameter(torch.zeros(3))
        self.idle = nn.Parameter(torch.zeros(3))

    def plain(self, x: Tensor) -> Tensor:
        return x * self.log.exp().unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return fast.recomputed(self.plain, self, x) if self.fast_form else self.plain(x)


@pytest.mark.parametrize("part", [1, recompute.PART], ids=["sample by sample", "at once"])
def test_a_parameter_may_be_made_of_the_features(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "PART", part)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def derivatives(fast_form: bool) -> list[Tensor]:
        y = torch.func.functional_call(Scaled(fast_form).double(), {"log": x.mean((0, 2))}, (x,))
        (once,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [once, first, *torch.autograd.grad(first.square().sum(), x)]

    for ours, theirs in zip(derivatives(True), derivatives(False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
