"""The course of a training, for people to look at: CSV files and TensorBoard."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl

from attnzoo.emotion.checkpoints import whole
from attnzoo.emotion.task import Task
from attnzoo.extras import need

STEPS = "step,epoch,loss,lr"
EPOCHS = ("epoch", "loss", "train_accuracy", "val_loss", "val_accuracy", "lost", "seconds")


class Curves(pl.Callback):
    """Writes `steps.csv`, a line for each batch, `epochs.csv` and the folder `tensorboard`.

    A training that goes on from a checkpoint takes back what was written after it, so that no step is there twice.

    Args:
        out: the folder.
        logs: "csv", "tensorboard".

    Raises:
        ImportError: TensorBoard is wanted and not installed.

    >>> Curves(Path("runs/mine"), ["csv"]).logs
    ['csv']
    """

    def __init__(self, out: Path, logs: Sequence[str]) -> None:
        if "tensorboard" in logs:
            need("tensorboard", "tensorboard")
        self.out = out
        self.logs = logs
        self._step = 0
        self._lr = 0.0
        self._steps: TextIO | None = None
        self._board: Any = None

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        done = trainer.fit_loop.total_batch_idx + 1
        if not trainer.is_global_zero:
            return
        if "csv" in self.logs:
            path = self.out / "steps.csv"
            kept = path.read_text().splitlines()[1 : 1 + done] if path.exists() else []
            with whole(path) as part:
                part.write_text("\n".join([STEPS, *kept, ""]))
            self._steps = path.open("a", buffering=1)  # line by line, so that what is killed loses none
        if "tensorboard" in self.logs:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(self.out / "tensorboard", purge_step=done + 1)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *_: Any) -> None:
        assert isinstance(task, Task)
        self._step = step = trainer.fit_loop.total_batch_idx + 1
        if self._steps:
            self._write(f"{step},{task.current_epoch + 1},{task.step_loss!r},{self._lr!r}\n")
        if self._board:
            self._board.add_scalar("step/loss", task.step_loss, step)
            self._board.add_scalar("step/lr", self._lr, step)

    def _write(self, line: str) -> None:
        assert self._steps
        try:
            self._steps.write(line)
        except OSError as error:
            raise ValueError(f"cannot write {self._steps.name}: {error.strerror}") from None

    def epochs(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the figures of the epochs that are done.

        Args:
            history: of all of them.
        """
        if self._steps:
            lines = [",".join(repr(epoch[name]) if name in epoch else "" for name in EPOCHS) for epoch in history]
            with whole(self.out / "epochs.csv") as part:
                part.write_text("\n".join([",".join(EPOCHS), *lines, ""]))
        if self._board:
            for name in EPOCHS[1:]:
                if name in history[-1]:
                    self._board.add_scalar(f"epoch/{name}", history[-1][name], self._step)

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        with suppress(OSError):  # of a full disk, which has been told
            if self._steps:
                self._steps.close()
            if self._board:
                self._board.close()
