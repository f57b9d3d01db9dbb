"""Options that turn a module into another published version of it: timm's, or one that the authors describe."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import timm.layers as timm
import torch
import torch.nn.functional as F
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import NonLocalAttn
from torch import Tensor, nn

import attnzoo

SIZES = {2: (5, 8), 3: (3, 5, 4)}
CONV = {2: F.conv2d, 3: F.conv3d}
both_dims = pytest.mark.parametrize("dims", [2, 3])


def away(module: nn.Module) -> nn.Module:
    """The module in float64 with parameters and buffers away from their neutral start."""
    generator = torch.Generator().manual_seed(0)
    for key, value in module.double().state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype) / 4
            value.copy_(noise.abs() + 0.5 if key.endswith("running_var") else value + noise)
    return module


def make(name: str, channels: int, dims: int = 2, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """One of our modules in eval mode, and its parameters and buffers."""
    module = away(attnzoo.create(name, channels, spatial_dims=dims, **options)).eval()
    return module, {**dict(module.named_parameters()), **dict(module.named_buffers())}


def features(channels: int, dims: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels, *SIZES[dims], generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Equal outputs, and equal gradients with respect to the input."""
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    for_x, expected_for_x = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(for_x, expected_for_x, rtol=1e-9, atol=1e-9)


SK = {"groups": 1, "min_width": 1, "divisor": 8, "dilated": True, "norm": True, "bias": False}
SK_NAMES = {
    "paths.0.conv": "convs.0.0",
    "paths.0.bn": "convs.0.1",
    "paths.1.conv": "convs.1.0",
    "paths.1.bn": "convs.1.1",
    "attn.fc_reduce": "fc.0",
    "attn.bn": "fc.1",
    "attn.fc_select": ("fcs.0", "fcs.1"),
}
CBAM = {"bias": False, "divisor": 1, "mean_first": True, "momentum": 0.1}
CBAM_NAMES = {"channel.fc1": "mlp.0", "channel.fc2": "mlp.2", "spatial.conv.conv": "spatial.conv"}
CBAM_NAMES["spatial.conv.bn"] = "spatial.bn"
CA_NAMES = {name: name for name in ("conv1", "bn1", "conv_h", "conv_w")}
GC = {"reduction": 8, "divisor": 1, "eps": 1e-6}
NL = {"reduction": 8, "divisor": 8, "scale": "input"}
NL_NAMES = {"t": "query", "p": "key", "g": "value", "z": "out", "norm": "norm"}


def transform(ours: str, theirs: str) -> dict[str, str]:
    return {f"{theirs}.fc1": f"{ours}.0", f"{theirs}.norm": f"{ours}.1", f"{theirs}.fc2": f"{ours}.3"}


# Our options, timm's layer and options, timm's names -> ours.
TIMM = [
    ("se", {"bias": True, "divisor": 8}, timm.SEModule, {}, {"fc1": "fc.0", "fc2": "fc.2"}),
    ("se", {"divisor": 1}, timm.SEModule, {"rd_divisor": 1, "bias": False}, {"fc1": "fc.0", "fc2": "fc.2"}),
    ("cbam", CBAM, CbamModule, {}, CBAM_NAMES),
    ("cbam", {**CBAM, "bias": True, "kernel_size": 3}, CbamModule,
     {"mlp_bias": True, "spatial_kernel_size": 3}, CBAM_NAMES),
    ("ca", {"reduction": 24, "divisor": 8, "bias": False}, CoordAttn, {}, CA_NAMES),
    ("ca", {"reduction": 24, "divisor": 8}, CoordAttn, {"bias": True}, CA_NAMES),
    ("eca", {"kernel_size": None}, timm.EcaModule, {}, {"conv": "conv"}),
    ("sk", {**SK, "split": True}, timm.SelectiveKernel, {}, SK_NAMES),
    ("sk", {**SK, "split": True, "out_channels": 80, "stride": 2}, timm.SelectiveKernel,
     {"out_channels": 80, "stride": 2}, SK_NAMES),
    ("sk", {**SK, "groups": 4, "dilated": False}, timm.SelectiveKernel,
     {"groups": 4, "keep_3x3": False, "split_input": False}, SK_NAMES),
    ("gc", {**GC, "fusion": "mul"}, GlobalContext, {}, {"conv_attn": "mask", **transform("mul", "mlp_scale")}),
    ("gc", {**GC, "fusion": ("add", "mul"), "pooling": "avg"}, GlobalContext, {"use_attn": False, "fuse_add": True},
     {**transform("add", "mlp_add"), **transform("mul", "mlp_scale")}),
    ("nl", NL, NonLocalAttn, {}, NL_NAMES),
    ("nl", {**NL, "scale": False}, NonLocalAttn, {"use_scale": False}, NL_NAMES),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "layer", "theirs", "names"), TIMM)
