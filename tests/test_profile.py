"""The profiler against torch's counter, fvcore itself and the audited ResNet-101 table; and that it leaves no trace."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore scripts a function on import, which torch calls deprecated
    from fvcore.nn import FlopCountAnalysis

FITS: dict[str, dict[str, Any]] = {"sa": {"groups": 4}, "sge": {"groups": 4}, "epsa": {"groups": (1, 2, 2, 4)}}


def torch_count(model: nn.Module, size: tuple[int, ...]) -> int:
    """FlopCounterMode on a forward pass, with memory, of a copy in eval mode."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(torch.randn(size))
    return counter.get_total_flops()


def fvcore_count(model: nn.Module, size: tuple[int, ...]) -> int:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.jit.trace, on which fvcore builds
        analysis = FlopCountAnalysis(copy.deepcopy(model).eval(), torch.randn(size))
        return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def injected(name: str, **options: Any) -> nn.Module:
    return attnzoo.inject(torchvision.models.resnet18(), name, stages=(2, 4), **FITS.get(name, {}), **options)


class Functional(nn.Module):
    """What counters by hooks miss: functional calls, a module called twice, a product written @."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.filters = nn.Parameter(torch.randn(8, 1, 5, 5))
        self.pool = nn.AdaptiveAvgPool2d((None, 1))
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.conv(x)))
        x = nn.functional.conv2d(x, self.filters, groups=8) @ x.mean((2, 3), keepdim=True)[..., :1, :1].expand(
            -1, -1, 5, 5
        )
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.pool(x) * nn.functional.adaptive_avg_pool2d(x, 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "timm resnet50": (partial(timm.create_model, "resnet50"), (1, 3, 224, 224)),
    "timm resnet101": (partial(timm.create_model, "resnet101"), (1, 3, 64, 96)),
    "torchvision resnet18": (torchvision.models.resnet18, (1, 3, 224, 224)),
    "resnet3d 18": (partial(resnet3d, 18), (1, 3, 8, 56, 56)),
    "functional": (Functional, (2, 8, 9, 9)),
    **{f"{name} in resnet18": (partial(injected, name), (2, 3, 64, 48)) for name in ("epsa", "mpe", "ca")},
    **{
        f"{name} {dims}d": (
            partial(attnzoo.create, name, 32, spatial_dims=dims, **FITS.get(name, {})),
            (2, 32, 5, 6, 7)[: dims + 2],
        )
        for name in attnzoo.list_modules()
        for dims in sorted(attnzoo.spec(name).dims)
    },
}


@pytest.mark.parametrize("network", NETWORKS)
def test_counts_what_torch_and_fvcore_count(network: str) -> None:
    build, size = NETWORKS[network]
    model = build()
    cost = attnzoo.profile(model, size)
    assert cost.counter == "fvcore"
    assert cost.flops == fvcore_count(model, size)
    assert 2 * cost.macs == torch_count(model, size)
    assert cost.params == sum(p.numel() for p in model.parameters())
    for counter, factor in (("macs", 1), ("torch", 2)):
        other = attnzoo.profile(model, list(size), counter=counter)
        assert (other.flops, other.macs, other.counter) == (factor * cost.macs, cost.macs, counter)


def test_counts_the_products_of_attention_over_tokens() -> None:
    """In eval mode torch's own counter misses those of nn.MultiheadAttention's fused path; in training it sees them."""
    layer = nn.TransformerEncoderLayer(56, 4, 128, dropout=0.0, batch_first=True)
    with FlopCounterMode(display=False) as counter:
        layer.train()(torch.randn(2, 64, 56))
    enabled = torch.backends.mha.get_fastpath_enabled()
    assert 2 * attnzoo.profile(layer, (2, 64, 56)).macs == counter.get_total_flops()
    assert torch.backends.mha.get_fastpath_enabled() == enabled


# The audit of ResNet-101 (K = 1000, 1 x 3 x 224 x 224): parameters, and 10^9 multiply-accumulates with four decimals.
TABLE = [
    (None, {}, 44_549_160, 7.8014),
    ("se", {"site": "mid"}, 44_845_608, 7.8017),
    ("cbam", {"site": "mid", "bias": False}, 44_848_842 + 66, 7.8037),  # + the spatial gate's norm, 2 in each of 33
    ("ca", {}, 44_798_216, 7.8055),
    ("sa", {"site": "mid", "groups": 32}, 44_549_922, 7.8014),
    ("triplet", {"site": "mid"}, 44_559_060, 7.8263),
    ("epsa", {}, 38_900_279, 6.7881),
    ("mpe", {}, 45_708_155, 9.4028),
    ("mpe", {"groups": 32}, 44_623_595, 8.2051),
    ("mpe", {"depthwise": True, "combine": "weighted"}, 44_622_891, 7.8735),
    ("se", {}, 49_292_328, 7.8061),
    ("cbam", {"bias": False}, 49_295_562 + 66, 7.8126),
    ("ca", {"site": "out"}, 48_174_608, 7.8597),
    ("sa", {"groups": 64}, 44_550_684, 7.8014),
    ("triplet", {}, 44_559_060, 7.8958),
    ("mpe", {"site": "out", "groups": 32}, 45_708_155, 14.2068),
    ("mpe", {"site": "out"}, 62_969_675, 33.3691),
    ("mpe", {"site": "out", "groups": 32, "depthwise": True, "combine": "weighted"}, 44_622_891, 8.0896),
    ("mpe", {"stages": (4,)}, 44_932_017, 7.9474),
    ("mpe", {"stages": (3, 4)}, 45_669_558, 9.0629),
    ("mpe", {"blocks": "last"}, 44_719_012, 7.9957),
    ("mpe", {"blocks": "last", "site": "out", "groups": 32}, 44_719_012, 8.5786),
    ("mpe", {"stages": (4,), "site": "stage"}, 46_583_339, 8.5797),
]


@pytest.mark.parametrize(("name", "options", "params", "giga"), TABLE, ids=lambda v: str(v).replace(" ", ""))
def test_resnet101_costs_what_the_audit_says(
    name: str | None, options: dict[str, Any], params: int, giga: float
) -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet101()
        if name:
            attnzoo.inject(model, name, **options)
        cost = attnzoo.profile(model, counter="macs")
    assert cost.params == params
    assert cost.macs / 1e9 == pytest.approx(giga, abs=0.5e-4 + 1e-9)


def test_a_head_for_400_classes_costs_what_the_audit_says() -> None:
    with torch.device("meta"):
        cost = attnzoo.profile(torchvision.models.resnet101(num_classes=400), counter="macs")
    assert cost.params == 43_319_760
    assert cost.macs / 1e9 == pytest.approx(7.8002, abs=0.5e-4)


# The same of the 3D ResNet-101 (K = 400, 16 x 112 x 112): 10^6 parameters and 10^9 multiply-accumulates, as printed:
# sums of rounded terms, so that the last digit may be one off.
TABLE_3D = [
    (None, {}, 86.065, 13.891),
    ("se", {"site": "mid"}, 86.361, 13.891),
    ("cbam", {"site": "mid", "bias": False}, 86.384, 13.908),
    ("ca", {}, 86.399, 13.893),
    ("ca", {"site": "out"}, 90.909, 13.925),
    ("sa", {"site": "mid", "groups": 32}, 86.066, 13.891),
    ("triplet", {}, 86.156, 16.334),
    ("mpe", {}, 89.225, 16.931),
    ("mpe", {"temporal": "unit"}, 89.225, 16.931),
    ("mpe", {"temporal": "spatial"}, 87.224, 14.982),
    ("mpe", {"temporal": "folded"}, 87.224, 14.986),
    ("mpe", {"depthwise": True}, 86.306, 14.187),
    ("mpe", {"depthwise": True, "combine": "weighted"}, 86.193, 14.078),
    ("mpe", {"site": "out", "groups": 32}, 89.225, 26.053),
    ("mpe", {"stages": (3, 4)}, 89.121, 15.579),
    ("epsa", {}, 109.023, 16.684),
    ("epsa", {"temporal_kernel": 3}, 69.077, 11.820),
]


@pytest.mark.parametrize(("name", "options", "params", "giga"), TABLE_3D, ids=lambda v: str(v).replace(" ", ""))
def test_resnet3d_101_costs_what_the_audit_says(
    name: str | None, options: dict[str, Any], params: float, giga: float
) -> None:
    with torch.device("meta"):
        model = resnet3d(101)
        if name:
            attnzoo.inject(model, name, **options)
        cost = attnzoo.profile(model, (1, 3, 16, 112, 112), counter="macs")
    assert cost.params / 1e6 == pytest.approx(params, abs=0.0011)
    assert cost.macs / 1e9 == pytest.approx(giga, abs=0.0011)


class Moody(nn.Module):
    """A network with everything that a profiler might disturb; on request its forward raises."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.trunk(x)
        if self.error:
            raise self.error
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def snapshot(model: nn.Module) -> list[Any]:
    """All that can be seen of a model, and the state of the random numbers."""
    tensors = model.state_dict(keep_vars=True)
    hooks = [
        [list(m.__dict__[kind].items()) for kind in sorted(m.__dict__) if kind.endswith("hooks")]
        for m in model.modules()
    ]
    return [
        [(name, id(m), m.training, sorted(m.__dict__)) for name, m in model.named_modules()],
        [(key, id(t), t.device, t.requires_grad, t._version, t.tolist()) for key, t in tensors.items()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        hooks,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    ]


@pytest.mark.parametrize(
    "error", [None, RuntimeError("out of luck"), ValueError("no"), KeyError("who"), OSError("disk")]
)
def test_leaves_the_model_as_it_was(error: Exception | None) -> None:
    model = Moody()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    model.error = error
    model.trunk.eval()
    model.head.weight.requires_grad_(False)
    model.head.register_forward_hook(lambda _, __, out: out)
    model.register_forward_pre_hook(lambda _, args: args)
    before = snapshot(model)
    if error is None:
        cost = attnzoo.profile(model, (1, 3, 8, 8))
        assert (cost.params, cost.trainable) == (130, 122)
    else:
        with pytest.raises(Exception, match=str(error)):
            attnzoo.profile(model, (1, 3, 8, 8))
    assert snapshot(model) == before


def test_an_error_without_a_message_is_still_explained() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\).*Moody.*RuntimeError"):
        attnzoo.profile(Moody(RuntimeError()), (1, 3, 8, 8))


