"""What the recipes of all tasks have in common: where the data are and how they are divided, attention, training."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from attnzoo.emotion.optimisation import Training
from attnzoo.emotion.protocols import check_fold
from attnzoo.recipes import Count, Part, PositiveCount, Share
from attnzoo.registry import check_options, spec


class Division(Part):
    """Where the data are and how they are divided.

    Attributes:
        root: a folder with one sub-folder of samples per class.
        damaged: whether the files that cannot be used are skipped, or the first of them stops the reading.
        protocol: a name of `attnzoo.emotion.protocols.list_protocols()`; None: one random split by class.
        fold: of the protocol, from 0.
        test_fraction: share of each class kept for test in the random split.
        val_fraction: for choosing the epoch, a share of each class, its test samples counted, is taken from training;
            0: the last epoch is taken.
        split_seed: of the division.

    >>> Division(protocol="kfold(5)", fold=4).test_fraction
    0.3333333333333333
    """

    root: Path | None = None
    damaged: Literal["skip", "stop"] = "skip"
    protocol: str | None = None
    fold: Count = 0
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    val_fraction: Share = 0.1
    split_seed: Count = 0

    @model_validator(mode="after")
    def _known(self) -> "Division":
        check_fold(self.protocol, self.fold)
        return self


# Where the samples lie and how they are found: which ones they are, their fingerprint says.
WHERE = frozenset({"root", "layout", "annotations", "damaged"})


class Placement(Part):
    """Attention in a ResNet; in YAML a bare name will do.

    Attributes:
        name: a name of `attnzoo.list_modules()`, or "none".
        stages: of the ResNet.
        site: in the block; None for the module's own.
        identity: whether it starts as an exact identity.
        options: the module's own.
        label: what it is called in tables; its name if None.

    >>> Placement(name="mpe", options={"groups": 4}).stages
    (1, 2, 3, 4)
    """

    name: str
    stages: tuple[PositiveCount, ...] = (1, 2, 3, 4)
    site: Literal["out", "mid", "conv", "stage"] | None = None
    identity: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    label: str | None = None

    @property
    def title(self) -> str:
        """What it is called in tables.

        >>> Placement(name="mpe").title
        'mpe'
        """
        return self.label or self.name

    @model_validator(mode="after")
    def _known(self) -> "Placement":
        try:
            if self.name != "none":
                check_options(spec(self.name), self.options)
        except TypeError as error:
            raise ValueError(str(error)) from None  # pydantic names the field of a ValueError alone
        return self


def named(value: Any) -> Any:
    """A bare name as the part it stands for; nothing is "none".

    Args:
        value: as in YAML.

    >>> named("se"), named(None)
    ({'name': 'se'}, {'name': 'none'})
    """
    return {"name": value or "none"} if value is None or isinstance(value, str) else value


PlacementField = Annotated[Placement, BeforeValidator(named)]


class Experiment(Part):
    """All settings of one training, whatever the samples are.

    Attributes:
        name: of the recipe.
        data: where the samples are and how they are divided.
        model: what is trained.
        training: how.
        task: what is classified, see `attnzoo.emotion.tasks`.
    """

    name: str
    data: Division = Division()
    model: Any
    training: Training = Training()
    task: str

    def without_weights(self) -> Self:
        """The same with a model from random weights."""
        return self.model_copy(update={"model": self.model.without_weights()})

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                "it names a folder: letters, digits, '.', '_' and '-', with no '.' or '-' at the beginning"
            )
        return name