@pytest.mark.parametrize("channels", [24, 64, 80, 160])
def test_equals_timm(
    name: str,
    options: dict[str, Any],
    layer: Callable[..., nn.Module],
    theirs: dict[str, Any],
    names: dict[str, str | tuple[str, ...]],
    channels: int,
) -> None:
    reference = away(layer(channels, **theirs))
    ours = attnzoo.create(name, channels, **options).double()
    state = ours.state_dict()

    def renamed() -> dict[str, Tensor]:
        converted = {}
        for key, value in reference.state_dict().items():
            place, _, leaf = key.rpartition(".")
            targets = (names[place],) if isinstance(names[place], str) else names[place]
            for target, part in zip(targets, value.chunk(len(targets)) if value.ndim else [value], strict=True):
                # What timm writes as 1x1 convolutions of pooled features are linear maps here.
                shape = state[f"{target}.{leaf}"].shape
                assert part.squeeze().shape == shape.__class__(s for s in shape if s > 1)
                converted[f"{target}.{leaf}"] = part.reshape(shape)
        return converted

    ours.load_state_dict(renamed(), strict=True)
    for training in (False, True, False):  # the last with the statistics of the step before
        same(ours.train(training), reference.train(training), features(channels))
    for key, value in renamed().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("divisor", [1, 4, 8])
def test_widths_are_timms_at_any_number_of_channels(divisor: int) -> None:
    for channels in range(1, 400):
        with torch.device("meta"):
            ours = attnzoo.create("se", channels, divisor=divisor)
            assert ours.fc[0].weight.shape == timm.SEModule(channels, rd_divisor=divisor).fc1.weight.shape[:2]
            eca = attnzoo.create("eca", channels, kernel_size=None)
            assert eca.conv.weight.shape == timm.EcaModule(channels).conv.weight.shape


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda v: v.sum(2) / v.shape[2],
    "max": lambda v: v.amax(2),
    "lp": lambda v: (v * v).sum(2).sqrt(),
    "lse": lambda v: v.exp().sum(2).log(),
}


@both_dims
@pytest.mark.parametrize("pools", [p for n in range(1, 5) for p in combinations(POOLS, n)], ids="+".join)
def test_cbam_pools_without_a_spatial_gate(pools: tuple[str, ...], dims: int) -> None:
    ours, p = make("cbam", 8, dims, reduction=2, pools=pools, spatial=False)
    assert not any(key.startswith("spatial") for key in p)

    def theirs(x: Tensor) -> Tensor:
        logits = 0
        for pool in pools:
            hidden = (POOLS[pool](x.flatten(2)) @ p["mlp.0.weight"].T + p["mlp.0.bias"]).clamp(min=0)
            logits = logits + hidden @ p["mlp.2.weight"].T + p["mlp.2.bias"]
        return x * torch.sigmoid(logits).view(*x.shape[:2], *(1,) * dims)

    same(ours, theirs, features(8, dims))


def test_the_lp_pool_is_torchs() -> None:
    x = features(8)
    pooled = F.lp_pool2d(x, 2, x.shape[2:]).flatten(1)
    torch.testing.assert_close(POOLS["lp"](x.flatten(2)), pooled, rtol=1e-9, atol=1e-9)


# The axis that each branch pools away, and the other axes as its kernel sees them.
BRANCHES = {
    2: {"cw": (2, (1, 3)), "hc": (3, (2, 1)), "hw": (1, (2, 3))},
    3: {"chw": (2, (1, 3, 4)), "ctw": (3, (1, 2, 4)), "cth": (4, (1, 2, 3)), "thw": (1, (2, 3, 4))},
}


