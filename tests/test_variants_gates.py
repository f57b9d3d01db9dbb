"""Gates of channels (ge, srm, gct, lct, fca, nam, ela, mlca) and of all positions (gam), against their formulas."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from timm.layers.coord_attn import EfficientLocalAttn
from timm.layers.gather_excite import GatherExcite
from torch import Tensor, nn

import attnzoo

from .test_variants import CONV, SIZES, away, both_dims, features, make, same


def over_channels(v: Tensor, x: Tensor) -> Tensor:
    """Values (N, C) or (C,) under the axes of x."""
    return v.reshape(*v.shape, *(1,) * (x.ndim - 2))


def batch_norm(z: Tensor, p: dict[str, Tensor], at: str) -> Tensor:
    return F.batch_norm(z, p[f"{at}.running_mean"], p[f"{at}.running_var"], p[f"{at}.weight"], p[f"{at}.bias"])


# --- ge ---


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
def test_ge_equals_timm(extent: int) -> None:
    theirs = GatherExcite(8, extent=extent, use_mlp=False)
    same(attnzoo.create("ge", 8, extent=extent), theirs, features(8))


def nearest(z: Tensor, size: torch.Size) -> Tensor:
    for axis, s in enumerate(size, 2):
        z = z.index_select(axis, torch.arange(s) * z.shape[axis] // s)
    return z


@both_dims
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize(("extent", "learned"), [(0, False), (2, False), (0, True), (2, True), (4, True), (8, True)])
def test_ge_gathers_and_excites(extent: int, learned: bool, mlp: bool, bias: bool, dims: int) -> None:
    size = SIZES[dims] if learned and not extent else None
    ours, p = make("ge", 8, dims, extent=extent, learned=learned, mlp=mlp, bias=bias, reduction=4, size=size)
    assert any(key.startswith("mlp.") for key in p) == mlp

    def gathered(x: Tensor) -> Tensor:
        if not learned and not extent:
            return over_channels(x.flatten(2).mean(2), x)
        if not learned:  # sums over what is inside, divided by how much that is
            window = torch.ones(8, 1, *(2 * extent - 1,) * dims, dtype=x.dtype)
            settings = {"stride": extent, "padding": extent - 1, "groups": 8}
            return CONV[dims](x, window, **settings) / CONV[dims](torch.ones_like(x), window, **settings)
        for i in range(int(math.log2(extent)) if extent else 1):
            x = x.clamp(min=0) if i else x
            shape = {"stride": 2, "padding": 1} if extent else {}
            x = CONV[dims](x, p[f"gather.{3 * i}.weight"], p.get(f"gather.{3 * i}.bias"), groups=8, **shape)
            x = batch_norm(x, p, f"gather.{3 * i + 1}")
        return x

    def theirs(x: Tensor) -> Tensor:
        z = gathered(x)
        if mlp:
            z = CONV[dims](z, p["mlp.0.weight"], p.get("mlp.0.bias")).clamp(min=0)
            z = CONV[dims](z, p["mlp.2.weight"], p.get("mlp.2.bias"))
        return x * nearest(z, x.shape[2:]).sigmoid()

    same(ours, theirs, features(8, dims))


def test_ge_refuses_a_map_of_another_size() -> None:
    module = attnzoo.create("ge", 8, learned=True, size=(5, 8))
    with pytest.raises(ValueError, match=r"size=\(5, 8\) and got a map of \(8, 5\)"):
        module(torch.zeros(2, 8, 8, 5))


# --- srm, gct, lct ---


@both_dims
@pytest.mark.parametrize("large", [False, True])
def test_srm_sees_mean_and_deviation(large: bool, dims: int) -> None:
    ours, p = make("srm", 6, dims)

    def theirs(x: Tensor) -> Tensor:
        mean, deviation = x.flatten(2).mean(2), (x.flatten(2).var(2) + 1e-5).sqrt()
        z = batch_norm(mean * p["cfc"][:, 0] + deviation * p["cfc"][:, 1], p, "bn")
        return x * over_channels(z.sigmoid(), x)

    x = features(6, dims)
    if large:  # which the fast form takes in parts
        x = x.detach().repeat(2, 1, *(32,) * 2, *(1,) * (dims - 2)).requires_grad_()
        x = (x + torch.linspace(0, 1, x.numel()).view_as(x)).detach().requires_grad_()
    same(ours, theirs, x)


@both_dims
@pytest.mark.parametrize("far", [1e3, 1e4])
def test_srm_keeps_the_digits_of_a_deviation_far_from_0(far: float, dims: int) -> None:
    ours, _ = make("srm", 6, dims)
    x = features(6, dims).detach()
    exact, rounded = ours(x + far), ours.float()((x + far).float())
    torch.testing.assert_close(rounded.double() / (x + far), exact / (x + far), rtol=0, atol=1e-2)


@both_dims
@pytest.mark.parametrize("name", ["srm", "gct"])
def test_single_positions_and_zeros_have_finite_gates_and_gradients(name: str, dims: int) -> None:
    module = away(attnzoo.create(name, 8, spatial_dims=dims))
    for x in (features(8, dims).detach().flatten(2)[:, :, :1], torch.zeros(2, 8, 3, dtype=torch.float64)):
        x = x.reshape(*x.shape, *(1,) * (dims - 1)).requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())


@both_dims
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_gct_lets_channels_compete_by_their_norms(norm: str, dims: int) -> None:
    ours, p = make("gct", 6, dims, norm=norm)

    def theirs(x: Tensor) -> Tensor:
        v = x.flatten(2)
        if norm == "l2":
            s = p["alpha"] * ((v * v).sum(2) + 1e-5).sqrt()
            across = ((s * s).mean(1, keepdim=True) + 1e-5).sqrt()
        else:
            s = p["alpha"] * v.abs().sum(2)
            across = s.abs().mean(1, keepdim=True) + 1e-5
        return x * over_channels(1 + torch.tanh(s * p["gamma"] / across + p["beta"]), x)

    same(ours, theirs, features(6, dims))


def test_gct_starts_as_the_identity() -> None:
    x = features(6).float()
    assert torch.equal(attnzoo.create("gct", 6)(x), x)


@both_dims
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_lct_normalises_within_groups(groups: int, dims: int) -> None:
    ours, p = make("lct", 8, dims, groups=groups)

    def theirs(x: Tensor) -> Tensor:
        z = x.flatten(2).mean(2).reshape(3, groups, -1)
        z = (z - z.mean(2, keepdim=True)) / (z.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * over_channels((z.reshape(3, 8) * p["norm.weight"] + p["norm.bias"]).sigmoid(), x)

    same(ours, theirs, features(8, dims))


def test_lct_starts_with_equal_gates() -> None:
    x = features(8).float()
    torch.testing.assert_close(attnzoo.create("lct", 8, groups=2)(x), x * torch.tensor(1.0).sigmoid())


# --- fca ---

# The first of each order, from the authors' lists.
FREQUENCIES = {
    "top": [(0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0)],
    "low": [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1), (1, 2)],
    "bot": [(6, 6), (1, 4), (3, 4), (3, 6), (2, 6), (4, 3), (1, 1), (2, 4)],
}


@both_dims
@pytest.mark.parametrize("order", FREQUENCIES)
@pytest.mark.parametrize(("frequencies", "size"), [(1, 7), (8, 7), (4, 14), (2, 9)])
def test_fca_is_scipys_cosine_transform_of_the_pooled_map(frequencies: int, size: int, order: str, dims: int) -> None:
    ours, p = make("fca", 16, dims, reduction=4, frequencies=frequencies, size=size, order=order)
    fresh = attnzoo.create("fca", 16, spatial_dims=dims, reduction=4, frequencies=frequencies, size=size, order=order)
    ours.basis.copy_(fresh.basis)  # made again, without the noise
    x = features(16, dims).detach()
    frames = x.mean(2) if dims == 3 else x
    spectrum = scipy.fft.dctn(F.adaptive_avg_pool2d(frames, size).numpy(), axes=(2, 3), norm="ortho")
    scale = size // 7
    own = [spectrum[:, i::1, u * scale, v * scale] for i, (u, v) in enumerate(FREQUENCIES[order][:frequencies])]
    each = 16 // frequencies
    z = np.concatenate([s[:, i * (each - 1) : i * (each - 1) + each] for i, s in enumerate(own)], 1)
    hidden = (torch.from_numpy(z) @ p["fc.0.weight"].T).clamp(min=0)
    expected = x * over_channels((hidden @ p["fc.2.weight"].T).sigmoid(), x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)  # the basis is in float32


@pytest.mark.parametrize("order", FREQUENCIES)
def test_fcas_basis_is_orthonormal(order: str) -> None:
    for size in (7, 10, 28):
        basis = attnzoo.create("fca", 32, frequencies=32, size=size, order=order).basis.flatten(1).double()
        torch.testing.assert_close(basis @ basis.T, torch.eye(32, dtype=basis.dtype), rtol=0, atol=1e-6)


def test_fca_of_its_first_frequency_sees_the_mean_times_the_edge() -> None:
    fca, _ = make("fca", 8, reduction=2, frequencies=1)
    fca.basis.copy_(attnzoo.create("fca", 8, frequencies=1).basis)
    se = attnzoo.create("se", 8, reduction=2).double()
    se.load_state_dict({key: value for key, value in fca.state_dict().items() if key != "basis"})
    se.fc[0].weight.data *= 7
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(fca(x), se(x), rtol=1e-6, atol=1e-6)


# --- nam ---


@both_dims
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_nam_shares_the_scales_of_its_norm(frozen: bool, training: bool, dims: int) -> None:
    ours, p = make("nam", 6, dims, frozen=frozen)
    mean, var = p["bn.running_mean"].clone(), p["bn.running_var"].clone()
    scale = p["bn.weight"]

    def theirs(x: Tensor) -> Tensor:
        share = scale.abs() / scale.abs().sum()
        share = share.detach() if frozen else share
        z = F.batch_norm(x, mean.clone(), var.clone(), scale, p["bn.bias"], training)
        return x * (over_channels(share, x) * z).sigmoid()

    ours.train(training)
    x = features(6, dims)
    same(ours, theirs, x)
    # frozen or not differs in the gradient of the scales alone
    gradients = [torch.autograd.grad((f(x) * torch.linspace(-1, 1, x.numel()).view_as(x)).sum(), scale)[0]
                 for f in (ours, theirs)]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_nams_norm_counts_its_batches_and_becomes_a_synchronised_one() -> None:
    module = attnzoo.create("nam", 6).train()
    module(features(6).float())
    assert int(module.bn.num_batches_tracked) == 1
    assert not torch.equal(module.bn.running_mean, torch.zeros(6))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(module).eval()
    assert isinstance(synced.bn, nn.SyncBatchNorm)
    assert synced(features(6).float()).isfinite().all()


# --- ela ---


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_ela_equals_timm(kernel_size: int) -> None:
    reference = away(EfficientLocalAttn(8, kernel_size=kernel_size))
    ours = attnzoo.create("ela", 8, kernel_size=kernel_size, shared=False, norm_groups=1, act=True).double()
    names = {"conv_h": "strips.0.0", "norm_h": "strips.0.1", "conv_w": "strips.1.0", "norm_w": "strips.1.1"}
    own, state = ours.state_dict(), {}
    for key, value in reference.state_dict().items():
        place, _, leaf = key.partition(".")
        state[f"{names[place]}.{leaf}"] = value.reshape(own[f"{names[place]}.{leaf}"].shape)
    ours.load_state_dict(state, strict=True)
    same(ours, reference, features(8))


@both_dims
@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("group_width", "norm_groups", "kernel_size"), [(1, 4, 7), (4, 2, 5), (8, 1, 3)])
def test_ela_gates_strips(
    group_width: int, norm_groups: int, kernel_size: int, shared: bool, act: bool, dims: int
) -> None:
    options = {"group_width": group_width, "norm_groups": norm_groups, "kernel_size": kernel_size, "shared": shared}
    ours, p = make("ela", 8, dims, act=act, **options)
    assert len({key.split(".")[1] for key in p}) == (1 if shared else dims)

    def theirs(x: Tensor) -> Tensor:
        y = x
        for axis in range(dims):
            at = f"strips.{0 if shared else axis}"
            strip = x.movedim(axis + 2, 2).flatten(3).mean(3)
            z = F.conv1d(strip, p[f"{at}.0.weight"], padding=kernel_size // 2, groups=8 // group_width)
            z = F.group_norm(z, norm_groups, p[f"{at}.1.weight"], p[f"{at}.1.bias"])
            z = z / (1 + torch.exp(-z)) if act else z
            y = y * z.sigmoid().reshape(*z.shape, *(1,) * (dims - 1)).movedim(2, axis + 2)
        return y

    same(ours, theirs, features(8, dims))


def test_a_volume_of_one_frame_is_an_image_to_ela_without_the_gate_along_time() -> None:
    (volume, _), (image, _) = (make("ela", 8, dims, shared=False, norm_groups=4) for dims in (3, 2))
    nn.init.zeros_(volume.strips[0][1].weight)
    nn.init.constant_(volume.strips[0][1].bias, 50.0)  # a gate of 1
    state = volume.strips.state_dict()
    image.strips.load_state_dict({key: state[f"{int(key[0]) + 1}{key[1:]}"] for key in image.strips.state_dict()})
    x = features(8)
    torch.testing.assert_close(volume(x.unsqueeze(2)).squeeze(2), image(x), rtol=1e-9, atol=1e-9)


# --- mlca ---


def shares(size: int, cells: int) -> list[list[int]]:
    """For each of `cells` equal parts of a row the positions of it that they touch."""
    return [[i for i in range(size) if i < (c + 1) * size / cells and i + 1 > c * size / cells] for c in range(cells)]


def averaged(x: Tensor, spatial: tuple[int, ...]) -> Tensor:
    for axis, size in enumerate(spatial, 2):
        parts = [x.index_select(axis, torch.tensor(s)).mean(axis) for s in shares(x.shape[axis], size)]
        x = torch.stack(parts, axis)
    return x


@both_dims
@pytest.mark.parametrize("leak", [False, True])
@pytest.mark.parametrize(
    ("cells", "local_weight", "kernel_size"), [(5, 0.5, None), (3, 0.2, 5), (2, 1.0, 3), (1, 0, 1)]
)
def test_mlca_mixes_the_gates_of_map_and_cells(
    cells: int, local_weight: float, kernel_size: int | None, leak: bool, dims: int
) -> None:
    ours, p = make("mlca", 7, dims, cells=cells, local_weight=local_weight, kernel_size=kernel_size, leak=leak)
    k = 1 if kernel_size is None else kernel_size  # |log2(7) + 1| / 2 = 1.9
    assert p["conv.weight"].numel() == p["conv_local.weight"].numel() == k

    def along(z: Tensor, at: str) -> Tensor:
        """(N, length) convolved with zeros beyond its ends."""
        padded = F.pad(z, (k // 2, k // 2))
        return sum(w * padded[:, j : j + z.shape[1]] for j, w in enumerate(p[at].flatten())).sigmoid()

    def theirs(x: Tensor) -> Tensor:
        grid = averaged(x, (cells,) * dims)
        rows = grid.flatten(2).unbind(2)  # of the cells, (N, C) each
        whole = along(torch.stack(rows).mean(0), "conv.weight")
        own = along(torch.cat(rows, 1), "conv_local.weight").chunk(len(rows), 1) if leak else [
            along(row, "conv_local.weight") for row in rows
        ]  # fmt: skip
        gates = [(1 - local_weight) * whole + local_weight * each for each in own]
        return x * averaged(torch.stack(gates, 2).reshape(grid.shape), tuple(x.shape[2:]))

    same(ours, theirs, features(7, dims))


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 10), (11, 23)])
def test_mlca_enlarges_as_torchs_adaptive_pool(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(averaged(x, size), F.adaptive_avg_pool2d(x, size))
    torch.testing.assert_close(averaged(averaged(x, size), (5, 5)), F.adaptive_avg_pool2d(averaged(x, size), 5))


# --- gam ---


@both_dims
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_gam_has_an_mlp_at_each_position(kernel_size: int, training: bool, dims: int) -> None:
    options: dict[str, Any] = {"temporal_kernel": 1} if dims == 3 and kernel_size == 5 else {}
    ours, p = make("gam", 8, dims, reduction=2, kernel_size=kernel_size, **options)
    frozen = {key: value.clone() for key, value in p.items()}
    padding = tuple(k // 2 for k in p["spatial.0.weight"].shape[2:])
    assert padding == (((1 if kernel_size == 3 else 0),) if dims == 3 else ()) + (kernel_size // 2,) * 2

    def norm(z: Tensor, at: str) -> Tensor:
        statistics = frozen[f"{at}.running_mean"].clone(), frozen[f"{at}.running_var"].clone()
        return F.batch_norm(z, *statistics, p[f"{at}.weight"], p[f"{at}.bias"], training)

    def theirs(x: Tensor) -> Tensor:
        tokens = x.movedim(1, -1)
        hidden = (tokens @ p["channel.0.weight"].flatten(1).T + p["channel.0.bias"]).clamp(min=0)
        logits = hidden @ p["channel.2.weight"].flatten(1).T + p["channel.2.bias"]
        x = x * logits.sigmoid().movedim(-1, 1)
        z = norm(CONV[dims](x, p["spatial.0.weight"], p["spatial.0.bias"], padding=padding), "spatial.1").clamp(min=0)
        return (
            x * norm(CONV[dims](z, p["spatial.3.weight"], p["spatial.3.bias"], padding=padding), "spatial.4").sigmoid()
        )

    same(ours.train(training), theirs, features(8, dims))


# Counts of the authors' code and of timm's at C = 64, 256, 512 and 2048.
ELA = {"shared": False, "norm_groups": 1, "act": True}
COUNTS = [
    ("ge", {}, [0, 0, 0, 0]),
    ("ge", {"learned": True, "size": 7, "bias": True}, [3_328, 13_312, 26_624, 106_496]),
    ("srm", {}, [256, 1_024, 2_048, 8_192]),
    ("gct", {}, [192, 768, 1_536, 6_144]),
    ("lct", {}, [128, 512, 1_024, 4_096]),
    ("lct", {"groups": 4}, [128, 512, 1_024, 4_096]),
    ("fca", {}, [512, 8_192, 32_768, 524_288]),
    ("gam", {}, [102_720, 1_639_680, 6_556_160, 104_867_840]),
    ("nam", {}, [128, 512, 1_024, 4_096]),
    ("ela", {}, [576, 2_304, 4_608, 18_432]),
    ("ela", ELA, [1_152, 4_608, 9_216, 36_864]),
    ("mlca", {}, [6, 10, 10, 14]),
]


@pytest.mark.parametrize(("name", "options", "counts"), COUNTS)
def test_parameters(name: str, options: dict[str, Any], counts: list[int]) -> None:
    with torch.device("meta"):
        modules = [attnzoo.create(name, channels, **options) for channels in (64, 256, 512, 2048)]
    assert [sum(p.numel() for p in module.parameters()) for module in modules] == counts


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        *(("ge", {"extent": extent}, f"extent={extent}") for extent in (-2, 1, 3, 6)),
        ("ge", {"learned": True}, "size=None must be told"),
        *(("ge", {"size": 7, **o}, "size=7 is of no use") for o in ({}, {"extent": 2}, {"extent": 2, "learned": True})),
        ("ge", {"mlp": True, "reduction": 0}, "reduction=0"),
        ("ge", {"learned": True, "size": (7,)}, "size=(7,)"),
        ("gct", {"norm": "l3"}, "norm='l3'"),
        ("lct", {"groups": 7}, "groups"),
        ("lct", {"groups": 64}, "groups=64 leaves one of channels=64"),
        ("fca", {"size": 6}, "size=6"),
        ("fca", {"frequencies": 12}, "frequencies=12"),
        ("fca", {"frequencies": 64}, "frequencies=64"),
        ("fca", {"order": "mid"}, "order='mid'"),
        ("gam", {"kernel_size": 4}, "kernel_size=4"),
        ("gam", {"temporal_kernel": 3}, "temporal_kernel=3 needs spatial_dims=3"),
        ("ela", {"kernel_size": 6}, "kernel_size=6"),
        ("ela", {"group_width": 3}, "group_width=3"),
        ("ela", {"norm_groups": 3}, "norm_groups=3"),
        ("mlca", {"cells": 0}, "cells=0"),
        ("mlca", {"local_weight": 1.5}, "local_weight=1.5"),
        ("mlca", {"kernel_size": 2}, "kernel_size=2"),
    ],
)
def test_refuses_values_that_do_not_fit_and_shows_them(name: str, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.spec(name).cls(64, **options)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)
