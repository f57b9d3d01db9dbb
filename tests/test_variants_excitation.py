"""Excitations of U-Nets (cse, sse, scse, pe) and the synergy of axes and channels (scsa), against their formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import ChannelSELayer
from torch import Tensor

import attnzoo

from .test_variants import away, both_dims, features, make, same


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def excitation(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    hidden = (x.flatten(2).mean(2) @ p["fc.0.weight"].T + p["fc.0.bias"]).clamp(min=0)
    return sigmoid(hidden @ p["fc.2.weight"].T + p["fc.2.bias"]).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


def position(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return sigmoid(torch.einsum("c,nc...->n...", p["conv.weight"].flatten(), x) + p["conv.bias"]).unsqueeze(1)


@both_dims
@pytest.mark.parametrize("reduction", [2, 4])
def test_cse_equals_monai(reduction: int, dims: int) -> None:
    reference = away(ChannelSELayer(dims, 8, r=reduction, acti_type_1="relu"))
    ours = attnzoo.create("cse", 8, spatial_dims=dims, reduction=reduction).double()
    ours.load_state_dict(reference.state_dict(), strict=True)
    same(ours, reference, features(8, dims))


@both_dims
def test_sse_is_a_linear_map_of_the_channels(dims: int) -> None:
    ours, p = make("sse", 6, dims)
    same(ours, lambda x: x * position(x, p), features(6, dims))


@both_dims
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("combine", ["max", "add"])
def test_scse_is_the_larger_or_the_sum(combine: str, relu: bool, dims: int) -> None:
    ours, p = make("scse", 8, dims, combine=combine)

    def theirs(x: Tensor) -> Tensor:
        by_channel, by_position = x * excitation(x, p), x * position(x, p)
        return torch.maximum(by_channel, by_position) if combine == "max" else by_channel + by_position

    x = features(8, dims)
    if relu:  # zeros, where both products are the same and share the gradient
        x = x.detach().relu().requires_grad_()
    same(ours, theirs, x)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
    gradients = [torch.autograd.grad(y.square().sum(), list(p.values())) for y in (ours(x), theirs(x))]
    torch.testing.assert_close(*gradients)


def test_scse_of_equal_gates_shares_between_them() -> None:
    ours, p = make("scse", 4, reduction=2)
    with torch.no_grad():
        for value in p.values():
            value.zero_()
    x = features(4)
    larger = torch.maximum(x * excitation(x, p), x * position(x, p))
    gradients = [torch.autograd.grad(y.sum(), (x, p["fc.2.bias"], p["conv.bias"])) for y in (ours(x), larger)]
    torch.testing.assert_close(*gradients)


@both_dims
@pytest.mark.parametrize("reduction", [2, 3])
def test_pe_squeezes_the_sum_of_the_projections(reduction: int, dims: int) -> None:
    ours, p = make("pe", 6, dims, reduction=reduction)

    def theirs(x: Tensor) -> Tensor:
        projections = [x.mean([a for a in range(2, x.ndim) if a != axis], keepdim=True) for axis in range(2, x.ndim)]
        total = sum(projections[1:], projections[0])  # at each position
        bias = [p[f"{layer}.bias"].reshape(1, -1, *(1,) * dims) for layer in ("squeeze", "excite")]
        hidden = (torch.einsum("dc,nc...->nd...", p["squeeze.weight"], total) + bias[0]).clamp(min=0)
        return x * sigmoid(torch.einsum("dc,nc...->nd...", p["excite.weight"].flatten(1), hidden) + bias[1])

    same(ours, theirs, features(6, dims))


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    z = x.reshape(len(x), groups, -1)
    z = ((z - z.mean(2, keepdim=True)) / (z.var(2, correction=0, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return z * weight.reshape(shape) + bias.reshape(shape)


SCSA = [
    {},
    {"heads": 4, "window": 2},
    {"heads": 2, "window": 3, "pool": "max", "bias": True},
    {"heads": 2, "window": 2, "activation": "softmax", "kernels": (3, 7)},
    {"heads": 1, "window": None, "pool": "max"},
    {"window": None, "activation": "softmax"},
    {"heads": 8, "window": 2, "pool": "recombination"},
    {"window": 4, "pool": "recombination"},  # larger than an axis
]


@both_dims
@pytest.mark.parametrize("options", SCSA, ids=str)
def test_scsa(options: dict[str, Any], dims: int) -> None:
    ours, p = make("scsa", 8, dims, **options)
    heads, window, kernels = options.get("heads", 1), options.get("window", 7), options.get("kernels", (3, 5, 7, 9))
    pool, softmax = options.get("pool", "avg"), options.get("activation") == "softmax"
    width = 8 // len(kernels)

    def project(x: Tensor, at: str) -> Tensor:
        bias = p.get(f"{at}.bias", torch.zeros(8, dtype=x.dtype))
        return (x * p[f"{at}.weight"].reshape(1, 8, 1) + bias.reshape(1, 8, 1)).reshape(len(x), heads, 8 // heads, -1)

    def windows(z: Tensor) -> Tensor:
        if pool == "recombination":
            lacking = [max(0, window - s) for s in z.shape[2:]]
            for axis, lack in enumerate(lacking, 2):
                zeros = z.new_zeros([lack if a == axis else s for a, s in enumerate(z.shape)])
                z = torch.cat((z, zeros), axis)
            return (F.conv2d if dims == 2 else F.conv3d)(z, p["recombine.weight"], stride=window)
        size = [s if window is None else min(window, s) for s in z.shape[2:]]
        kind = {"avg": (F.avg_pool2d, F.avg_pool3d), "max": (F.max_pool2d, F.max_pool3d)}[pool]
        return kind[dims - 2](z, size, size)

    def theirs(x: Tensor) -> Tensor:
        z = x
        for axis, name in enumerate(("t", "h", "w")[-dims:], 2):
            strip = x.mean([a for a in range(2, x.ndim) if a != axis])
            parts = [
                F.conv1d(part, p[f"convs.{i}.weight"], p[f"convs.{i}.bias"], padding=kernels[i] // 2, groups=width)
                for i, part in enumerate(strip.split(width, 1))
            ]
            logits = group_norm(torch.cat(parts, 1), len(kernels), p[f"norm_{name}.weight"], p[f"norm_{name}.bias"])
            gate = logits.exp() / logits.exp().sum(2, keepdim=True) if softmax else sigmoid(logits)
            z = z * gate.reshape(*gate.shape[:2], *(-1 if a == axis else 1 for a in range(2, x.ndim)))
        y = group_norm(windows(z), 1, p["norm.weight"], p["norm.bias"]).flatten(2)
        query, key, value = (project(y, at) for at in ("query", "key", "value"))
        logits = torch.einsum("nhip,nhjp->nhij", query, key) / math.sqrt(8 // heads)
        weights = logits.exp() / logits.exp().sum(3, keepdim=True)
        attended = torch.einsum("nhij,nhjp->nhip", weights, value).flatten(1, 2).mean(2)
        gate = attended.exp() / attended.exp().sum(1, keepdim=True) if softmax else sigmoid(attended)
        return z * gate.reshape(*gate.shape, *(1,) * dims)

    same(ours, theirs, features(8, dims))


def test_a_clip_with_an_open_gate_along_time_is_its_only_frame() -> None:
    volume, p = make("scsa", 8, 3, heads=2, window=3)
    image, q = make("scsa", 8, 2, heads=2, window=3)
    with torch.no_grad():
        p["norm_t.weight"].zero_()
        p["norm_t.bias"].fill_(50.0)  # a gate of 1
        for key, value in q.items():
            value.copy_(p[key])
    x = features(8, 3)[:, :, :1]
    torch.testing.assert_close(volume(x).squeeze(2), image(x.squeeze(2)), rtol=1e-9, atol=1e-9)


@both_dims
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cse", [4_192, 65_920, 262_912, 4_197_376]),
        ("scse", [4_257, 66_177, 263_425, 4_199_425]),
        ("pe", [4_192, 65_920, 262_912, 4_197_376]),
    ],
)
def test_parameters_are_those_of_the_authors_code(name: str, counts: list[int], dims: int) -> None:
    for channels, count in zip((64, 256, 512, 2048), counts, strict=True):
        with torch.device("meta"):
            assert sum(p.numel() for p in attnzoo.create(name, channels, spatial_dims=dims).parameters()) == count


def test_parameters_of_scsa_are_those_of_its_authors_code() -> None:
    for channels, count in zip((64, 256, 512, 2048), (1_024, 4_096, 8_192, 32_768), strict=True):
        with torch.device("meta"):
            assert sum(p.numel() for p in attnzoo.create("scsa", channels).parameters()) == count


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("cse", {"reduction": 0}, "reduction=0"),
        ("pe", {"reduction": -2}, "reduction=-2"),
        ("scse", {"combine": "mean"}, "'mean'"),
        ("scsa", {"heads": 7}, "heads=7; heads may be one of 1, 2, 4"),
        ("scsa", {"kernels": (3, 5, 7)}, "the number of kernels=3"),
        ("scsa", {"kernels": ()}, "the number of kernels=0"),
        ("scsa", {"kernels": (3, 4)}, "kernel_size=4"),
        ("scsa", {"window": 0}, "window=0"),
        ("scsa", {"window": None, "pool": "recombination"}, "window=None"),
        ("scsa", {"pool": "sum"}, "'sum'"),
        ("scsa", {"activation": "relu"}, "'relu'"),
    ],
)
def test_refuses_values_that_do_not_fit_and_shows_them(name: str, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attnzoo.spec(name).cls(64, **options)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)
