"""The settings of a training, its optimiser and the course of its learning rate."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from attnzoo.emotion.losses import Loss
from attnzoo.recipes import Count, Part, Positive, PositiveCount, Share


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Training(Part):
    """The optimisation.

    Attributes:
        epochs: passes over the training videos.
        batch: videos that go through the model at once, all processes together.
        accumulate: batches per step of the optimiser.
        optimizer: "adam" (the paper's), "adamw" or "sgd".
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of every weight; with AdamW decoupled from the gradient.
        clip: norm to which the gradient is cut.
        schedule: of the learning rate: "constant", "cosine" to zero over all steps, or in "step"s.
        warmup: epochs in which the learning rate first rises from zero; a part of one will do.
        milestones: epochs after which schedule "step" multiplies the learning rate by `factor`: a list, or a number for
            every so many.
        factor: see `milestones`.
        precision: "32", or mixed with "bf16", or with "16" on a GPU. Mixed, the weights lie channels last, which pays
            only then.
        ema: decay of the moving average of the weights, which is what is validated and kept; without one it is the
            weights themselves.
        patience: epochs without a better validation accuracy after which the training ends.
        seed: of weights, order, windows, crops and dropout.
        loss: cross-entropy, or one that minds the polarity of emotions.
        views: fixed views of each video that the epochs see in turn, 1 for the centred one; new ones in each epoch if
            None.
        cache: folder for the features of streams that are frozen as a whole, which are then worked out once for each of
            the fixed views, see `attnzoo.emotion.features`.
        workers: processes that load videos, for each that trains; 0 loads in the training process.
        devices: GPUs, or processes on the CPU, of each node. torchrun, where it starts them, decides itself.
        nodes: machines.
        checkpoint_minutes: time from one checkpoint to the next in a long epoch; there is one after each epoch anyway.
        logs: "csv" for steps.csv and epochs.csv beside the checkpoint, "tensorboard" for a folder of that name.

    >>> Training(lr=1e-3, schedule="cosine", warmup=0.5, precision="bf16").epochs
    50
    """

    epochs: PositiveCount = 50
    batch: PositiveCount = 12
    accumulate: PositiveCount = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 2e-6
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive | None = None
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup: Annotated[float, Field(ge=0)] = 0.0
    milestones: PositiveCount | tuple[PositiveCount, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(_text)] = "32"
    ema: Share | None = None
    patience: PositiveCount | None = None
    seed: Count = 0
    loss: Loss = Loss()
    views: PositiveCount | None = None
    cache: Path | None = None
    workers: Count = 2
    devices: PositiveCount = 1
    nodes: PositiveCount = 1
    checkpoint_minutes: Positive = 10.0
    logs: tuple[Literal["csv", "tensorboard"], ...] = ("csv",)

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> "Training":
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("schedule step and milestones go together, as in schedule: step, milestones: [30, 40]")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup={self.warmup} must be less than epochs={self.epochs}")
        if self.cache and not self.views:
            raise ValueError("a cache is of fixed views; say how many, as in views: 1 for the centred one")
        return self


# How a training is run, not what it is: with others it gives the same, but for rounding.
RUNNING = frozenset({"cache", "workers", "devices", "nodes", "checkpoint_minutes", "logs"})


def create_optimizer(training: Training, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Args:
        training: its settings.
        parameters: of the model; those that need no gradient are left out.

    >>> model = nn.Linear(2, 2)
    >>> create_optimizer(Training(optimizer="sgd", lr=0.1), model.parameters()).defaults["momentum"]
    0.9
    """
    trained = [p for p in parameters if p.requires_grad]
    lr, decay = training.lr, training.weight_decay
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(trained, lr, momentum=training.momentum, weight_decay=decay)


def rate(training: Training, step: int, steps: int) -> float:
    """The learning rate of a step of the optimiser, as a share of `training.lr`.

    Args:
        training: schedule, warmup, milestones and epochs.
        step: from 0.
        steps: of one epoch.

    >>> training = Training(epochs=4, schedule="step", milestones=[2, 3], warmup=1)
    >>> [round(rate(training, step, steps=2), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    warmup = math.ceil(training.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    match training.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (training.epochs * steps - warmup)))
        case "step":
            done = step // steps
            if isinstance(training.milestones, int):
                return training.factor ** (done // training.milestones)
            return training.factor ** sum(done >= milestone for milestone in training.milestones)