@both_dims
@pytest.mark.parametrize("spatial", [True, False])
def test_triplet_with_and_without_the_spatial_branch(spatial: bool, dims: int) -> None:
    ours, p = make("triplet", 6, dims, kernel_size=3, spatial=spatial)
    branches = {name: b for name, b in BRANCHES[dims].items() if spatial or b[0] != 1}
    assert {key.split(".")[0] for key in p} == branches.keys()

    def theirs(x: Tensor) -> Tensor:
        gated = []
        for name, (axis, order) in branches.items():
            moved = x.permute(0, axis, *order)
            pooled = torch.cat((moved.amax(1, keepdim=True), moved.mean(1, keepdim=True)), 1)
            z = CONV[dims](pooled, p[f"{name}.conv.weight"], padding=1)
            z = (z - p[f"{name}.bn.running_mean"]) / (p[f"{name}.bn.running_var"] + 1e-5).sqrt()
            gate = torch.sigmoid(z * p[f"{name}.bn.weight"] + p[f"{name}.bn.bias"])
            back = [(0, axis, *order).index(a) for a in range(dims + 2)]
            gated.append((moved * gate).permute(back))
        return torch.stack(gated).mean(0)

    same(ours, theirs, features(6, dims))


@both_dims
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_eca_with_weights_of_its_own_for_each_channel(kernel_size: int, dims: int) -> None:
    ours, p = make("eca", 7, dims, kernel_size=kernel_size, shared=False)
    assert p["conv.weight"].numel() == 7 * kernel_size

    def theirs(x: Tensor) -> Tensor:
        mean = x.flatten(2).mean(2)
        logits = []
        for c in range(7):
            near = [(j, c + j - kernel_size // 2) for j in range(kernel_size)]
            logits.append(sum(p["conv.weight"][c, 0, j] * mean[:, i] for j, i in near if 0 <= i < 7))
        return x * torch.sigmoid(torch.stack(logits, 1)).view(*x.shape[:2], *(1,) * dims)

    same(ours, theirs, features(7, dims))


@both_dims
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_sk_of_pytorchinsight(stride: int, training: bool, dims: int) -> None:
    insight = {"kernels": (3, 3), "groups": (1, 32), "min_width": 1, "norm": True, "bias": False}
    ours, p = make("sk", 64, dims, stride=stride, **insight)
    assert not any("bias" in key and ".0.bias" in key for key in p)
    frozen = {key: value.clone() for key, value in p.items()}

    def norm(z: Tensor, at: str) -> Tensor:
        statistics = frozen[f"{at}.running_mean"].clone(), frozen[f"{at}.running_var"].clone()
        return F.batch_norm(z, *statistics, p[f"{at}.weight"], p[f"{at}.bias"], training)

    def theirs(x: Tensor) -> Tensor:
        dense = norm(CONV[dims](x, p["convs.0.0.weight"], stride=stride, padding=1), "convs.0.1").relu()
        grouped = norm(CONV[dims](x, p["convs.1.0.weight"], stride=stride, padding=1, groups=32), "convs.1.1").relu()
        z = norm((dense.flatten(2).mean(2) + grouped.flatten(2).mean(2)) @ p["fc.0.weight"].T, "fc.1").relu()
        select = z @ torch.cat((p["fcs.0.weight"], p["fcs.1.weight"])).T
        a = select.view(-1, 2, 64, *(1,) * dims).softmax(1)
        return dense * a[:, 0] + grouped * a[:, 1]

    same(ours.train(training), theirs, features(64, dims))


def test_sk_of_pytorchinsight_gives_the_size_of_its_resnet50() -> None:
    total = 25_557_032  # ResNet-50
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        sk = attnzoo.create("sk", planes, kernels=(3, 3), groups=(1, 32), min_width=1, norm=True, bias=False)
        total += blocks * (sum(p.numel() for p in sk.parameters()) - 9 * planes**2 - 2 * planes)  # for conv2 and bn2
    assert total == 26_154_496


@both_dims
@pytest.mark.parametrize("mode", ["embedded", "gaussian", "dot", "concat"])
@pytest.mark.parametrize("scale", [False, True, "input"])
@pytest.mark.parametrize("subsample", [False, True, "input"])
@pytest.mark.parametrize("norm", [True, False])
def test_non_local(mode: str, scale: bool | str, subsample: bool | str, norm: bool, dims: int) -> None:
    ours, p = make("nl", 8, dims, mode=mode, scale=scale, subsample=subsample, norm=norm)
    gaussian, width = mode == "gaussian", 8 if mode == "gaussian" else 4
    divisor = {False: 1.0, True: math.sqrt(width), "input": math.sqrt(8)}[scale]

    def project(x: Tensor, at: str) -> Tensor:
        return CONV[dims](x, p[f"{at}.weight"], p[f"{at}.bias"])

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if dims == 2 else F.max_pool3d(x, (1, 2, 2))

    def theirs(x: Tensor) -> Tensor:
        source = pool(x) if subsample == "input" else x
        theta = x if gaussian else project(x, "query")
        phi, g = source if gaussian else project(source, "key"), project(source, "value")
        if subsample is True:
            phi, g = pool(phi), pool(g)
        theta, phi, g = theta.flatten(2), phi.flatten(2), g.flatten(2)
        if mode == "concat":
            pairs = torch.cat((theta[:, :, :, None].expand(-1, -1, -1, phi.shape[2]),
                               phi[:, :, None].expand(-1, -1, theta.shape[2], -1)), 1)  # fmt: skip
            f = torch.einsum("ncij,c->nij", pairs, p["pair.weight"].flatten()).clamp(min=0)
        else:
            f = torch.einsum("nci,ncj->nij", theta, phi) / divisor
        f = f.exp() / f.exp().sum(2, keepdim=True) if mode in ("embedded", "gaussian") else f / f.shape[2]
        y = project(torch.einsum("nij,ncj->nci", f, g).reshape(3, 4, *x.shape[2:]), "out")
        if norm:
            mean, var = p["norm.running_mean"], p["norm.running_var"]
            y = F.batch_norm(y, mean, var, p["norm.weight"], p["norm.bias"])
        return x + y

    same(ours, theirs, features(8, dims))


def test_non_local_without_a_norm_starts_as_the_identity() -> None:
    x = features(8).float()
    assert torch.equal(attnzoo.create("nl", 8, norm=False)(x), x)


@both_dims
@pytest.mark.parametrize(
    ("options", "first", "stride"),
    [
        ({}, False, 1),
        ({"first": True}, True, 1),
        ({"stride": 2}, True, 2),
        ({"stride": 2, "first": True}, True, 2),
        ({"scale": 2}, False, 1),
        ({"scale": 8, "first": False}, False, 1),
    ],
)
def test_res2net_chains_its_parts_but_in_the_first_block_of_a_stage(
    options: dict[str, Any], first: bool, stride: int, dims: int
) -> None:
    ours, p = make("res2net", 16, dims, **options)
    scale = options.get("scale", 4)
    assert sum(key.startswith("convs.") for key in p) == scale - 1

    def theirs(x: Tensor) -> Tensor:
        width = 16 // scale
        outputs: list[Tensor] = []
        for i in range(scale - 1):
            part = x[:, i * width : (i + 1) * width]
            z = CONV[dims](part if first or i == 0 else part + outputs[-1], p[f"convs.{i}.weight"], None, stride, 1)
            mean, var = p[f"bns.{i}.running_mean"], p[f"bns.{i}.running_var"]
            outputs.append(F.batch_norm(z, mean, var, p[f"bns.{i}.weight"], p[f"bns.{i}.bias"]).relu())
        last = x[:, -width:]
        if first:
            last = F.avg_pool2d(last, 3, stride, 1) if dims == 2 else F.avg_pool3d(last, 3, stride, 1)
        return torch.cat((*outputs, last), 1)

    same(ours, theirs, features(16, dims))


@both_dims
@pytest.mark.parametrize("regularisation", [1e-4, 0.1])
def test_simam_with_the_lambda_of_the_imagenet_networks(regularisation: float, dims: int) -> None:
    ours, _ = make("simam", 4, dims, regularisation=regularisation)

    def theirs(x: Tensor) -> Tensor:
        v = x.flatten(2)
        variance = v.var(2, keepdim=True)
        energy = (v - v.mean(2, keepdim=True)) ** 2 / (4 * (variance + regularisation)) + 0.5
        return (v / (1 + torch.exp(-energy))).view(x.shape)

    same(ours, theirs, features(4, dims))


# Counts of the authors' code and of timm's at C = 64, 256, 512 and 2048; None where their module cannot be built.
COUNTS = [
    ("se", {}, [512, 8_192, 32_768, 524_288]),
    ("se", {"bias": True}, [580, 8_464, 33_312, 526_464]),
    ("se", {"bias": True, "divisor": 8}, [1_096, 8_464, 33_312, 526_464]),
    ("cbam", {}, [680, 8_564, 33_412, 526_564]),
    ("cbam", CBAM, [612, 8_292, 32_868, 524_388]),
    ("bam", {}, [1_173, 17_361, 68_513, 1_085_057]),
    ("ca", {}, [1_688, 6_680, 25_648, 397_504]),
    ("ca", {"reduction": 24, "divisor": 8, "bias": False}, [1_552, 6_160, 36_912, 540_848]),
    ("sa", {}, [None, 12, 24, 96]),
    ("triplet", {}, [300, 300, 300, 300]),
    ("triplet", {"spatial": False}, [200, 200, 200, 200]),
    ("epsa", {}, [27_121, 433_732, 1_734_792, 27_755_040]),
    ("epsa", {"kernels": (3, 5, 5, 7), "groups": (32,) * 4}, [None, 55_876, 223_368, 3_572_256]),
    ("ema", {}, [48, 672, 2_624, 41_216]),
    ("ema", {"groups": 8}, [672, 10_368, 41_216, 656_384]),
    ("eca", {}, [3, 3, 3, 3]),
    ("eca", {"kernel_size": None}, [3, 5, 5, 7]),
    ("eca", {"shared": False}, [192, 768, 1_536, 6_144]),
    ("sge", {}, [128, 128, 128, 128]),
    ("sk", {}, [11_040, 96_288, 331_808, 5_259_392]),
    ("sk", {**SK, "split": True}, [38_672, 603_168, 2_410_560, 38_543_616]),
    ("gc", {}, [653, 8_753, 33_889, 528_769]),
    ("gc", {"reduction": 4}, [2_225, 33_473, 132_481, 2_102_785]),
    ("gc", {**GC, "fusion": "mul"}, [1_177, 16_993, 66_753, 1_053_441]),
    ("nl", {}, [8_480, 132_224, 526_592, 8_397_824]),
    ("nl", {"spatial_dims": 3}, [8_480, 132_224, 526_592, 8_397_824]),
    ("nl", {"mode": "gaussian"}, [4_320, 66_432, 263_936, 4_201_472]),
    ("nl", {"mode": "concat"}, [8_544, 132_480, 527_104, 8_399_872]),
    ("nl", NL, [2_264, 33_632, 132_800, 2_104_064]),
    ("simam", {}, [0, 0, 0, 0]),
]


@pytest.mark.parametrize(("name", "options", "counts"), COUNTS)
def test_parameters(name: str, options: dict[str, Any], counts: list[int | None]) -> None:
    for channels, count in zip((64, 256, 512, 2048), counts, strict=True):
        if count is None:
            with pytest.raises(ValueError, match="64"):
                attnzoo.create(name, channels, **options)
            continue
        with torch.device("meta"):
            module = attnzoo.create(name, channels, **options)
        assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize(("channels", "count"), [(64, 4_256), (256, 72_376), (512, 287_752), (2048, 4_583_008)])
def test_parameters_of_the_bottleneck_around_res2net(channels: int, count: int) -> None:
    width = 4 * (channels // 4 * 26 // 64)
    around = 2 * channels * width + 2 * (width + channels)  # two 1x1 convolutions and their norms
    with torch.device("meta"):
        module = attnzoo.create("res2net", width)
    assert sum(p.numel() for p in module.parameters()) + around == count


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("se", {"divisor": 0}, "divisor=0"),
        ("cbam", {"pools": ()}, "avg, max, lp, lse"),
        ("cbam", {"pools": ("avg", "l2")}, "l2"),
        ("nl", {"scale": "output"}, "output"),
        ("nl", {"subsample": "output"}, "output"),
        ("sk", {"groups": (1, 2, 4)}, "(1, 2, 4)"),
        ("sk", {"kernels": (), "groups": ()}, "kernels=()"),
        ("sk", {"kernels": (3, 5, 7), "split": True}, "number of branches=3"),
    ],
)
def test_refuses_values_that_do_not_fit_and_shows_them(name: str, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.spec(name).cls(64, **options)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)
