"""Two processes train as one does."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from attnzoo.emotion.checkpoints import MODEL, read_about
from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.training import train

# Nine videos: of the last batch one process has nothing.
TOGETHER: dict[str, Any] = {
    "model": {"attn": "none"},
    "training": {"epochs": 2, "accumulate": 2, "optimizer": "sgd", "lr": 0.01, "ema": 0.5},
}
SCRIPT = Path(__file__).with_name("ranks.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT)


@pytest.fixture(scope="module")
def alone(tiny: Callable[..., Recipe], folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.modules.batchnorm._BatchNorm, "train", lambda self, mode=True: nn.Module.train(self, False))
        return train(tiny(**TOGETHER), folder, tmp_path_factory.mktemp("alone")).checkpoint.parent


@pytest.mark.parametrize(
    ("start", "change", "stops"),
    [(TORCHRUN, (), ()), ((SCRIPT,), ("--set", "training.devices=2"), ("1/2",))],
    ids=["torchrun", "devices, interrupted"],
)
def test_two_processes_give_what_one_gives(
    tiny: Callable[..., Recipe],
    videos: Path,
    alone: Path,
    tmp_path: Path,
    start: tuple[Any, ...],
    change: tuple[str, ...],
    stops: tuple[str, ...],
) -> None:
    recipe, out = tmp_path / "together.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(tiny(**TOGETHER).model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, *start, "train", recipe, "--data", videos, "--out", out, *change]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment)

    for stop in stops:
        stopped = run(STOP_AT=stop)
        assert stopped.returncode == 130, stopped.stderr
        assert stopped.stderr.count("interrupted; all up to the last checkpoint is kept") == 1
    done = run()
    assert done.returncode == 0, done.stderr
    for line in ("epoch 1/2: loss", "epoch 2/2: loss", "test accuracy"):
        assert done.stdout.count(line) == 1, done.stdout

    weights, others = load_file(alone / MODEL), load_file(out / MODEL)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-5, atol=1e-5, msg=name)
    one, two = (list(csv.DictReader((folder / "steps.csv").read_text().splitlines())) for folder in (alone, out))
    assert len(one) == len(two) == 6
    for step, other in zip(one, two, strict=True):
        assert {name: float(value) for name, value in other.items()} == pytest.approx(
            {name: float(value) for name, value in step.items()}, rel=1e-5
        )
    for epoch, other_epoch in zip(read_about(alone)["history"], read_about(out)["history"], strict=True):
        assert other_epoch.keys() == epoch.keys()
        assert {**other_epoch, "seconds": 0} == pytest.approx({**epoch, "seconds": 0}, rel=1e-5)
