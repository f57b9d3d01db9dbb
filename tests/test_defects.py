"""Defects of the authors' code, and of the ports most used, that are not inherited silently."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnzoo

both_dims = pytest.mark.parametrize("dims", [2, 3])
CONV = {2: F.conv2d, 3: F.conv3d}
# Options with which every module takes 16 channels.
FITS: dict[str, dict[str, Any]] = {
    "sa": {"groups": 4},
    "lct": {"groups": 4},
    "epsa": {"groups": (1, 2, 2, 4)},
    "ema": {"groups": 4},
    "sge": {"groups": 4},
    "sk": {"groups": 4},
}


def away(module: nn.Module) -> nn.Module:
    """The module in float64 and eval mode with parameters and buffers away from their neutral start."""
    generator = torch.Generator().manual_seed(0)
    for key, value in module.double().state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype) / 4
            value.copy_(noise.abs() + 0.5 if key.endswith("running_var") else value + noise)
    return module.eval()


def features(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (4, 13), (2, 5, 9), (5, 9, 2)])
@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize(("layers", "dilation", "depth"), [(2, 4, 1), (1, 2, 2)])
def test_bam_pools_the_whole_of_a_map_that_is_not_square(
    size: tuple[int, ...], combine: str, layers: int, dilation: int, depth: int
) -> None:
    dims = len(size)
    ours = away(
        attnzoo.create(
            "bam", 16, spatial_dims=dims, reduction=4, combine=combine, layers=layers, dilation=dilation, depth=depth
        )
    )
    p = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}

    def norm_relu(z: Tensor, at: str) -> Tensor:
        mean, var = p[f"{at}.running_mean"], p[f"{at}.running_var"]
        return F.batch_norm(z, mean, var, p[f"{at}.weight"], p[f"{at}.bias"]).relu()

    def conv(z: Tensor, at: str, dilation: int = 0) -> Tensor:
        return CONV[dims](z, p[f"{at}.weight"], p[f"{at}.bias"], 1, dilation, max(1, dilation))

    x = features(2, 16, *size)
    channel = x.flatten(2).sum(2) / x[0, 0].numel()
    for i in range(depth):
        channel = norm_relu(
            channel @ p[f"channel.{3 * i}.weight"].T + p[f"channel.{3 * i}.bias"], f"channel.{3 * i + 1}"
        )
    channel = channel @ p[f"channel.{3 * depth}.weight"].T + p[f"channel.{3 * depth}.bias"]
    channel = channel.view(2, 16, *(1,) * dims)
    spatial = norm_relu(conv(x, "spatial.0"), "spatial.1")
    for i in range(1, layers + 1):
        spatial = norm_relu(conv(spatial, f"spatial.{3 * i}", dilation), f"spatial.{3 * i + 1}")
    spatial = conv(spatial, f"spatial.{3 * layers + 3}")
    logits = channel * spatial if combine == "mul" else channel + spatial
    torch.testing.assert_close(ours(x), x * (1 + logits.sigmoid()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [64, 192, 320])
def test_sa_refuses_an_uneven_split_and_says_which_groups_fit(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"channels={channels} .* 2 \* groups=128; groups may be one of 1, .*32"):
        attnzoo.create("sa", channels)
    x = torch.randn(2, channels, 4, 5)
    assert attnzoo.create("sa", channels, groups=32)(x).shape == x.shape


SQUEEZED = {
    "se": {},
    "ge": {"mlp": True},
    "fca": {"frequencies": 1},
    "gam": {},
    "cbam": {},
    "bam": {},
    "ca": {"min_width": 1},
    "gc": {"fusion": "mul"},
    "nl": {"reduction": 16},
    "pam": {},
    "cca": {},
    "a2": {"residual": False},
    "sk": {"groups": 1, "min_width": 1},
    "epsa": {"groups": (1, 1, 1, 1)},
    "cse": {},
    "scse": {},
    "pe": {},
    "lsk": {},
}


@both_dims
@pytest.mark.parametrize("name", SQUEEZED)
@pytest.mark.parametrize("channels", range(1, 9))
def test_no_squeeze_is_empty(name: str, channels: int, dims: int) -> None:
    channels = 4 * channels if name == "epsa" else channels  # four branches
    module = attnzoo.create(name, channels, spatial_dims=dims, **SQUEEZED[name]).double().eval()
    assert all(p.numel() for p in module.parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():  # positive, so that no unit is dead
            p.copy_(torch.rand(p.shape, generator=generator) / 4 + 0.1 if p.ndim > 1 else torch.tensor(0.3))
    x = features(2, channels, *(4, 5, 3)[:dims]).detach().abs() / 100  # small, so that no gate is saturated
    # Convolutions are linear in x, and the other modules multiply x by a gate: any other effect is the squeeze's.
    assert not torch.allclose(module(2 * x), 2 * module(x), rtol=1e-6, atol=0)


@both_dims
@pytest.mark.parametrize("name", ["simam", "sge"])
def test_a_single_position_has_a_finite_gate_and_gradient(name: str, dims: int) -> None:
    x = features(2, 64, *(1,) * dims)
    module = attnzoo.create(name, 64, spatial_dims=dims).double()
    y = module(x)
    y.sum().backward()
    # SimAM's distance is 0 there, sigmoid(1 / 2); SGE starts with the gate sigmoid(1).
    gate = torch.tensor(0.5 if name == "simam" else 1.0, dtype=x.dtype).sigmoid()
    torch.testing.assert_close(y, x * gate)
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@both_dims
def test_a_constant_map_has_a_finite_gate_and_gradient(dims: int) -> None:
    for name in ("simam", "sge", "srm", "gct"):
        x = torch.ones(2, 64, *(3,) * dims, requires_grad=True)
        y = attnzoo.create(name, 64, spatial_dims=dims)(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()


@both_dims
def test_the_lp_pool_of_a_dead_channel_has_a_finite_gradient(dims: int) -> None:
    x = torch.zeros(2, 16, *(3,) * dims, requires_grad=True)
    attnzoo.create("cbam", 16, spatial_dims=dims, pools=("lp", "lse"))(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "groups"), [("ema", 32), ("sge", 64)])
def test_groups_that_do_not_divide_the_channels_are_refused_at_once(name: str, groups: int) -> None:
    with pytest.raises(ValueError, match=rf"channels=72 is not divisible by groups={groups}; .* 8, 9"):
        attnzoo.create(name, 72, groups=groups)


@pytest.mark.parametrize("channels", [16, 32, 48])
def test_epsa_refuses_groups_for_few_channels_and_takes_others(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"\(1, 4, 8, 16\) .* {channels} in all.*\(1, 1, 1, 1\)"):
        attnzoo.create("epsa", channels)
    x = torch.randn(2, channels, 4, 5)
    assert attnzoo.create("epsa", channels, groups=(1, 1, 1, 1))(x).shape == x.shape


def test_triplet_has_the_spatial_branch_unless_told_otherwise() -> None:
    triplet = attnzoo.create("triplet", 256)
    assert sum(p.numel() for p in triplet.parameters()) == 300
    assert {key.partition(".")[0] for key in triplet.state_dict()} == {"cw", "hc", "hw"}


@pytest.mark.parametrize(
    ("name", "option"), [("eca", "kernel_size"), ("cbam", "kernel_size"), ("triplet", "kernel_size")]
)
def test_even_kernels_are_refused(name: str, option: str) -> None:
    with pytest.raises(ValueError, match="kernel_size=4 must be an odd number"):
        attnzoo.create(name, 64, **{option: 4})


@both_dims
def test_sk_has_a_gradient(dims: int) -> None:
    sk = attnzoo.create("sk", 32, spatial_dims=dims)  # in pppLang's an in-place unsqueeze raises
    sk(torch.randn(2, 32, *(4,) * dims)).sum().backward()
    assert all(p.grad is not None for p in sk.parameters())


@both_dims
def test_sge_takes_features_that_are_not_contiguous(dims: int) -> None:
    x = torch.randn(2, *(4, 5, 3)[:dims], 64)
    x = x.movedim(-1, 1)
    module = attnzoo.create("sge", 64, spatial_dims=dims)
    torch.testing.assert_close(module(x), module(x.contiguous()))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (3, 1, 1), (1, 1, 4)])
@pytest.mark.parametrize("subsample", [True, "input"])
def test_non_local_subsamples_maps_of_one_row_or_column(size: tuple[int, ...], subsample: bool | str) -> None:
    module = away(attnzoo.create("nl", 8, spatial_dims=len(size), subsample=subsample))
    y = module(features(2, 8, *size))
    assert y.shape == (2, 8, *size)
    assert y.isfinite().all()


@both_dims
@pytest.mark.parametrize("name", attnzoo.list_modules())
def test_an_empty_batch_passes(name: str, dims: int) -> None:
    x = torch.zeros(0, 16, *(4, 5, 6)[:dims])
    module = attnzoo.create(name, 16, spatial_dims=dims, **FITS.get(name, {}))
    assert module.eval()(x).shape == x.shape