def test_needs_neither_memory_nor_a_device() -> None:
    with torch.device("meta"):
        model = nn.Conv2d(1000, 1000, 3, padding=1)
    cost = attnzoo.profile(model, (64, 1000, 2048, 2048), counter="macs")
    assert cost.flops == 64 * 2048**2 * 9 * 1000**2
    assert attnzoo.profile(nn.Conv2d(3, 8, 1)) == attnzoo.profile(nn.Conv2d(3, 8, 1), (1, 3, 224, 224))


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (torchvision.models.resnet18, (1, 3)),
        (torchvision.models.resnet18, (1, 4, 64, 64)),
        (torchvision.models.resnet18, (1, 3, 8, 64, 64)),
        (torchvision.models.resnet18, (1, 3, -64, 64)),
        (torchvision.models.resnet18, ()),
        (partial(resnet3d, 10), (1, 3, 224, 224)),
        (partial(attnzoo.create, "mpe", 32), (1, 16, 8, 8)),
        (partial(timm.create_model, "vit_tiny_patch16_224"), (1, 3, 100, 100)),
    ],
)
def test_an_input_size_that_does_not_fit_is_named_in_one_line(
    build: Callable[[], nn.Module], size: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = build()
    with pytest.raises(ValueError, match=type(model).__name__) as error:
        attnzoo.profile(model, size)
    assert str(size) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_counter_is_named() -> None:
    with pytest.raises(ValueError, match=r"'thopp'.*fvcore, macs, torch"):
        attnzoo.profile(nn.Conv2d(3, 8, 1), counter="thopp")
