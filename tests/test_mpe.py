"""MPE against its equations, written out once more here with other operations, and against closed forms of its cost."""

from itertools import product
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import attnzoo
from attnzoo.backbones.resnet3d import resnet3d

SIZES = {2: (7, 6), 3: (6, 2, 7)}  # some axes long enough for the taps of dilation 5, some not


def make(channels: int, dims: int, **options: Any) -> nn.Module:
    """A module in float64 whose parameters are all drawn at random, biases, norms and logits too."""
    torch.manual_seed(0)
    module = attnzoo.create("mpe", channels, spatial_dims=dims, **options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def features(channels: int, dims: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *SIZES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def matmul(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution: a matrix (c_out, c_in, 1, ...) on the first axis of x (c_in, ...)."""
    out = torch.tensordot(weight.flatten(1), x, 1)
    return out + bias.reshape(-1, *(1,) * (out.ndim - 1))


def softmax(x: Tensor, axis: int = 0) -> Tensor:
    e = (x - x.max()).exp()
    return e / e.sum(axis, keepdim=True)


def shifted(x: Tensor, offset: tuple[int, ...]) -> Tensor:
    """x (c, *S) read at position + offset, zero beyond the border."""
    out = x
    for axis, (o, size) in enumerate(zip(offset, x.shape[1:], strict=True), 1):
        index = torch.arange(size) + o
        inside = (index >= 0) & (index < size)
        out = out.index_select(axis, index.clamp(0, size - 1))
        out = out * inside.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return out


def dilated(x: Tensor, weight: Tensor, bias: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """A convolution of x (c, *S), one tap of its kernel after the other; a kernel (c, 1, *k) is depthwise."""
    out = bias.reshape(-1, *(1,) * (x.ndim - 1)).expand_as(x)
    for tap in product(*map(range, weight.shape[2:])):
        offset = tuple((t - k // 2) * d for t, k, d in zip(tap, weight.shape[2:], dilation, strict=True))
        if any(abs(o) >= size for o, size in zip(offset, x.shape[1:], strict=True)):
            continue  # reads padding only
        w = weight[(slice(None), slice(None), *tap)]
        seen = shifted(x, offset)
        out = out + (torch.tensordot(w, seen, 1) if w.shape[1] > 1 else w.reshape(-1, *(1,) * (x.ndim - 1)) * seen)
    return out


def literal_group(
    g: Tensor, p: dict[str, Tensor], dilations: list[tuple[int, ...]], fusion: str, combine: str, norm_groups: int
) -> Tensor:
    """Steps 2 to 9 for one group g (c, *S) of one sample: W_total (*S)."""
    c, *spatial = g.shape
    # 2, 3: directional means, one matrix for all of them, a sigmoid gate per axis
    x1 = g
    for axis, size in enumerate(spatial, 1):
        strip = g.movedim(axis, 1).reshape(c, size, -1).sum(2) * size / torch.tensor(spatial).prod()
        gate = 1 / (1 + (-matmul(p["strip.weight"], strip, p["strip.bias"])).exp())
        x1 = x1 * gate.reshape(c, *(size if a == axis else 1 for a in range(1, g.ndim)))
    # 4: group norm
    parts = []
    for part in x1.chunk(norm_groups):
        centred = part - part.mean()
        parts.append(centred / (centred.square().mean() + 1e-5).sqrt())
    x1 = torch.cat(parts)
    x1 = x1 * p["norm.weight"].reshape(c, *(1,) * len(spatial)) + p["norm.bias"].reshape(c, *(1,) * len(spatial))
    # 5: parallel dilated convolutions
    f = [dilated(g, p[f"branches.{i}.weight"], p[f"branches.{i}.bias"], d) for i, d in enumerate(dilations)]
    # 6, 7: gate and fusion
    n = len(f)
    x2 = torch.zeros_like(g)
    if combine != "concat":
        if fusion == "max":
            x2 = x2 + torch.stack(f).max(0).values
        else:
            w = {
                "dynamic": lambda: softmax(
                    matmul(p["branch_gate.weight"], g.flatten(1).mean(1), p["branch_gate.bias"])
                ),
                "static": lambda: softmax(p["branch_logits"]),
                "mean": lambda: torch.full((n,), 1 / n, dtype=g.dtype),
            }[fusion]()
            assert abs(float(w.detach().sum()) - 1) < 1e-12
            x2 = x2 + torch.tensordot(w, torch.stack(f), 1)
    if combine != "weighted":
        x2 = x2 + matmul(p["concat.weight"], torch.cat(f), p["concat.bias"])
    # 8, 9: descriptors and cross-spatial pairing: that of X1 reads the map of X2, that of X2 the map of X1
    x11, x12 = (softmax(m.flatten(1).mean(1)) for m in (x1, x2))
    return torch.tensordot(x11, x2, 1) + torch.tensordot(x12, x1, 1)


def literal(x: Tensor, p: dict[str, Tensor], **options: Any) -> Tensor:
    """mpe.md section 4, step by step, for one group of one sample after the other."""
    if options.get("temporal") == "folded":
        flat = {**options, "temporal": "full"}
        return torch.stack([literal(frame, p, **flat) for frame in x.unbind(2)], 2)
    groups, dims = options["groups"], x.ndim - 2
    c = x.shape[1] // groups
    along_t = {"full": lambda d: d, "unit": lambda d: 1, "spatial": lambda d: 1}[options.get("temporal", "full")]
    dilations = [(d,) * dims if dims == 2 else (along_t(d), d, d) for d in options.get("dilations", (1, 3, 5))]
    out = []
    for sample in x:
        gated = []
        for g in sample.split(c):
            w = literal_group(
                g,
                p,
                dilations,
                options.get("fusion", "dynamic"),
                options.get("combine", "both"),
                options.get("norm_groups") or c,
            )
            gated.append(g * torch.special.expit(w))
        out.append(torch.cat(gated) + (sample if options.get("residual", True) else 0))
    return torch.stack(out)


FUSED = [(f, c) for f, c in product(("dynamic", "mean", "max", "static"), ("both", "weighted"))] + [
    ("dynamic", "concat")
]
VARIANTS: list[tuple[int, dict[str, Any]]] = [
    *((dims, {"fusion": f, "combine": c}) for dims in (2, 3) for f, c in FUSED),
    *((dims, {"norm_groups": n, "residual": r}) for dims in (2, 3) for n, r in ((1, False), (2, True), (4, False))),
    *((2, {"dilations": d, "depthwise": w}) for d, w in (((2,), True), ((3, 1), False), ((1, 2, 3, 5), True))),
    *((3, {"temporal": t, "depthwise": w}) for t in ("unit", "spatial", "folded") for w in (False, True)),
    *((2, {"groups": g}) for g in (1, 4, 8)),
]


@pytest.mark.parametrize(("dims", "options"), VARIANTS, ids=lambda v: str(v).replace(" ", ""))
def test_equals_its_equations(dims: int, options: dict[str, Any]) -> None:
    options = {"groups": 2, **options}
    module = make(8, dims, **options)
    x = features(8, dims).requires_grad_()
    parameters = dict(module.named_parameters())
    ours = module(x)
    theirs = literal(x, parameters, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    r = torch.randn_like(x)
    variables = [x, *parameters.values()]
    for name, a, b in zip(
        ["x", *parameters],
        torch.autograd.grad((ours * r).sum(), variables),
        # With one channel a group, the softmax over channels is the constant 1 and its logits have no part.
        torch.autograd.grad((theirs * r).sum(), variables, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("fusion", ["mean", "max", "static"])
def test_refuses_to_weight_branches_that_are_only_concatenated(fusion: str) -> None:
    with pytest.raises(ValueError, match=f"concat.*{fusion}"):
        attnzoo.create("mpe", 8, fusion=fusion, combine="concat")


@pytest.mark.parametrize("dims", [2, 3])
def test_first_descriptor_ignores_the_input_unless_norm_groups_is_1(dims: int) -> None:
    def first_descriptors(**options: Any) -> Tensor:
        """X11 of two quite different inputs, from the map X1 that the norm gives."""
        module = make(16, dims, groups=2, **options)
        maps: list[Tensor] = []
        (norm,) = (m for m in module.modules() if isinstance(m, nn.GroupNorm))
        norm.register_forward_hook(lambda _, __, out: maps.append(out.detach()))
        x = features(16, dims)
        module(x)
        module(3 * x.square() - 1)
        return torch.stack([softmax(m.flatten(2).mean(2), 1) for m in maps]), norm.bias.detach()

    x11, beta = first_descriptors()
    torch.testing.assert_close(x11, softmax(beta).expand_as(x11), rtol=0, atol=1e-10)
    x11, _ = first_descriptors(norm_groups=1)
    assert (x11[0] - x11[1]).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 4, 4), (1, 1, 1), (2, 7, 7), (4, 1, 9)])
@pytest.mark.parametrize("temporal", ["full", "unit", "spatial", "folded"])
def test_no_volume_is_too_short(temporal: str, size: tuple[int, ...]) -> None:
    x = torch.randn(1, 16, *size, dtype=torch.float64)
    y = make(16, 3, temporal=temporal)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()


def branch_kernel(dims: int, temporal: str) -> int:
    """Taps of one branch's kernel: k of the closed forms."""
    return 27 if dims == 3 and temporal in ("full", "unit") else 9


def count(c: int, n: int, k: int, depthwise: bool, fusion: str, combine: str) -> int:
    """The sum of the components in mpe.md section 5."""
    strip, norm = c * c + c, 2 * c
    branches = n * (k * c + c) if depthwise else n * (k * c * c + c)
    gate = {"dynamic": n * c + n, "static": n, "mean": 0, "max": 0}[fusion] if combine != "concat" else 0
    return strip + norm + branches + gate + (n * c * c + c if combine != "weighted" else 0)


# The closed forms of mpe.md section 5, as printed there: (3D kernel?, depthwise, combine) -> count(c, n).
PRINTED = {
    (False, False, "both"): lambda c, n: (10 * n + 1) * c * c + (2 * n + 4) * c + n,
    (False, False, "weighted"): lambda c, n: (9 * n + 1) * c * c + (2 * n + 3) * c + n,
    (False, False, "concat"): lambda c, n: (10 * n + 1) * c * c + (n + 4) * c,
    (False, True, "both"): lambda c, n: (n + 1) * c * c + (11 * n + 4) * c + n,
    (False, True, "weighted"): lambda c, n: c * c + (11 * n + 3) * c + n,
    (True, False, "both"): lambda c, n: (28 * n + 1) * c * c + (2 * n + 4) * c + n,
    (True, True, "both"): lambda c, n: (n + 1) * c * c + (29 * n + 4) * c + n,
    (True, True, "weighted"): lambda c, n: c * c + (29 * n + 3) * c + n,
}
SHAPES = [(2, "full"), (3, "full"), (3, "unit"), (3, "spatial"), (3, "folded")]


@pytest.mark.parametrize("combine", ["both", "weighted", "concat"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("dims", "temporal"), SHAPES)
def test_parameters_follow_the_closed_forms(dims: int, temporal: str, depthwise: bool, combine: str) -> None:
    k = branch_kernel(dims, temporal)
    printed = PRINTED.get((k == 27, depthwise, combine))
    fusions = ("dynamic",) if combine == "concat" else ("dynamic", "static", "mean", "max")
    for c, groups, dilations, fusion in product((1, 4, 64), (1, 8), ((2,), (1, 3, 5), (1, 2, 3, 5, 7)), fusions):
        n = len(dilations)
        with torch.device("meta"):
            module = attnzoo.create(
                "mpe",
                c * groups,
                spatial_dims=dims,
                groups=groups,
                dilations=dilations,
                fusion=fusion,
                combine=combine,
                depthwise=depthwise,
                temporal=temporal,
            )
        parameters = sum(p.numel() for p in module.parameters())
        assert parameters == count(c, n, k, depthwise, fusion, combine)
        if printed and fusion == "dynamic":
            assert parameters == printed(c, n)


def test_has_the_papers_192_gate_weights() -> None:
    module = attnzoo.create("mpe", channels=512, groups=8)
    assert sum(p.numel() for p in module.parameters()) == 127_619
    gates = [p for p in module.parameters() if p.ndim > 1 and p.shape[0] == 3]
    assert [p.numel() for p in gates] == [192]


@pytest.mark.parametrize(
    ("groups", "site", "flat", "volume"),
    [
        (8, "mid", 1_158_995, 3_160_019),
        (32, "out", 1_158_995, 3_160_019),
        (16, "mid", 292_363, 792_619),
        (32, "mid", 74_435, 199_499),
        (16, "out", 4_615_363, 12_619_459),
        (8, "out", 18_420_515, 50_436_899),
    ],
)
def test_adds_its_closed_form_to_resnet101(groups: int, site: str, flat: int, volume: int) -> None:
    with torch.device("meta"):
        networks = torchvision.models.resnet101(), resnet3d(101)
        for network, added in zip(networks, (flat, volume), strict=True):
            attnzoo.inject(network, "mpe", groups=groups, site=site)
            assert sum(p.numel() for p in attnzoo.attn_parameters(network)) == added


@pytest.mark.parametrize("combine", ["both", "weighted", "concat"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("dims", "temporal"), SHAPES)
def test_multiply_accumulates_follow_the_closed_form(dims: int, temporal: str, depthwise: bool, combine: str) -> None:
    c, groups, batch, n, size = 4, 2, 3, 3, SIZES[dims]
    maps, per_map = (batch * size[0], size[1:]) if temporal == "folded" else (batch, size)  # folded: one map a frame
    positions = torch.Size(per_map).numel()
    k = branch_kernel(dims, temporal)
    convolutions = (
        c * c * sum(per_map)
        + n * k * (c if depthwise else c * c) * positions
        + (n * c * c * positions if combine != "weighted" else 0)
        + (n * c if combine != "concat" else 0)
    )
    cross = 2 * groups * c * positions
    module = attnzoo.create(
        "mpe", groups * c, spatial_dims=dims, groups=groups, depthwise=depthwise, combine=combine, temporal=temporal
    )
    cost = attnzoo.profile(module, (batch, groups * c, *size), counter="macs")
    assert cost.flops == cost.macs == maps * (groups * convolutions + cross)
