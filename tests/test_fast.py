"""What modules do in eager mode to be quick and to keep little for the backward pass, against their definitions."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnzoo
from attnzoo import fast, nd
from attnzoo.benchmarks.authors import AsWritten
from attnzoo.contract.runner import fitting
from attnzoo.fast import pieces

FITS: dict[str, dict[str, Any]] = {"sa": {"groups": 4}, "sge": {"groups": 8}, "bam": {"reduction": 4}}
NAMES = ("se", "eca", "cbam", "ca", "sa", "triplet", "simam", "sge", "bam", "gc", "ela", "mlca", "scsa", "lambda")
SIZES = {2: (9, 7), 3: (3, 5, 6)}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
C = 32
CASES = [pytest.param(name, dims, id=f"{name}-{dims}d") for name in NAMES for dims in (2, 3)]


def make(name: str, dims: int) -> nn.Module:
    """A module away from its start, in double precision and in train mode."""
    torch.manual_seed(0)
    module = attnzoo.create(name, C, spatial_dims=dims, **FITS.get(name, {})).double()
    for p in module.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return module


def features(dims: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, C, *SIZES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@contextmanager
def defined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules carry out their definitions, as when they are exported."""
    with monkeypatch.context() as patch:
        patch.setattr("attnzoo.fast.when.eager", lambda x: False)
        patch.setattr(fast, "eager", lambda x: False)
        yield


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients of input and parameters, and buffers after one training step."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]  # type: ignore[list-item]


