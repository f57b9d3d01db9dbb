"""Every module against the outputs of its authors' code: values, gradients and buffers after a training step."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import attnzoo
from attnzoo.official import convert_module

GOLDENS = Path(__file__).parent / "data" / "goldens"
# File -> our name and the options that stand for the authors' constructor arguments.
CASES = {
    "se": ("se", {"reduction": 16}),
    "se_bias_srmrepo": ("se", {"reduction": 4, "bias": True}),
    "ese": ("ese", {}),
    "cbam": ("cbam", {"reduction": 16}),
    "coordatt": ("ca", {"reduction": 32}),
    "sa": ("sa", {"groups": 64}),
    "triplet": ("triplet", {}),
    "psa": ("epsa", {}),
    "ema": ("ema", {"groups": 32}),
    "eca": ("eca", {"kernel_size": 3}),
    "sge": ("sge", {"groups": 8}),
    "simam": ("simam", {}),
    "gc_add": ("gc", {"reduction": 4}),
    "nl_embedded": ("nl", {}),
    "nl3d_embedded": ("nl", {"subsample": True}),
    "bam": ("bam", {}),
    "cse2d": ("cse", {}),
    "sse2d": ("sse", {}),
    "scse2d": ("scse", {}),
    "scse3d": ("scse", {}),
    "pe3d": ("pe", {}),
    "lka": ("lka", {}),
    "lska_k23": ("lska", {}),
    "lsk": ("lsk", {}),
    "caa": ("caa", {"norm": True}),
    "scsa": ("scsa", {"heads": 8}),
    "sk_ppplang": ("sk", {"groups": 8, "reduction": 2, "min_width": 16}),
    "ge_theta_global": ("ge", {"learned": True, "size": 7, "bias": True}),
    "srm": ("srm", {}),
    "gct": ("gct", {}),
    "lct": ("lct", {"groups": 8}),
    "fca": ("fca", {"reduction": 4, "size": 14}),
    "gam": ("gam", {}),
    "nam": ("nam", {"frozen": True}),
    "ela": ("ela", {}),
    "mlca": ("mlca", {}),
    "danet_pam": ("pam", {}),
    "danet_cam": ("cam", {}),
    "ccnet": ("cca", {}),
    "a2": ("a2", {"reduction": 2, "maps": 8, "residual": False}),
    "splat": ("splat", {}),
    "axial_h": ("axial", {"axes": (0,), "groups": 4, "feat_size": 12}),
    "axial_w": ("axial", {"axes": (1,), "groups": 4, "feat_size": 14}),
    "timm_bot": ("bot", {"feat_size": (6, 7)}),
    "timm_halo": ("halo", {"block_size": 4, "halo_size": 1, "heads": 4}),
    "timm_lambda": ("lambda", {"kernel_size": 5}),
}

# The norm of a batch of four takes away digits, of which the authors' gradients had 6.6e-6 to lose.
IN_DOUBLE = {"srm", "splat"}
# That of a batch of two takes more: the authors have a bias before it whose gradient is 3e-5 of the largest, and not 0.
TOLERANCE = {"splat": 1e-4}


def relative(ours: torch.Tensor, theirs: torch.Tensor, largest: float = 1.0, noise: float = 1e-5) -> float:
    """Largest deviation over the largest value; `largest` of all gradients for one that is zero by construction."""
    scale = float(theirs.abs().max())
    # A bias in front of a batch norm or a softmax has rounding noise for a gradient, in both codes.
    return float((ours.detach() - theirs).abs().max()) / (scale if scale > noise * max(largest, 1) else max(largest, 1))


def read(file: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with np.load(GOLDENS / f"{file}.npz") as golden:
        data = {key: torch.from_numpy(golden[key]) for key in golden.files if key != "meta"}
        return json.loads(str(golden["meta"])), data


def equal_to(
    module: nn.Module,
    data: dict[str, torch.Tensor],
    convert: Callable[..., dict[str, torch.Tensor]],
    tolerance: float = 1e-5,
) -> None:
    """Outputs, input and parameter gradients in eval and train mode, and the buffers after a step."""

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return convert({key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)})

    module.load_state_dict(part("sd/"), strict=True)
    x = data["x"].clone().requires_grad_()
    module.eval()
    assert relative(module(x), data["y_eval"]) < tolerance
    (gx_eval,) = torch.autograd.grad((module(x) * data["r"]).sum(), x)
    assert relative(gx_eval, data.get("gx_eval", data["gx_train"])) < tolerance

    module.train()
    y = module(x)
    assert relative(y, data["y_train"]) < tolerance
    (y * data["r"]).sum().backward()
    assert relative(x.grad, data["gx_train"]) < tolerance
    ours = dict(module.named_parameters())
    largest = max((float(p.abs().max()) for p in part("gp/").values()), default=0.0)
    for key, theirs in part("gp/").items():
        assert relative(ours[key].grad, theirs, largest, tolerance) < tolerance, key
    state = module.state_dict()
    for key, theirs in part("sd_after/").items():
        assert relative(state[key].float(), theirs.float()) < tolerance, key


@pytest.mark.parametrize("file", CASES)
def test_equals_the_authors_code(file: str) -> None:
    name, options = CASES[file]
    meta, data = read(file)
    module = attnzoo.create(name, data["x"].shape[1], spatial_dims=data["x"].ndim - 2, **options)
    assert sum(p.numel() for p in module.parameters()) == meta["n_params"]
    if file in IN_DOUBLE:
        module, data = module.double(), {key: value.double() for key, value in data.items()}
    equal_to(module, data, partial(convert_module, name), TOLERANCE.get(file, 1e-5))


class Bottle2neck(nn.Module):
    """The authors' whole bottleneck, of which our module is the middle."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.middle = attnzoo.create("res2net", width, scale=4)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.middle(self.bn1(self.conv1(x)).relu())
        return (self.bn3(self.conv3(out)) + x).relu()


