"""Every module against the outputs of its authors' code: values, gradients and buffers after a training step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import attnzoo
from attnzoo.official import convert_module

GOLDENS = Path(__file__).parent / "data" / "goldens"
# File -> our name and the options that stand for the authors' constructor arguments.
CASES = {
    "se": ("se", {"reduction": 16}),
    "se_bias_srmrepo": ("se", {"reduction": 4, "bias": True}),
    "cbam": ("cbam", {"reduction": 16}),
    "coordatt": ("ca", {"reduction": 32}),
    "sa": ("sa", {"groups": 64}),
    "triplet": ("triplet", {}),
    "psa": ("epsa", {}),
}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    scale = theirs.abs().max()
    # A gradient that is zero by construction (a bias in front of a batch norm) is rounding noise in both codes.
    return float((ours.detach() - theirs).abs().max() / (scale if scale > 1e-5 else 1.0))


@pytest.mark.parametrize("file", CASES)
def test_equals_the_authors_code(file: str) -> None:
    name, options = CASES[file]
    with np.load(GOLDENS / f"{file}.npz") as golden:
        meta = json.loads(str(golden["meta"]))
        data = {key: torch.from_numpy(golden[key]) for key in golden.files if key != "meta"}

    def part(prefix: str) -> dict[str, torch.Tensor]:
        found = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
        return convert_module(name, found)

    module = attnzoo.create(name, data["x"].shape[1], **options)
    assert sum(p.numel() for p in module.parameters()) == meta["n_params"]
    module.load_state_dict(part("sd/"), strict=True)

    x = data["x"].clone().requires_grad_()
    module.eval()
    assert relative(module(x), data["y_eval"]) < 1e-5
    (gx_eval,) = torch.autograd.grad((module(x) * data["r"]).sum(), x)
    assert relative(gx_eval, data.get("gx_eval", data["gx_train"])) < 1e-5

    module.train()
    y = module(x)
    assert relative(y, data["y_train"]) < 1e-5
    (y * data["r"]).sum().backward()
    assert relative(x.grad, data["gx_train"]) < 1e-5
    ours = dict(module.named_parameters())
    for key, theirs in part("gp/").items():
        assert relative(ours[key].grad, theirs) < 1e-5, key
    state = module.state_dict()
    for key, theirs in part("sd_after/").items():
        assert relative(state[key].float(), theirs.float()) < 1e-5, key
