"""What every module of the registry promises, in 2D and in 3D; a new module is tested here without a line more."""

import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnzoo
from attnzoo import cli, nd
from attnzoo.contract import CHECKS, SIZES, Check, Result, Subject, check, fitting
from attnzoo.registry import unregister

CHANNELS = 16
# Options for modules whose defaults do not fit 16 channels (or leave one hidden unit, which may be dead).
FITS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 4},
    "lct": {"groups": 4},
    "fca": {"reduction": 4},
    "gam": {"kernel_size": 3},
    "ela": {"norm_groups": 4},
    "cbam": {"reduction": 4},
    "sa": {"groups": 4},
    "epsa": {"groups": (1, 2, 2, 4)},
    "mpe": {"groups": 4},
    "ema": {"groups": 4},
    "sge": {"groups": 4},
    "gc": {"reduction": 4, "fusion": ("add", "mul")},
    "bam": {"reduction": 4},
    "sk": {"groups": 4, "min_width": 8},
    "axial": {"groups": 4, "feat_size": 6},
    "bot": {"feat_size": 6},
    "halo": {"heads": 4, "block_size": 4, "halo_size": 1},
    "lambda": {"key_width": 8, "kernel_size": 5},
}
TABLE_PER_AXIS = ("bot", "halo")  # of relative positions
KEEP_WIDTH = ("res2net",)  # of the modules that replace a convolution
CASES = [pytest.param(n, d, id=f"{n}-{d}d") for n in attnzoo.list_modules() for d in sorted(attnzoo.spec(n).dims)]


def subject(name: str, dims: int, **options: Any) -> Subject:
    return Subject(name, CHANNELS, dims, {**FITS.get(name, {}), **options})


def make(name: str, dims: int, **options: Any) -> nn.Module:
    """A module in eval mode whose parameters and buffers are all away from their neutral start."""
    return subject(name, dims, **options).module()


def features(dims: int, batch: int = 2, size: tuple[int, ...] | None = None, dtype: Any = None) -> Tensor:
    return subject("se", dims).features(batch, size, dtype)


def same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("promise", "one"),
    [
        pytest.param(each, one, id=f"{each.title.replace(' ', '-')}-{case.id}")
        for each in CHECKS
        for case in CASES
        for one in [subject(*case.values)]
        if each.applies(one)
    ],
)
def test_every_module_keeps_its_promises(promise: Check, one: Subject) -> None:
    promise.run(one)


class Gated(nd.Gate):
    """A module that keeps all promises, to be spoilt in one way each."""

    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims)
        self.weight = nn.Parameter(torch.ones(channels))

    def gate(self, x: Tensor) -> Tensor:
        return nd.expand((self.weight * x.mean(nd.axes(x))).sigmoid(), x)


class DividesByTheDeviation(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) / x.var(nd.axes(x), correction=0, keepdim=True).sqrt()


class LooksAtTheFirstSample(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * (x[0, 0].numel() > 0)


class Overwrites(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.gate(x))


class PoolsTheBatch(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x).mean(0, keepdim=True)


class KeepsAModuleInAList(Gated):
    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims=spatial_dims)
        self.layers = [nn.Identity()]


OUTSIDE = nn.Parameter(torch.ones(()))


class UsesAGlobalParameter(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * OUTSIDE


class HasAnUnusedParameter(Gated):
    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims=spatial_dims)
        self.spare = nn.Parameter(torch.ones(()))


class Detaches(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x.detach())


class RemembersOutsideTheState(Gated):
    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(channels, spatial_dims=spatial_dims)
        self.factor = float(torch.rand(()))

    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * self.factor


class Views(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x.view(*x.shape[:2], -1, *(1,) * (x.ndim - 3)))


