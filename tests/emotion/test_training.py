"""Training for real, on a few small videos: what is frozen, what is learnt, and each setting of the optimisation."""

import copy
import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import attnzoo
from attnzoo.emotion import training
from attnzoo.emotion.checkpoints import LAST, read_about, read_weights
from attnzoo.emotion.clips import Batch
from attnzoo.emotion.datasets import Folder, read_folder
from attnzoo.emotion.evaluation import evaluate, predict
from attnzoo.emotion.loading import Loaded
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.task import Task
from attnzoo.emotion.training import train

Tiny = Callable[..., Recipe]
# The heads alone, without norms that see a batch: of such a model the weights can be told by hand.
HEADS: dict[str, Any] = {
    "attn": "none",
    "visual": {
        "backbone": "resnet3d/10",
        "options": {"widen_factor": 0.125, "stem_size": 3},
        "freeze": "all",
    },
    "audio": {
        "backbone": "timm/resnet10t",
        "options": {"channels": [8, 16, 16, 32], "stem_width": 8},
        "freeze": "all",
    },
}
LAST_EPOCH = {"val_fraction": 0.0}


def test_the_flag_reaches_both_streams_and_the_video_is_the_mean_of_its_segments(tiny: Tiny) -> None:
    recipe = tiny()
    plain = recipe.model.model_copy(update={"attn": type(recipe.model.attn)(name="none")})
    with_attention, without = (
        AudioVisualModel(settings, recipe.clip, recipe.audio, 3) for settings in (recipe.model, plain)
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
def test_frozen_layers_neither_learn_nor_drift_but_attention_in_them_learns(tiny: Tiny, freeze: int) -> None:
    recipe = tiny()
    visual = recipe.model.visual.model_copy(update={"freeze": freeze})
    model = AudioVisualModel(recipe.model.model_copy(update={"visual": visual}), recipe.clip, recipe.audio, 3).train()
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


def test_freeze_beyond_the_backbone_is_refused(tiny: Tiny) -> None:
    recipe = tiny()
    visual = recipe.model.visual.model_copy(update={"freeze": 40})
    with pytest.raises(ValueError, match=r"freeze=40 is beyond .* 4 layer1"):
        AudioVisualModel(recipe.model.model_copy(update={"visual": visual}), recipe.clip, recipe.audio, 3)


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
    tiny: Tiny, folder: Folder, tmp_path: Path, stream: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        train(tiny(model={stream: settings}), folder, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_frozen_layers_do_not_drift_from_the_first_step_on(trained: Path) -> None:
    weights = load_file(trained)
    assert torch.equal(weights["visual.bn1.running_mean"], torch.zeros_like(weights["visual.bn1.running_mean"]))
    assert not torch.equal(
        weights["visual.layer1.0.bn1.running_mean"], torch.zeros_like(weights["visual.layer1.0.bn1.running_mean"])
    )


def test_two_batches_of_two_are_a_batch_of_four(tiny: Tiny, folder: Folder, tmp_path: Path) -> None:
    sgd = {"optimizer": "sgd", "lr": 0.1, "epochs": 2}
    ends = [
        train(tiny(data=LAST_EPOCH, model=HEADS, training={**sgd, **parts}), folder, tmp_path / str(parts["batch"]))
        for parts in ({"batch": 4}, {"batch": 2, "accumulate": 2})
    ]
    one, two = (load_file(end.checkpoint) for end in ends)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for epoch, other in zip(ends[0].history, ends[1].history, strict=True):
        assert other["loss"] == pytest.approx(epoch["loss"], rel=1e-5)


def test_the_moving_average_is_what_is_kept(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Task.optimizer_step, []

    def watched(self: Task, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        seen.append(self.model.classifier.weight.detach().double().clone())

    monkeypatch.setattr(Task, "optimizer_step", watched)
    settings = {"ema": 0.7, "epochs": 1, "lr": 0.1, "schedule": "constant"}
    end = train(tiny(data=LAST_EPOCH, model=HEADS, training=settings), folder, tmp_path)
    average = seen[0]
    for weight in seen[1:]:
        average = 0.7 * average + 0.3 * weight
    kept = load_file(end.checkpoint)["classifier.weight"]
    torch.testing.assert_close(kept, average.float(), rtol=1e-5, atol=1e-6)
    assert (kept - seen[-1]).abs().max() > 1e-3


def test_the_gradient_is_cut_to_its_norm(tiny: Tiny, folder: Folder, tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "clip": 1e-3, "batch": 99, "epochs": 1}
    recipe = tiny(data=LAST_EPOCH, model=HEADS, training={**settings, "schedule": "constant"})
    end = load_file(train(recipe, folder, tmp_path).checkpoint)
    pl.seed_everything(recipe.training.seed, verbose=False)
    start = Task(recipe, folder.classes).model.state_dict()
    moved = sum(float((end[name] - start[name]).double().square().sum()) for name in end)
    assert math.sqrt(moved) == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_rises_and_falls(tiny: Tiny, folder: Folder, tmp_path: Path) -> None:
    train(tiny(data=LAST_EPOCH, model=HEADS, training={"warmup": 1, "lr": 0.01}), folder, tmp_path)
    rates = [float(line.rpartition(",")[2]) for line in (tmp_path / "steps.csv").read_text().splitlines()[1:]]
    warm = [0.01 * share for share in (1 / 3, 2 / 3, 1)]
    fall = [0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates == pytest.approx([*warm, *fall])


def test_training_ends_when_validation_gets_no_better(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(model=HEADS, training={"epochs": 9, "patience": 2, "lr": 1e-12})
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, tmp_path)
    assert len(read_about(tmp_path / LAST)["history"]) == 3
    assert len(train(recipe, folder, tmp_path).history) == 3
    with pytest.raises(ValueError, match=r"training\.patience counts epochs by validation; .*val_fraction"):
        train(tiny(data=LAST_EPOCH, training={"patience": 2}), folder, tmp_path / "other")


def test_mixed_precision_computes_in_bf16_and_keeps_full_weights(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, kinds = Task.training_step, set()

    def watched(self: Task, loaded: Loaded, number: int) -> torch.Tensor:
        for module in (self.model.visual.layer4, self.model.audio.layer4):
            module.register_forward_hook(lambda module, inputs, output: kinds.add((output.ndim, output.dtype)))
        weight = self.model.visual.layer4[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)
        return step(self, loaded, number)

    monkeypatch.setattr(Task, "training_step", watched)
    end = train(tiny(training={"epochs": 1, "precision": "bf16"}), folder, tmp_path)
    assert kinds >= {(4, torch.bfloat16), (5, torch.bfloat16)}
    assert all(v.dtype == torch.float32 for name, v in load_file(end.checkpoint).items() if "num_batches" not in name)


def test_half_precision_needs_a_gpu(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"training\.precision=16 needs a GPU; bf16 works"):
        train(tiny(training={"precision": 16}), folder, tmp_path)


def test_tensorboard_shows_what_the_csv_says(tiny: Tiny, folder: Folder, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = {"epochs": 2, "logs": ["csv", "tensorboard"]}
    history = train(tiny(model=HEADS, training=logs), folder, tmp_path).history
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [line.split(",") for line in (tmp_path / "steps.csv").read_text().splitlines()[1:]]
    shown = [(event.step, event.value) for event in events.Scalars("step/loss")]
    assert shown == [(int(line[0]), pytest.approx(float(line[2]))) for line in lines]
    accuracies = [event.value for event in events.Scalars("epoch/val_accuracy")]
    assert accuracies == pytest.approx([epoch["val_accuracy"] for epoch in history])


def test_without_tensorboard_it_says_what_to_install(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnzoo.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'this needs tensorboard; .* pip install "attnzoo\[tensorboard\]"'):
        train(tiny(training={"logs": ["tensorboard"]}), folder, tmp_path)


@pytest.mark.parametrize("damaged", ["skip", "stop"])
def test_a_video_that_breaks_later_is_left_out_or_ends_the_training(
    tiny: Tiny, videos: Path, tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    folder = read_folder(tmp_path / "videos", 4)
    recipe = tiny(data={**LAST_EPOCH, "damaged": damaged}, model=HEADS, training={"epochs": 1, "batch": 1})
    victim = training.split(folder, recipe.data).train[2]
    victim.index.path.write_bytes(b"no video any more")
    if damaged == "stop":
        with pytest.raises(ValueError, match=victim.index.path.name):
            train(recipe, folder, tmp_path / "out")
        return
    said = io.StringIO()
    end = train(recipe, folder, tmp_path / "out", console=Console(file=said, width=200))
    assert end.history[0]["lost"] == 1
    assert "1 video could not be read" in said.getvalue()
    assert victim.index.path.name in caplog.text


def test_weights_that_are_lost_at_the_end_of_an_epoch_do_not_reach_its_checkpoint(
    tiny: Tiny, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Task.training_step

    def diverging(self: Task, loaded: Loaded, number: int) -> torch.Tensor:
        loss = step(self, loaded, number)  # finite, but its gradient is not
        return loss * float("inf") if self.current_epoch == 1 and self.trainer.is_last_batch else loss

    monkeypatch.setattr(Task, "training_step", diverging)
    message = r"weights are no longer finite at step 3 of epoch 2, videos \w+/\w+\.mp4; .*last\.ckpt is the last good"
    with pytest.raises(ValueError, match=message):
        train(tiny(), folder, tmp_path)
    assert len(read_about(tmp_path / LAST)["history"]) == 1
    assert all(value.isfinite().all() for value in read_weights(tmp_path / LAST).values())


def test_a_finished_training_is_not_repeated_and_another_one_is_refused(
    tiny: Tiny, folder: Folder, trained: Path
) -> None:
    written = trained.stat().st_mtime_ns
    again = train(tiny(), folder, trained.parent)
    assert trained.stat().st_mtime_ns == written
    assert len(again.predictions) == 6
    assert train(tiny(training={"workers": 1, "devices": 2}), folder, trained.parent).predictions == again.predictions
    with pytest.raises(ValueError, match=r"another training: training.seed is 0, here 1; .*--out"):
        train(tiny(training={"seed": 1}), folder, trained.parent)


def test_evaluate_gives_the_test_videos_of_the_training(tiny: Tiny, folder: Folder, trained: Path) -> None:
    first = train(tiny(), folder, trained.parent)
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


def test_a_step_takes_the_recipes_loss_of_every_pass(tiny: Tiny) -> None:
    """CTEN's three passes under the polarity loss: the mean over passes of the weighted cross-entropy, written out."""
    polarity = {"calm": "positive", "glad": "positive", "cross": "negative"}
    loss = {"name": "polarity", "polarity": polarity, "penalty": 2.0}
    classes = list(polarity)
    torch.manual_seed(0)
    # Without the noise of dropout and norms.
    task = Task(tiny(model={"fusion": "cten"}, training={"loss": loss}), classes).eval()
    frames, sound = torch.randint(256, (3, 2, 3, 4, 32, 32), dtype=torch.uint8), torch.randn(3, 2, 1, 12, 16)
    labels = torch.tensor([0, 1, 2])
    batch = Batch(frames, sound, torch.ones(3, dtype=torch.bool), labels)
    value, _, count = task.batch_loss(Loaded(("a", "b", "c"), (), batch), task.model.passes)
    terms = []
    for logits in task.model.passes(frames, sound):
        for scores, label in zip(logits.mean(1), labels.tolist(), strict=True):
            wrong = polarity[classes[int(scores.argmax())]] != polarity[classes[label]]
            terms.append((3.0 if wrong else 1.0) * -scores.log_softmax(0)[label])
    assert (len(terms), count) == (9, 3)
    torch.testing.assert_close(value, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
