"""Several processes on one grid share the work: no run is trained twice, none is lost, and nobody is in the way."""

import io
import shutil
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


def test_a_run_that_fails_does_not_keep_the_others_from_being_trained(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"attn": ["none", "se", "mpe"], "seeds": [0, 1]}
    recipe = GridRecipe.model_validate({"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}, "grid": grid})
    folder = read_folder(videos, 4)
    right = Prediction("v", (0.9, 0.1, 0.0), (), 0)
    outcome = Outcome(Path(), folder.classes, (right,), ({"epoch": 1.0},), "", 1, 1, 60.0, 1, NOTHING)

    def train(single: Recipe, *_: object, **__: object) -> Outcome:
        if (single.model.attn.name, single.training.seed) == ("none", 0):
            raise ValueError("the training\ndiverged")
        if (single.model.attn.name, single.training.seed) == ("se", 1):
            raise RuntimeError("out of memory")
        return outcome

    monkeypatch.setattr("attnzoo.leaderboard.run.train", train)
    said = io.StringIO()
    with Store(tmp_path / "s.sqlite") as store:
        end = run_grid(recipe, folder, store, tmp_path, Console(file=said, width=200))
        assert sorted((run.row, run.seed) for run in store.runs()) == [("mpe", 0), ("mpe", 1), ("none", 1), ("se", 0)]
    (trace,) = tmp_path.glob("se-seed1-*/traceback.txt")
    assert "raise RuntimeError" in trace.read_text()
    assert end.trained == 4
    assert end.failed == (
        ("[1/6] none seed 0", "the training diverged"),
        ("[5/6] se seed 1", f"RuntimeError: out of memory; see {trace}"),
    )
    assert said.getvalue().splitlines() == [
        "[1/6] none seed 0: failed: the training diverged",
        "[2/6] se seed 0: test accuracy 100.0% of 1 videos; about 4.0 min left",
        "[3/6] mpe seed 0: test accuracy 100.0% of 1 videos; about 3.0 min left",
        "[4/6] none seed 1: test accuracy 100.0% of 1 videos; about 2.0 min left",
        f"[5/6] se seed 1: failed: RuntimeError: out of memory; see {trace}",
        "[6/6] mpe seed 1: test accuracy 100.0% of 1 videos",
    ]


def test_the_command_tells_at_the_end_which_runs_failed(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "attnzoo", "leaderboard", "run", "tiny.yaml", "--data", str(videos), "--trials=1"]
    diverging = [*command, "--set", "grid.rows=[{label: wild, set: {training.lr: 1.0e+30, training.epochs: 3}}]"]
    done = subprocess.run(diverging, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done
    assert done.stdout.count("test accuracy") == 2, done
    first, last = done.stderr.splitlines()
    assert first.startswith("attnzoo: [1/3] wild seed 0 failed: ")
    assert last == "attnzoo: 1 run failed; the same command tries again"


def test_what_changes_a_result_makes_another_run_and_what_does_not_makes_none(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(single: Recipe, *_: object, **__: object) -> Outcome:
        trained.append(single)
        right = Prediction("v", (0.9, 0.1, 0.0), (), 0)
        return Outcome(Path(), ("calm", "cross", "glad"), (right,), ({"epoch": 1.0},), "", 1, 1, 60.0, 1, NOTHING)

    monkeypatch.setattr("attnzoo.leaderboard.run.train", train)
    shutil.copytree(videos, tmp_path / "moved")
    with Store(tmp_path / "s.sqlite") as store:

        def trains(data: Path = videos, **training: object) -> int:
            content = {"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}, "training": training}
            before = len(trained)
            run_grid(GridRecipe.model_validate(content), read_folder(data, 4), store, tmp_path, Console(quiet=True))
            return len(trained) - before

        assert trains() == 1
        assert trains() == trains(tmp_path / "moved") == trains(workers=1, checkpoint_minutes=3) == 0
        assert trains(lr=0.5) == trains(seed=1) == 1
        next((tmp_path / "moved").glob("*/*.mp4")).unlink()
        assert trains(tmp_path / "moved") == 1
        monkeypatch.setattr("attnzoo.leaderboard.record.version", lambda package: "9.9")
        assert trains() == 1
        assert trains() == 0