@pytest.mark.parametrize("piece", [1, 700, pieces.PIECE])
@pytest.mark.parametrize("layout", ["contiguous", "long rows", "channels_last", "strided"])
@pytest.mark.parametrize(("name", "dims"), CASES)
def test_values_and_gradients_are_those_of_the_definition(
    name: str, dims: int, layout: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", piece)
    x = features(dims)
    if layout == "channels_last":
        x = x.contiguous(memory_format=LAYOUTS[dims])
    elif layout == "long rows":
        x = torch.cat((x, x.flip(-1)), -1)
    elif layout == "strided":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    ours = step(make(name, dims), x)
    with defined(monkeypatch):
        theirs = step(make(name, dims), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_is_that_of_the_definition(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> list[Tensor]:
        module, x = make(name, 2).float(), features(2).to(dtype).requires_grad_()
        with torch.autocast("cpu"):
            y = module(x)
            y.float().sum().backward()
        assert x.grad is not None
        return [y.detach(), x.grad]

    ours = trained()
    with defined(monkeypatch):
        theirs = trained()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0.05, atol=0.008 * float(their.abs().max()))  # and the dtypes


@pytest.mark.parametrize("groups", [1, 2, 16])
@pytest.mark.parametrize("dims", [2, 3])
def test_shuffle_attention_shuffles_any_number_of_groups_as_its_authors_do(dims: int, groups: int) -> None:
    module = attnzoo.create("sa", C, spatial_dims=dims, groups=groups).double()
    for p in module.parameters():
        p.data += 0.3 * torch.randn_like(p)
    ours, theirs = step(module, features(dims)), step(AsWritten("sa", module), features(dims))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_equal_values_send_their_gradient_where_the_definition_does(
    name: str, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a ReLU many maxima are not the only ones."""
    x = features(dims).relu()
    ours = step(make(name, dims), x)
    with defined(monkeypatch):
        theirs = step(make(name, dims), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_constant_maps_have_the_gradients_of_the_definition(
    name: str, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(3, C, *SIZES[dims], dtype=torch.float64)
    ours = step(make(name, dims).eval(), x)
    with defined(monkeypatch):
        theirs = step(make(name, dims).eval(), x)
    assert all(t.isfinite().all() for t in ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_frozen_parts_change_nothing(name: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> list[Tensor]:
        x = features(dims).requires_grad_()
        frozen = make(name, dims).requires_grad_(False)
        frozen(x).square().sum().backward()
        module = make(name, dims)
        if list(module.parameters()):
            module(x.detach()).square().sum().backward()
        return [x.grad, *(p.grad for p in module.parameters())]  # type: ignore[list-item]

    ours = gradients()
    with defined(monkeypatch):
        theirs = gradients()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_derivatives_of_the_gradient(name: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def second() -> list[Tensor]:
        module = make(name, dims).eval()
        x = features(dims, 2).requires_grad_()
        wanted = [x, *module.parameters()]
        first = torch.autograd.grad(module(x).square().sum(), wanted, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        return list(torch.autograd.grad(penalty, wanted))  # type: ignore[arg-type]

    ours = second()
    with defined(monkeypatch):
        theirs = second()
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# What functorch transforms are the definitions; neither it nor the compiler may meet the derivatives written by hand.
TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "jvp": lambda m, x: torch.func.jvp(m, (x,), (torch.ones_like(x),))[1],
    "vjp": lambda m, x: torch.func.vjp(m, x)[1](torch.ones_like(x))[0],
    "vmap": lambda m, x: torch.func.vmap(lambda one: m(one.unsqueeze(0)).squeeze(0))(x),
    "forward mode": lambda m, x: _forward_mode(m, x),
    "compiled": lambda m, x: torch.compile(m, fullgraph=True, backend="aot_eager")(x),
    "inference": lambda m, x: torch.inference_mode()(m)(x),
}


def _forward_mode(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(module(dual)).tangent
        assert tangent is not None
        return tangent.clone()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")  # in torch's own forward mode
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", NAMES)
def test_transforms_take_the_definition(name: str, transform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = make(name, 2).eval(), features(2, 2)
    torch.compiler.reset()
    ours = TRANSFORMS[transform](module, x)
    with defined(monkeypatch):
        theirs = TRANSFORMS[transform if transform != "compiled" else "inference"](module, x)
    torch.testing.assert_close(ours, theirs.clone(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
def test_compiled_maxima_have_the_place_of_the_first(dims: int, layout: str) -> None:
    torch.compiler.reset()
    x = features(dims).relu()  # in which many are equal
    x[0] = 1
    x = x.to(memory_format=LAYOUTS[dims] if layout == "channels_last" else torch.contiguous_format).requires_grad_()
    axes = range(1, x.ndim)
    compiled = torch.compile(fast.max_and_mean, fullgraph=True, backend="aot_eager")
    ours, theirs = ([pools[0] for pools in compiled(x, *axes)], [x.max(axis).values for axis in axes])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    weights = [torch.randn_like(maximum) for maximum in theirs]
    for ours_along, theirs_along, weight in zip(ours, theirs, weights, strict=True):
        (by_ours,) = torch.autograd.grad(ours_along, x, weight, retain_graph=True)
        (by_theirs,) = torch.autograd.grad(theirs_along, x, weight)
        torch.testing.assert_close(by_ours, by_theirs, rtol=0, atol=0)


def test_all_kinds_compile_in_one_process() -> None:
    torch.compiler.reset()
    for name in attnzoo.list_modules():
        channels = fitting(name, 2)
        module, x = attnzoo.create(name, channels).eval(), torch.randn(2, channels, 9, 9)
        torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["bam", "cbam", "ela", "ema", "lambda", "mpe", "triplet"])
def test_what_the_compiler_is_given_is_the_definition(
    name: str, dims: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnzoo.fast.convs.FEW", 0)
    torch.compiler.reset()
    module, x = make(name, dims), features(dims)
    x = x.to(memory_format=LAYOUTS[dims] if layout == "channels_last" else torch.contiguous_format)
    with defined(monkeypatch):
        theirs = step(copy.deepcopy(module), x)
        with torch.no_grad():
            inferred = copy.deepcopy(module).eval()(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), inferred, rtol=1e-9, atol=1e-9)
    compiled.train()
    torch.testing.assert_close(step(compiled, x), theirs, rtol=1e-9, atol=1e-9)


def test_gates_of_strips_have_their_gradients_in_inductor_too() -> None:
    """Of gates that are parts of one map, torch 2.13's and 2.14's overwrites in 3D what it still needs."""
    torch.compiler.reset()
    conv, x = nn.Conv3d(4, 4, 1).double(), torch.randn(3, 4, 4, 6, 5, dtype=torch.float64, requires_grad=True)

    def scaled(x: Tensor) -> Tensor:
        return fast.gated(x, *nd.strip_gates(conv, x))

    compiled = torch.compile(scaled, fullgraph=True)(x)
    found = [torch.autograd.grad(y.square().sum(), (x, *conv.parameters())) for y in (compiled, scaled(x))]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def kept(module: nn.Module, x: Tensor) -> int:
    """Elements that a training step keeps for the backward pass beside x and the parameters."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), x)}
    storages = {}

    def keep(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x)
    return sum(s.nbytes() for address, s in storages.items() if address not in own) // x.element_size()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["se", "eca", "cbam", "ca", "sa", "triplet", "simam", "sge"])
def test_only_x_and_small_maps_are_kept(name: str, dims: int, layout: str) -> None:
    """A small map has size 1 along an axis; of each not more than a few are kept, and nothing as large as x."""
    batch, size = 2, {2: (40, 36), 3: (12, 14, 16)}[dims]
    module = attnzoo.create(name, C, spatial_dims=dims, **FITS.get(name, {}))
    x = torch.randn(batch, C, *size).requires_grad_()
    if layout == "channels_last":
        x = x.detach().contiguous(memory_format=LAYOUTS[dims]).requires_grad_()
    # x pooled along each axis; along all of space, by channel; and, for coordinate attention, along all but one axis.
    along_one = sum(x.numel() // n for n in x.shape[1:])
    by_channel, strips = batch * C, batch * C * sum(size)
    bounds = {
        "se": 4 * by_channel,
        "eca": 4 * by_channel,
        "simam": 0,
        "sge": 0 if layout == "contiguous" else 6 * x.numel() // (C // FITS["sge"]["groups"]),
        "sa": 12 * by_channel,
        "ca": 4 * strips,
        "cbam": 12 * by_channel + 6 * x.numel() // C,
        "triplet": 6 * along_one,
    }
    assert kept(module, x) <= bounds[name]


@pytest.mark.parametrize("few", [0, 2**22])
@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((2, 2, 6, 5), (7, 3)), ((1, 3, 70, 4), (3, 5)), ((1, 1, 66, 65), (3, 1)), ((1, 2, 9, 2, 3), (3, 5, 7))],
)
def test_the_narrow_convolution_has_the_gradients_of_the_library(
    few: int, shape: tuple[int, ...], kernel: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnzoo.fast.convs.FEW", few)
    conv = torch.conv2d if len(kernel) == 2 else torch.conv3d
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, shape[1], *kernel, dtype=torch.float64, requires_grad=True)
    y, theirs = fast.narrow_conv(x, weight), conv(x, weight, padding=[k // 2 for k in kernel])
    torch.testing.assert_close(y, theirs)
    gradient = torch.randn_like(y)
    expected = torch.autograd.grad(theirs, (x, weight), gradient)
    torch.testing.assert_close(torch.autograd.grad(y, (x, weight), gradient), expected)
    if x.numel() < 200:
        torch.autograd.gradgradcheck(fast.narrow_conv, (x, weight))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_can_be_added_to_in_place(name: str, layout: str) -> None:
    """As residual blocks add their input and carry on with an in-place ReLU."""
    module, x = make(name, 2), features(2)
    x = (x.contiguous(memory_format=LAYOUTS[2]) if layout == "channels_last" else x).requires_grad_()
    y = module(x)
    y += x
    y.relu_().sum().backward()
    ours, x.grad = x.grad, None
    module.zero_grad()
    (make(name, 2)(x) + x).relu().sum().backward()
    torch.testing.assert_close(ours, x.grad)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_weighted_mean_has_derivatives_of_all_orders(dims: int, layout: str) -> None:
    x = torch.randn(2, 3, *(3, 2, 2)[-dims:], dtype=torch.float64)
    x = (x.contiguous(memory_format=LAYOUTS[dims]) if layout == "channels_last" else x).requires_grad_()
    conv = nd.conv(dims)(3, 1, 1).double()
    theirs = (conv(x).flatten(2).softmax(2) * x.flatten(2)).sum(2)
    torch.testing.assert_close(fast.weighted_mean(conv, x), theirs)

    def of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fast.weighted_mean(SimpleNamespace(weight=weight, bias=bias), x)

    torch.autograd.gradcheck(of, (x, conv.weight, conv.bias))
    torch.autograd.gradgradcheck(of, (x, conv.weight, conv.bias))


def test_a_bias_before_a_batch_norm_enters_its_running_mean_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    conv, norm = nn.Conv2d(3, 5, 3, groups=1).double(), nn.BatchNorm2d(5).double()
    again = copy.deepcopy((conv, norm))
    leaves, theirs = ((x, *c.parameters(), *n.parameters()) for c, n in ((conv, norm), again))
    for _ in range(3):
        y, expected = fast.conv_norm(conv, norm, x), again[1](again[0](x))
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(norm.state_dict(), again[1].state_dict())
        gradient = torch.randn_like(y)
        ours = torch.autograd.grad(y, leaves, gradient)
        torch.testing.assert_close(ours, torch.autograd.grad(expected, theirs, gradient))
    torch.testing.assert_close(fast.conv_norm(conv, norm.eval(), x), again[1].eval()(again[0](x)))
    with pytest.raises(ValueError, match="more than 1 value"):
        fast.conv_norm(conv, norm.train(), torch.zeros(1, 3, 3, 3).double())
    torch.testing.assert_close(norm.running_mean, again[1].running_mean)


@pytest.mark.parametrize("taps", [3, 7])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_lines_and_strips_are_convolved_as_by_the_library(taps: int, groups: int) -> None:
    line, strips = (torch.randn(2, c, 9, dtype=torch.float64, requires_grad=True) for c in (1, 6))
    single = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False).double()
    strip = nn.Conv1d(6, 6, taps, padding=taps // 2, groups=groups).double()
    for ours, conv, x in ((fast.single_conv, single, line), (fast.strip_conv, strip, strips)):
        leaves = (x, *conv.parameters())
        y, theirs = ours(conv, x), conv(x)
        torch.testing.assert_close(y, theirs)
        gradient = torch.randn_like(y)
        expected = torch.autograd.grad(theirs, leaves, gradient)
        torch.testing.assert_close(torch.autograd.grad(y, leaves, gradient), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_matrices_is_the_1x1_convolution(dims: int, bias: bool) -> None:
    conv = nd.conv(dims)(C, 5, 1, bias=bias).double()
    x = features(dims)
    torch.testing.assert_close(fast.pointwise(conv, x), conv(x))
    assert fast.pointwise(conv, x).is_contiguous()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_mixed_branches(count: int, dims: int, last: bool) -> None:
    branches = [features(dims) + i for i in range(count)]
    if last:
        branches = [branch.contiguous(memory_format=LAYOUTS[dims]) for branch in branches]
    weights = torch.randn(count, 3, C, dtype=torch.float64)
    wanted = [weights.requires_grad_(), *(branch.requires_grad_() for branch in branches)]
    ours = fast.mixed(weights, branches)
    theirs = torch.einsum("knc,knc...->nc...", weights, torch.stack(branches))
    torch.testing.assert_close(ours, theirs)
    assert ours.stride() == branches[0].stride()
    r = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((y * r).sum(), wanted) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(fast.mixed(weights, branches), theirs)


def test_derivatives_of_mixed_branches() -> None:
    weights = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (weights, *(torch.randn(3, 4, 2, 3, dtype=torch.float64, requires_grad=i == 0) for i in range(2)))
    assert torch.autograd.gradcheck(lambda w, *b: fast.mixed(w, b), inputs)
    assert torch.autograd.gradgradcheck(lambda w, *b: fast.mixed(w, b), inputs)


def test_derivatives_of_branches_that_their_weights_are_made_of() -> None:
    def of_itself(*branches: Tensor) -> Tensor:
        return fast.mixed(torch.stack([b.mean((2, 3)) for b in branches]).softmax(0), branches)

    inputs = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradgradcheck(of_itself, inputs)
