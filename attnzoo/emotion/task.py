"""A model under training, for Lightning."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attnzoo.emotion.checkpoints import LAST, MARK
from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.loading import Loaded, Loader
from attnzoo.emotion.losses import create_loss
from attnzoo.emotion.mixed import PaddedFirst
from attnzoo.emotion.optimisation import create_optimizer, rate
from attnzoo.emotion.tasks import Classifier, of_samples, spec

Report = Callable[[Sequence[Mapping[str, float]]], None]
Passes = Callable[..., Sequence[Tensor]]


@dataclass(slots=True)
class Sums:
    """Over the samples of an epoch, those of all processes.

    Attributes:
        loss: of the samples.
        right: how many are classified right.
        samples: how many there were.
        lost: how many could not be read.

    >>> sums = Sums()
    >>> sums.add(3.0, 1, 2, 0)
    >>> sums.means()
    (1.5, 0.5)
    """

    loss: float = 0.0
    right: float = 0.0
    samples: float = 0.0
    lost: float = 0.0

    def add(self, loss: float, right: float, samples: float, lost: float) -> None:
        """Count further samples."""
        self.loss += loss
        self.right += right
        self.samples += samples
        self.lost += lost

    def means(self) -> tuple[float, float]:
        """Loss and accuracy."""
        return self.loss / max(self.samples, 1), self.right / max(self.samples, 1)


class Task(pl.LightningModule):
    """The recipe's loss on the logits of each sample, its optimiser, and the figures of each epoch.

    Every step draws its own random numbers from the seed and its place in the training, and whatever is summed up over
    an epoch is in the checkpoint: a training that goes on from any step ends as if it had not been interrupted.

    In several processes each takes a part of every batch, and the gradient is the mean over all samples of the batch,
    as in one process; batch norms that are trained see the statistics of the whole batch on GPUs (they are
    synchronised), of the process's own part on CPUs.

    Args:
        recipe: all settings.
        classes: names of the classes.
        about: what checkpoints say of the training beside its history, see `checkpoints.describe`.
        batches: of one epoch.
        report: called with the figures of all epochs when one is done.

    Attributes:
        average: of the weights, if the recipe asks for one.
        history: the figures of the epochs that are done.
        step_loss: of the last batch.

    >>> from attnzoo.emotion.recipe import Recipe
    >>> recipe = Recipe.model_validate({"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}}})
    >>> with torch.device("meta"):
    ...     Task(recipe, ["calm", "joy"]).model.classifier
    Linear(in_features=512, out_features=2, bias=True)
    """

    def __init__(
        self,
        recipe: Experiment,
        classes: Sequence[str],
        about: Mapping[str, Any] | None = None,
        batches: int = 1,
        report: Report | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.about = dict(about or {})
        self.batches = batches
        self.model = spec(recipe.task).create(recipe, len(classes))
        if recipe.training.precision != "32":
            _channels_last(self.model)
        self.average: AveragedModel | None = None
        if recipe.training.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.training.ema))
            self.average.requires_grad_(False)
        self.loss = create_loss(recipe.training.loss, classes)
        self.history: list[dict[str, float]] = []
        self.step_loss = 0.0
        self._seen = Sums()
        self._validated = Sums()
        self._seconds = 0.0
        self._started = time.monotonic()
        self._report = report
        self.train()  # or frozen parts would not be in eval mode before the first validation

    @property
    def best(self) -> Classifier:
        """What is validated and kept: the model, or its moving average."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, Classifier)
        return model

    def on_train_start(self) -> None:
        self._started = time.monotonic()

    def training_step(self, loaded: Loaded, number: int) -> Tensor:
        training, world = self.recipe.training, self.trainer.world_size
        draws = np.random.SeedSequence((training.seed, self.current_epoch, number, self.global_rank))
        torch.manual_seed(int(draws.generate_state(1, np.uint64)[0]))
        with PaddedFirst() if training.precision == "bf16" and self.device.type == "cpu" else nullcontext():
            loss, right, count = self.batch_loss(loaded, self.model.passes)
        loss_sum, right_sum, samples, lost = self._of_all(loss.detach() * count, right, count, len(loaded.lost))
        self._seen.add(loss_sum, right_sum, samples, lost)
        self.step_loss = loss_sum / max(samples, 1)
        if not np.isfinite(self.step_loss):
            raise self.diverged(f"the loss is {self.step_loss}", number)
        # The gradient is a mean over processes, whose parts of a batch may differ in size; and Lightning divides by
        # `accumulate`, also where fewer batches are left at the end of an epoch.
        left = self.batches - number // training.accumulate * training.accumulate
        return loss * (count * world / max(samples, 1)) * (training.accumulate / min(training.accumulate, left))

    def batch_loss(self, loaded: Loaded, passes: Passes) -> tuple[Tensor, Tensor, int]:
        """Mean loss of a batch, how many of its samples are classified right, and how many there are.

        Args:
            loaded: the batch.
            passes: inputs -> logits, see `Classifier.passes`.
        """
        if loaded.batch is None:
            return self._nothing(), torch.zeros((), device=self.device), 0
        *inputs, labels = loaded.batch
        scores = [of_samples(logits) for logits in passes(*inputs)]
        loss = torch.stack([self.loss(logits, labels) for logits in scores]).mean()
        return loss, (scores[0].argmax(1) == labels).sum(), len(labels)

    def _nothing(self) -> Tensor:
        """A loss without an effect; of all weights, since the other processes wait for their gradients."""
        return 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()

    def _of_all(self, *values: Tensor | float) -> list[float]:
        """Sums over the processes."""
        own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in values])
        both: Any = self.trainer.strategy.reduce(own, reduce_op="sum")
        sums: list[float] = both.tolist()
        return sums

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validation_step(self, loaded: Loaded, _: int) -> None:
        loss, right, count = self.batch_loss(loaded, lambda *inputs: (self.best(*inputs),))
        self._validated.add(float(loss * count), float(right), count, len(loaded.lost))

    def diverged(self, what: str, number: int) -> ValueError:
        """The error that ends a training before a checkpoint is written of what has become of it.

        Args:
            what: happened.
            number: of the batch in the epoch.
        """
        loader: Any = self.trainer.train_dataloader
        assert isinstance(loader, Loader)
        keys = ", ".join(loader.samples[i].key for _, i in loader.batches.whole(number))
        last = Path(self.trainer.default_root_dir) / LAST
        kept = f"{last} is the last good checkpoint" if last.exists() else "no checkpoint was written before it"
        return ValueError(
            f"{what} at step {number + 1} of epoch {self.current_epoch + 1}, {self.recipe.task}s {keys}; {kept}, "
            f"but only other settings will help, as a training.lr below {self.recipe.training.lr}"
        )

    def check_finite(self, number: int) -> None:
        """Refuse weights that are lost; not at every step, since each look is a wait for the accelerator.

        Args:
            number: of the batch in the epoch.

        Raises:
            ValueError: the training has diverged.
        """
        if not all(p.isfinite().all() for p in self.parameters()):
            raise self.diverged("the weights are no longer finite", number)

    def on_train_epoch_end(self) -> None:
        self._count_time()
        loss, accuracy = self._seen.means()
        epoch = {
            "epoch": float(self.current_epoch + 1),
            "loss": loss,
            "train_accuracy": accuracy,
            "seconds": self._seconds,
        }
        validated = Sums(*self._of_all(*astuple(self._validated)))
        if validated.samples:
            epoch["val_loss"], epoch["val_accuracy"] = validated.means()
        if lost := self._seen.lost + validated.lost:
            epoch["lost"] = lost
        self.history.append(epoch)
        self._seen, self._validated = Sums(), Sums()
        if self._report:
            self._report(self.history)
        self.trainer.should_stop |= self._patience_is_over()

    def _count_time(self) -> None:
        now = time.monotonic()
        self._seconds += now - self._started
        self._started = now

    def _patience_is_over(self) -> bool:
        patience = self.recipe.training.patience
        accuracies = [epoch["val_accuracy"] for epoch in self.history if "val_accuracy" in epoch]
        if patience is None or not accuracies:
            return False
        return len(accuracies) - accuracies.index(max(accuracies)) > patience

    def configure_optimizers(self) -> Any:
        training = self.recipe.training
        optimizer = create_optimizer(training, self.parameters())
        steps = -(-self.batches // training.accumulate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(training, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._count_time()
        so_far = {"sums": asdict(self._seen), "seconds": self._seconds}
        checkpoint[MARK] = {**self.about, "history": self.history, "so_far": so_far}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        content = checkpoint[MARK]
        self.history = list(content["history"])
        self._seen = Sums(**content["so_far"]["sums"])
        self._seconds = content["so_far"]["seconds"]
        self.trainer.should_stop = self._patience_is_over()


def _channels_last(model: nn.Module) -> None:
    """The layout in which convolutions in mixed precision are fastest."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.dim())
            if layout is not None:
                parameter.data = parameter.data.to(memory_format=layout)
