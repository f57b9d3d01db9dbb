"""Several processes on one grid share the work: no run is trained twice, none is lost, and nobody is in the way."""

import io
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.grid import GridRecipe, Trial
from attnzoo.emotion.protocols import Split
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.run_folder import claim, run_name
from attnzoo.emotion.training import Outcome, Prediction
from attnzoo.leaderboard.record import record, run_id
from attnzoo.leaderboard.run import run_grid
from attnzoo.leaderboard.store import Store

RECIPE = """
name: tiny
data: {test_fraction: 0.34, val_fraction: 0}
clip: {segments: 1, frames: 2, size: 32}
audio: {coefficients: 12, mels: 24, width: 16}
model:
  visual: {backbone: resnet3d/10, options: {widen_factor: 0.125, stem_size: 3}}
  audio: {backbone: timm/resnet10t}
  width: 8
training: {epochs: 1, batch: 6, lr: 1.0e-3, workers: 0}
grid: {attn: [none, se], seeds: [0, 1]}
"""

NOTHING = Split((), (), (), "")


def test_two_processes_divide_a_grid(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "attnzoo", "leaderboard", "run", "tiny.yaml", "--data", str(videos)]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(out.count("test accuracy") for out, _ in said) == 4, said
    with Store(tmp_path / "runs" / "leaderboard.sqlite", create=False) as store:
        assert sorted((run.row, run.seed) for run in store.runs()) == [("none", 0), ("none", 1), ("se", 0), ("se", 1)]


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_of_another_process_is_left_to_it_and_looked_at_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    recipe = GridRecipe.model_validate(
        {"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}, "grid": {"attn": ["none", "se"]}}
    )
    folder, store, other = read_folder(videos, 4), Store(tmp_path / "s.sqlite"), ExitStack()
    first = next(recipe.trials())
    outcome = Outcome(
        Path(), folder.classes, (Prediction("v", (0.9, 0.1, 0.0), (), 0),), ({"epoch": 1.0},), "", 1, 1, 1.0, 1, NOTHING
    )
    trained = []

    def train(single: Recipe, *_: object, **__: object) -> Outcome:
        trained.append(single.model.attn.title)
        if single.model.attn.title == "se":  # meanwhile the other process ends, with the run or without
            if finishes:
                store.add(record(first, folder, outcome, run_id(first.recipe, folder)))
            other.close()
        return outcome

    monkeypatch.setattr("attnzoo.leaderboard.run.train", train)
    said = io.StringIO()
    with other:
        assert other.enter_context(claim(tmp_path / f"{run_name('none', 0)}-{run_id(first.recipe, folder)[:8]}"))
        run_grid(recipe, folder, store, tmp_path, Console(file=said, width=200))
    assert trained == (["se"] if finishes else ["se", "none"])
    assert [run.row for run in store.runs()] == ["none", "se"]
    lines = said.getvalue().splitlines()
    assert lines[0] == "[1/2] none seed 0: another process trains it"
    assert lines[-1].startswith(f"[1/2] none seed 0: {'finished before' if finishes else 'test accuracy'}")


def test_the_data_have_a_name_wherever_they_are_seen_from(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(videos)
    here = read_folder(Path(), 4)
    outcome = Outcome(Path(), here.classes, (Prediction("v", (0.9, 0.1, 0.0), (), 0),), (), "", 1, 1, 1.0, 1, NOTHING)
    trial = Trial("mine", {}, Recipe(name="mine"), {})
    assert record(trial, here, outcome, "1f").data.startswith(f"{videos.name}, 18 videos")


def test_a_model_that_does_not_fit_is_refused_before_anything_is_trained(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnzoo.leaderboard.run.train", lambda *_, **__: pytest.fail("trained"))
    grid = {"attn": ["none", {"name": "mpe", "options": {"groups": 7}}]}
    recipe = GridRecipe.model_validate({"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}, "grid": grid})
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ValueError, match="not divisible by groups=7"):
        run_grid(recipe, read_folder(videos, 4), store, tmp_path, Console(quiet=True))
