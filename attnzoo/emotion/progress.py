"""Progress of a training on the terminal: a bar while it runs, one line for each epoch that is done."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def counting(console: Console | None, title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over things that are counted; it is gone when they are done.

    Args:
        console: where it is shown; nowhere if None, or without a terminal behind it.
        title: what stands before it.

    Returns:
        To be called with the number of those that are done and of all.

    >>> with counting(None, "features") as progress:
    ...     progress(1, 2)
    """
    shown = console is not None and console.is_terminal
    with Progress(console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(escape(title), total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


class Bar(pl.Callback):
    """A bar over the steps of all epochs with the time remaining, and a line per epoch.

    Args:
        console: where it is shown; without a terminal behind it only the lines are.
        title: what stands before each line.
        epochs: how many there will be.
        sample: what one is called.

    >>> bar = Bar(Console(width=100), "mpe seed 0", epochs=2)
    >>> bar.line({"epoch": 1, "loss": 1.5, "train_accuracy": 0.25, "seconds": 12.0})
    mpe seed 0 epoch 1/2: loss 1.500, training accuracy 25.0% (12 s)
    """

    def __init__(self, console: Console, title: str, epochs: int, sample: str = "video") -> None:
        self.console = console
        self.title = title
        self.epochs = epochs
        self.sample = sample
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self.bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self.steps: TaskID = self.bar.add_task(title)

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.bar.update(self.steps, total=float(trainer.estimated_stepping_batches), completed=trainer.global_step)
        self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.bar.update(self.steps, completed=trainer.global_step)

    def line(self, epoch: Mapping[str, float]) -> None:
        """Print the figures of one epoch.

        Args:
            epoch: see `Outcome.history`.
        """
        val = f", validation {epoch['val_accuracy']:.1%}" if "val_accuracy" in epoch else ""
        count = int(epoch.get("lost", 0))
        lost = f", {count} {self.sample}{'s' * (count > 1)} could not be read" if count else ""
        self.console.print(
            f"{self.title} epoch {epoch['epoch']:.0f}/{self.epochs}: loss {epoch['loss']:.3f}, "
            f"training accuracy {epoch['train_accuracy']:.1%}{val}{lost} ({epoch['seconds']:.0f} s)",
            highlight=False,
            markup=False,
        )

    def on_train_end(self, *_: Any) -> None:
        self.bar.stop()

    def on_exception(self, *_: Any) -> None:
        self.bar.stop()
