"""What a training leaves behind says what it is, and is refused where it is not what it says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnzoo.emotion.checkpoints import LAST, MODEL, load_checkpoint, save, whole
from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.task import Task


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained.parent, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_folder_and_the_file_in_it_are_the_same_model(trained: Path, folder: Folder) -> None:
    one, about = load_checkpoint(trained)
    two, _ = load_checkpoint(trained.parent)
    assert not one.training
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
        assert torch.equal(value, load_file(trained)[name])
    assert tuple(about["classes"]) == folder.classes
    assert about["data"] == folder.fingerprint
    assert "9 training, 3 validation, 6 test videos" in about["protocol"]
    assert [epoch["epoch"] for epoch in about["history"]] == [1, 2, 3]


def test_what_is_no_checkpoint_is_refused_in_one_line(copy: Path) -> None:
    foreign, text = copy / "foreign.pt", copy / "text.pt"
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, foreign)
    text.write_text("no checkpoint")
    model = copy / MODEL
    model.write_bytes(model.read_bytes()[:5000])
    for path in (foreign, text, model):
        with pytest.raises(ValueError, match="is not a checkpoint of attnzoo: ") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_files_that_do_not_belong_together_are_refused(copy: Path) -> None:
    weights, about = load_file(copy / MODEL), json.loads((copy / "model.json").read_text())
    weights.popitem()
    save_file(weights, copy / MODEL)
    with pytest.raises(ValueError, match="do not fit the model of its recipe"):
        load_checkpoint(copy)
    about["recipe"]["name"] = "a/b"
    (copy / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"this attnzoo does not take its recipe: name: .* names a folder"):
        load_checkpoint(copy)
    (copy / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model\.json is not a checkpoint of attnzoo: another model"):
        load_checkpoint(copy)
    (copy / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json is missing; it belongs to .*model\.safetensors"):
        load_checkpoint(copy)


def test_of_an_unfinished_training_the_average_is_taken(
    tiny: Callable[..., Recipe], trained: Path, tmp_path: Path
) -> None:
    about = json.loads((trained.parent / "model.json").read_text())
    task = Task(tiny(training={"ema": 0.9}), about["classes"])
    torch.nn.init.ones_(task.model.classifier.weight)
    torch.nn.init.zeros_(task.best.classifier.weight)
    save({"state_dict": task.state_dict(), "attnzoo": about}, tmp_path / LAST)
    assert not load_checkpoint(tmp_path / LAST)[0].classifier.weight.any()


def test_nothing_of_a_file_is_left_where_writing_fails(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("before")

    def fail() -> None:
        with whole(kept) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"cannot write .*kept: No space left on device; .* intact"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
