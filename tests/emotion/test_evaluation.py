"""Scores against scikit-learn; the confusion matrix as a picture and as JSON."""

import io
import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from attnzoo import cli
from attnzoo.emotion.checkpoints import describe, save_model
from attnzoo.emotion.datasets import Folder, read_folder
from attnzoo.emotion.evaluation import Evaluation, evaluate
from attnzoo.emotion.figures import confusion_png
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.predictions import Prediction
from attnzoo.emotion.recipe import Recipe

VE8 = ("Anger", "Anticipation", "Disgust", "Fear", "Joy", "Sadness", "Surprise", "Trust")


def evaluation(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...] = VE8) -> Evaluation:
    rows = np.full((len(true), len(classes)), 0.3 / (len(classes) - 1))
    rows[np.arange(len(true)), predicted] = 0.7
    pairs = enumerate(zip(rows.tolist(), true.tolist(), strict=True))
    return Evaluation(classes, tuple(Prediction(f"v{i}", tuple(p), (), label) for i, (p, label) in pairs), "a test")


def drawn(seed: int, *, absent: int = 2, ignored: int = 5) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and predicted classes: one class has no videos, another no video is taken for."""
    rng = np.random.default_rng(seed)
    true, predicted = (rng.choice([k for k in range(8) if k != left_out], 90) for left_out in (absent, ignored))
    right = rng.random(90) < 0.5
    return true, np.where(right & (true != ignored), true, predicted)


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    true, predicted = drawn(seed)
    report = evaluation(true, predicted)
    labels = list(range(8))
    np.testing.assert_array_equal(report.confusion(), confusion_matrix(true, predicted, labels=labels))
    theirs = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=np.nan)
    ours = [(s.precision, s.recall, s.f1, s.samples) for s in report.scores().values()]
    table = np.array([[np.nan if value is None else value for value in row] for row in ours])
    np.testing.assert_allclose(table, np.array(theirs).T, rtol=1e-12)
    assert ours[2][1] is None  # a class without videos has no recall
    assert ours[5][0] is None  # and one that nothing is taken for no precision
    there = [k for k in labels if k != 2]
    means = precision_recall_fscore_support(true, predicted, labels=there, average="macro", zero_division=0)
    macro = report.macro()
    np.testing.assert_allclose((macro.precision, macro.recall, macro.f1), means[:3], rtol=1e-12)
    assert macro.samples == 90


def test_json_says_all_that_the_picture_shows(tmp_path: Path) -> None:
    report = evaluation(*drawn(0))
    paths = report.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["evaluation.json", "confusion.png"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["confusion.png", "evaluation.json"]
    told = json.loads(paths[0].read_text())
    assert told == report.as_dict()
    assert told["confusion"] == report.confusion()
    assert told["scores"]["Disgust"] == {"precision": 0.0, "recall": None, "f1": 0.0, "samples": 0}
    right = sum(row[i] for i, row in enumerate(told["confusion"]))
    assert told["accuracy"] == right / told["samples"] == right / 90
    assert [VE8.index(label) for label in told["labels"].values()] == drawn(0)[0].tolist()
    height, width, _ = imread(paths[1]).shape
    assert height > 900
    assert width > 1000


@pytest.mark.parametrize(("counts", "sign"), [(np.fliplr(np.diag([5, 3, 9])), -1), (np.diag([5, 3, 9]), 1)])
def test_the_dark_cells_of_the_picture_are_where_the_videos_went(counts: NDArray[np.int64], sign: int) -> None:
    """Down to the right if all are right, down to the left if the first and the last class are taken for each other."""
    picture = imread(io.BytesIO(confusion_png(["a", "b", "c"], counts.tolist())))[..., :3]
    picture = picture[:, : int(0.78 * picture.shape[1])]  # without the bar of colours
    y, x = np.nonzero(np.abs(picture - mpl.colormaps["Blues"](1.0)[:3]).max(-1) < 0.02)
    assert len(x) > 0.1 * picture.shape[0] * picture.shape[1]
    assert sign * np.corrcoef(x, y)[0, 1] > 0.8


@pytest.mark.parametrize("name", ["$x", "a$b$c", r"$\frac{$", "[bold]", "x_1^2", "信頼", "n" * 80])
def test_class_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    """Dollar signs are no mathematics, brackets no markup, and no letter is worth a warning, which here is an error."""
    before = dict(mpl.rcParams)
    report = evaluation(np.array([0, 1, 1]), np.array([0, 1, 0]), (name, "joy"))
    report.write(tmp_path)
    assert dict(mpl.rcParams) == before
    console = Console(width=400, file=io.StringIO())
    console.print(report.render())
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(name) == 2  # as a row and as a column
    assert "macro" not in said
    assert "mean over classes: recall 75.0%, precision 75.0%, F1 66.7%" in said


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    report = evaluation(np.array([0, 1]), np.array([0, 1]), ("calm", "joy"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*evaluation\.json: ") as error:
        report.write(tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def folder(videos: Path) -> Folder:
    return read_folder(videos, 4)


@pytest.fixture(scope="module")
def checkpoint(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that has learnt nothing."""
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "data": {"root": str(folder.root), "test_fraction": 0.34, "val_fraction": 0},
            "clip": {"segments": 2, "frames": 4, "size": 32},
            "audio": {"coefficients": 12, "mels": 24, "width": 16},
            "model": {
                "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.0625, "stem_size": 3}},
                "audio": {"backbone": "timm/resnet10t"},
                "width": 8,
            },
            "training": {"workers": 0},
        }
    )
    model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 3)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(model.state_dict(), describe(recipe, folder, "none"), path)
    return path


def test_evaluate_writes_beside_the_checkpoint_or_where_it_is_told(
    folder: Folder,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["attnzoo", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    said = run(checkpoint)
    beside = checkpoint.parent / "evaluation" / "evaluation.json"
    assert f"written: {beside}" in said
    told: list[tuple[int, int]] = []
    report = evaluate(checkpoint, folder, progress=lambda done, total: told.append((done, total)))
    assert json.loads(beside.read_text()) == report.as_dict()
    assert told[-1] == (len(report.predictions),) * 2
    printed = json.loads(run(checkpoint.parent, "--all", "--json"))  # the folder stands for the checkpoint in it
    every = checkpoint.parent / f"evaluation-{folder.root.name}"
    assert json.loads((every / "evaluation.json").read_text()) == printed
    assert printed["samples"] == len(folder.videos)
    run(checkpoint, "--out", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "confusion.png").exists()
