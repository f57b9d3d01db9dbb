"""Fitting the audio-visual model with Lightning, its checkpoints, and what they give on test videos."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from attnzoo.emotion import audio
from attnzoo.emotion.datasets import Clips, Epochs, Folder, Video, split
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.progress import Bar
from attnzoo.emotion.recipe import Recipe
from attnzoo.profiling import profile

Report = Callable[[Mapping[str, float]], None]

_EVERY_EPOCH: Any = {"save_on_train_epoch_end": True, "enable_version_counter": False}
MARK = "attnzoo"  # the entry of a checkpoint that says whose it is

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one video.

    Attributes:
        key: "class/file name", or the path.
        probabilities: of the classes, for the whole video.
        timeline: of the classes for each segment, (T, classes).
        label: index of the true class, if known.
    """

    key: str
    probabilities: tuple[float, ...]
    timeline: tuple[tuple[float, ...], ...]
    label: int | None = None

    @property
    def predicted(self) -> int:
        """Index of the most probable class."""
        return int(np.argmax(self.probabilities))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished training.

    Attributes:
        checkpoint: the file with weights, recipe and classes.
        classes: their names.
        predictions: for the test videos.
        history: loss and accuracies of each epoch.
        protocol: how the videos were divided and the epoch was chosen.
        params: of the whole model.
        macs: multiply-accumulates for one video.
        seconds: of training.
    """

    checkpoint: Path
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    history: tuple[dict[str, float], ...]
    protocol: str
    params: int
    macs: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the test videos that are classified right."""
        return accuracy(self.predictions)


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Top-1 accuracy.

    Args:
        predictions: with known labels.

    >>> accuracy([Prediction("a", (0.9, 0.1), (), 0), Prediction("b", (0.6, 0.4), (), 1)])
    0.5
    """
    return sum(p.predicted == p.label for p in predictions) / len(predictions)


class Task(pl.LightningModule):
    """Cross-entropy on the mean of the segments' logits, Adam.

    Args:
        recipe: all settings.
        classes: names of the classes.
        data: fingerprint of the videos.
        report: called with the figures of each epoch that is done.
    """

    def __init__(self, recipe: Recipe, classes: Sequence[str], data: str, report: Report | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.classes = tuple(classes)
        self.data = data
        self.model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(classes))
        self.seen = MulticlassAccuracy(len(classes), average="micro")
        self.validated = MulticlassAccuracy(len(classes), average="micro")
        self.history: list[dict[str, float]] = []
        self._report = report
        self._losses: list[Tensor] = []
        self._seconds = 0.0
        self._started = time.monotonic()

    def on_train_epoch_start(self) -> None:
        self._started = time.monotonic()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        frames, sound, labels = batch
        logits = self.model(frames, sound).mean(1)
        loss = F.cross_entropy(logits, labels)
        self.seen.update(logits.detach(), labels)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        frames, sound, labels = batch
        self.validated.update(self.model(frames, sound).mean(1), labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val_accuracy", self.validated.compute())

    def on_train_epoch_end(self) -> None:
        self._seconds += time.monotonic() - self._started
        epoch = {
            "epoch": float(self.current_epoch + 1),
            "loss": float(torch.stack(self._losses).mean()),
            "train_accuracy": float(self.seen.compute()),
            "seconds": self._seconds,
        }
        if "val_accuracy" in self.trainer.callback_metrics:
            epoch["val_accuracy"] = float(self.trainer.callback_metrics["val_accuracy"])
        self.history.append(epoch)
        if self._report:
            self._report(epoch)
        self._losses.clear()
        self.seen.reset()
        self.validated.reset()

    def configure_optimizers(self) -> Any:
        training = self.recipe.training
        trainable = [p for p in self.parameters() if p.requires_grad]
        adam = torch.optim.Adam(trainable, training.lr, weight_decay=training.weight_decay)
        if training.schedule == "constant":
            return adam
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[MARK] = {
            "recipe": self.recipe.model_dump(mode="json"),
            "classes": list(self.classes),
            "data": self.data,
            "history": self.history,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint[MARK]["history"])
        self._seconds = self.history[-1]["seconds"] if self.history else 0.0


def train(recipe: Recipe, folder: Folder, out: Path, *, console: Console | None = None, title: str = "") -> Outcome:
    """Train a model and evaluate it on the test videos; an interrupted training of the same recipe goes on.

    Args:
        recipe: all settings.
        folder: the videos.
        out: a folder for the checkpoints: `last.ckpt` after every epoch, `model.pt` at the end.
        console: where progress is shown; nowhere if None.
        title: what stands before the progress.

    Returns:
        The outcome; that of a finished training of the same recipe in `out` is evaluated, not trained again.

    Raises:
        ValueError: `out` holds a training of another recipe or of other data.
        KeyboardInterrupt: interrupted; the last whole epoch is in `out`.
    """
    parts = split(folder, recipe.data)
    final, last = out / "model.pt", out / "last.ckpt"
    for path in (final, last):
        if path.exists():
            _same_training(path, recipe, folder)
    if not final.exists():
        _fit(recipe, folder, parts.train, parts.val, out, console, title)
    model, info = load_checkpoint(final)
    clip, sound = recipe.clip, recipe.audio
    cost = profile(
        model,
        [
            (1, clip.segments, 3, clip.frames, clip.size, clip.size),
            (1, clip.segments, 1, sound.coefficients, sound.width),
        ],
        counter="macs",
    )
    chosen = "the epoch with the best validation accuracy" if parts.val else "the last epoch"
    return Outcome(
        checkpoint=final,
        classes=folder.classes,
        predictions=tuple(score(model, recipe, parts.test)),
        history=tuple(info["history"]),
        protocol=f"{parts.protocol}; {chosen}, test videos used once",
        params=cost.params,
        macs=cost.macs,
        seconds=info["history"][-1]["seconds"],
    )


def _fit(
    recipe: Recipe,
    folder: Folder,
    train_videos: Sequence[Video],
    val_videos: Sequence[Video],
    out: Path,
    console: Console | None,
    title: str,
) -> None:
    training = recipe.training
    pl.seed_everything(training.seed, workers=True, verbose=False)
    bar = Bar(console, title, training.epochs) if console else None
    task = Task(recipe, folder.classes, folder.fingerprint, bar.line if bar else None)
    clips = Clips(train_videos, recipe.clip, recipe.audio, training.seed)
    train_loader = DataLoader(
        clips,
        training.batch,
        sampler=Epochs(len(clips), training.seed),
        num_workers=training.workers,
        persistent_workers=training.workers > 0,
        worker_init_fn=_ignore_interrupts,
    )
    val_loader = _loader(Clips(val_videos, recipe.clip, recipe.audio), recipe) if val_videos else None
    # The best one first: the last one also holds which was the best so far.
    best = ModelCheckpoint(out, "best", "val_accuracy", mode="max", **_EVERY_EPOCH)
    newest = ModelCheckpoint(out, "last", **_EVERY_EPOCH)
    trainer = pl.Trainer(
        max_epochs=training.epochs,
        accelerator="auto",
        devices=1,
        callbacks=[*([best] if val_videos else []), newest, *([bar] if bar else [])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    # Loaded once here, and not in every worker: librosa takes a second to import.
    audio.mfcc(np.ones(recipe.audio.rate, np.float32), recipe.audio.rate)
    last = out / "last.ckpt"
    # Loading and training on the same cores, with threads that wait for each other, takes more than twice as long.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - training.workers))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*number of training batches.*is smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        try:
            resume = last if last.exists() else None
            trainer.fit(task, train_loader, val_loader, ckpt_path=resume, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        finally:
            torch.set_num_threads(threads)
    if trainer.interrupted:
        raise KeyboardInterrupt
    chosen = Path(best.best_model_path) if val_videos else last
    content = torch.load(chosen, map_location="cpu", weights_only=True)
    content[MARK]["history"] = task.history
    save({MARK: content[MARK], "state_dict": content["state_dict"]}, out / "model.pt")
    for path in {chosen, last}:
        path.unlink(missing_ok=True)


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C is for the training process, which ends its loaders itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loader(clips: Clips, recipe: Recipe) -> DataLoader[Any]:
    workers = recipe.training.workers
    return DataLoader(clips, recipe.training.batch, num_workers=workers, worker_init_fn=_ignore_interrupts)


def score(model: AudioVisualModel, recipe: Recipe, videos: Sequence[Video]) -> list[Prediction]:
    """What the model says of videos, from centred windows.

    Args:
        model: in eval mode.
        recipe: with which it was trained.
        videos: the videos.
    """
    device = next(model.parameters()).device
    predictions: list[Prediction] = []
    with torch.inference_mode():
        for frames, sound, labels in _loader(Clips(videos, recipe.clip, recipe.audio), recipe):
            logits = model(frames.to(device), sound.to(device))
            for segments, label in zip(logits.cpu(), labels, strict=True):
                video = videos[len(predictions)]
                predictions.append(
                    Prediction(
                        key=video.key,
                        probabilities=tuple(segments.mean(0).softmax(0).tolist()),
                        timeline=tuple(tuple(s) for s in segments.softmax(1).tolist()),
                        label=int(label),
                    )
                )
    return predictions


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a file of tensors whole or not at all.

    Args:
        content: what `torch.save` can write and `torch.load(weights_only=True)` can read.
        path: the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(dict(content), temporary)
    temporary.replace(path)


def load_checkpoint(path: str | Path) -> tuple[AudioVisualModel, dict[str, Any]]:
    """A trained model in eval mode, and what its checkpoint says of it.

    Args:
        path: a `model.pt` or `last.ckpt` of `train`.

    Returns:
        The model and a mapping with "recipe" (a Recipe), "classes", "data" and "history".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo's emotion model, or one that is damaged.
    """
    info, state = read_checkpoint(path)
    recipe: Recipe = info["recipe"]
    model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(info["classes"]))
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"{path}: its weights do not fit the model of its recipe; it was changed or is damaged"
        ) from None
    return model.eval(), info


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of itself (see `load_checkpoint`), and the weights of the model.

    Args:
        path: a `model.pt` or `last.ckpt` of `train`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo's emotion model, or one that is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; `attnzoo train` writes model.pt into its --out folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        info = dict(content[MARK])
        info["recipe"] = Recipe.model_validate(_plain(info["recipe"]))
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    except Exception as error:
        what = "another model" if isinstance(error, KeyError | TypeError) else f"damaged ({type(error).__name__})"
        raise ValueError(
            f"{path} is not a checkpoint of attnzoo's emotion model: {what}; give a model.pt that `attnzoo train` wrote"
        ) from None
    return info, state


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the weights it started from: the checkpoint has its own."""
    recipe = {**recipe, "model": dict(recipe["model"])}
    for stream in ("visual", "audio"):
        recipe["model"][stream] = {**recipe["model"][stream], "weights": None, "pretrained": False}
    return recipe


def _same_training(path: Path, recipe: Recipe, folder: Folder) -> None:
    info, _ = read_checkpoint(path)
    now = Recipe.model_validate(_plain(recipe.model_dump(mode="json")))
    other = [f"{field} is {a!r}, here {b!r}" for field, a, b in _differences(info["recipe"], now)]
    if info["data"] != folder.fingerprint:
        other.append(f"its videos are others than those of {folder.root}")
    if other:
        raise ValueError(f"{path} is from another training: {'; '.join(other)}; choose another folder with --out")


def _differences(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    # Where the videos lie and how many processes load them changes nothing in the training but rounding.
    free = {"name", "data.root", "training.workers"}

    def flat(value: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".lstrip(".")).items()}

    one, two = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = [key for key in {**one, **two} if key not in free]
    return [(key, one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)]
