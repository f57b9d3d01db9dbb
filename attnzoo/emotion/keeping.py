"""What keeps a training that may be killed at any moment: checkpoints after each epoch and, in long ones, between."""

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

    Args:
        out: the folder.
        minutes: from one `last.ckpt` to the next within an epoch. SIGTERM, by which clusters announce the end, has one
            written at once.

    >>> Keeper(Path("runs/mine"), minutes=10).out.name
    'mine'
    """

    def __init__(self, out: Path, minutes: float) -> None:
        self.out = out
        self.minutes = minutes
        self._kept = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._kept = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        assert isinstance(task, Task)
        if trainer.is_last_batch:  # the end of the epoch is near
            task.check_finite(number)
            return
        if (number + 1) % trainer.accumulate_grad_batches:  # gradients are not in a checkpoint
            return
        due = trainer.received_sigterm or time.monotonic() - self._kept >= 60 * self.minutes
        if trainer.strategy.broadcast(due):
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
