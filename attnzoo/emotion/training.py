"""Fitting the audio-visual model with Lightning, and what it gives on test videos."""

import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from attnzoo.emotion import audio
from attnzoo.emotion.checkpoints import MARK, check_same, load_checkpoint, save
from attnzoo.emotion.clips import Batch, Clips, Epochs
from attnzoo.emotion.datasets import Folder, Video
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.model import AudioVisualModel, check
from attnzoo.emotion.progress import Bar
from attnzoo.emotion.protocols import split
from attnzoo.emotion.recipe import Recipe
from attnzoo.profiling import profile

Report = Callable[[Mapping[str, float]], None]

_EVERY_EPOCH: Any = {"save_on_train_epoch_end": True, "enable_version_counter": False}

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one video.

    Attributes:
        key: "class/file name", or the path.
        probabilities: of the classes, for the whole video.
        timeline: of the classes for each segment, (T, classes).
        label: index of the true class, if known.

    >>> Prediction("joy/a.mp4", (0.2, 0.8), ((0.1, 0.9), (0.3, 0.7))).predicted
    1
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

    >>> right = Prediction("a", (0.9, 0.1), (), 0)
    >>> Outcome(Path("model.pt"), ("calm", "joy"), (right,), (), "70/30", 9, 99, 1.5).accuracy
    1.0
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
    """The recipe's loss on the mean of the segments' logits, Adam.

    Args:
        recipe: all settings.
        classes: names of the classes.
        data: fingerprint of the videos.
        report: called with the figures of each epoch that is done.

    >>> recipe = Recipe.model_validate({"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}})
    >>> with torch.device("meta"):
    ...     Task(recipe, ["calm", "joy"], data="4f1c").model.classifier
    Linear(in_features=512, out_features=2, bias=True)
    """

    def __init__(self, recipe: Recipe, classes: Sequence[str], data: str, report: Report | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.classes = tuple(classes)
        self.data = data
        self.model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(classes))
        self.loss = create_loss(recipe.training.loss, classes)
        self.seen = MulticlassAccuracy(len(classes), average="micro")
        self.validated = MulticlassAccuracy(len(classes), average="micro")
        self.history: list[dict[str, float]] = []
        self._report = report
        self._losses: list[Tensor] = []
        self._seconds = 0.0
        self._started = time.monotonic()

    def on_train_epoch_start(self) -> None:
        self._started = time.monotonic()

    def training_step(self, batch: Batch, number: int) -> Tensor:
        frames, sound, heard, labels = batch
        # Several passes where segments are erased.
        passes = [logits.mean(1) for logits in self.model.passes(frames, sound, heard)]
        loss = torch.stack([self.loss(logits, labels) for logits in passes]).mean()
        self.seen.update(passes[0].detach(), labels)
        self._losses.append(loss.detach())
        if not loss.isfinite():
            self._stop(f"the loss is {loss.item()}", number)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        frames, sound, heard, labels = batch
        self.validated.update(self.model(frames, sound, heard).mean(1), labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val_accuracy", self.validated.compute())

    def on_train_batch_end(self, _: Any, batch: Any, number: int) -> None:
        # Not at every step: each look is a wait for the accelerator. Weights that are lost show in the next loss.
        if self.trainer.is_last_batch and not all(p.isfinite().all() for p in self.parameters()):
            self._stop("the weights are no longer finite", number)

    def _stop(self, what: str, number: int) -> NoReturn:
        """End a training that has diverged, before a checkpoint is written of it."""
        loader: Any = self.trainer.train_dataloader
        first = number * loader.batch_size
        videos = [loader.dataset.videos[i].key for _, i in list(loader.sampler)[first : first + loader.batch_size]]
        raise ValueError(
            f"{what} at step {number + 1} of epoch {self.current_epoch + 1}, videos {', '.join(videos)}; the epochs "
            f"before it are kept, but only other settings will help, as a training.lr below {self.recipe.training.lr}"
        )

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
        ValueError: `out` holds a training of another recipe or of other data, the recipe makes no model, a video cannot
            be decoded, or the training diverges: its loss or weights are no longer finite.
        KeyboardInterrupt: interrupted; the last whole epoch is in `out`.

    >>> train(Recipe(name="mine"), Folder(Path("videos"), ("calm", "joy"), (), ()), Path("out"))
    Traceback (most recent call last):
    ValueError: class 'calm' of videos has 0 usable videos, too few for training, ...
    """
    parts = split(folder, recipe.data)
    final, last = out / "model.pt", out / "last.ckpt"
    for path in (final, last):
        if path.exists():
            check_same(path, recipe, folder)
    if not final.exists():
        check(recipe)
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

    >>> settings = {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> recipe = Recipe.model_validate({"name": "mine", "model": settings, "training": {"workers": 0}})
    >>> score(AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 2).eval(), recipe, [])
    []
    """
    device = next(model.parameters()).device
    predictions: list[Prediction] = []
    with torch.inference_mode():
        for frames, sound, heard, labels in _loader(Clips(videos, recipe.clip, recipe.audio), recipe):
            logits = model(frames.to(device), sound.to(device), heard.to(device))
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
