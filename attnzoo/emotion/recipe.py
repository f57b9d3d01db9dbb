"""The settings of a training, as people write them in YAML; the defaults are the paper's (section 4.2)."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from attnzoo.emotion import fusion
from attnzoo.emotion.losses import Loss
from attnzoo.recipes import Count, Part, Positive, PositiveCount, Share
from attnzoo.registry import check_options, spec

Triple = tuple[float, float, float]


class Data(Part):
    """Where the videos are and how they are divided.

    Attributes:
        root: a folder with one sub-folder of videos per class.
        test_fraction: share of each class kept for test.
        val_fraction: share of each class taken from training for choosing the epoch; 0: the last epoch is taken.
        split_seed: of the division.

    >>> Data(val_fraction=0).test_fraction
    0.3333333333333333
    """

    root: Path | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    val_fraction: Share = 0.1
    split_seed: Count = 0


class Clip(Part):
    """What the model sees of a video.

    Attributes:
        segments: T, equal parts of the video.
        frames: k, consecutive frames of the window in each.
        size: edge of the frames, px.
        flip: probability of mirroring a video in training.
        mean: subtracted from the channels in [0, 1] ...
        std: ... which are then divided by this; 0.5 and 0.5 give the paper's [-1, 1].

    >>> Clip(segments=3).frames
    16
    """

    segments: PositiveCount = 16
    frames: PositiveCount = 16
    size: Annotated[int, Field(ge=16)] = 112
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    mean: Triple = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)


class Audio(Part):
    """The MFCC maps.

    Attributes:
        rate: samples per second.
        coefficients: of each frame.
        mels: bands.
        window: length of a frame, s.
        hop: from one frame to the next, s.
        preemphasis: coefficient of the high-pass.
        width: frames of each segment's map.

    >>> Audio(rate=8000).hop
    0.01
    """

    rate: PositiveCount = 16000
    coefficients: PositiveCount = 32
    mels: PositiveCount = 64
    window: Positive = 0.025
    hop: Positive = 0.010
    preemphasis: Share = 0.97
    width: PositiveCount = 128

    @model_validator(mode="after")
    def _fits(self) -> "Audio":
        if self.coefficients > self.mels:
            raise ValueError(f"coefficients={self.coefficients} must be at most mels={self.mels}")
        for name, seconds, least in (("window", self.window, 2), ("hop", self.hop, 1)):
            if round(seconds * self.rate) < least:
                raise ValueError(f"{name}={seconds} s must be at least {least} samples of rate={self.rate} per second")
        return self


class Attention(Part):
    """Attention in both streams or in one; in YAML a bare name will do.

    Attributes:
        name: a name of `attnzoo.list_modules()`, or "none".
        stages: of the ResNet.
        site: in the block; None for the module's own.
        identity: whether it starts as an exact identity.
        options: the module's own.
        streams: which ResNets get it.
        label: what it is called in tables; its name if None.

    >>> Attention(name="mpe", options={"groups": 4}, streams=["visual"]).stages
    (1, 2, 3, 4)
    """

    name: str
    stages: tuple[PositiveCount, ...] = (1, 2, 3, 4)
    site: Literal["out", "mid", "conv", "stage"] | None = None
    identity: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    streams: tuple[Literal["visual", "audio"], ...] = ("visual", "audio")
    label: str | None = None

    @property
    def title(self) -> str:
        """What it is called in tables.

        >>> Attention(name="mpe").title
        'mpe'
        """
        return self.label or self.name

    @model_validator(mode="after")
    def _known(self) -> "Attention":
        try:
            if self.name != "none":
                check_options(spec(self.name), self.options)
        except TypeError as error:
            raise ValueError(str(error)) from None  # pydantic names the field of a ValueError alone
        return self


def _name(value: Any) -> Any:
    return {"name": value or "none"} if value is None or isinstance(value, str) else value


AttentionField = Annotated[Attention, BeforeValidator(_name)]


class Fusion(Part):
    """How the two streams are joined; in YAML a bare name will do.

    Attributes:
        name: a name of `attnzoo.emotion.fusion.list_fusions()`.
        options: the fusion's own.

    >>> Fusion(name="gmu", options={"hidden": 128}).name
    'gmu'
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "Fusion":
        try:
            check_options(fusion.spec(self.name), self.options)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return self


# Written as the bare name where it says all, as in the checkpoints and boards from before there were options.
FusionField = Annotated[
    Fusion,
    BeforeValidator(_name),
    PlainSerializer(lambda f: {"name": f.name, "options": f.options} if f.options else f.name),
]


