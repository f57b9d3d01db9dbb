"""The settings of a training, as people write them in YAML; the defaults are the paper's (section 4.2)."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from attnzoo.backbones.weights import shortcut_of
from attnzoo.emotion import fusion
from attnzoo.emotion.experiment import Division, Experiment, Placement, named
from attnzoo.emotion.inputs import Audio, Clip
from attnzoo.recipes import Part, Positive, PositiveCount, Share
from attnzoo.registry import check_options


class Data(Division):
    """Where the videos are and how they are divided.

    Attributes:
        layout: how the videos lie there, see `attnzoo.emotion.readers.list_videos`.
        annotations: published splits or a list of files, a path from here or from the root.
        fps: of folders of frames, 1/s. If None, told by the length of the sound; 30 without.

    >>> Data(protocol="kfold(5)", fold=4).test_fraction
    0.3333333333333333
    """

    layout: Literal["auto", "folders", "frames", "ravdess", "cremad", "list"] = "auto"
    annotations: Path | None = None
    fps: Positive | None = None


StreamName = Literal["visual", "audio"]


class Attention(Placement):
    """Attention in both streams or in one; in YAML a bare name will do.

    Attributes:
        streams: which ResNets get it.
        dims: in the visual ResNet, 3 attends jointly in space and time, 2 in each frame on its own (frame-folded).

    >>> Attention(name="mpe", options={"groups": 4}, streams=["visual"]).stages
    (1, 2, 3, 4)
    """

    streams: tuple[StreamName, ...] = ("visual", "audio")
    dims: Literal[2, 3] = 3


AttentionField = Annotated[Attention, BeforeValidator(named)]
# Here null is not the attention "none".
OwnAttentionField = Annotated[Attention | None, BeforeValidator(lambda value: None if value is None else named(value))]


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
    BeforeValidator(named),
    PlainSerializer(lambda f: {"name": f.name, "options": f.options} if f.options else f.name),
]


class Normalisation(Part):
    """What weights were trained on: (x / 255 - mean) / std of each colour of the frames.

    Attributes:
        mean: of red, green and blue in [0, 1].
        std: likewise.

    >>> Normalisation(mean=(0.45, 0.42, 0.39), std=(1 / 255, 1 / 255, 1 / 255)).mean[0]
    0.45
    """

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


NORMALISATIONS = {
    "half": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),  # [-1, 1], the paper's
    "kinetics": Normalisation(mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737)),  # 3D-ResNets since 2020
    "vaanet": Normalisation(mean=(100 / 255, 100 / 255, 100 / 255), std=(1, 1, 1)),
    "imagenet": Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),  # timm's and torchvision's
}


def _normalisation(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in NORMALISATIONS:
        names = ", ".join(NORMALISATIONS)
        raise ValueError(f"must be one of {names}, or numbers as in {{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}")
    return NORMALISATIONS[value]


def _written(value: Normalisation) -> Any:
    return next((name for name, known in NORMALISATIONS.items() if known == value), value.model_dump())


NormalisationField = Annotated[Normalisation, BeforeValidator(_normalisation), PlainSerializer(_written)]


def _last(value: Any) -> Any:
    if value not in (None, "all") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError("must be the number of the backbone's last frozen child, counted from 0, or all")
    return value


Freeze = Annotated[int | Literal["all"] | None, BeforeValidator(_last)]


class Stream(Part):
    """One ResNet.

    Attributes:
        backbone: as in `attnzoo.create_backbone`.
        options: passed to the backbone's constructor. The shortcut of a resnet3d is that of its file of weights.
        pretrained: load the published weights (downloads).
        weights: a file of weights to load, see `attnzoo.backbones.load_weights`.
        inflate: a 2D network, as in timm/resnet50, from whose published weights (downloads) a resnet3d starts.
        normalisation: of the frames, as the weights want it: "half" for [-1, 1], "kinetics", "vaanet", "imagenet", or
            {mean, std}. Cepstral coefficients are normalised by the model itself.
        freeze: the backbone's children 0 to this one are not trained and stay in eval mode: 5 is conv1, bn1, relu,
            maxpool, layer1 and layer2, the paper's "layers 0-5"; "all" is the whole stream. Attention injected there is
            trained all the same.

    >>> Stream(backbone="resnet3d/50", freeze=5).pretrained
    False
    """

    backbone: str
    options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    inflate: str | None = None
    normalisation: NormalisationField = NORMALISATIONS["half"]
    freeze: Freeze = None

    @model_validator(mode="after")
    def _shortcut(self) -> "Stream":
        # Kept with the settings, since a checkpoint is read without the file.
        unknown = self.backbone.startswith("resnet3d/") and "shortcut" not in self.options
        if unknown and self.weights and self.weights.is_file():
            self.options["shortcut"] = shortcut_of(self.weights)
        return self

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
        audio_attn: attention in the audio ResNet, where it is another; "none" for none.
        visual: the 3D ResNet over each segment's frames.
        audio: the 2D ResNet over each segment's MFCC map.
        width: d, to which both are projected; a ResNet with d features is not.
        fusion: how they are joined.
        dropout: before the classifier.

    >>> Model(attn="mpe").visual.backbone
    'resnet3d/101'
    """

    attn: AttentionField = Attention(name="none")
    audio_attn: OwnAttentionField = None
    visual: Stream = Stream(backbone="resnet3d/101", freeze=5)
    audio: Stream = Stream(backbone="timm/resnet50")
    width: PositiveCount = 512
    fusion: FusionField = Fusion(name="concat")
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _one_meaning(self) -> "Model":
        if self.audio_attn and "audio" not in self.audio_attn.streams:
            raise ValueError("audio_attn is for the audio ResNet; leave its streams out")
        if self.audio.normalisation != NORMALISATIONS["half"]:
            raise ValueError("audio.normalisation is for frames; the model normalises cepstral coefficients itself")
        return self

    def attention(self, stream: StreamName) -> Attention | None:
        """What a ResNet gets.

        Args:
            stream: "visual" or "audio".

        >>> Model(attn="mpe", audio_attn="se").attention("audio").name
        'se'
        """
        attn = self.audio_attn if stream == "audio" and self.audio_attn else self.attn
        return attn if attn.name != "none" and stream in attn.streams else None

    def without_weights(self) -> "Model":
        """The same model from random weights.

        >>> Model(audio=Stream(backbone="timm/resnet18", pretrained=True)).without_weights().audio.pretrained
        False
        """
        random = {"weights": None, "pretrained": False, "inflate": None}
        streams = {name: getattr(self, name).model_copy(update=random) for name in ("visual", "audio")}
        return self.model_copy(update=streams)


class Recipe(Experiment):
    """All settings of one training on videos.

    >>> Recipe(name="mine", model={"attn": "mpe"}).model.attn.name
    'mpe'
    """

    task: Literal["video"] = "video"
    data: Data = Data()
    clip: Clip = Clip()
    audio: Audio = Audio()
    model: Model = Model()
