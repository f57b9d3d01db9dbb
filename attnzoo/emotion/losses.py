"""The losses of a training, by the name in its settings."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnzoo.recipes import Part

Polarity = Literal["positive", "negative"]


class Loss(Part):
    """Which loss.

    Attributes:
        name: "cross_entropy", or "polarity" for VAANet's polarity-consistent cross-entropy.
        polarity: of each class, for the latter.
        penalty: lambda, added to the weight 1 of a video that is taken for the other polarity.

    >>> Loss(name="polarity", polarity={"fear": "negative", "joy": "positive"}).penalty
    0.5
    """

    name: Literal["cross_entropy", "polarity"] = "cross_entropy"
    polarity: dict[str, Polarity] = Field(default_factory=dict)
    penalty: Annotated[float, Field(ge=0)] = 0.5


class PolarityConsistent(nn.Module):
    """Cross-entropy that weighs more where the predicted class is of the other polarity (VAANet, Zhao et al., 2020).

    mean_i w[argmax_i, y_i] CE_i with w = 1 + lambda where the polarities differ and 1 elsewhere. The weight has no
    gradient, and the mean is over videos, not over weights.

    Args:
        positive: whether each class is.
        penalty: lambda.

    >>> loss = PolarityConsistent([False, True])
    >>> loss.weights
    tensor([[1.0000, 1.5000],
            [1.5000, 1.0000]])
    >>> loss(torch.zeros(1, 2), torch.tensor([1])) / nn.functional.cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
    tensor(1.5000)
    """

    weights: Tensor

    def __init__(self, positive: Sequence[bool], *, penalty: float = 0.5) -> None:
        super().__init__()
        sign = torch.tensor(positive)
        # Of the settings, not of the training: checkpoints do not hold it.
        self.register_buffer("weights", 1 + penalty * (sign.unsqueeze(1) != sign), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (B, classes) for labels (B,)."""
        each = cross_entropy(logits, labels, reduction="none")
        return (self.weights[logits.argmax(1), labels] * each).mean()


def create_loss(settings: Loss, classes: Sequence[str]) -> nn.Module:
    """The loss of logits (B, classes) and labels (B,).

    Args:
        settings: which, and its polarities.
        classes: their names, in the order of the logits.

    Raises:
        ValueError: the polarity of a class is missing, or is given for one that there is not.

    >>> create_loss(Loss(), ["fear", "joy"])
    CrossEntropyLoss()
    >>> create_loss(Loss(name="polarity", polarity={"fear": "negative"}), ["fear", "joy"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the polarity loss needs positive or negative for each of the classes fear, joy: missing joy; ...
    """
    if settings.name == "cross_entropy":
        return nn.CrossEntropyLoss()
    _check_classes(settings.polarity, classes)
    return PolarityConsistent([settings.polarity[name] == "positive" for name in classes], penalty=settings.penalty)


def _check_classes(polarity: Mapping[str, Polarity], classes: Sequence[str]) -> None:
    wrong = {
        "missing": [name for name in classes if name not in polarity],
        "no such class": [name for name in polarity if name not in classes],
    }
    told = "; ".join(f"{what} {', '.join(names)}" for what, names in wrong.items() if names)
    if told:
        raise ValueError(
            f"the polarity loss needs positive or negative for each of the classes {', '.join(classes)}: {told}; "
            f"as in training.loss.polarity: {{{classes[0]}: negative}}"
        )
