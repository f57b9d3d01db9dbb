"""A 2D network that classifies images, with the attention of your choice."""

import warnings

import torch
from torch import Tensor, nn

from attnzoo.emotion.networks import MISFIT, create_network, freeze
from attnzoo.emotion.recipe import NORMALISATIONS, Normalisation
from attnzoo.emotion.tasks import Classifier
from attnzoo.images.recipe import ImageRecipe, Model


class ImageModel(Classifier):
    """A backbone and a linear classifier of its pooled features.

    Args:
        settings: backbone, attention, normalisation.
        classes: number of classes.

    Raises:
        ValueError: an unknown or 3D backbone, or attention that does not fit it.

    >>> model = ImageModel(Model(backbone="timm/resnet18", attn="se"), classes=3).eval()
    >>> model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 3])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Model, classes: int) -> None:
        super().__init__()
        attn = settings.attn if settings.attn.name != "none" else None
        self.backbone = create_network("model", settings, attn, 2)
        scale = settings.normalisation or own_normalisation(self.backbone)
        self.register_buffer("mean", torch.tensor(scale.mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(scale.std).reshape(3, 1, 1))
        features = self.backbone.num_features
        assert isinstance(features, int)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(features, classes)
        self.frozen = tuple(f"backbone.{path}" for path in freeze(self.backbone, settings.freeze))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: (B, 3, H, W), 0 to 255, of any type.

        Returns:
            (B, classes).
        """
        features = self.backbone((images / 255 - self.mean) / self.std)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


def own_normalisation(backbone: nn.Module) -> Normalisation:
    """What the published weights of a backbone were trained on: timm names it, all others have ImageNet's.

    Args:
        backbone: of `attnzoo.create_backbone`.

    >>> from attnzoo import create_backbone
    >>> own_normalisation(create_backbone("timm/resnetv2_50")).mean
    (0.5, 0.5, 0.5)
    """
    told = getattr(backbone, "pretrained_cfg", None)
    if not told:
        return NORMALISATIONS["imagenet"]
    return Normalisation(mean=told["mean"], std=told["std"])


def create(recipe: ImageRecipe, classes: int) -> ImageModel:
    """The model of a recipe.

    Args:
        recipe: its settings.
        classes: number of classes.

    >>> with torch.device("meta"):
    ...     create(ImageRecipe(name="mine", task="image"), 2).classifier
    Linear(in_features=512, out_features=2, bias=True)
    """
    return ImageModel(recipe.model, classes)


def check(recipe: ImageRecipe) -> None:
    """Refuse settings that make no model, or one that does not take the images, without the cost of a real model.

    Args:
        recipe: of a training.

    Raises:
        ValueError: one line with the part that does not fit.

    >>> check(ImageRecipe(name="mine", task="image", model={"backbone": "resnet3d/10"}))
    Traceback (most recent call last):
    ValueError: model.backbone = 'resnet3d/10' is a 3D network; give a 2D one, as in timm/resnet18
    """
    size = recipe.image.size
    with torch.device("meta"), torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights, which are told below
        try:
            create(recipe.without_weights(), 2).eval()(torch.empty(1, 3, size, size))
        except MISFIT as error:
            raise ValueError(
                f"the model of recipe {recipe.name} does not take its images (size={size}): "
                f"{str(error).splitlines()[0]}"
            ) from error
