"""What every module of the registry promises, in 2D and in 3D; a new module is tested here without a line more."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnzoo
from attnzoo import nd

CHANNELS = 16
# Options for modules whose defaults do not fit 16 channels (or leave one hidden unit, which may be dead).
FITS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 4},
    "cbam": {"reduction": 4},
    "sa": {"groups": 4},
    "epsa": {"groups": (1, 2, 2, 4)},
    "mpe": {"groups": 4},
    "ema": {"groups": 4},
    "sge": {"groups": 4},
    "gc": {"reduction": 4, "fusion": ("add", "mul")},
    "bam": {"reduction": 4},
    "sk": {"groups": 4, "min_width": 8},
}
KEEP_WIDTH = ("res2net",)  # of the modules that replace a convolution
SIZES = {
    2: [(5, 7), (8, 8), (1, 9), (7, 1), (1, 1)],
    3: [(3, 5, 7), (4, 4, 4), (1, 6, 5), (5, 1, 1), (1, 1, 1)],
}
CASES = [pytest.param(n, d, id=f"{n}-{d}d") for n in attnzoo.list_modules() for d in sorted(attnzoo.spec(n).dims)]
every_module = pytest.mark.parametrize(("name", "dims"), CASES)


def make(name: str, dims: int, channels: int = CHANNELS, **options: Any) -> nn.Module:
    """A module in eval mode whose parameters and buffers are all away from their neutral start."""
    torch.manual_seed(0)
    module = attnzoo.create(name, channels, spatial_dims=dims, **{**FITS.get(name, {}), **options})
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn_like(value) / 4
            value.copy_(noise.abs() + 0.5 if key.endswith("running_var") else value + noise)
    return module.eval()


def features(
    dims: int, batch: int = 2, size: tuple[int, ...] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, *(size or SIZES[dims][0]), generator=generator, dtype=dtype)


def same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_module
def test_keeps_the_shape_and_leaves_the_input_alone(name: str, dims: int) -> None:
    module = make(name, dims)
    for training in (False, True):
        module.train(training)
        for size in SIZES[dims]:
            x = features(dims, 2 if training else 1, size)
            before = x.clone()
            with torch.no_grad():
                y = module(x)
            assert y.shape == x.shape, size
            assert y.dtype == x.dtype
            assert y.isfinite().all(), size
            assert torch.equal(x, before), "written into the input"


@every_module
def test_samples_do_not_see_each_other_in_eval(name: str, dims: int) -> None:
    module = make(name, dims).double()
    x = features(dims, 3, dtype=torch.float64)
    same(module(x), torch.cat([module(sample) for sample in x.split(1)]), 1e-12)


@every_module
def test_every_parameter_gets_a_gradient(name: str, dims: int) -> None:
    module = make(name, dims)
    for training in (False, True):
        x = features(dims).requires_grad_()
        module.train(training).zero_grad()
        (module(x) * features(dims, size=SIZES[dims][0])).sum().backward()
        for key, value in [("x", x), *module.named_parameters()]:
            assert value.grad is not None, key
            assert value.grad.isfinite().all(), key
        if list(module.parameters()):  # simam has none
            assert sum(float(p.grad.abs().sum()) for p in module.parameters()) > 0


@every_module
def test_derivatives_are_right(name: str, dims: int) -> None:
    module = make(name, dims).double()
    values = dict(module.named_parameters())

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(values, parameters, strict=True)), x)

    x = features(dims, 2, (3, 2) if dims == 2 else (2, 1, 3), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(forward, (x, *values.values()), fast_mode=True)


@every_module
def test_state_dict_deepcopy_and_pickle_carry_everything(name: str, dims: int) -> None:
    module, x = make(name, dims), features(dims)
    fresh = attnzoo.create(name, CHANNELS, spatial_dims=dims, **FITS.get(name, {})).eval()
    fresh.load_state_dict(module.state_dict(), strict=True)
    for other in (fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301
        assert torch.equal(other(x), module(x))
        assert list(other.state_dict()) == list(module.state_dict())


@every_module
def test_takes_any_memory_layout(name: str, dims: int) -> None:
    module, x = make(name, dims).double(), features(dims, dtype=torch.float64)
    y = module(x)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    same(module(x.contiguous(memory_format=layout)), y, 1e-10)
    same(module(x.transpose(0, -1).contiguous().transpose(0, -1)), y, 1e-10)
    same(module.to(memory_format=layout)(x.contiguous(memory_format=layout)), y, 1e-10)


@every_module
def test_runs_in_mixed_precision(name: str, dims: int) -> None:
    module, x = make(name, dims).train(), features(dims).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *module.parameters()))
    same(y.float(), module(x), 0.2)
    assert module.eval().bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@every_module
def test_runs_on_the_meta_device(name: str, dims: int) -> None:
    with torch.device("meta"):
        module = attnzoo.create(name, CHANNELS, spatial_dims=dims, **FITS.get(name, {}))
    assert all(t.device.type == "meta" for t in module.state_dict().values())
    x = torch.empty(2, CHANNELS, *SIZES[dims][0], device="meta")
    y = module(x)
    assert (y.device.type, y.shape) == ("meta", x.shape)


@contextmanager
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@every_module
def test_compiles_into_one_graph(name: str, dims: int) -> None:
    module, x = make(name, dims), features(dims)
    with fresh_compiler():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        same(compiled(x), module(x), 1e-6)


@every_module
def test_exports_with_a_dynamic_batch(name: str, dims: int) -> None:
    module = make(name, dims)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (features(dims, 2),), dynamic_shapes=({0: batch},))
    for size in (2, 5):
        x = features(dims, size)
        same(program.module()(x), module(x), 1e-6)


@every_module
def test_fx_traces_a_network_that_holds_it(name: str, dims: int) -> None:
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    network = nn.Sequential(norm(CHANNELS), make(name, dims), nn.ReLU()).eval()
    x = features(dims)
    same(torch.fx.symbolic_trace(network)(x), network(x), 1e-6)


def flat(module: nn.Module, volume: nn.Module) -> nn.Module:
    """Give a 2D module the weights of a 3D one, of kernels along T the centre, which is all that one frame meets."""
    theirs = volume.state_dict()
    ours = module.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        weight = theirs[key]
        if weight.ndim > value.ndim:
            axis = weight.ndim - 3
            weight = weight.select(axis, weight.shape[axis] // 2)
        value.copy_(weight)
    return module


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se", {}),
        ("cbam", {}),
        ("sa", {}),
        ("epsa", {}),
        ("epsa", {"temporal_kernel": 3}),
        ("mpe", {"temporal": "full"}),
        ("mpe", {"temporal": "unit"}),
        ("mpe", {"temporal": "spatial"}),
        ("mpe", {"temporal": "folded"}),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_volume_of_one_frame_is_an_image(name: str, options: dict[str, Any], training: bool) -> None:
    volume = make(name, 3, **options).double()
    image = flat(make(name, 2).double(), volume)
    for norm in [m for m in (*volume.modules(), *image.modules()) if isinstance(m, nn.GroupNorm)]:
        norm.eps = (
            1e-14  # MPE has a third strip in 3D, of one position here: a factor that the norm takes out but for eps
        )
    x = features(3, 2, (1, 6, 5), torch.float64)
    same(volume.train(training)(x).squeeze(2), image.train(training)(x.squeeze(2)), 1e-9)


def test_folded_mpe_is_the_2d_module_on_each_frame() -> None:
    volume = make("mpe", 3, temporal="folded").double()
    image = flat(make("mpe", 2).double(), volume)
    x = features(3, 2, (4, 6, 5), torch.float64)
    same(volume(x), torch.stack([image(frame) for frame in x.unbind(2)], 2), 1e-12)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["sa", "mpe"])
def test_one_group_takes_a_single_position(name: str, dims: int) -> None:
    module = make(name, dims, groups=1)
    y = module(features(dims, 1, (1,) * dims))
    assert y.isfinite().all()


@pytest.mark.parametrize(("name", "dims"), [c for c in CASES if issubclass(attnzoo.spec(c.values[0]).cls, nd.Gate)])
def test_gates_are_what_multiplies_the_input(name: str, dims: int) -> None:
    module, x = make(name, dims).double(), features(dims, dtype=torch.float64)
    gate = module.gate(x)
    assert all(g in (1, s) for g, s in zip(gate.shape[2:], x.shape[2:], strict=True))
    spread = gate.repeat_interleave(CHANNELS // gate.shape[1], 1)
    same(module(x), x * spread, 1e-12)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", attnzoo.list_modules(site="conv"))
def test_a_module_for_a_convolution_has_its_output(name: str, dims: int) -> None:
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    width = CHANNELS if name in KEEP_WIDTH else 2 * CHANNELS
    for stride in (1, 2, (2, 1, 3)[:dims]):
        module = make(name, dims, out_channels=width, stride=stride)
        for size in SIZES[dims]:
            x = features(dims, 1, size)
            assert module(x).shape == conv(CHANNELS, width, 3, stride, 1)(x).shape


@every_module
@pytest.mark.parametrize("wrong", ["channels", "fewer axes", "more axes"])
def test_refuses_features_it_was_not_made_for(name: str, dims: int, wrong: str) -> None:
    size = {
        "channels": (2, CHANNELS + 1, *(4,) * dims),
        "fewer axes": (2, CHANNELS, *(4,) * (dims - 1)),
        "more axes": (2, CHANNELS, *(4,) * (dims + 1)),
    }[wrong]
    with pytest.raises(ValueError, match=f"{CHANNELS}") as error:
        make(name, dims)(torch.randn(size))
    assert str(size) in str(error.value)
    assert "\n" not in str(error.value)


@every_module
@pytest.mark.parametrize("channels", [0, -8])
def test_refuses_no_channels(name: str, dims: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"={channels} "):
        attnzoo.create(name, channels, spatial_dims=dims)


@pytest.mark.parametrize(
    ("name", "channels", "options", "shown"),
    [
        ("mpe", 512, {"groups": 7}, ("512", "7")),
        ("mpe", 512, {"groups": 10}, ("512", "10", "8")),
        ("mpe", 4, {}, ("4", "8")),
        ("mpe", 32, {"groups": 0}, ("groups=0",)),
        ("mpe", 32, {"groups": -8}, ("-8",)),
        ("mpe", 32, {"groups": 8, "norm_groups": 3}, ("4", "norm_groups=3")),
        ("mpe", 32, {"norm_groups": 0}, ("norm_groups=0",)),
        ("mpe", 32, {"dilations": ()}, ("()", "dilations")),
        ("mpe", 32, {"dilations": (1, 0)}, ("(1, 0)",)),
        ("mpe", 32, {"fusion": "average"}, ("average", "dynamic", "mean", "max", "static")),
        ("mpe", 32, {"combine": "sum"}, ("sum", "both", "weighted", "concat")),
        ("mpe", 32, {"temporal": "half"}, ("half", "full", "unit", "spatial", "folded")),
        ("mpe", 32, {"temporal": "unit", "spatial_dims": 2}, ("unit", "spatial_dims=3")),
        ("sa", 64, {}, ("64", "2 * groups")),
        ("sa", 192, {}, ("192",)),
        ("sa", 12, {"groups": 4}, ("12", "2 * groups")),
        ("sa", 12, {"groups": 0}, ("12", "0")),
        ("epsa", 18, {}, ("18", "4")),
        ("epsa", 48, {}, ("48", "(1, 4, 8, 16)")),
        ("epsa", 64, {"kernels": (3, 4, 7, 9)}, ("(3, 4, 7, 9)", "odd")),
        ("epsa", 64, {"kernels": (3, 5)}, ("(3, 5)", "(1, 4, 8, 16)")),
        ("epsa", 64, {"temporal_kernel": 3}, ("temporal_kernel=3", "spatial_dims=3")),
        ("epsa", 64, {"reduction": 0}, ("reduction=0",)),
        ("cbam", 64, {"kernel_size": 4}, ("kernel_size=4", "odd")),
        ("cbam", 64, {"reduction": 0}, ("reduction=0",)),
        ("triplet", 64, {"kernel_size": 0}, ("kernel_size=0", "odd")),
        ("se", 64, {"reduction": 0}, ("reduction=0",)),
        ("se", 64, {"reduction": -4}, ("reduction=-4",)),
        ("ca", 64, {"reduction": 0}, ("reduction=0",)),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, str | int | dict) else "",
)
def test_refuses_values_that_do_not_fit_and_shows_them(
    name: str, channels: int, options: dict[str, Any], shown: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.create(name, channels, **options)
    assert all(value in str(error.value) for value in shown), str(error.value)
    assert "\n" not in str(error.value)


# Counts of the authors' code at C = 64, 256, 512 and 2048; None where their module cannot be built.
AUTHORS = [
    ("se", {}, [512, 8_192, 32_768, 524_288]),
    ("se", {"bias": True}, [580, 8_464, 33_312, 526_464]),
    ("cbam", {}, [680, 8_564, 33_412, 526_564]),
    ("ca", {}, [1_688, 6_680, 25_648, 397_504]),
    ("sa", {}, [None, 12, 24, 96]),
    ("triplet", {}, [300, 300, 300, 300]),
    ("epsa", {}, [27_121, 433_732, 1_734_792, 27_755_040]),
    ("epsa", {"kernels": (3, 5, 5, 7), "groups": (32,) * 4}, [None, 55_876, 223_368, 3_572_256]),
]
# What the rule of each paper's generalisation adds in 3D: kernels k^3 for k^2, one strip more, one branch more.
IN_3D: dict[str, Callable[[int, int], int]] = {
    "se": lambda c, count: count,
    "cbam": lambda c, count: count + 2 * 7**3 - 2 * 7**2,
    "ca": lambda c, count: count + c * max(8, c // 32) + c,
    "sa": lambda c, count: count,
    "triplet": lambda c, count: 4 * (2 * 7**3 + 2),
}


@pytest.mark.parametrize(("name", "options", "counts"), AUTHORS)
def test_has_the_parameters_of_the_authors_code(name: str, options: dict[str, Any], counts: list[int | None]) -> None:
    for channels, count in zip((64, 256, 512, 2048), counts, strict=True):
        if count is None:
            with pytest.raises(ValueError, match="64"):
                attnzoo.create(name, channels, **options)
            continue
        with torch.device("meta"):
            module = attnzoo.create(name, channels, **options)
            assert sum(p.numel() for p in module.parameters()) == count
            if name in IN_3D:
                volume = attnzoo.create(name, channels, spatial_dims=3, **options)
                assert sum(p.numel() for p in volume.parameters()) == IN_3D[name](channels, count)
