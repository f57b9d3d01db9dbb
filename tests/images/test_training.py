"""Training on images for real: what is learnt, from which images, and that it goes on where it was interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import attnzoo
from attnzoo.emotion.checkpoints import LAST, MODEL, load_checkpoint, read_about
from attnzoo.emotion.evaluation import evaluate
from attnzoo.emotion.protocols import split
from attnzoo.emotion.task import Task
from attnzoo.emotion.training import train
from attnzoo.images.evaluation import predict
from attnzoo.images.folder import ImageFolder, read_images
from attnzoo.images.model import ImageModel, check
from attnzoo.images.pictures import Batch, Pictures
from attnzoo.images.recipe import ImageRecipe

Tiny = Callable[..., ImageRecipe]
FULL = {"batch": 4, "accumulate": 2, "ema": 0.8, "clip": 1.0, "warmup": 1}


@pytest.fixture(scope="module")
def whole(tiny: Tiny, images: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing happened to."""
    return train(tiny(training=FULL), images, tmp_path_factory.mktemp("whole")).checkpoint.parent


def same(one: Path, two: Path) -> None:
    weights, others = load_file(one / MODEL), load_file(two / MODEL)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert (one / "steps.csv").read_text() == (two / "steps.csv").read_text()


def test_colours_are_learnt(tiny: Tiny, images: ImageFolder, tmp_path: Path) -> None:
    settings = {"epochs": 8, "lr": 0.02, "ema": None}
    end = train(tiny(training=settings), images, tmp_path)
    assert end.accuracy >= 0.9  # of twelve, by chance 0.33
    assert end.history[-1]["loss"] < end.history[0]["loss"]
    assert end.predictions[0].timeline == ()
    network = load_checkpoint(tmp_path)[0]
    assert end.params == sum(p.numel() for p in network.parameters())
    assert end.protocol.endswith("the epoch with the best validation accuracy, test images used once")
    again = evaluate(tmp_path, images)
    assert again.predictions == end.predictions
    assert sum(map(sum, again.confusion())) == len(end.predictions) == 12
    (reading,) = predict(tmp_path, [images.samples[-1].path])
    assert reading.as_dict()["label"] == "red"


def test_only_training_images_are_trained_on(
    tiny: Tiny, parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = Pictures.read, {}

    def watched(self: Pictures, epoch: int, i: int) -> Batch:
        seen.setdefault(self.seed is not None, set()).add(self.samples[i].key)
        return read(self, epoch, i)

    monkeypatch.setattr(Pictures, "read", watched)
    folder = read_images(parted)
    end = train(tiny(training={"epochs": 2}), folder, tmp_path)
    assert seen[True] == {image.key for image in folder.samples if image.part == "train"}
    assert {p.key for p in end.predictions} == {image.key for image in folder.samples if image.part == "test"}
    assert seen[False] == {image.key for image in folder.samples if image.part != "train"}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tiny: Tiny, images: ImageFolder, whole: Path, tmp_path: Path, workers: int) -> None:
    train(tiny(training={**FULL, "workers": workers}), images, tmp_path)
    same(whole, tmp_path)


