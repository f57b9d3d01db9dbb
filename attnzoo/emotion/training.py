"""Fitting a model with Lightning, and what it gives on test samples."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console

from attnzoo.emotion.checkpoints import (
    BEST,
    LAST,
    MODEL,
    check_same,
    describe,
    load_checkpoint,
    read_weights,
    save_model,
)
from attnzoo.emotion.curves import Curves
from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.keeping import Keeper, WholeFiles
from attnzoo.emotion.loading import evaluation_loader, loading_told, training_loader
from attnzoo.emotion.optimisation import Training
from attnzoo.emotion.predictions import Prediction, accuracy, score
from attnzoo.emotion.processes import layout, rank
from attnzoo.emotion.progress import Bar, counting
from attnzoo.emotion.protocols import Split, split
from attnzoo.emotion.samples import DataSet, Reader, Sample
from attnzoo.emotion.task import Task
from attnzoo.emotion.tasks import spec
from attnzoo.profiling import profile
from attnzoo.profiling.latency import time_forward

for _part in ("pytorch", "fabric"):
    logging.getLogger(f"lightning.{_part}").setLevel(logging.WARNING)

_PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished training.

    Attributes:
        checkpoint: the file with the weights; recipe and classes are in the JSON file beside it.
        classes: their names.
        predictions: for the test samples.
        history: loss and accuracies of each epoch.
        protocol: how the samples were divided and the epoch was chosen.
        params: of the whole model.
        macs: multiply-accumulates for one sample.
        seconds: of training.
        bytes: read and written by one forward pass for one sample.
        split: how the samples were divided.
        latency: of one forward pass for one video on the CPU, s; None where it was not measured.

    >>> right = Prediction("a", (0.9, 0.1), (), 0)
    >>> Outcome(Path(MODEL), ("calm", "joy"), (right,), (), "70/30", 9, 99, 1.5, 7, Split((), (), (), "")).accuracy
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
    bytes: int
    split: Split
    latency: float | None = None

    @property
    def accuracy(self) -> float:
        """Share of the test samples that are classified right."""
        return accuracy(self.predictions)


def train(
    recipe: Experiment, folder: DataSet, out: Path, *, console: Console | None = None, title: str = ""
) -> Outcome:
    """Train a model and evaluate it on the test samples; an interrupted training of the same recipe goes on.

    Where several processes train (`training.devices`, torchrun), the first one returns and the others end here.

    Args:
        recipe: all settings.
        folder: the samples.
        out: a folder for checkpoints and curves: `last.ckpt` while it trains, at the end `model.safetensors` with
            `model.json`, which is all that evaluation needs.
        console: where progress is shown; nowhere if None.
        title: what stands before the progress.

    Returns:
        The outcome; that of a finished training of the same recipe in `out` is evaluated, not trained again.

    Raises:
        ValueError: `out` holds a training of another recipe or of other data, the recipe makes no model or does not
            suit the machine, a sample cannot be decoded, a checkpoint cannot be written, a process that loads samples
            dies, or the training diverges: its loss or weights are no longer finite.
        KeyboardInterrupt: interrupted, or ended by SIGTERM; the same call goes on from the last checkpoint in `out`.

    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.recipe import Recipe
    >>> train(Recipe(name="mine"), Folder(Path("videos"), ("calm", "joy"), (), ()), Path("out"))
    Traceback (most recent call last):
    ValueError: class 'calm' of videos has 0 usable videos, too few for training, ...
    """
    parts = split(folder, recipe.data)
    final = out / MODEL
    for path in (final, out / LAST):
        if path.exists():
            check_same(path, recipe, folder)
    if not final.exists():
        if recipe.training.patience and not parts.val:
            raise ValueError("training.patience counts epochs by validation; give data.val_fraction more than 0")
        spec(recipe.task).check(recipe)
        _fit(recipe, folder, parts, out, console, title)
    if rank(recipe.training) > 0:
        raise SystemExit(0)
    for path in (out / BEST, out / LAST):
        path.unlink(missing_ok=True)
    model, about = load_checkpoint(final)
    sizes = spec(recipe.task).sizes(recipe)
    cost = profile(model, sizes, counter="macs", memory=False)
    return Outcome(
        checkpoint=final,
        classes=folder.classes,
        predictions=tuple(score(model, recipe, parts.test)),
        history=tuple(about["history"]),
        protocol=about["protocol"],
        params=cost.params,
        macs=cost.macs,
        seconds=about["history"][-1]["seconds"],
        bytes=cost.bytes_read + cost.bytes_written,
        split=parts,
        latency=time_forward(model, sizes),
    )


def _fit(recipe: Experiment, folder: DataSet, parts: Split, out: Path, console: Console | None, title: str) -> None:
    """Train up to `model.safetensors`, from `last.ckpt` on if there is one."""
    training = recipe.training
    pl.seed_everything(training.seed, workers=True, verbose=False)
    curves = Curves(out, training.logs)
    bar = Bar(console, title, training.epochs, recipe.task) if console and rank(training) == 0 else None
    trainer = pl.Trainer(
        max_epochs=training.epochs,
        accelerator="auto",
        **_processes(training),
        precision=_PRECISION[training.precision],
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip,
        callbacks=[curves, *([bar] if bar else []), Keeper(out, training.checkpoint_minutes)],
        plugins=[WholeFiles()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    place = (trainer.global_rank, trainer.world_size)

    def report(history: Sequence[Mapping[str, float]]) -> None:
        if trainer.is_global_zero:
            curves.epochs(history)
            if bar:
                bar.line(history[-1])

    about = describe(recipe, folder, _protocol(parts, f"{recipe.task}s"))
    batches = -(-len(parts.train) // training.batch)
    task = Task(recipe, folder.classes, about, batches, report)

    def shown(samples: Sequence[Sample], seed: int | None = None) -> Reader:
        with counting(console, f"{title} features".lstrip()) as progress:
            return spec(recipe.task).reader(samples, recipe, seed, task.model, progress)

    told = f"{recipe.task}s"
    with loading_told(told):
        train_loader = training_loader(shown(parts.train, training.seed), recipe, *place)
        val_loader = evaluation_loader(shown(parts.val), recipe, *place) if parts.val else None
    last = out / LAST
    with _threads_beside(training.workers), _lightning_quiet(), loading_told(told):
        try:
            trainer.fit(task, train_loader, val_loader, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        state = read_weights(out / BEST) if (out / BEST).exists() else task.best.state_dict()
        save_model(state, {**about, "history": task.history}, out / MODEL)


def _protocol(parts: Split, samples: str) -> str:
    chosen = "the epoch with the best validation accuracy" if parts.val else "the last epoch"
    return f"{parts.protocol}; {chosen}, test {samples} used once"


def _processes(training: Training) -> dict[str, Any]:
    devices, nodes = layout(training)
    gpus = torch.cuda.device_count()
    if gpus and devices > gpus:
        raise ValueError(f"training.devices={devices}, but this machine has {gpus}")
    if training.precision == "16" and not gpus:
        raise ValueError("training.precision=16 needs a GPU; bf16 works on a CPU too")
    several = devices * nodes > 1
    return {
        "devices": devices,
        "num_nodes": nodes,
        "strategy": "ddp" if several else "auto",
        "sync_batchnorm": several and gpus > 0,
    }


@contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    # Loading and training on the same cores, with threads that wait for each other, takes more than twice as long.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Without what Lightning says of things that are meant to be so."""
    with warnings.catch_warnings():
        for said in (
            "does not have many workers",
            "Checkpoint directory .* exists and is not empty",
            "number of training batches.*is smaller than the logging interval",
            "have no `val_dataloader`",
            "LeafSpec",
            r"module\(s\) in eval mode at the start of training",
            r"lr_scheduler\.step\(\)` before `optimizer\.step",  # in half precision the first steps may be skipped
        ):
            warnings.filterwarnings("ignore", f".*{said}.*")
        yield
