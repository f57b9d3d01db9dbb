"""The settings of a training, as people write them in YAML; the defaults are the paper's (section 4.2)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from attnzoo.recipes import Part
from attnzoo.registry import check_options, spec

Fraction = Annotated[float, Field(ge=0, lt=1)]
Triple = tuple[float, float, float]


class Data(Part):
    """Where the videos are and how they are divided.

    Attributes:
        root: a folder with one sub-folder of videos per class.
        test_fraction: share of each class kept for test.
        val_fraction: share of each class taken from training for choosing the epoch; 0: the last epoch is taken.
        split_seed: of the division.
    """

    root: Path | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    val_fraction: Fraction = 0.1
    split_seed: NonNegativeInt = 0


class Clip(Part):
    """What the model sees of a video.

    Attributes:
        segments: T, equal parts of the video.
        frames: k, consecutive frames of the window in each.
        size: edge of the frames, px.
        flip: probability of mirroring a video in training.
        mean: subtracted from the channels in [0, 1] ...
        std: ... which are then divided by this; 0.5 and 0.5 give the paper's [-1, 1].
    """

    segments: PositiveInt = 16
    frames: PositiveInt = 16
    size: Annotated[int, Field(ge=16)] = 112
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)


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
    """

    rate: PositiveInt = 16000
    coefficients: PositiveInt = 32
    mels: PositiveInt = 64
    window: PositiveFloat = 0.025
    hop: PositiveFloat = 0.010
    preemphasis: Annotated[float, Field(ge=0, lt=1)] = 0.97
    width: PositiveInt = 128


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
    """

    name: str
    stages: tuple[PositiveInt, ...] = (1, 2, 3, 4)
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


class Stream(Part):
    """One ResNet.

    Attributes:
        backbone: as in `attnzoo.create_backbone`.
        options: passed to the backbone's constructor.
        pretrained: load the published weights (downloads).
        weights: a file of weights to load.
        freeze: the backbone's children 0 to this one are not trained and stay in eval mode: 5 is conv1, bn1, relu,
            maxpool, layer1 and layer2, the paper's "layers 0-5". Attention injected there is trained all the same.
    """

    backbone: str
    options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    freeze: NonNegativeInt | None = None


class Model(Part):
    """The audio-visual model.

    Attributes:
        attn: attention in the ResNets.
        visual: the 3D ResNet over each segment's frames.
        audio: the 2D ResNet over each segment's MFCC map.
        width: d, to which both are projected.
        fusion: how they are joined.
        dropout: before the classifier.
    """

    attn: AttentionField = Attention(name="none")
    visual: Stream = Stream(backbone="resnet3d/101", freeze=5)
    audio: Stream = Stream(backbone="timm/resnet50")
    width: PositiveInt = 512
    fusion: Literal["concat"] = "concat"
    dropout: Fraction = 0.0


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
    """

    epochs: PositiveInt = 50
    batch: PositiveInt = 12
    lr: PositiveFloat = 2e-6
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    seed: NonNegativeInt = 0
    workers: NonNegativeInt = 2


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
