"""Large depthwise kernels as gates (lka, lska, lsk, caa), against dense kernels and the papers' formulas."""

from functools import reduce
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnzoo

from .test_variants import CONV, both_dims, make, same

SIZES = {2: (9, 12), 3: (4, 9, 8)}


def features(channels: int, dims: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, *SIZES[dims], generator=generator, dtype=torch.float64).requires_grad_()


def dense(weight: Tensor, dilation: int) -> Tensor:
    """The kernel (C, 1, *sizes) with its zeros, as large as what it covers."""
    sizes = [(k - 1) * dilation + 1 for k in weight.shape[2:]]
    spread = weight.new_zeros(*weight.shape[:2], *sizes)
    spread[(..., *[slice(None, None, dilation)] * len(sizes))] = weight
    return spread


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    kernel = dense(weight, dilation)
    return CONV[x.ndim - 2](x, kernel, bias, padding=[k // 2 for k in kernel.shape[2:]], groups=len(kernel))


def pointwise(x: Tensor, p: dict[str, Tensor], at: str) -> Tensor:
    weight = p[f"{at}.weight"].flatten(1)
    bias = p.get(f"{at}.bias", torch.zeros(len(weight), dtype=weight.dtype))
    return torch.einsum("dc,nc...->nd...", weight, x) + bias.reshape(-1, *[1] * (x.ndim - 2))


# The authors' six LSKA kernels and the sizes of their parts; VAN's own is the first.
PARTS = [(21, 3, 5, 7), (7, 2, 3, 3), (11, 2, 3, 5), (23, 3, 5, 7), (35, 3, 5, 11), (41, 3, 5, 13), (53, 3, 5, 17)]


@pytest.mark.parametrize(("kernel_size", "dilation", "local", "dilated", "dims"),
                         [*((*part, 2) for part in PARTS), *((*part, 3) for part in PARTS[:3])])  # fmt: skip
def test_lka_is_two_dense_kernels_and_a_product(
    kernel_size: int, dilation: int, local: int, dilated: int, dims: int
) -> None:
    ours, p = make("lka", 3, dims, kernel_size=kernel_size, dilation=dilation)
    assert p["local.weight"].shape == (3, 1, *(local,) * dims)
    assert p["dilated.weight"].shape == (3, 1, *(dilated,) * dims)

    def theirs(x: Tensor) -> Tensor:
        u = depthwise(x, p["local.weight"], p["local.bias"], 1)
        u = depthwise(u, p["dilated.weight"], p["dilated.bias"], dilation)
        return x * pointwise(u, p, "point")

    same(ours, theirs, features(3, dims))


@both_dims
@pytest.mark.parametrize(("kernel_size", "dilation", "local", "dilated"), PARTS[1:])
def test_lska_is_lka_with_kernels_of_rank_one(
    kernel_size: int, dilation: int, local: int, dilated: int, dims: int
) -> None:
    ours, p = make("lska", 2, dims, kernel_size=kernel_size)
    full, q = make("lka", 2, dims, kernel_size=kernel_size, dilation=dilation)
    with torch.no_grad():
        for part, size in (("local", local), ("dilated", dilated)):
            strips = [p[f"{part}.{i}.weight"] for i in range(dims)]
            # Along W, then along H, then along T.
            assert [s.shape[2:].index(size) for s in strips] == list(reversed(range(dims)))
            for i in range(dims):  # at the border of the map a bias would tell the order of the axes
                p[f"{part}.{i}.bias"].zero_()
            q[f"{part}.weight"].copy_(reduce(torch.mul, strips))
            q[f"{part}.bias"].zero_()
        for leaf in ("weight", "bias"):
            q[f"point.{leaf}"].copy_(p[f"point.{leaf}"])
    same(ours, full, features(2, dims))


@both_dims
@pytest.mark.parametrize(
    ("kernels", "dilations", "kernel_size"), [((5, 7), (1, 3), 7), ((3, 5, 3), (1, 2, 3), 3), ((5,), (2,), 5)]
)
def test_lsk_weighs_any_number_of_kernels(
    kernels: tuple[int, ...], dilations: tuple[int, ...], kernel_size: int, dims: int
) -> None:
    ours, p = make("lsk", 6, dims, kernels=kernels, dilations=dilations, kernel_size=kernel_size)

    def theirs(x: Tensor) -> Tensor:
        u, branches = x, []
        for i, d in enumerate(dilations):
            u = depthwise(u, p[f"depthwise.{i}.weight"], p[f"depthwise.{i}.bias"], d)
            branches.append(pointwise(u, p, f"reduce.{i}"))
        joint = torch.cat(branches, 1)
        pooled = torch.cat((joint.mean(1, keepdim=True), joint.amax(1, keepdim=True)), 1)
        w = CONV[dims](pooled, p["weigh.weight"], p["weigh.bias"], padding=kernel_size // 2)
        mixed = sum(b / (1 + torch.exp(-w[:, i : i + 1])) for i, b in enumerate(branches))
        return x * pointwise(mixed, p, "expand")

    same(ours, theirs, features(6, dims))


@both_dims
@pytest.mark.parametrize(("kernel_size", "window"), [(11, 7), (3, 3), (15, 1)])
@pytest.mark.parametrize("norm", [False, True])
def test_caa_pools_and_convolves_along_each_axis(norm: bool, kernel_size: int, window: int, dims: int) -> None:
    ours, p = make("caa", 4, dims, norm=norm, kernel_size=kernel_size, window=window)
    assert any("running_mean" in key for key in p) == norm

    def unit(x: Tensor, at: str) -> Tensor:
        z = pointwise(x, p, f"{at}.0")
        if norm:
            shape = (1, -1, *(1,) * dims)
            mean, var, weight, bias = (
                p[f"{at}.1.{s}"].reshape(shape) for s in ("running_mean", "running_var", "weight", "bias")
            )
            z = F.silu((z - mean) / (var + 1e-3).sqrt() * weight + bias)
        return z

    def theirs(x: Tensor) -> Tensor:
        pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
        margin = (window // 2,) * 2 * dims  # which counts
        z = unit(pool(F.pad(x, margin), window, 1), "before")
        for i in range(dims):
            assert p[f"strips.{i}.weight"].shape[2:].index(kernel_size) == dims - 1 - i
            z = depthwise(z, p[f"strips.{i}.weight"], p[f"strips.{i}.bias"], 1)
        return x / (1 + torch.exp(-unit(z, "after")))

    same(ours, theirs, features(4, dims))


@torch.no_grad()
def volume_and_image(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A 3D module whose kernels along T do nothing, and the 2D module with its other kernels."""
    (volume, p), (image, q) = make(name, 4, 3, **options), make(name, 4, 2, **options)
    for key, value in q.items():
        value.copy_(p[key].select(2, p[key].shape[2] // 2) if p[key].ndim > value.ndim else p[key])
    for chain in {"lska": ("local", "dilated"), "caa": ("strips",)}[name]:
        nn.init.dirac_(p[f"{chain}.2.weight"], groups=4)
        nn.init.zeros_(p[f"{chain}.2.bias"])
    return volume, image


@pytest.mark.parametrize(("name", "options"), [("lska", {}), ("caa", {"window": 1})])  # a pool of 7 mixes frames
def test_a_clip_without_kernels_along_time_is_its_frames(name: str, options: dict[str, Any]) -> None:
    volume, image = volume_and_image(name, **options)
    x = features(4, 3)
    expected = torch.stack([image(frame) for frame in x.unbind(2)], 2)
    torch.testing.assert_close(volume(x), expected, rtol=1e-9, atol=1e-9)


def test_one_frame_is_pooled_with_the_zeros_around_it() -> None:
    volume, image = volume_and_image("caa")
    with torch.no_grad():
        image.before[0].weight /= 7
    x = features(4, 3)[:, :, :1]
    torch.testing.assert_close(volume(x).squeeze(2), image(x.squeeze(2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("lka", {}, [9_024, 85_248, 301_568, 4_352_000]),
        ("lska", {}, [5_952, 72_960, 276_992, 4_253_696]),
        ("lsk", {}, [11_334, 118_470, 433_350, 6_451_398]),
        ("caa", {}, [9_856, 137_728, 537_600, 8_441_856]),
        ("caa", {"norm": True}, [9_984, 138_240, 538_624, 8_445_952]),
    ],
)
def test_parameters_are_those_of_the_authors_code(name: str, options: dict[str, Any], counts: list[int]) -> None:
    for channels, count in zip((64, 256, 512, 2048), counts, strict=True):
        with torch.device("meta"):
            assert sum(p.numel() for p in attnzoo.create(name, channels, **options).parameters()) == count


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("lka", {"kernel_size": 20, "dilation": 2}, "kernel_size=20 // dilation=2 must be an odd number"),
        ("lka", {"kernel_size": 2}, "kernel_size=2 // dilation=3"),
        ("lka", {"dilation": 0}, "dilation=0 must be at least 1"),
        ("lska", {"kernel_size": 8}, "kernel_size=8 // dilation=2"),
        ("lsk", {"kernels": ()}, "kernels=()"),
        ("lsk", {"kernels": (5, 7, 9)}, "dilations=(1, 3)"),
        ("lsk", {"dilations": (1, 0)}, "dilations=(1, 0)"),
        ("lsk", {"kernels": (5, 6)}, "kernel_size=6 must be an odd number"),
        ("caa", {"window": 4}, "window=4 must be an odd number"),
        ("caa", {"kernel_size": 10}, "kernel_size=10"),
    ],
)
def test_refuses_values_that_do_not_fit_and_shows_them(name: str, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.create(name, 64, **options)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)