def test_interrupted_by_ctrl_c_it_ends_bit_equal(
    tiny: Tiny, images: ImageFolder, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Task.training_step

    def interrupted(self: Task, loaded: Any, number: int) -> torch.Tensor:
        if (self.current_epoch, number) == (1, 2):
            signal.raise_signal(signal.SIGINT)
        return step(self, loaded, number)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(training=FULL), images, tmp_path)
    assert len(read_about(tmp_path / LAST)["history"]) == 1
    train(tiny(training=FULL), images, tmp_path)
    same(whole, tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from attnzoo.emotion.task import Task
from attnzoo.emotion.training import train
from attnzoo.images.folder import read_images
from attnzoo.images.recipe import ImageRecipe

torch.set_num_threads(1)
step = Task.training_step
def killed(self, loaded, number):
    if (self.current_epoch, number) == (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, loaded, number)
Task.training_step = killed
train(ImageRecipe.model_validate_json(sys.argv[1]), read_images(Path(sys.argv[2])), Path(sys.argv[3]))
"""


def test_killed_within_an_epoch_it_ends_bit_equal(
    tiny: Tiny, images: ImageFolder, root: Path, whole: Path, tmp_path: Path
) -> None:
    recipe = tiny(training={**FULL, "checkpoint_minutes": 1e-9})
    command = [sys.executable, "-c", KILLED, recipe.model_dump_json(), str(root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / LAST).exists()
    train(recipe, images, tmp_path)
    same(whole, tmp_path)


def test_another_training_in_the_folder_is_refused(tiny: Tiny, images: ImageFolder, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"another training: .*image\.size is 32, here 48.*--out"):
        train(tiny(training=FULL, image={"size": 48}), images, whole)


@pytest.mark.parametrize("damaged", ["skip", "stop"])
def test_an_image_that_breaks_off_is_left_out_or_ends_the_training(
    tiny: Tiny, root: Path, tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root, tmp_path / "images")
    folder = read_images(tmp_path / "images")
    recipe = tiny(data={"damaged": damaged}, training={"epochs": 1})
    victim = next(image for image in split(folder, recipe.data).train if image.path.suffix == ".jpg")
    victim.path.write_bytes(victim.path.read_bytes()[:700])
    if damaged == "stop":
        with pytest.raises(ValueError, match=f"{victim.path.name}: not a readable image"):
            train(recipe, folder, tmp_path / "out")
        return
    end = train(recipe, folder, tmp_path / "out")
    assert end.history[0]["lost"] == 1
    assert victim.path.name in caplog.text


def test_frozen_layers_stay_those_of_the_file_of_weights(tiny: Tiny, images: ImageFolder, tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = timm.create_model("resnet10t", channels=(8, 16, 16, 32), stem_width=8, num_classes=7).state_dict()
    torch.save(published, tmp_path / "published.pth")
    model = {"weights": str(tmp_path / "published.pth"), "freeze": "all"}
    end = train(tiny(model=model, training={"epochs": 2}), images, tmp_path / "out")
    kept = load_file(end.checkpoint)
    for name, value in published.items():
        if not name.startswith("fc."):
            assert torch.equal(kept[f"backbone.{name}"], value), name
    untrained = ImageModel(tiny(model={"freeze": "all"}).model, 3)
    trained = {name for name, p in untrained.named_parameters() if p.requires_grad}
    attention = {id(p) for p in attnzoo.attn_parameters(untrained.backbone)}
    assert {name for name, p in untrained.named_parameters() if id(p) in attention} | {
        "classifier.weight",
        "classifier.bias",
    } == trained


def test_logits_are_the_backbones_of_normalised_pixels(tiny: Tiny) -> None:
    model = ImageModel(tiny().model, 4).eval()
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    config = timm.get_pretrained_cfg("resnet10t")
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (config.mean, config.std))
    expected = model.double().classifier(model.backbone((pixels.double() / 255 - mean) / std))
    model.float()
    torch.testing.assert_close(model(pixels), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": "resnet3d/10", "options": {}}, r"model\.backbone = 'resnet3d/10' is a 3D network; give a 2D"),
        ({"backbone": "timm/resnet19", "options": {}}, "there is no backbone timm/resnet19; near matches"),
        ({"attn": {"name": "mpe", "options": {"groups": 7}}}, "not divisible by groups=7"),
        ({"options": {"chanels": 3}}, "model: timm/resnet10t with options"),
        ({"freeze": 99}, "freeze=99 is beyond the last child"),
    ],
)
def test_a_model_that_cannot_be_is_refused_in_a_line(tiny: Tiny, model: dict[str, Any], message: str) -> None:
    recipe = tiny(model={"attn": "none", **model})
    with pytest.raises(ValueError, match=message) as error:
        check(recipe)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"image": {"scale": [0.5, 1.5]}}, "at most the area of its image"),
        ({"image": {"ratio": [2, 1]}}, "the first must be the smaller"),
        ({"training": {"cache": "features", "views": 1}}, "cache keeps features of videos"),
        ({"model": {"attn": {"name": "se", "streams": ["visual"]}}}, "streams"),
        ({"clip": {"frames": 3}}, "clip"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny: Tiny, parts: dict[str, Any], message: str) -> None:
    content = {**tiny().model_dump(mode="json"), **parts}
    with pytest.raises(ValueError, match=message):
        ImageRecipe.model_validate(content)


def test_predictions_are_what_the_network_says_of_the_picture_of_evaluation(whole: Path, images: ImageFolder) -> None:
    """The probabilities that are stored, against the network run by hand on the picture of evaluation."""
    model, about = load_checkpoint(whole)
    for prediction in evaluate(whole, images).predictions[:3]:
        image = next(image for image in images.samples if image.key == prediction.key)
        logits = model(Pictures([image], about["recipe"].image)[0].image.unsqueeze(0))[0]
        np.testing.assert_allclose(prediction.probabilities, logits.softmax(0).detach().numpy(), atol=1e-5)
        assert prediction.label == image.label
