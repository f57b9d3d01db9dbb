"""The profiler against fvcore, thop and torch's counter themselves, real runs, closed forms and the audited tables."""

import contextlib
import copy
import io
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.inject import attentions
from attnzoo.profiling import COUNTERS, conventions, register_cost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both call what torch and Python have since deprecated
    import thop
    from fvcore.nn import FlopCountAnalysis

FITS: dict[str, dict[str, Any]] = {"sa": {"groups": 4}, "sge": {"groups": 4}, "epsa": {"groups": (1, 2, 2, 4)}}
VIDEO = torchvision.models.video


def torch_count(model: nn.Module, x: Tensor) -> int:
    """FlopCounterMode on a forward pass, with memory, of a copy in eval mode, fused attention as products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, slow_path(), sdpa_kernel(SDPBackend.MATH):
        copy.deepcopy(model).eval()(x)
    return counter.get_total_flops()


def fvcore_count(model: nn.Module, x: Tensor) -> int:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.jit.trace, on which fvcore builds
        analysis = FlopCountAnalysis(copy.deepcopy(model).eval(), x)
        return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def thop_count(model: nn.Module, x: Tensor) -> int:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return int(thop.profile(copy.deepcopy(model), (x,), verbose=False)[0])


@contextlib.contextmanager
def slow_path() -> Iterator[None]:
    """Without the fused path of nn.MultiheadAttention, which hides its products from torch's own counter."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


def saved_by_autograd(model: nn.Module, x: Tensor) -> int:
    """What a real training step of a copy keeps, on the CPU."""
    model = copy.deepcopy(model).train()
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t.detach()

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(x.clone().requires_grad_())
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def injected(name: str, **options: Any) -> nn.Module:
    return attnzoo.inject(torchvision.models.resnet18(), name, stages=(2, 4), **FITS.get(name, {}), **options)


class Functional(nn.Module):
    """What counters by hooks miss: functional calls, a module called twice, a product written @, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.filters = nn.Parameter(torch.randn(8, 1, 5, 5))
        self.pool = nn.AdaptiveAvgPool2d((None, 1))
        self.norm = nn.GroupNorm(2, 8, affine=False)
        self.own = nn.InstanceNorm2d(8, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.norm(self.conv(self.conv(x))))
        x = F.conv2d(x, self.filters, groups=8) @ x.mean((2, 3), keepdim=True)[..., :1, :1].expand(-1, -1, 5, 5)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = F.grid_sample(x, x[:, :2].movedim(1, 3), align_corners=False)
        return self.pool(x) * F.adaptive_avg_pool2d(x, 1) * F.interpolate(x, (1, 1), mode="area")


class Plain(nn.Module):
    """The modules that thop knows and the networks below do not have; and what it does not count: subclasses, calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
            nn.PReLU(),
            nn.AvgPool2d(2),
            nn.InstanceNorm2d(6),
            nn.LayerNorm(7),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Upsample(scale_factor=2, mode="bicubic"),
            nn.AdaptiveAvgPool2d((5, 3)),
            torchvision.ops.FrozenBatchNorm2d(6),
            nn.LeakyReLU(),
            nn.Softmax(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.layers(x), 1)