def test_res2net_is_the_middle_of_the_authors_block() -> None:
    meta, data = read("res2net_block")
    block = Bottle2neck(64, data["sd/conv1.weight"].shape[0])
    assert sum(p.numel() for p in block.parameters()) == meta["n_params"]

    def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"middle.{key}" if key.startswith(("convs.", "bns.")) else key: value for key, value in state.items()}

    equal_to(block, data, convert)


class GEBlock(nn.Module):
    """BayesWatch's whole block, of which our module gates what is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.ge = attnzoo.create("ge", channels, extent=2, learned=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.bn1(x).relu())
        return x + self.ge(self.conv2(self.bn2(out).relu()))


def test_ge_gates_the_branch_of_its_block() -> None:
    meta, data = read("ge_block_theta_e2")
    block = GEBlock(data["x"].shape[1])
    assert sum(p.numel() for p in block.parameters()) == meta["n_params"]

    def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = {key: value for key, value in state.items() if key.startswith("downop.")}
        ours = {f"ge.{key}": value for key, value in convert_module("ge", own).items()}
        return {**{key: value for key, value in state.items() if key not in own}, **ours}

    equal_to(block, data, convert)


@pytest.mark.parametrize(("depth", "layers"), [(1, 2), (2, 3), (3, 1)])
def test_bams_entries_are_renamed_for_any_number_of_layers(depth: int, layers: int) -> None:
    channel = [f"gate_c_{kind}" for i in range(depth) for kind in (f"fc_{i}", f"bn_{i + 1}")] + ["gate_c_fc_final"]
    spatial = ["gate_s_conv_reduce0", "gate_s_bn_reduce0"]
    spatial += [f"gate_s_{kind}_di_{i}" for i in range(layers) for kind in ("conv", "bn")] + ["gate_s_conv_final"]
    theirs = [f"channel_att.gate_c.{k}.weight" for k in channel] + [f"spatial_att.gate_s.{k}.weight" for k in spatial]
    ours = attnzoo.create("bam", 64, depth=depth, layers=layers).state_dict()
    converted = convert_module("bam", {key: torch.zeros(()) for key in theirs})
    assert list(converted) == [key for key in ours if key.endswith("weight")]


@pytest.mark.parametrize(
    ("name", "channels", "options", "theirs"),
    [
        ("ca", 64, {}, {"conv1.weight": (8, 64, 1, 1), "conv2.weight": (64, 8, 1, 1), "conv3.bias": (64,)}),
        ("nl", 64, {"norm": False}, {"W.weight": (64, 32, 1, 1), "W.bias": (64,), "theta.bias": (32,)}),
        (
            "nl",
            64,
            {"mode": "concat", "spatial_dims": 3},
            {"theta.weight": (32, 64, 1, 1, 1), "concat_project.0.weight": (1, 64, 1, 1), "W.1.bias": (64,)},
        ),
        (
            "gc",
            64,
            {"spatial_dims": 3},
            {"channel_add_conv.0.weight": (4, 64, 1, 1, 1), "channel_add_conv.1.weight": (4, 1, 1, 1)},
        ),
        ("gc", 16, {}, {"channel_add_conv.1.bias": (2, 1, 1), "channel_add_conv.3.weight": (16, 2, 1, 1)}),
        ("se", 64, {"bias": True}, {"fc1.weight": (4, 64, 1, 1), "fc2.bias": (64,)}),
    ],
    ids=["ca of mobilenet", "nl without norm", "nl concat 3d", "gc 3d", "gc narrow", "se convolutions"],
)
def test_the_authors_other_names_and_shapes_are_ours(
    name: str, channels: int, options: dict[str, Any], theirs: dict[str, tuple[int, ...]]
) -> None:
    ours = attnzoo.create(name, channels, **options).state_dict()
    converted = convert_module(name, {key: torch.zeros(shape) for key, shape in theirs.items()})
    assert len(converted) == len(theirs)
    assert {key: value.shape for key, value in converted.items()} == {key: ours[key].shape for key in converted}
