"""A training that is killed, interrupted or out of luck goes on as if nothing had happened."""

import csv
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

from attnzoo.emotion.checkpoints import LAST, MODEL, read_about
from attnzoo.emotion.clips import Clips
from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.task import Task
from attnzoo.emotion.training import train

Tiny = Callable[..., Recipe]
# All that could go on differently: noise, an average, gradients in parts, a schedule, windows and crops.
FULL: dict[str, Any] = {
    "model": {"attn": "none", "dropout": 0.3},
    "training": {"batch": 2, "accumulate": 2, "ema": 0.8, "clip": 1.0, "warmup": 1, "workers": 1},
}


def without_time(history: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def same(one: Path, two: Path) -> None:
    """Two trainings: the same weights, the same loss at each step, once, and the same figures of each epoch."""
    weights, others = load_file(one / MODEL), load_file(two / MODEL)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert (one / "steps.csv").read_text() == (two / "steps.csv").read_text()
    tables = [[*csv.DictReader((folder / "epochs.csv").read_text().splitlines())] for folder in (one, two)]
    assert without_time(tables[0]) == without_time(tables[1])
    histories = [without_time(read_about(folder)["history"]) for folder in (one, two)]
    assert histories[0] == histories[1]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())


@pytest.fixture(scope="module")
def whole(tiny: Tiny, folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing happened to."""
    return train(tiny(**FULL), folder, tmp_path_factory.mktemp("whole")).checkpoint.parent


def killed(videos: Path, out: Path, recipe: Recipe, *points: str) -> list[str]:
    written = out.parent / "recipe.json"
    written.write_text(recipe.model_dump_json())
    command = [sys.executable, Path(__file__).with_name("killed.py"), videos, out, written, *points]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [line.rpartition(" ")[2] for line in done.stdout.splitlines()]


def test_killed_again_and_again_it_ends_bit_equal(
    tiny: Tiny, folder: Folder, videos: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ends = killed(
        videos,
        out,
        tiny(**FULL),
        "SIGTERM:batch=1/2",  # which leaves a checkpoint in the middle of the epoch
        "SIGKILL:validation=1",
        "SIGKILL:write=last.ckpt/2",  # the first is of the epoch that was validated before
        "SIGKILL:write=model.safetensors/1",  # between the two files of the model
    )
    assert ends == ["130", *["-9"] * 3]
    assert (out / "model.json").exists()
    assert not (out / MODEL).exists()
    train(tiny(**FULL), folder, out)
    same(whole, out)


def test_checkpoints_within_an_epoch_leave_little_to_repeat(
    tiny: Tiny, folder: Folder, videos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {**FULL, "training": {**FULL["training"], "checkpoint_minutes": 1e-9}}
    out = tmp_path / "out"
    assert killed(videos, out, tiny(**often), "SIGKILL:batch=2/4") == ["-9"]
    assert len((out / "steps.csv").read_text().splitlines()) == 1 + 8  # up to the batch before
    step, steps = Task.training_step, []

    def counted(self: Task, loaded: Any, number: int) -> torch.Tensor:
        steps.append((self.current_epoch + 1, number + 1))
        return step(self, loaded, number)

    monkeypatch.setattr(Task, "training_step", counted)
    train(tiny(**often), folder, out)
    assert steps == [(2, 3), (2, 4), (2, 5), *((3, number) for number in range(1, 6))]
    same(whole, out)


def in_epoch_2(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    step = Task.training_step

    def training_step(self: Task, loaded: Any, number: int) -> torch.Tensor:
        if (self.current_epoch, number) == (1, 1):
            happen()
        return step(self, loaded, number)

    monkeypatch.setattr(Task, "training_step", training_step)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_is_intact(
    tiny: Tiny, folder: Folder, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[bytes] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        before.append((tmp_path / LAST).read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[0]) // 2, limits[1]))

    with monkeypatch.context() as patch:
        in_epoch_2(patch, fill)
        try:
            with pytest.raises(ValueError, match=r"cannot write .*: File too large") as error:
                train(tiny(**FULL), folder, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert (tmp_path / LAST).read_bytes() == before[0]
    assert not list(tmp_path.glob(".*"))
    train(tiny(**FULL), folder, tmp_path)
    same(whole, tmp_path)


def test_ctrl_c_repeats_no_epoch_that_is_done(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(data={"val_fraction": 0.0}, model={"attn": "none"})
    with monkeypatch.context() as patch:
        in_epoch_2(patch, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, tmp_path)
    assert [epoch["epoch"] for epoch in read_about(tmp_path / LAST)["history"]] == [1]
    epochs: list[int] = []
    started = Task.on_train_epoch_end
    monkeypatch.setattr(
        Task, "on_train_epoch_end", lambda self: (epochs.append(self.current_epoch + 1), started(self))[1]
    )
    pl.seed_everything(99, verbose=False)  # what happened in between must not matter
    resumed = train(recipe, folder, tmp_path)
    assert epochs == [2, 3]
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epochs.csv", "model.json", MODEL, "steps.csv"]


def test_a_dead_loader_is_one_line(tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, here = Clips.__getitem__, os.getpid()

    def dying(self: Clips, item: Any) -> Any:
        if isinstance(item, tuple) and item[0] == 1 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
        return read(self, item)

    monkeypatch.setattr(Clips, "__getitem__", dying)
    with pytest.raises(ValueError, match=r"a process that loads videos died \(.*pid.*training\.workers") as error:
        train(tiny(model={"attn": "none"}, training={"workers": 1}), folder, tmp_path)
    assert "\n" not in str(error.value)
    assert [epoch["epoch"] for epoch in read_about(tmp_path / LAST)["history"]] == [1]