Network = tuple[Callable[[], nn.Module], tuple[int, ...]]
NETWORKS: dict[str, Network] = {
    "timm resnet101": (partial(timm.create_model, "resnet101"), (1, 3, 64, 64)),
    "timm seresnet50": (partial(timm.create_model, "seresnet50"), (1, 3, 96, 96)),
    "torchvision resnet18": (torchvision.models.resnet18, (1, 3, 96, 64)),
    "torchvision resnet50": (torchvision.models.resnet50, (1, 3, 64, 64)),
    "torchvision r3d_18": (VIDEO.r3d_18, (1, 3, 8, 64, 64)),  # whose convolutions are subclasses
    "torchvision swin_t": (torchvision.models.swin_t, (1, 3, 64, 96)),
    "torchvision vit": (partial(torchvision.models.VisionTransformer, 64, 16, 2, 3, 48, 96), (1, 3, 64, 64)),  # MHA
    "timm vit": (partial(timm.create_model, "vit_tiny_patch16_224", depth=2), (1, 3, 224, 224)),  # fused attention
    "timm resnet18 coord": (
        partial(timm.create_model, "resnet18", block_args={"attn_layer": "coord"}),
        (1, 3, 96, 64),
    ),
    "timm efficientnet": (partial(timm.create_model, "efficientnet_b0"), (1, 3, 64, 64)),
    "resnet3d 18": (partial(resnet3d, 18), (1, 3, 8, 40, 40)),
    "functional": (Functional, (2, 8, 9, 9)),
    "plain": (Plain, (2, 4, 7, 7)),
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
def test_counts_what_torch_fvcore_and_thop_count(network: str) -> None:
    build, size = NETWORKS[network]
    model, x = build(), torch.randn(size)
    cost = attnzoo.profile(model, size)
    assert cost.device == "meta"
    assert cost.counter == "fvcore"
    assert cost.flops == cost.by_counter["fvcore"] == fvcore_count(model, x)
    assert 2 * cost.macs == 2 * cost.by_counter["macs"] == cost.by_counter["torch"] == torch_count(model, x)
    assert cost.by_counter["thop"] == thop_count(model, x)
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.unknown == ()
    assert cost.saved == saved_by_autograd(model, x)
    assert (cost.modules[""].macs, cost.modules[""].flops, cost.modules[""].params) == (
        cost.macs,
        cost.flops,
        cost.params,
    )


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


@pytest.mark.parametrize("counter", COUNTERS)
def test_each_convention_counts_the_same_pass(counter: str) -> None:
    model = injected("ca")
    cost, other = attnzoo.profile(model, (1, 3, 64, 64)), attnzoo.profile(model, [1, 3, 64, 64], counter=counter)
    assert (other.flops, other.counter) == (cost.by_counter[counter], counter)
    assert (other.by_counter, other.macs, other.saved) == (cost.by_counter, cost.macs, cost.saved)
    assert other.modules["layer4"].flops == sum(other.modules[f"layer4.{i}"].flops for i in (0, 1))


def test_counts_the_products_of_attention_over_tokens() -> None:
    """In eval mode torch's own counter misses those of nn.MultiheadAttention's fused path; in training it sees them.

    On a CPU torch 2.13 and 2.14 see them only where they are products of their own.
    """
    layer = nn.TransformerEncoderLayer(56, 4, 128, dropout=0.0, batch_first=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        layer.train()(torch.randn(2, 64, 56))
    enabled = torch.backends.mha.get_fastpath_enabled()
    cost = attnzoo.profile(layer, (2, 64, 56))
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.flops == cost.macs - 2 * 2 * 64**2 * 56 + 2 * 5 * 2 * 64 * 56  # no fused attention, but norms
    assert cost.zeros["scaled_dot_product_attention"] == 1
    assert torch.backends.mha.get_fastpath_enabled() == enabled


class Call(nn.Module):
    """A function as a module, with parts to hold."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.parts)


C, N = 4, 2 * 4 * 6 * 6  # channels and elements of x
X = (2, C, 6, 6)
TABLE = torch.randn(100, 4)
INDEX = torch.zeros(7, dtype=torch.long)

# What one operation does: elements worked on, read, written (4 bytes each), kernels, 4-byte elements saved.
OPERATIONS: dict[str, tuple[nn.Module, tuple[float, float, float, int, float]]] = {
    "convolution": (nn.Conv2d(C, 8, 3, padding=1), (0, N + 8 * C * 9 + 8, 2 * N, 1, N)),
    "linear": (nn.Linear(6, 5, bias=False), (0, N + 30, N / 6 * 5, 1, N)),
    "relu": (nn.ReLU(), (N, N, N, 1, N)),
    "relu in place": (Call(lambda x: (x + 1).relu_()), (2 * N, 2 * N, 2 * N, 2, N)),
    "sigmoid": (nn.Sigmoid(), (N, N, N, 1, N)),
    "hardswish": (nn.Hardswish(), (N, N, N, 1, N)),
    "softmax": (nn.Softmax(1), (N, N, N, 1, N)),
    "mean": (Call(lambda x: x.mean((2, 3))), (N, N, 2 * C, 1, 0)),
    "pool": (nn.AdaptiveAvgPool2d(1), (N, N, 2 * C, 1, 0)),
    "average pool": (nn.AvgPool2d(2), (N, N, N / 4, 1, N)),
    "max pool": (nn.MaxPool2d(2), (N, N, N / 4 * 3, 1, N + N / 2)),  # indices have 8 bytes
    "gate": (Call(lambda x: x * x.mean((2, 3), keepdim=True)), (2 * N, 2 * N + 2 * C, N + 2 * C, 2, N + 2 * C)),
    "expanded gate": (
        Call(lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x)),
        (2 * N, 2 * N + 2 * C, N + 2 * C, 2, N + 2 * C),
    ),
    "views": (Call(lambda x: x.view(2, -1, 6).transpose(0, 1).chunk(2)[0][:, None].squeeze(1)), (0, 0, 0, 0, 0)),
    "copy": (Call(lambda x: x.mT.contiguous()), (0, N, N, 1, 0)),
    "half": (Call(lambda x: x.half()), (0, N, N / 2, 1, 0)),
    "cat": (Call(lambda x: torch.cat([x, x], 1)), (0, 2 * N, 2 * N, 1, 0)),
    "fill": (Call(lambda x: x.new_zeros(5).fill_(1)), (0, 0, 10, 2, 0)),
    "out": (Call(lambda x: torch.add(x.detach(), 1, out=torch.empty(X))), (N, N, N, 1, 0)),
    "gather": (Call(lambda x, e: e(INDEX.to(x.device)), nn.Embedding(100, 4)), (0, 14 + 28 + 14, 14 + 28, 2, 14)),
    "batch norm": (nn.BatchNorm2d(C), (N, N + 4 * C, N, 1, N + 2 * C)),
    "layer norm": (nn.LayerNorm(6), (N, N + 12, N + 2 * N / 6, 1, N + 2 * N / 6)),
    "dropout": (nn.Dropout(), (0, 0, 0, 0, N)),
    "storage once": (Call(lambda x: (x * x, x.sigmoid() * x[:1])), (3 * N, 4.5 * N, 3 * N, 3, 2 * N)),
    "matrix and vector": (Call(lambda x: x[0, 0] @ x[0, 0, 0]), (0, 36 + 6, 6, 1, N)),
    "attention": (
        Call(lambda x: F.scaled_dot_product_attention(x, x, x)),
        (0, 3 * N, N + N / 6, 1, 2 * N + N / 6),
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_work_and_traffic_have_closed_forms(operation: str) -> None:
    model, (elementwise, read, written, kernels, saved) = OPERATIONS[operation]
    cost = attnzoo.profile(model, X)
    assert (cost.elementwise, cost.bytes_read / 4, cost.bytes_written / 4) == (elementwise, read, written)
    assert cost.kernels == kernels
    assert cost.saved / 4 == saved
    if any(t.requires_grad for t in model.parameters()) or saved:
        assert cost.saved == saved_by_autograd(model, torch.randn(X))


@pytest.mark.parametrize(
    ("model", "flops"),
    [
        (nn.Conv2d(C, 8, 1), 2 * 2 * N * C),
        (nn.ReLU(), N),
        (nn.AdaptiveAvgPool2d(1), N),
        (nn.BatchNorm2d(C), 2 * N),
        (nn.GroupNorm(2, C), 8 * N),
        (nn.Softmax(1), 5 * N),
        (Call(lambda x: x.var(1)), 4 * N),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 7 * 4 * N),
        (nn.Flatten(), 0),
    ],
    ids=str,
)
def test_the_convention_of_everything_counts_each_element(model: nn.Module, flops: int) -> None:
    assert attnzoo.profile(model, X, counter="all").flops == flops


def test_memory_does_not_depend_on_a_batch_of_one() -> None:
    """Batch norm of one value a channel raises in training, where there are more examples."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(C))
    assert attnzoo.profile(model, (1, C, 6, 6)).saved == 4 * 3 * C
    assert attnzoo.profile(model, X).saved == 4 * 4 * C == saved_by_autograd(model, torch.randn(X))


def test_frozen_layers_keep_nothing_for_the_backward_pass() -> None:
    model = nn.Sequential(nn.Conv2d(C, C, 1), nn.Sigmoid(), nn.Conv2d(C, C, 1))
    assert attnzoo.profile(model, X).saved == 4 * 2 * N
    model[0].requires_grad_(False)
    assert attnzoo.profile(model, X).saved == 4 * N
    assert attnzoo.profile(model.requires_grad_(False), X).saved == 0


def test_lists_what_a_convention_counts_as_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    zeros = {counter: attnzoo.profile(model, X, counter=counter).zeros for counter in COUNTERS}
    assert zeros == {
        "fvcore": {"relu": 1},
        "macs": {"native_batch_norm": 1, "relu": 1, "mean": 1},
        "torch": {"native_batch_norm": 1, "relu": 1, "mean": 1},
        "thop": {"relu": 1},
        "all": {},
    }


def test_subtotals_add_up() -> None:
    plain, model = torchvision.models.resnet18(), injected("se", site="out")
    before, cost = attnzoo.profile(plain, (2, 3, 64, 64)), attnzoo.profile(model, (2, 3, 64, 64))
    for field in ("macs", "flops", "bytes", "kernels", "params"):
        whole = getattr(cost.modules[""], field)
        # The forward of the network does nothing itself but view; one ReLU of the stem and each block's are modules.
        assert whole == sum(getattr(cost.modules[name], field) for name, _ in model.named_children())
        prefixes = attentions(model)
        assert getattr(cost.attention, field) == sum(getattr(cost.modules[prefix], field) for prefix in prefixes)
        # Attention adds what it costs, nothing else.
        assert getattr(cost.attention, field) == whole - getattr(before.modules[""], field)
    assert cost.modules[""].bytes == cost.bytes_read + cost.bytes_written
    assert set(before.modules) < set(cost.modules)
    assert {key.rpartition(".")[0] for key in model.state_dict()} <= set(cost.modules)
    assert not any("base" in path for path in cost.modules)
    assert cost.modules["layer4.1.bn2"].macs == cost.modules["layer4.1.bn2.attn"].macs > 0
    assert before.attention.kernels == before.attention.params == 0


class Sharing(nn.Module):
    """A layer under two parents, a list whose own forward never runs, a call that fails and is made up for."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Conv2d(C, C, 1)
        self.first, self.second = nn.Sequential(layer), nn.Sequential(nn.ReLU(), layer)
        self.many = nn.ModuleList(nn.Conv2d(C, C, 1) for _ in range(3))
        self.broken = nn.Conv2d(C + 1, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.second(self.first(x)))
        for layer in self.many:
            x = layer(x) * 2
        with contextlib.suppress(RuntimeError):
            self.broken(x)
        return self.many[0](x)


def test_shared_modules_count_where_they_are_called() -> None:
    cost = attnzoo.profile(Sharing(), X)
    macs = {path: part.macs // (N * C) for path, part in cost.modules.items() if part.macs}
    assert macs == {
        "": 7,
        "first": 1,
        "first.0": 1,
        "second": 2,
        "second.1": 2,
        "many": 4,
        "many.0": 2,
        "many.1": 1,
        "many.2": 1,
    }
    assert (cost.modules["second"].kernels, cost.modules["many"].kernels, cost.kernels) == (4, 4, 12)
    assert cost.params == sum(p.numel() for p in Sharing().parameters())
    assert cost.modules["first"].params == cost.modules["second"].params == C * C + C


class Sub(nn.Conv2d):
    pass


def test_subclasses_and_hooks_are_counted_but_by_thop() -> None:
    model = nn.Sequential(Sub(C, C, 1), nn.Conv2d(C, C, 1))
    extra = nn.Conv2d(C, C, 1)
    model[1].add_module("extra", extra)
    model[1].register_forward_hook(lambda module, _, out: module.extra(out))
    cost = attnzoo.profile(model, X)
    assert cost.flops == cost.macs == 3 * N * C
    assert cost.by_counter["thop"] == N * C == thop_count(model, torch.randn(X))
    assert (cost.modules["1"].macs, cost.modules["1.extra"].macs) == (2 * N * C, N * C)


def test_of_a_compiled_or_wrapped_network_the_plain_one_is_counted() -> None:
    model = injected("ca")
    cost = attnzoo.profile(model, (1, 3, 64, 64))
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        assert attnzoo.profile(wrapped, (1, 3, 64, 64)) == cost
    model.layer1 = torch.compile(model.layer1, backend="eager")
    model.layer2.compile(backend="eager")
    assert attnzoo.profile(model, (1, 3, 64, 64)) == cost


def test_inference_mode_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(C, C, 1), nn.MaxPool2d(2), nn.Dropout(), Call(lambda x: x.mT.reshape(-1)))
    cost = attnzoo.profile(model, X)
    inside = attnzoo.profile(Call(torch.inference_mode()(lambda x, net: net(x)), model), X)
    assert (inside.modules["parts.0"], inside.kernels, inside.saved) == (cost.modules[""], cost.kernels, 0)
    with torch.inference_mode():
        assert attnzoo.profile(model, X) == cost
        assert attnzoo.profile(nn.Sequential(nn.Conv2d(C, C, 1), *model[1:]), X) == cost


@pytest.mark.parametrize(
    "function",
    [
        lambda x, conv: conv(x) * x.mean().item(),
        lambda x, conv: conv(x) * float(x.detach().numpy().mean()),
        lambda x, conv: conv(x) if x.sum() > 0 else conv(-x),
        lambda x, conv: conv(x)[:, 0][x[:, 0] > 0],
        lambda x, conv: conv(x) * {"cpu": 2, "cuda": 3}[x.device.type],
    ],
)
def test_a_network_that_needs_values_runs_on_a_real_copy(function: Callable[..., Tensor]) -> None:
    model = Call(function, nn.Conv2d(C, 8, 1))
    before = snapshot(model)
    cost = attnzoo.profile(model, X)
    assert (cost.device, cost.macs, cost.params) == ("cpu", N * 8, 8 * C + 8)
    assert cost.saved >= 4 * N
    assert snapshot(model) == before
    with torch.device("meta"):  # of which a real copy can be made as well
        assert attnzoo.profile(Call(function, nn.Conv2d(C, 8, 1)), X).macs == cost.macs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_input_has_the_type_of_the_network(dtype: torch.dtype) -> None:
    cost = attnzoo.profile(nn.Conv2d(C, C, 1, bias=False, dtype=dtype), X)
    assert cost.bytes_written == N * dtype.itemsize
    assert cost.bytes_read == (N + C * C) * dtype.itemsize


@torch.library.custom_op("attnzoo_tests::blur", mutates_args=())
def blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1)


@blur.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("attnzoo_tests::halve_", mutates_args={"x"})
def halve_(x: Tensor) -> None:
    x.mul_(0.5)


@torch.library.custom_op("attnzoo_tests::sharpen", mutates_args=())
def sharpen(x: Tensor) -> Tensor:
    return 2 * x - F.avg_pool2d(x, 3, 1, 1)  # and no fake, so that it does not run on the meta device


BLUR = torch.ops.attnzoo_tests.blur


def test_an_operation_that_nobody_has_declared_is_listed() -> None:
    cost = attnzoo.profile(Call(lambda x, conv: blur(conv(x)), nn.Conv2d(C, C, 1)), X, counter="all")
    assert (cost.unknown, cost.zeros) == (("attnzoo_tests::blur",), {"attnzoo_tests::blur": 1})
    assert (cost.flops, cost.kernels, cost.bytes_written) == (2 * N * C, 2, 4 * 2 * N)
    cost = attnzoo.profile(Call(lambda x: halve_(x)), X)
    assert (cost.unknown, cost.device) == (("attnzoo_tests::halve_",), "meta")
    assert (cost.bytes_read, cost.bytes_written, cost.kernels) == (4 * N, 4 * N, 1)
    cost = attnzoo.profile(Call(lambda x: sharpen(x)), X)
    assert (cost.unknown, cost.device, cost.kernels) == (("attnzoo_tests::sharpen",), "cpu", 1)
    cost = attnzoo.profile(Call(lambda x: torch.fft.rfft2(x).real), X)
    assert cost.unknown == ("_fft_r2c",)


@pytest.mark.parametrize(
    ("declare", "macs", "elementwise"),
    [
        (lambda: register_cost(BLUR, macs=lambda x, out: 9 * x.numel()), 9 * N, 0),
        (lambda: register_cost(BLUR.default, elementwise=lambda x, out: out.numel()), 0, N),
        (lambda: register_cost(BLUR, macs=lambda x, out: N, elementwise=lambda x, out: 2 * N), N, 2 * N),
        (lambda: register_flop_formula(BLUR)(lambda shape, out_shape=None: 18 * shape.numel()), 9 * N, 0),
    ],
)
def test_a_declared_operation_is_counted(
    declare: Callable[[], None], macs: int, elementwise: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conventions, "_declared", {})
    try:
        declare()
        cost = attnzoo.profile(Call(lambda x: blur(x)), X)
    finally:
        flop_registry.pop(BLUR, None)
    assert (cost.macs, cost.elementwise, cost.unknown) == (macs, elementwise, ())
    assert cost.by_counter == {
        "macs": macs,
        "fvcore": macs,
        "thop": 0,
        "torch": 2 * macs,
        "all": 2 * macs + elementwise,
    }


def test_a_declaration_of_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"blur: give macs=, elementwise="):
        register_cost(BLUR)
    with pytest.raises(TypeError, match=r"op='relu' must be an operation such as torch\.ops\."):
        register_cost("relu", macs=lambda *_, out: 1)


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
        x = self.trunk(x) + random.random() + np.random.random() + torch.rand(1, device="cpu").item()  # noqa: NPY002
        self.last = x
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
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_default_device(),
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


def test_a_forward_that_reaches_past_the_copy_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    inner = model.forward
    model.forward = lambda x: inner(x)  # type: ignore[method-assign]
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"calls the model itself.*types\.MethodType"):
        attnzoo.profile(model, (2, 3, 8, 8))
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
    with pytest.raises(ValueError, match=r"'thopp'.*fvcore, macs, thop, torch, all"):
        attnzoo.profile(nn.Conv2d(3, 8, 1), counter="thopp")


class Attending(nn.Module):
    """Scaled-dot-product attention with dropout while training."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout if self.training else 0.0)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_keeps_for_backward_what_the_cpu_keeps(dropout: float) -> None:
    x = torch.randn(2, 4, 49, 32)
    assert attnzoo.profile(Attending(dropout), tuple(x.shape)).saved == saved_by_autograd(Attending(dropout), x)


def test_attention_without_heads_is_one_kernel() -> None:
    cost = attnzoo.profile(Attending(0.0), (8, 128, 64))
    assert (cost.kernels, cost.macs) == (1, 2 * 8 * 128 * 128 * 64)


def test_a_shared_module_counts_for_whoever_calls_it() -> None:
    conv = nn.Conv2d(4, 4, 1)
    modules = attnzoo.profile(nn.Sequential(nn.Sequential(conv), conv), (1, 4, 5, 5)).modules
    assert {path: part.macs for path, part in modules.items()} == {"": 800, "0": 400, "0.0": 400, "1": 400}


def test_what_counts_as_nothing_is_told_for_every_convention() -> None:
    cost = attnzoo.profile(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sigmoid()), (1, 3, 5, 5))
    nothing = {counter: len(zeros) for counter, zeros in cost.zeros_by_counter.items()}
    assert nothing == {"fvcore": 1, "macs": 2, "thop": 1, "torch": 2, "all": 0}
    assert cost.zeros == cost.zeros_by_counter["fvcore"]


def test_indices_are_tried_where_numbers_do_not_fit() -> None:
    assert attnzoo.profile(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3)), (2, 7)).macs == 2 * 7 * 4 * 3


def test_a_network_that_cannot_be_copied_says_so() -> None:
    network = nn.Sequential(nn.ReLU())
    network.lock = threading.Lock()
    with pytest.raises(ValueError, match="this Sequential cannot be copied, as profiling must: TypeError: cannot pick"):
        attnzoo.profile(network, (1, 3))
