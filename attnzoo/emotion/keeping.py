"""What keeps a training that may be killed at any moment: checkpoints after each epoch and, in long ones, between."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from attnzoo.emotion.checkpoints import BEST, LAST, save, save_weights
from attnzoo.emotion.task import Task


class Keeper(Checkpoint):
    """Writes `last.ckpt`, and `best.safetensors` whenever an epoch is the best on the validation videos.

    At SIGTERM, by which clusters announce the end, the step is ended, `last.ckpt` written and the training interrupted.

    Args:
        out: the folder.
        minutes: from one `last.ckpt` to the next within an epoch.

    >>> Keeper(Path("runs/mine"), minutes=10).out.name
    'mine'
    """

    def __init__(self, out: Path, minutes: float) -> None:
        self.out = out
        self.minutes = minutes
        self._kept = time.monotonic()
        self._ending = False

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._kept = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's, which talks to the other processes wherever the signal comes, and breaks off what
            # they say. Lightning puts back what was there before.
            signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: Any) -> None:
        self._ending = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        assert isinstance(task, Task)
        if trainer.is_last_batch:  # the end of the epoch is near
            task.check_finite(number)
            return
        if (number + 1) % trainer.accumulate_grad_batches:  # gradients are not in a checkpoint
            return
        due = self._ending or time.monotonic() - self._kept >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            task.check_finite(number)
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, Task)
        # The best first: the last one says which it was.
        accuracies = [epoch["val_accuracy"] for epoch in task.history if "val_accuracy" in epoch]
        if trainer.is_global_zero and accuracies and accuracies[-1] > max(accuracies[:-1], default=-1.0):
            save_weights(task.best.state_dict(), self.out / BEST)
        self._keep(trainer)

    def _keep(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.out / LAST, weights_only=False)
        self._kept = time.monotonic()
        if trainer.strategy.reduce_boolean_decision(self._ending, all=False):
            raise KeyboardInterrupt


class WholeFiles(TorchCheckpointIO):
    """Has Lightning write a checkpoint whole or not at all, beside the one that it replaces.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     WholeFiles().save_checkpoint({"epoch": 3}, f"{folder}/last.ckpt")
    ...     torch.load(f"{folder}/last.ckpt", weights_only=True)
    {'epoch': 3}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `checkpoints.save`."""
        save(checkpoint, Path(path))