class Stream(Part):
    """One ResNet.

    Attributes:
        backbone: as in `attnzoo.create_backbone`.
        options: passed to the backbone's constructor.
        pretrained: load the published weights (downloads).
        weights: a file of weights to load.
        freeze: the backbone's children 0 to this one are not trained and stay in eval mode: 5 is conv1, bn1, relu,
            maxpool, layer1 and layer2, the paper's "layers 0-5". Attention injected there is trained all the same.

    >>> Stream(backbone="resnet3d/50", freeze=5).pretrained
    False
    """

    backbone: str
    options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    freeze: Count | None = None

    @field_validator("options")
    @classmethod
    def _sizes(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in ("widen_factor", "stem_size"):  # of resnet3d
            value = options.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r} must be a positive number")
        return options


class Model(Part):
    """The audio-visual model.

    Attributes:
        attn: attention in the ResNets.
        visual: the 3D ResNet over each segment's frames.
        audio: the 2D ResNet over each segment's MFCC map.
        width: d, to which both are projected.
        fusion: how they are joined.
        dropout: before the classifier.

    >>> Model(attn="mpe").visual.backbone
    'resnet3d/101'
    """

    attn: AttentionField = Attention(name="none")
    visual: Stream = Stream(backbone="resnet3d/101", freeze=5)
    audio: Stream = Stream(backbone="timm/resnet50")
    width: PositiveCount = 512
    fusion: FusionField = Fusion(name="concat")
    dropout: Share = 0.0

    def without_weights(self) -> "Model":
        """The same model from random weights.

        >>> Model(audio=Stream(backbone="timm/resnet18", pretrained=True)).without_weights().audio.pretrained
        False
        """
        random = {"weights": None, "pretrained": False}
        streams = {name: getattr(self, name).model_copy(update=random) for name in ("visual", "audio")}
        return self.model_copy(update=streams)


class Training(Part):
    """The optimisation.

    Attributes:
        epochs: passes over the training videos.
        batch: videos per step.
        lr: Adam's learning rate.
        schedule: "constant", or "cosine" to zero over all steps.
        weight_decay: Adam's.
        seed: of weights, order, windows and crops.
        workers: processes that load videos; 0 loads in the training process.
        loss: cross-entropy, or one that minds the polarity of emotions.

    >>> Training(lr=1e-3, schedule="cosine").epochs
    50
    """

    epochs: PositiveCount = 50
    batch: PositiveCount = 12
    lr: Positive = 2e-6
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    seed: Count = 0
    workers: Count = 2
    loss: Loss = Loss()


class Recipe(Part):
    """All settings of one training.

    >>> Recipe(name="mine", model={"attn": "mpe"}).model.attn.name
    'mpe'
    """

    name: str
    data: Data = Data()
    clip: Clip = Clip()
    audio: Audio = Audio()
    model: Model = Model()
    training: Training = Training()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                "it names a folder: letters, digits, '.', '_' and '-', with no '.' or '-' at the beginning"
            )
        return name


class Grid(Part):
    """What is varied; every attention is trained with every seed.

    Attributes:
        attn: attention of each row, in both streams or as the entry says; "none" is the plain network.
        seeds: of each row.

    >>> [entry.title for entry in Grid(attn=["none", "mpe"]).attn]
    ['none', 'mpe']
    """

    attn: Annotated[tuple[AttentionField, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,)

    @field_validator("attn")
    @classmethod
    def _distinct(cls, attn: tuple[AttentionField, ...]) -> tuple[AttentionField, ...]:
        titles = [a.title for a in attn]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two entries are called {title}; give each a label of its own")
        return attn


class GridRecipe(Recipe):
    """A training and the grid over which a leaderboard repeats it; without a grid it is one training.

    >>> [run.training.seed for run in GridRecipe(name="mine", grid={"attn": ["mpe"], "seeds": [0, 1]}).runs()]
    [0, 1]
    """

    grid: Grid | None = None

    def single(self, attn: AttentionField | None = None, seed: int | None = None) -> Recipe:
        """One training of the grid.

        Args:
            attn: the attention; the model's own if None.
            seed: the seed; the training's own if None.

        >>> GridRecipe(name="mine").single(seed=3).training.seed
        3
        """
        model = self.model if attn is None else self.model.model_copy(update={"attn": attn})
        training = self.training if seed is None else self.training.model_copy(update={"seed": seed})
        return Recipe(name=self.name, data=self.data, clip=self.clip, audio=self.audio, model=model, training=training)

    def runs(self) -> Iterator[Recipe]:
        """Every training of the grid, seed by seed, so that an interrupted grid has complete comparisons."""
        grid = self.grid or Grid(attn=(self.model.attn,), seeds=(self.training.seed,))
        for seed in grid.seeds:
            for attn in grid.attn:
                yield self.single(attn, seed)
