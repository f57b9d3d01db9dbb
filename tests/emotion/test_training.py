"""Training for real, on a few small videos: freezing, interruption, checkpoints, prediction."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import attnzoo
from attnzoo.emotion.checkpoints import load_checkpoint, read_checkpoint
from attnzoo.emotion.clips import Batch
from attnzoo.emotion.datasets import Folder, read_folder
from attnzoo.emotion.evaluation import evaluate, predict
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.training import Task, train

RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "data": {"test_fraction": 0.3, "val_fraction": 0.2},
        "clip": {"segments": 2, "frames": 4, "size": 32},
        "audio": {"coefficients": 12, "mels": 24, "width": 16},
        "model": {
            "attn": {"name": "mpe", "options": {"groups": 2}},
            "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}, "freeze": 1},
            "audio": {"backbone": "resnet3d/10"},
            "width": 16,
        },
        "training": {"epochs": 3, "batch": 4, "lr": 1e-3, "workers": 0, "schedule": "cosine"},
    }
)
# The audio stream must be 2D; the smallest 2D ResNet of timm.
RECIPE = RECIPE.model_copy(
    update={"model": RECIPE.model.model_copy(update={"audio": type(RECIPE.model.audio)(backbone="timm/resnet10t")})}
)


@pytest.fixture(scope="module")
def folder(videos: Path) -> Folder:
    return read_folder(videos, 4)


@pytest.fixture(scope="module")
def trained(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(RECIPE, folder, tmp_path_factory.mktemp("trained")).checkpoint


def test_the_flag_reaches_both_streams_and_the_video_is_the_mean_of_its_segments() -> None:
    plain = RECIPE.model.model_copy(update={"attn": type(RECIPE.model.attn)(name="none")})
    with_attention, without = (
        AudioVisualModel(settings, RECIPE.clip, RECIPE.audio, 3) for settings in (RECIPE.model, plain)
    )
    added = sum(p.numel() for p in with_attention.parameters()) - sum(p.numel() for p in without.parameters())
    assert added == sum(
        p.numel() for s in ("visual", "audio") for p in attnzoo.attn_parameters(getattr(with_attention, s))
    )
    assert all(list(attnzoo.attn_parameters(getattr(with_attention, s))) for s in ("visual", "audio"))
    frames = torch.randint(256, (2, 4, 3, 4, 32, 32), dtype=torch.uint8)
    sound = torch.randn(2, 4, 1, 12, 16)
    with_attention.eval()
    logits = with_attention(frames, sound)
    assert logits.shape == (2, 4, 3)
    alone = torch.stack([with_attention(frames[:, t : t + 1], sound[:, t : t + 1])[:, 0] for t in range(4)], 1)
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze", [1, 5])
def test_frozen_layers_neither_learn_nor_drift_but_attention_in_them_learns(freeze: int) -> None:
    visual = RECIPE.model.visual.model_copy(update={"freeze": freeze})
    model = AudioVisualModel(RECIPE.model.model_copy(update={"visual": visual}), RECIPE.clip, RECIPE.audio, 3).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(255 * torch.rand(2, 2, 3, 4, 32, 32), torch.randn(2, 2, 1, 12, 16)).square().sum().backward()
        optimizer.step()
    frozen = ["visual.conv1.", "visual.bn1."] + (["visual.layer1.", "visual.layer2."] if freeze == 5 else [])
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    for key in before:
        if key.startswith(tuple(frozen)) and ".attn." not in key:
            assert key not in changed, key
    assert any(key.startswith("visual.layer1.") and ".attn." in key for key in changed)
    assert any(key.startswith("visual.layer3.") and "running_mean" in key for key in changed)


@pytest.mark.parametrize(
    ("stream", "settings", "message"),
    [
        (
            "visual",
            {"backbone": "timm/resnet18"},
            r"model\.visual\.backbone = 'timm/resnet18' is a 2D network; give a 3D",
        ),
        (
            "audio",
            {"backbone": "resnet3d/10"},
            r"model\.audio\.backbone = 'resnet3d/10' is a 3D network; give a 2D one",
        ),
        (
            "visual",
            {"backbone": "resnet3d/10", "options": {"widen": 2}},
            r"model\.visual: resnet3d/10 .* has no option .widen.; valid: ",
        ),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_before_training(
    folder: Folder, tmp_path: Path, stream: str, settings: dict[str, Any], message: str
) -> None:
    changed = RECIPE.model_dump()
    changed["model"][stream] = settings
    with pytest.raises(ValueError, match=message) as error:
        train(Recipe.model_validate(changed), folder, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_lost_at_the_end_of_an_epoch_do_not_reach_its_checkpoint(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Task.training_step

    def diverging(self: Task, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        loss = step(self, batch, number)  # finite, but its gradient is not
        return loss * float("inf") if self.current_epoch == 1 and self.trainer.is_last_batch else loss

    monkeypatch.setattr(Task, "training_step", diverging)
    with pytest.raises(ValueError, match=r"weights are no longer finite at step 3 of epoch 2, videos \w+/\w+\.mp4"):
        train(RECIPE, folder, tmp_path)
    info, state = read_checkpoint(tmp_path / "last.ckpt")
    assert len(info["history"]) == 1
    assert all(value.isfinite().all() for value in state.values())


def test_freeze_beyond_the_backbone_is_refused() -> None:
    visual = RECIPE.model.visual.model_copy(update={"freeze": 40})
    with pytest.raises(ValueError, match=r"freeze=40 is beyond .* 4 layer1"):
        AudioVisualModel(RECIPE.model.model_copy(update={"visual": visual}), RECIPE.clip, RECIPE.audio, 3)


@pytest.mark.parametrize("val_fraction", [0.2, 0.0])
def test_an_interrupted_training_ends_bit_equal_to_an_uninterrupted_one(
    folder: Folder, val_fraction: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"val_fraction": val_fraction})})
    trained = train(recipe, folder, tmp_path / "whole").checkpoint
    out = tmp_path / "interrupted"
    step, steps = Task.training_step, []

    def interrupted(self: Task, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        steps.append(number)
        if number == 1 and self.current_epoch == 2:  # in the middle of the third and last epoch
            raise KeyboardInterrupt
        return step(self, batch, number)

    monkeypatch.setattr(Task, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, out)
    assert (out / "last.ckpt").exists()
    assert not (out / "model.pt").exists()
    epochs = []

    def counted(self: Task, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        epochs.append(self.current_epoch)
        return step(self, batch, number)

    monkeypatch.setattr(Task, "training_step", counted)
    pl.seed_everything(99, verbose=False)  # what happened in between must not matter
    resumed = train(recipe, folder, out)
    assert set(epochs) == {2}  # the two epochs that were done are not repeated
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2, 3]
    one, info = load_checkpoint(trained)
    two, _ = load_checkpoint(resumed.checkpoint)
    assert [e["loss"] for e in info["history"]] == [e["loss"] for e in resumed.history]
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    assert sorted(p.name for p in out.iterdir()) == ["model.pt"]


def test_a_finished_training_is_not_repeated_and_another_one_is_refused(folder: Folder, trained: Path) -> None:
    written = trained.stat().st_mtime_ns
    again = train(RECIPE, folder, trained.parent)
    assert trained.stat().st_mtime_ns == written
    assert len(again.predictions) == 6
    other = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"seed": 1})})
    with pytest.raises(ValueError, match=r"another training: training.seed is 0, here 1; .*--out"):
        train(other, folder, trained.parent)


def test_evaluate_gives_the_test_videos_of_the_training(folder: Folder, trained: Path) -> None:
    first = train(RECIPE, folder, trained.parent)
    report = evaluate(trained, folder)
    assert report.predictions == first.predictions
    assert sum(map(sum, report.confusion())) == len(report.predictions) == 6
    assert evaluate(trained, folder, every=True).predictions[0].key == folder.videos[0].key


def test_evaluate_refuses_other_videos_and_classes(
    folder: Folder, trained: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    for name in ("calm", "cross", "glad"):
        write_video(tmp_path / "same" / name / "a.mp4")
        write_video(tmp_path / "other" / f"{name}er" / "a.mp4")
    same = read_folder(tmp_path / "same", 4)
    with pytest.raises(ValueError, match=r"holds other videos .* --all"):
        evaluate(trained, same)
    assert len(evaluate(trained, same, every=True).predictions) == 3
    with pytest.raises(ValueError, match="tells calm, cross, glad apart"):
        evaluate(trained, read_folder(tmp_path / "other", 4))


def test_predict_reads_a_real_clip_and_one_without_sound(
    trained: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    real = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"
    silent = write_video(tmp_path / "silent.mp4", click=None)
    first, second = (reading.as_dict() for reading in predict(trained, [real, silent]))
    for reading in (first, second):
        assert sum(reading["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert reading["label"] == max(reading["probabilities"], key=reading["probabilities"].get)
        assert len(reading["timeline"]) == 2
    assert first["timeline"][-1]["end"] == pytest.approx(4.0, abs=0.05)
    assert first["probabilities"] != second["probabilities"]


def test_a_checkpoint_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    foreign, cut, text = tmp_path / "foreign.pt", tmp_path / "cut.pt", tmp_path / "text.pt"
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, foreign)
    cut.write_bytes(trained.read_bytes()[:5000])
    text.write_text("no checkpoint")
    for path in (foreign, cut, text):
        with pytest.raises(ValueError, match="is not a checkpoint of attnzoo's emotion model") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)
    content = torch.load(trained, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, foreign)
    with pytest.raises(ValueError, match="do not fit the model of its recipe"):
        load_checkpoint(foreign)
    content["attnzoo"]["recipe"]["name"] = "a/b"
    torch.save(content, foreign)
    with pytest.raises(
        ValueError, match=r"foreign\.pt: this attnzoo does not take its recipe: name: .* names a folder"
    ):
        load_checkpoint(foreign)


def test_a_step_takes_the_recipes_loss_of_every_pass() -> None:
    """CTEN's three passes under the polarity loss: the mean over passes of the weighted cross-entropy, written out."""
    polarity = {"calm": "positive", "glad": "positive", "cross": "negative"}
    settings = RECIPE.model_dump()
    settings["model"]["fusion"] = "cten"
    settings["model"]["dropout"] = 0.0
    settings["training"]["loss"] = {"name": "polarity", "polarity": polarity, "penalty": 2.0}
    classes = list(polarity)
    torch.manual_seed(0)
    task = Task(Recipe.model_validate(settings), classes, data="").eval()  # without the noise of dropout and norms
    frames, sound = torch.randint(256, (3, 2, 3, 4, 32, 32), dtype=torch.uint8), torch.randn(3, 2, 1, 12, 16)
    labels = torch.tensor([0, 1, 2])
    loss = task.training_step(Batch(frames, sound, torch.ones(3, dtype=torch.bool), labels), 0)
    terms = []
    for logits in task.model.passes(frames, sound):
        for scores, label in zip(logits.mean(1), labels.tolist(), strict=True):
            wrong = polarity[classes[int(scores.argmax())]] != polarity[classes[label]]
            terms.append((3.0 if wrong else 1.0) * -scores.log_softmax(0)[label])
    assert len(terms) == 9
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
