"""Attention among positions, channels and splits against plain forms of its formulas and against timm's layers."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from timm.layers.split_attn import SplitAttn
from torch import Tensor, nn

import attnzoo
from attnzoo.official import convert_module

from .test_variants import CONV, SIZES, away, both_dims, features, make, same


def project(x: Tensor, p: dict[str, Tensor], layer: str = "project") -> Tensor:
    """A 1x1 convolution, with positions in one axis."""
    bias = p.get(f"{layer}.bias")
    y = torch.einsum("oc,ncp->nop", p[f"{layer}.weight"].flatten(1), x.flatten(2))
    return y if bias is None else y + bias[:, None]


@both_dims
@pytest.mark.parametrize("reduction", [8, 2])
def test_pam(reduction: int, dims: int) -> None:
    ours, p = make("pam", 16, dims, reduction=reduction)

    def theirs(x: Tensor) -> Tensor:
        query, key, value = project(x, p).split([16 // reduction, 16 // reduction, 16], 1)
        energy = torch.einsum("ncp,ncq->npq", query, key)
        weights = energy.exp() / energy.exp().sum(2, keepdim=True)
        return x + p["gamma"] * torch.einsum("npq,ncq->ncp", weights, value).reshape(x.shape)

    same(ours, theirs, features(16, dims))


@both_dims
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_cam(inverted: bool, scaled: bool, dims: int) -> None:
    ours, p = make("cam", 6, dims, inverted=inverted, scaled=scaled)

    def theirs(x: Tensor) -> Tensor:
        maps = x.flatten(2)
        energy = torch.einsum("ncp,ndp->ncd", maps, maps) / (maps.shape[2] if scaled else 1)
        energy = energy.amax(2, keepdim=True) - energy if inverted else energy
        return x + p["gamma"] * torch.einsum("ncd,ndp->ncp", energy.softmax(2), maps).reshape(x.shape)

    same(ours, theirs, features(6, dims))


@both_dims
@pytest.mark.parametrize("recurrence", [1, 2])
def test_cca_sees_the_lines_through_a_position_and_itself_once(recurrence: int, dims: int) -> None:
    ours, p = make("cca", 8, dims, reduction=4, recurrence=recurrence)
    positions = list(product(*map(range, SIZES[dims])))
    # Two positions are on one line if they differ along one axis at most.
    seen = torch.tensor([[sum(a != b for a, b in zip(i, j, strict=True)) < 2 for j in positions] for i in positions])
    assert seen[0].sum() == sum(SIZES[dims]) - dims + 1

    def theirs(x: Tensor) -> Tensor:
        for _ in range(recurrence):
            query, key, value = project(x, p).split([2, 2, 8], 1)
            energy = torch.einsum("ncp,ncq->npq", query, key).masked_fill(~seen, -torch.inf)
            x = x + p["gamma"] * torch.einsum("npq,ncq->ncp", energy.softmax(2), value).reshape(x.shape)
        return x

    same(ours, theirs, features(8, dims))


@both_dims
@pytest.mark.parametrize("maps", [None, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_a2(residual: bool, maps: int | None, dims: int) -> None:
    ours, p = make("a2", 8, dims, reduction=2, maps=maps, residual=residual)

    def theirs(x: Tensor) -> Tensor:
        count = maps or 4
        gathered, where, vectors = project(x, p).split([4, count, count], 1)
        z = torch.einsum("nap,nbp,nbq->naq", gathered, where.softmax(2), vectors.softmax(1))
        y = project(z, p, "out").reshape(x.shape)
        return x + y if residual else y

    same(ours, theirs, features(8, dims))


@both_dims
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (1, 1), (3, 2), (1, 4)])
@pytest.mark.parametrize(("stride", "pool"), [(1, "after"), (2, None), (2, "after"), (2, "before")])
def test_splat(radix: int, groups: int, stride: int, pool: str | None, training: bool, dims: int) -> None:
    ours, p = make("splat", 24, dims, radix=radix, groups=groups, stride=stride, pool=pool, min_width=8)
    frozen = {key: value.clone() for key, value in p.items()}
    own = stride if pool is None else 1

    def norm(z: Tensor, at: str) -> Tensor:
        statistics = frozen[f"{at}.running_mean"].clone(), frozen[f"{at}.running_var"].clone()
        return F.batch_norm(z, *statistics, p[f"{at}.weight"], p[f"{at}.bias"], training)

    def pooled(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 3, stride, 1) if dims == 2 else F.avg_pool3d(z, 3, stride, 1)

    def theirs(x: Tensor) -> Tensor:
        x = pooled(x) if stride > 1 and pool == "before" else x
        z = norm(CONV[dims](x, p["conv.weight"], None, own, 1, 1, groups * radix), "bn0").relu()
        parts = torch.stack(z.split(24, 1))  # (radix, N, 24, *spatial)
        gap = parts.sum(0).mean(tuple(range(2, x.ndim)), keepdim=True)
        hidden = norm(CONV[dims](gap, p["fc1.weight"], p["fc1.bias"], groups=groups), "bn1").relu()
        logits = CONV[dims](hidden, p["fc2.weight"], p["fc2.bias"], groups=groups).flatten(1)
        # Of each group the logits of its first split, then of its second.
        weights = logits.reshape(-1, groups, radix, 24 // groups).permute(2, 0, 1, 3).reshape(radix, -1, 24)
        weights = weights.softmax(0) if radix > 1 else weights.sigmoid()
        out = sum(w.reshape(*w.shape, *(1,) * dims) * part for w, part in zip(weights, parts, strict=True))
        return pooled(out) if stride > 1 and pool == "after" else out

    same(ours.train(training), theirs, features(24, dims))


@both_dims
def test_splat_weighs_its_splits_against_each_other(dims: int) -> None:
    ours, _ = make("splat", 24, dims, radix=3)
    weights = ours.branch_weights(features(24, dims))
    assert ours.branch_names == ("split 1", "split 2", "split 3")
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=weights.dtype))
    assert attnzoo.create("splat", 24, radix=1).branch_names == ()


def axial(p: dict[str, Tensor], at: str, x: Tensor, axis: int, groups: int, farthest: int, training: bool) -> Tensor:
    """The definition, position by position, of attention along one axis of x (N, C, *spatial)."""

    def norm(z: Tensor, name: str) -> Tensor:
        """A batch norm of the axis 1."""
        mean, var = p[f"{at}.norm_{name}.running_mean"].clone(), p[f"{at}.norm_{name}.running_var"].clone()
        return F.batch_norm(z, mean, var, p[f"{at}.norm_{name}.weight"], p[f"{at}.norm_{name}.bias"], training)

    z = norm(project(x, p, f"{at}.qkv"), "qkv").unflatten(2, x.shape[2:])
    z = z.movedim(axis, -1).flatten(2, -2).unflatten(1, (groups, -1))  # (N, groups, channels, lines, L)
    half = z.shape[2] // 4
    query, key, value = z.split([half, half, 2 * half], 2)
    table, length = p[f"{at}.positions"], x.shape[axis]
    apart = [[min(max(i - j, -farthest), farthest) + farthest for j in range(length)] for i in range(length)]
    of_query, of_key, of_value = table[:, torch.tensor(apart)].split([half, half, 2 * half])
    similarity = norm(
        torch.cat(
            [
                torch.einsum("ngcli,ngclj->nglij", query, key),
                torch.einsum("ngcli,cij->nglij", query, of_query),
                torch.einsum("ngclj,cji->nglij", key, of_key),
            ],
            1,
        ),
        "similarity",
    )
    weights = sum(similarity.chunk(3, 1)).softmax(-1)
    both = [torch.einsum("nglij,ngclj->ngcli", weights, value), torch.einsum("nglij,cij->ngcli", weights, of_value)]
    out = norm(torch.stack(both, 3).flatten(1, 3), "out").unflatten(1, (-1, 2)).sum(2)  # (N, C, lines, L)
    rest = [size for i, size in enumerate(x.shape) if i > 1 and i != axis]
    return out.unflatten(2, rest).movedim(-1, axis)


@both_dims
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("feat_size", [9, 3])  # longer and shorter than the lines
@pytest.mark.parametrize("axes", [None, (1,), (1, 0)])
def test_axial(axes: tuple[int, ...] | None, feat_size: int, training: bool, dims: int) -> None:
    ours, p = make("axial", 8, dims, groups=2, feat_size=feat_size, axes=axes)
    p = {key: value.clone() if "running" in key else value for key, value in p.items()}

    def theirs(x: Tensor) -> Tensor:
        for i, axis in enumerate(range(dims) if axes is None else axes):
            x = axial(p, f"layers.{i}", x, 2 + axis, 2, feat_size - 1, training)
        return x

    same(ours.train(training), theirs, features(8, dims))


def relative(query: Tensor, table: Tensor, at: Tensor, seen: Tensor) -> Tensor:
    """Products (N, heads, queries, keys) of queries with the vectors of how far along one axis the keys are from them.

    Distances are clamped to those of the table.
    """
    farthest = len(table) // 2
    apart = (seen - at[:, None]).clamp(-farthest, farthest) + farthest
    return torch.einsum("nhqd,qkd->nhqk", query, table[apart])


@both_dims
@pytest.mark.parametrize("feat_size", [8, 2])
@pytest.mark.parametrize("scaled_positions", [True, False])
def test_bot(feat_size: int, scaled_positions: bool, dims: int) -> None:
    ours, p = make("bot", 8, dims, heads=2, head_width=3, feat_size=feat_size, scaled_positions=scaled_positions)
    at = torch.cartesian_prod(*map(torch.arange, SIZES[dims])).T

    def theirs(x: Tensor) -> Tensor:
        query, key, value = (z.unflatten(1, (2, -1)).mT for z in project(x, p, "qkv").split([6, 6, 8], 1))
        positions = sum(relative(query, p[f"positions.{i}"], a, a) for i, a in enumerate(at))
        products = torch.einsum("nhqd,nhkd->nhqk", query, key)
        logits = (products + positions) / 3**0.5 if scaled_positions else products / 3**0.5 + positions
        return torch.einsum("nhqk,nhkv->nhvq", logits.softmax(3), value).reshape(x.shape)

    same(ours, theirs, features(8, dims))


@both_dims
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("block", "halo"), [(2, 1), (4, 2), (4, 0), (8, 3)])
def test_halo_position_by_position(block: int, halo: int, stride: int, dims: int) -> None:
    ours, p = make("halo", 4, dims, heads=2, block_size=block, halo_size=halo, stride=stride)
    strided = block % stride == 0  # else everything is attended to, and then pooled

    def theirs(x: Tensor) -> Tensor:
        query = project(x, p, "query").unflatten(1, (2, -1)).unflatten(3, x.shape[2:])
        key, value = project(x, p, "key_value").unflatten(1, (2, -1)).unflatten(3, x.shape[2:]).chunk(2, 2)
        step = stride if strided else 1
        out = x.new_zeros(*x.shape[:2], *(-(-size // step) for size in x.shape[2:]))
        for place in product(*map(range, out.shape[2:])):
            seen = []
            for i, size in zip(place, x.shape[2:], strict=True):
                first = i * step // block * block
                seen.append(range(size) if size < block else range(first - halo, first + block + halo))
            at = [i * step for i in place]
            q = query[(..., *at)]  # (N, heads, width)
            logits, values = [], []
            for there in product(*seen):
                inside = all(0 <= t < size for t, size in zip(there, x.shape[2:], strict=True))
                k, v = (z[(..., *there)] if inside else torch.zeros_like(q) for z in (key, value))
                tables = [p[f"positions.{i}"] for i in range(dims)]
                apart = sum(t[b - a + len(t) // 2 + halo] for t, a, b in zip(tables, at, there, strict=True))
                logits.append((q * k).sum(2) / 2**0.5 + (q * apart).sum(2))
                values.append(v)
            weights = torch.stack(logits).softmax(0)
            out[(..., *place)] = (weights.unsqueeze(-1) * torch.stack(values)).sum(0).flatten(1)
        pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
        return out if strided else pool(out, [min(stride, s) for s in out.shape[2:]], stride, ceil_mode=True)

    same(ours, theirs, torch.randn(1, 4, *(2, 5, 3)[-dims:], dtype=torch.float64, requires_grad=True))


@both_dims
@pytest.mark.parametrize("training", [False, True])
def test_lambda(training: bool, dims: int) -> None:
    ours, p = make("lambda", 8, dims, heads=2, key_width=3, kernel_size=3)
    frozen = {key: value.clone() for key, value in p.items()}

    def norm(z: Tensor, at: str) -> Tensor:
        statistics = frozen[f"{at}.running_mean"].clone(), frozen[f"{at}.running_var"].clone()
        return F.batch_norm(z, *statistics, p[f"{at}.weight"], p[f"{at}.bias"], training)

    def theirs(x: Tensor) -> Tensor:
        query, key, value = project(x, p, "qkv").split([6, 3, 4], 1)
        query, value = norm(query, "norm_q").unflatten(1, (2, 3)), norm(value, "norm_v")
        content = torch.einsum("nkp,nvp->nkv", key.softmax(2), value)
        maps = value.unflatten(2, x.shape[2:])
        local = [CONV[dims](maps[:, v : v + 1], p["local.weight"], p["local.bias"], padding=1) for v in range(4)]
        positions = torch.stack(local, 2).flatten(3)  # (N, width of keys, width of values, positions)
        y = torch.einsum("nhkp,nkv->nhvp", query, content) + torch.einsum("nhkp,nkvp->nhvp", query, positions)
        return y.reshape(x.shape)

    same(ours.train(training), theirs, features(8, dims))


SPLAT: dict[str, Any] = {"divisor": 8}
LAYERS: list[tuple[str, dict[str, Any], Callable[..., nn.Module], dict[str, Any]]] = [
    ("bot", {"feat_size": (8, 12)}, BottleneckAttn, {"feat_size": (8, 12)}),
    ("bot", {"feat_size": (8, 12), "stride": 2, "out_channels": 48, "head_width": 8, "bias": True,
             "scaled_positions": True}, BottleneckAttn,
     {"feat_size": (8, 12), "stride": 2, "dim_out": 48, "dim_head": 8, "qkv_bias": True, "scale_pos_embed": True}),
    ("halo", {"block_size": 4, "halo_size": 2}, HaloAttn, {"block_size": 4, "halo_size": 2}),
    ("halo", {"block_size": 4, "heads": 2, "stride": 2, "pool": True, "out_channels": 48, "bias": True,
              "scaled_positions": True}, HaloAttn,
     {"block_size": 4, "num_heads": 2, "stride": 2, "avg_down": True, "dim_out": 48, "qkv_bias": True,
      "scale_pos_embed": True}),
    ("lambda", {}, LambdaLayer, {}),
    ("lambda", {"kernel_size": 3, "heads": 2, "key_width": 4, "bias": True}, LambdaLayer,
     {"r": 3, "num_heads": 2, "dim_head": 4, "qkv_bias": True}),
    ("splat", SPLAT, SplitAttn, {"norm_layer": nn.BatchNorm2d}),
    ("splat", {**SPLAT, "radix": 4, "groups": 2, "stride": 2, "out_channels": 48, "bias": True}, SplitAttn,
     {"norm_layer": nn.BatchNorm2d, "radix": 4, "groups": 2, "stride": 2, "out_channels": 48, "bias": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "layer", "theirs"), LAYERS)
@pytest.mark.parametrize("channels", [32, 80])
def test_equals_timm(
    name: str, options: dict[str, Any], layer: Callable[..., nn.Module], theirs: dict[str, Any], channels: int
) -> None:
    reference = away(layer(channels, **theirs))
    ours = attnzoo.create(name, channels, **options).double()
    ours.load_state_dict(convert_module(name, reference.state_dict()), strict=True)
    x = torch.randn(2, channels, 8, 12, dtype=torch.float64, requires_grad=True)
    for training in (False, True, False):  # the last with the statistics of the step before
        same(ours.train(training), reference.train(training), x)


def test_strided_halo_attention_is_timms_but_for_its_positions() -> None:
    reference = away(HaloAttn(32, stride=2, block_size=4))
    ours = attnzoo.create("halo", 32, stride=2, block_size=4).double()
    ours.load_state_dict(convert_module("halo", reference.state_dict()))
    x = features(32)[..., :4, :].detach().requires_grad_()
    assert not torch.allclose(ours(x), reference(x))
    for table in (*ours.positions, reference.pos_embed.height_rel, reference.pos_embed.width_rel):
        nn.init.zeros_(table)
    same(ours, reference, x)


# Of the authors' code and timm's at C = 64, 256, 512 and 2048.
COUNTS = [
    ("pam", {}, [5_201, 82_241, 328_321, 5_245_441]),
    ("cam", {}, [1, 1, 1, 1]),
    ("cca", {}, [5_201, 82_241, 328_321, 5_245_441]),
    ("a2", {}, [4_208, 65_984, 263_040, 4_197_888]),
    ("splat", {}, [43_488, 690_048, 2_756_352, 44_055_552]),
    ("axial", {"axes": (0,)}, [10_528, 140_272, 542_640, 8_461_872]),
    ("bot", {}, [13_152, 200_064, 793_344, 12_610_560]),
    ("halo", {}, [12_720, 198_336, 789_888, 12_596_736]),
    ("lambda", {}, [7_616, 38_432, 108_192, 1_214_880]),
]


@pytest.mark.parametrize(("name", "options", "counts"), COUNTS)
def test_parameters(name: str, options: dict[str, Any], counts: list[int]) -> None:
    for channels, count in zip((64, 256, 512, 2048), counts, strict=True):
        with torch.device("meta"):
            module = attnzoo.create(name, channels, **options)
        assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize("name", ["pam", "cam", "cca"])
def test_starts_as_the_identity_and_trains(name: str) -> None:
    module, x = attnzoo.create(name, 16), torch.randn(2, 16, 5, 7)
    assert torch.equal(module(x), x)
    (module(x) * x).sum().backward()
    assert module.gamma.grad.abs() > 0


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("pam", {"reduction": 0}, "reduction=0"),
        ("cca", {"recurrence": 0}, "recurrence=0"),
        ("a2", {"maps": 0}, "maps=0"),
        ("splat", {"radix": 0}, "radix=0"),
        ("splat", {"radix": 3}, "channels=64 is not divisible by 3 * groups=3"),
        ("splat", {"pool": "between"}, "pool='between'"),
        ("axial", {"groups": 5}, "2 * groups=10"),
        ("axial", {"feat_size": (7, 7, 7)}, "feat_size=(7, 7, 7)"),
        ("axial", {"axes": (2,)}, "axes=(2,) must be some of 0, 1"),
        ("axial", {"axes": ()}, "axes=()"),
        ("bot", {"feat_size": 0}, "feat_size=0"),
        ("bot", {"heads": 7}, "heads=7"),
        ("bot", {"head_width": 0}, "head_width=0"),
        ("halo", {"block_size": 0}, "block_size=0"),
        ("halo", {"halo_size": -1}, "halo_size=-1"),
        ("lambda", {"kernel_size": 4}, "kernel_size=4"),
        ("lambda", {"key_width": 0}, "key_width=0"),
    ],
)
def test_refuses_values_that_do_not_fit_and_shows_them(name: str, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.spec(name).cls(64, **options)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)