class MakesContiguous(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


class Rounds(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * (2.0 if torch.is_autocast_enabled("cpu") else 1.0)


class GivesSinglePrecision(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class MakesATensorOnTheCPU(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * torch.ones((), device="cpu")


class LooksAtValues(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) if x.sum() > 0 else super().gate(x) / 2


class KnowsTheBatch(Gated):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) if x.shape[0] == 2 else super().gate(x) / 2


class Plain(nn.Module):
    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class IsNoLeaf(Gated):
    __call__ = nn.Module.__call__

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TakesAnything(Gated):
    def check(self, x: Tensor) -> None:
        pass


class TakesNoChannels(Gated):
    def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
        super().__init__(max(channels, 1), spatial_dims=spatial_dims)


class AddsToItsGate(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


SPOILT = [
    ("keeps the shape", DividesByTheDeviation, "not finite for"),
    ("empty batch", LooksAtTheFirstSample, "IndexError"),
    ("write into", Overwrites, "the input changed"),
    ("each other", PoolsTheBatch, "one by one: differs by"),
    ("registers", KeepsAModuleInAList, "layers hides a ['Identity']"),
    ("registers", UsesAGlobalParameter, "() that is not registered"),
    ("gets a gradient", HasAnUnusedParameter, "spare gets no gradient"),
    ("derivatives", Detaches, "Jacobian"),
    ("state dict", RemembersOutsideTheState, "another output after load_state_dict"),
    ("any strides", Views, "view size is not compatible"),
    ("channels_last", MakesContiguous, "gives another layout, contiguous weights"),
    ("mixed precision", Rounds, "autocast: differs by"),
    ("float64", GivesSinglePrecision, "torch.bfloat16 became torch.float32"),
    ("device", MakesATensorOnTheCPU, "used a tensor of another device"),
    ("one graph", LooksAtValues, "Unsupported"),
    ("torch.export", KnowsTheBatch, "batch"),
    ("torch.fx", IsNoLeaf, "symbolically traced variables cannot be used"),
    ("ONNX", KnowsTheBatch, "Expected: 2"),
    ("refuses other", TakesAnything, "(2, 17, 4, 4) gives a RuntimeError"),
    ("channels that are none", TakesNoChannels, "takes channels=0"),
    ("its gate", AddsToItsGate, "differs by"),
]


@pytest.fixture
def zz() -> Iterator[Callable[..., None]]:
    """Registers a class as "zz" until the test ends."""
    attnzoo.list_modules()
    yield lambda cls, **record: attnzoo.register("zz", **record)(cls)
    unregister("zz")


def test_a_module_of_one_line_keeps_all_promises(zz: Callable[..., None]) -> None:
    zz(Gated)
    results = list(check("zz", channels=CHANNELS))
    assert {(r.status, r.reason) for r in results} == {("ok", "")}
    assert {r.title for r in results} == {each.title for each in CHECKS if each.applies(Subject("zz", CHANNELS, 2))}
    assert len(results) == len({(r.title, r.spatial_dims) for r in results})


@pytest.mark.parametrize(("promise", "cls", "reason"), SPOILT)
def test_a_broken_promise_is_found(zz: Callable[..., None], promise: str, cls: type[nn.Module], reason: str) -> None:
    zz(cls, dims=(2,))
    assert promise in " ".join(each.title for each in CHECKS)
    result = next(r for r in check("zz", channels=CHANNELS) if promise in r.title)
    assert result.status == "failed"
    assert reason in result.reason
    assert "\n" not in result.reason


def test_a_plain_module_owes_less(zz: Callable[..., None]) -> None:
    """It is no node of torch.fx, and does not know what it was made for."""
    zz(Plain, dims=(2,))
    results = {r.title: r for r in check("zz", channels=CHANNELS)}
    (traced,) = [r for title, r in results.items() if "torch.fx" in title]
    assert traced.status == "skipped"
    assert "nd.Attention" in traced.reason
    assert not any(title.startswith("refuses") for title in results)


def test_every_promise_is_one_that_a_module_can_break() -> None:
    never = {each.title for each in CHECKS if not any(promise in each.title for promise, _, _ in SPOILT)}
    assert never == {"has the output of the convolution it replaces"}  # for which see below


def test_a_convolution_without_its_stride_is_found(zz: Callable[..., None]) -> None:
    class NoStride(Gated):
        def __init__(self, channels: int, *, spatial_dims: int = 2, out_channels: Any = None, stride: Any = 1) -> None:
            super().__init__(channels, spatial_dims=spatial_dims)

    zz(NoStride, dims=(2,), site="conv")
    (result,) = [r for r in check("zz", channels=32) if "replaces" in r.title]
    assert result.status == "failed"
    assert result.reason.startswith("stride 2: (1, 32, 5, 7) became (1, 32, 5, 7), not (1, 32, 3, 4)")


def test_a_check_without_its_packages_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    (result,) = [r for r in check("se", spatial_dims=2) if "ONNX" in r.title]
    reason = 'this needs onnxscript; install it with: pip install "attnzoo[onnx]"'
    assert result == Result(result.title, 2, "skipped", reason)


def test_the_contract_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    subject("se", 2).module()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def contract(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs `attnzoo contract`: (exit status, standard output, standard error)."""
    monkeypatch.setattr(cli.console, "width", 100)

    def run(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", "contract", *arguments.split()])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return run


def test_the_command_says_what_is_broken_and_why(contract: Callable[..., Any], zz: Callable[..., None]) -> None:
    zz(MakesContiguous)
    status, out, err = contract("zz --channels 8")
    assert (status, err) == (2, "")
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows.pop("takes and keeps channels_last")] == ["failed", "failed"]
    assert {cell.strip() for cells in rows.values() for cell in cells} == {"ok"}
    reason = (
        "takes and keeps channels_last: a channels_last input gives another layout, contiguous weights, training=False"
    )
    assert [f"zz {dims}D failed: {reason}" in out for dims in (2, 3)] == [True, True]
    assert "zz: not compared with its authors' code" in out


def test_the_command_takes_dimensions_options_and_aliases(
    contract: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, out, err = contract("se coord --dims 2 --set reduction=4")
    assert (status, err) == (0, "")
    assert "se promises" in out
    assert "ca promises" in out
    assert "2D" in out
    assert "3D" not in out
    missing = 'equal in onnxruntime: this needs onnxruntime; install it with: pip install "attnzoo[onnx]"'
    assert out.count(missing) == 2
    assert "ca: compared with its authors' code" in out


def test_the_command_without_a_name_takes_all(contract: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnzoo.contract.runner.CHECKS", CHECKS[:1])
    status, out, _ = contract("")
    assert status == 0
    assert all(f"{name} promises" in out for name in attnzoo.list_modules())
    assert out.splitlines()[-1].startswith("not compared with their authors' code: ")
    assert "mpe" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("see", "no attention module is called 'see'; did you mean se"),
        ("se --dims 4", "se is defined for spatial_dims=2 or 3, not for 4"),
        ("se --set reduction=abc", "reduction='abc' of se must be an integer"),
        ("se --set ratio=2", "se has no option 'ratio'"),
        ("sa --channels 48", "channels=48 is not divisible by 2 * groups=128"),
    ],
)
def test_the_command_refuses_in_one_line(contract: Callable[..., Any], arguments: str, message: str) -> None:
    status, out, err = contract(arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"attnzoo: {message}")
    assert err.count("\n") == 1


def test_channels_are_the_fewest_that_fit() -> None:
    assert [fitting("sa", 2), fitting("sa", 2, groups=8), fitting("se", 3)] == [128, 32, 32]
    with pytest.raises(ValueError, match=r"mpe accepts none of 32, 64, 128, 256 channels.*groups=7"):
        fitting("mpe", 2, groups=7)
    with pytest.raises(ValueError, match=r"se is defined for spatial_dims=2 or 3, not for 4"):
        check("se", spatial_dims=4)
    with pytest.raises(ValueError, match=r"channels=48 is not divisible"):
        check("sa", channels=48)


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


ONE_FRAME = [
    ("se", {}),
    ("cbam", {}),
    ("sa", {}),
    ("epsa", {}),
    ("epsa", {"temporal_kernel": 3}),
    ("mpe", {"temporal": "full"}),
    ("mpe", {"temporal": "unit"}),
    ("mpe", {"temporal": "spatial"}),
    ("mpe", {"temporal": "folded"}),
    ("ema", {}),
    ("eca", {}),
    ("sge", {}),
    ("simam", {}),
    ("gc", {}),
    ("nl", {}),
    ("nl", {"subsample": True}),
    ("bam", {}),
    ("sk", {}),
    ("sk", {"dilated": True, "norm": True}),
    ("cse", {}),
    ("sse", {}),
    ("scse", {}),
    ("scse", {"combine": "add"}),
    ("lka", {}),
    ("lsk", {}),
    ("pam", {}),
    ("cam", {}),
    ("cam", {"inverted": False, "scaled": True}),
    ("cca", {}),
    ("cca", {"recurrence": 2}),
    ("a2", {}),
    ("splat", {}),
    ("splat", {"radix": 1, "groups": 2}),
    ("lambda", {}),
    ("ge", {}),
    ("ge", {"extent": 2}),
    ("ge", {"extent": 4, "learned": True, "mlp": True, "reduction": 4}),
    ("srm", {}),
    ("gct", {}),
    ("gct", {"norm": "l1"}),
    ("lct", {}),
    ("fca", {}),
    ("gam", {}),
    ("nam", {}),
    ("mlca", {"leak": False}),  # cells along T, of which one frame fills all alike, would leak into each other too
    ("res2net", {}),  # with first=True the average pool is over 27 positions of which 18 are padding, not over 9
]


@pytest.mark.parametrize(("name", "options"), ONE_FRAME)
@pytest.mark.parametrize("training", [False, True])
def test_a_volume_of_one_frame_is_an_image(name: str, options: dict[str, Any], training: bool) -> None:
    volume = make(name, 3, **options).double()
    image = flat(make(name, 2, **{k: v for k, v in options.items() if "temporal" not in k}).double(), volume)
    for norm in [m for m in (*volume.modules(), *image.modules()) if isinstance(m, nn.GroupNorm)]:
        # EMA and MPE have a third strip in 3D, of one position here: a factor that the norm takes out but for eps.
        norm.eps = 1e-14
    x = features(3, 2, (1, 6, 5), torch.float64)
    same(volume.train(training)(x).squeeze(2), image.train(training)(x.squeeze(2)), 1e-9)


def test_a_volume_of_one_frame_is_an_image_without_the_gate_along_time() -> None:
    volume, image = make("ca", 3).double(), make("ca", 2).double()
    nn.init.zeros_(volume.conv_t.weight)
    nn.init.constant_(volume.conv_t.bias, 50.0)  # a gate of 1
    theirs = {key: value for key, value in volume.state_dict().items() if not key.startswith("conv_t.")}
    image.load_state_dict({key: theirs[key].reshape(value.shape) for key, value in image.state_dict().items()})
    assert image.state_dict().keys() == theirs.keys()
    x = features(3, 2, (1, 6, 5), torch.float64)
    # In eval alone: in training the strips share the statistics of one batch norm, also the strip along time.
    same(volume(x).squeeze(2), image(x.squeeze(2)), 1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_a_volume_of_one_frame_is_an_image_without_the_branch_that_pools_time(training: bool) -> None:
    volume, image = make("triplet", 3).double(), make("triplet", 2).double()
    nn.init.zeros_(volume.chw.bn.weight)
    nn.init.constant_(volume.chw.bn.bias, -50.0)  # a gate of 0
    for ours, theirs, back in (("cw", "ctw", (0, 1)), ("hc", "cth", (1, 0)), ("hw", "thw", (0, 1))):
        state = volume.get_submodule(theirs).state_dict()
        kernel = state["conv.weight"]  # (1, 2, k, k, k), of which one frame meets the middle along T
        along = 2 + theirs.index("t")
        kernel = kernel.select(along, kernel.shape[along] // 2)
        state["conv.weight"] = kernel.permute(0, 1, *(2 + axis for axis in back))
        image.get_submodule(ours).load_state_dict(state)
    x = features(3, 2, (1, 6, 5), torch.float64)
    gates = volume.train(training)(x).squeeze(2), image.train(training)(x.squeeze(2))
    same(4 * gates[0], 3 * gates[1], 1e-9)  # each is a mean, over four branches and over three


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TABLE_PER_AXIS)
def test_a_volume_of_one_frame_is_an_image_whatever_its_relative_positions_in_time(name: str, training: bool) -> None:
    volume, image = make(name, 3).double(), make(name, 2).double()
    theirs = volume.state_dict()
    ours = {"positions.0": "positions.1", "positions.1": "positions.2"}
    state = {key: theirs[ours.get(key, key)].reshape(value.shape) for key, value in image.state_dict().items()}
    image.load_state_dict(state)
    x = features(3, 2, (1, 6, 5), torch.float64)
    same(volume.train(training)(x).squeeze(2), image.train(training)(x.squeeze(2)), 1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_axial_attention_along_height_and_width_is_the_2d_module_on_each_frame(training: bool) -> None:
    volume, image = make("axial", 3, axes=(1, 2)).double(), make("axial", 2).double()
    theirs = volume.state_dict()
    image.load_state_dict({key: theirs[key].reshape(value.shape) for key, value in image.state_dict().items()})
    x = features(3, 2, (4, 6, 5), torch.float64)
    same(volume.train(training)(x), nd.Frames(image.train(training))(x), 1e-9)


# Modules for which all spatial axes are alike whatever their weights are. All others have kernels or branches that tell
# them apart, and treat them alike when those do.
ALIKE = {
    "ge",
    "ese",
    "srm",
    "gct",
    "lct",
    "nam",
    "ela",
    "pam",
    "cam",
    "cca",
    "a2",
    "se",
    "eca",
    "sa",
    "sge",
    "simam",
    "gc",
    "nl",
    "cse",
    "sse",
    "scse",
    "pe",
}
BRANCH_PER_AXIS = {
    "ca": ("conv_t", "conv_h", "conv_w"),
    "triplet": ("cw", "hc", "hw", "chw", "ctw", "cth", "thw"),
    "scsa": ("norm_t", "norm_h", "norm_w"),
}
KERNEL_PER_AXIS = {"lska": ("local", "dilated"), "caa": ("strips",)}  # one after the other


def treat_axes_alike(name: str, module: nn.Module, dims: int) -> None:
    """Give all branches the weights of the first, and each kernel the mean of itself with its axes in any order."""
    first, *others = [branch for key, branch in module.named_children() if key in BRANCH_PER_AXIS.get(name, ())] or [
        nn.Identity()
    ]
    for other in others:
        other.load_state_dict(first.state_dict())
    if name in TABLE_PER_AXIS:
        for table in module.positions:
            table.data = module.positions[0].data
    if name == "axial":
        for layer in module.layers:
            layer.load_state_dict(module.layers[0].state_dict())
    for chain in KERNEL_PER_AXIS.get(name, ()):
        first, *others = module.get_submodule(chain)
        for other in others:
            other.weight.data = first.weight.data.reshape(other.weight.shape)
        for layer in (first, *others):
            nn.init.zeros_(layer.bias)  # at the border a bias would tell the order of the axes
    for value in module.state_dict().values():
        if value.ndim == dims + 2 and len(set(value.shape[2:])) == 1:
            orders = permutations(range(2, value.ndim))
            value.copy_(torch.stack([value.permute(0, 1, *order) for order in orders]).mean(0))


# Of the modules with an order of their own, the options without it, or None: FcaNet's frequencies are no weights.
UNORDERED: dict[str, dict[str, Any] | None] = {"mlca": {"leak": False}, "fca": None}


@pytest.mark.parametrize(("name", "dims"), [c for c in CASES if UNORDERED.get(str(c.values[0]), {}) is not None])
@pytest.mark.parametrize("training", [False, True])
def test_spatial_axes_may_come_in_any_order(name: str, dims: int, training: bool) -> None:
    x = features(dims, dtype=torch.float64)
    for order in permutations(range(2, x.ndim)):
        module = make(name, dims, **(UNORDERED.get(name) or {})).double()
        if name not in ALIKE:
            treat_axes_alike(name, module, dims)
        there = (0, 1, *order)
        y = module.train(training)(x)
        if name == "axial":  # one axis after the other
            module.axes = tuple(order.index(2 + axis) for axis in module.axes)
        same(module(x.permute(there)), y.permute(there), 1e-9)


def test_axes_are_told_apart_by_every_other_module() -> None:
    x = features(2, dtype=torch.float64)
    for name in {case.values[0] for case in CASES} - ALIKE:
        module = make(name, 2).double()
        assert not torch.allclose(module(x.mT), module(x).mT), name


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


# What the rule of each paper's generalisation adds in 3D: kernels k^3 for k^2, one strip more, one branch more.
IN_3D: dict[str, Callable[[int, int], int]] = {
    "se": lambda c, count: count,
    "cbam": lambda c, count: count + 2 * 7**3 - 2 * 7**2,
    "ca": lambda c, count: count + c * max(8, c // 32) + c,
    "sa": lambda c, count: count,
    "triplet": lambda c, count: 4 * (2 * 7**3 + 2),
}


@pytest.mark.parametrize("channels", [64, 256, 512, 2048])
@pytest.mark.parametrize("name", IN_3D)
def test_a_volume_adds_the_parameters_of_its_rule(name: str, channels: int) -> None:
    options = {"groups": 32} if name == "sa" else {}  # 64 groups, its default, do not fit 64 channels
    with torch.device("meta"):
        image, volume = (attnzoo.create(name, channels, spatial_dims=dims, **options) for dims in (2, 3))
    counts = [sum(p.numel() for p in module.parameters()) for module in (image, volume)]
    assert counts[1] == IN_3D[name](channels, counts[0])
