"""The settings of a training on images, as people write them in YAML."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attnzoo.emotion.experiment import Experiment, Placement, PlacementField
from attnzoo.emotion.grid import Gridded
from attnzoo.emotion.inputs import Probability
from attnzoo.emotion.recipe import Freeze, NormalisationField
from attnzoo.recipes import Part, Positive, Share


class View(Part):
    """What the model sees of an image.

    Attributes:
        size: edge of the square, px.
        crop: in training "random", a part of the image of drawn place, area and shape, scaled to the square, or
            "centre", that of evaluation.
        scale: from where to where the area of a random crop is drawn, a share of the image's.
        ratio: from where to where the width of a random crop over its height is drawn.
        flip: probability of mirroring an image in training.
        centre: edge of the square in the centre that is seen in evaluation, a share of the image's short side.

    >>> View(size=64).scale
    (0.08, 1.0)
    """

    size: Annotated[int, Field(ge=16)] = 224
    crop: Literal["random", "centre"] = "random"
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    centre: Annotated[float, Field(gt=0, le=1)] = 0.875

    @field_validator("scale", "ratio")
    @classmethod
    def _range(cls, given: tuple[float, float]) -> tuple[float, float]:
        if given[0] > given[1]:
            raise ValueError(f"from {given[0]} to {given[1]}: the first must be the smaller")
        return given

    @field_validator("scale")
    @classmethod
    def _within(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[1] > 1:
            raise ValueError(f"up to {scale[1]}: a crop has at most the area of its image, 1")
        return scale


class Model(Part):
    """A 2D network that classifies images.

    Attributes:
        backbone: as in `attnzoo.create_backbone`.
        options: passed to the backbone's constructor.
        pretrained: load the published weights (downloads).
        weights: a file of weights to load, see `attnzoo.backbones.load_weights`.
        normalisation: of the pixels, as the weights want it: "imagenet", "half" for [-1, 1], or {mean, std}; that which
            the backbone itself names if None.
        freeze: the backbone's children 0 to this one are not trained and stay in eval mode; "all" trains the classifier
            alone. Attention injected there is trained all the same.
        attn: attention in the backbone.
        dropout: before the classifier.

    >>> Model(backbone="timm/resnet50d", attn="mpe").attn.stages
    (1, 2, 3, 4)
    """

    backbone: str = "timm/resnet18"
    options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    normalisation: NormalisationField | None = None
    freeze: Freeze = None
    attn: PlacementField = Placement(name="none")
    dropout: Share = 0.0

    def without_weights(self) -> "Model":
        """The same model from random weights.

        >>> Model(pretrained=True).without_weights().pretrained
        False
        """
        return self.model_copy(update={"weights": None, "pretrained": False})


class ImageRecipe(Experiment):
    """All settings of one training on images.

    >>> ImageRecipe(name="mine", task="image", model={"attn": "mpe"}).image.size
    224
    """

    task: Literal["image"]
    image: View = View()
    model: Model = Model()

    @model_validator(mode="after")
    def _no_cache(self) -> "ImageRecipe":
        if self.training.cache:
            raise ValueError("training.cache keeps features of videos; leave it out, and model.freeze=all still works")
        return self


class ImageGrid(ImageRecipe, Gridded):
    """A training on images and the grid over which a leaderboard repeats it.

    >>> [row.label for row in ImageGrid(name="mine", task="image", grid={"attn": ["none", "se"]}).table()]
    ['none', 'se']
    """

    SINGLE = ImageRecipe
    TINY: ClassVar[dict[str, Any]] = {
        "image.size": 64,
        "model.backbone": "timm/resnet14t",
        "model.options": {},
        "model.pretrained": False,
        "model.weights": None,
        "model.freeze": None,
        "training.epochs": 2,
        "training.batch": 8,
        "training.lr": 2e-3,
        "training.workers": 2,
    }
