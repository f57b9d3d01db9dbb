"""Leaderboards of images: the same recipes, commands, store, statistics and page as those of videos."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.grid import tiny as smaller
from attnzoo.emotion.tasks import grid_of, spec
from attnzoo.images.folder import ImageFolder
from attnzoo.images.model import check
from attnzoo.images.recipe import ImageGrid, ImageRecipe
from attnzoo.leaderboard.board import summarise
from attnzoo.leaderboard.plan import plan
from attnzoo.leaderboard.record import run_id
from attnzoo.leaderboard.run import Job
from attnzoo.leaderboard.store import Store
from attnzoo.recipes import load

GRID = {"attn": ["none", {"name": "se", "options": {"reduction": 4}}], "seeds": [0, 1]}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tiny: Callable[..., ImageRecipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    recipe = tiny(training={"epochs": 2}, model={"attn": "none"}).model_dump(mode="json")
    (home / "mine.yaml").write_text(yaml.safe_dump({**recipe, "name": "mine", "grid": GRID}))
    return home


@pytest.fixture(scope="module")
def attnzoo(home: Path) -> Command:
    """Run a command: (exit status, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "attnzoo", *map(str, arguments)],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_grid_of_images_ends_in_the_store_and_on_the_page(attnzoo: Command, home: Path, root: Path) -> None:
    status, told, wrong = attnzoo("leaderboard", "run", "mine.yaml", "--data", root)
    assert (status, wrong) == (0, ""), told + wrong
    assert told.count("of 12 images") == 4, told
    status, told, _ = attnzoo("leaderboard", "run", "mine.yaml", "--data", root)
    assert told.count("finished before") == 4
    with Store(home / "runs" / "leaderboard.sqlite", create=False) as store:
        runs = list(store.runs())
    assert sorted((run.row, run.seed) for run in runs) == [("none", 0), ("none", 1), ("se", 0), ("se", 1)]
    assert {run.task for run in runs} == {"image"}
    assert {len(run.predictions) for run in runs} == {12}
    assert all(run.params and run.macs and run.bytes and run.latency for run in runs)
    assert all(not set(run.split["train"]) & {p["video"] for p in run.predictions} for run in runs)
    board = summarise(runs)
    compared = next(row.against for row in board.rows if row.label == "se")
    assert (board.samples, board.baseline) == ("images", "none")
    assert compared is not None
    assert (compared.pairs, compared.video_p is not None) == (2, True)  # McNemar's test on shared images
    # What a stored run says of itself trains that run again.
    for run in runs:
        (again,) = ImageGrid.model_validate(run.recipe).trials()
        assert again.label == run.row
        assert run_id(again.recipe, spec("image").read(again.recipe.data, again.recipe, None)) == run.id
    status, _, wrong = attnzoo("leaderboard", "report", "--output", "page.html")
    assert status == 0, wrong
    page = (home / "page.html").read_text()
    assert "test images" in page
    assert "test videos" not in page
    assert "task: image" in page
    status, _, wrong = attnzoo("leaderboard", "export", "runs.json")
    assert status == 0, wrong
    assert len(json.loads((home / "runs.json").read_text())["runs"]) == 4


def test_train_evaluate_and_predict(attnzoo: Command, home: Path, root: Path) -> None:
    status, told, wrong = attnzoo("train", "mine.yaml", "--data", root, "--attn", "se", "--set", "training.epochs=6")
    assert status == 0, wrong
    assert "of 12 images" in told
    status, told, wrong = attnzoo("evaluate", "runs/mine/se-seed0", "--json")
    assert status == 0, wrong
    assert json.loads(told)["samples"] == 12
    image = next((root / "red").iterdir())
    status, told, wrong = attnzoo("predict", "runs/mine/se-seed0", image, "--json")
    assert status == 0, wrong
    assert sum(json.loads(told)[0]["probabilities"].values()) == pytest.approx(1)
    for command in (("explain", "runs/mine/se-seed0", image), ("export", "runs/mine/se-seed0", "--onnx", "a.onnx")):
        status, _, wrong = attnzoo(*command)
        assert (status, wrong.count("\n")) == (2, 1)
    status, _, wrong = attnzoo("evaluate", "runs/mine/se-seed0", "--layout", "frames")
    assert (status, wrong) == (2, "attnzoo: --layout and --annotations are for videos; mine classifies images\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task=sound", "task 'sound' must be one of video, image"),
        ("clip.frames=3", "clip is not a field; did you mean "),
        ("model.attn.streams=[visual]", "model.attn.streams is not a field"),
        ("image.sise=32", "image.sise is not a field; did you mean size?"),
    ],
)
def test_recipes_that_cannot_be_are_one_line(attnzoo: Command, root: Path, change: str, message: str) -> None:
    status, _, wrong = attnzoo("leaderboard", "plan", "mine.yaml", "--data", root, "--set", change)
    assert (status, wrong.count("\n")) == (2, 1)
    assert message.partition("; did")[0] in wrong


def test_the_shipped_recipe_and_its_tiny_form_make_models() -> None:
    recipe = load("images", grid_of)
    assert isinstance(recipe, ImageGrid)
    for grid in (recipe, smaller(recipe), smaller(every())):
        for row in grid.table():
            check(grid.single(row))
    assert smaller(recipe).name == "images-tiny"


def every() -> ImageGrid:
    return ImageGrid.model_validate({"name": "every", "task": "image", "grid": {"attn": "all"}})


def test_a_plan_counts_parameters_runs_and_time(images: ImageFolder, tiny: Callable[..., ImageRecipe]) -> None:
    content: dict[str, Any] = tiny(model={"attn": "none"}).model_dump(mode="json")
    recipe = ImageGrid.model_validate({**content, "grid": GRID})
    done = [run_id(next(recipe.trials()).recipe, images)]
    none, se = plan(recipe, images, done)
    assert [(row.runs, row.finished) for row in (none, se)] == [(2, 1), (2, 0)]
    assert se.params - none.params == sum(2 * c * c // 4 for c in (8, 16, 16, 32))
    assert none.seconds is not None
    assert se.seconds is not None
    assert se.seconds > 1.5 * none.seconds > 0


def test_what_ray_sends_to_other_machines_arrives(images: ImageFolder, tiny: Callable[..., ImageRecipe]) -> None:
    trial = next(ImageGrid.model_validate({**tiny().model_dump(mode="json")}).trials())
    job = Job(trial, run_id(trial.recipe, images), Path("runs"), "mine")
    assert pickle.loads(pickle.dumps((job, images))) == (job, images)  # noqa: S301


def test_recipes_of_videos_and_images_are_told_apart() -> None:
    with pytest.raises(ValueError, match="task"):
        GridRecipe.model_validate({"name": "mine", "task": "image"})
    with pytest.raises(ValueError, match="task"):
        ImageGrid.model_validate({"name": "mine"})
