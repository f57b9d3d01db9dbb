"""The task of classifying images."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from attnzoo.emotion.cost import StreamCost
from attnzoo.emotion.experiment import Division, Placement
from attnzoo.emotion.tasks import Progress, TaskSpec
from attnzoo.images.folder import ImageFile, ImageFolder, read_images
from attnzoo.images.model import ImageModel, check, create
from attnzoo.images.pictures import Pictures
from attnzoo.images.recipe import ImageGrid, ImageRecipe
from attnzoo.profiling.table import Attention


def pictures(
    images: Sequence[ImageFile],
    recipe: ImageRecipe,
    seed: int | None = None,
    model: ImageModel | None = None,
    progress: Progress | None = None,
) -> Pictures:
    """What the model of a recipe sees of images.

    Args:
        images: the images.
        recipe: of the model.
        seed: of crops in training; None for evaluation.
        model: not asked.
        progress: not called.

    >>> len(pictures([], ImageRecipe(name="mine", task="image")))
    0
    """
    return Pictures(images, recipe.image, seed, recipe.data.damaged, recipe.training.views)


def read(data: Division, recipe: ImageRecipe, progress: Progress | None = None) -> ImageFolder:
    """The data set of a recipe.

    Args:
        data: where it is.
        recipe: not asked.
        progress: called with the number of files looked at and of all.

    >>> from pathlib import Path
    >>> read(Division(root=Path("nowhere")), ImageRecipe(name="mine", task="image"))
    Traceback (most recent call last):
    FileNotFoundError: there is no data folder nowhere; give one with a sub-folder of images per class
    """
    assert data.root is not None
    return read_images(data.root, damaged=data.damaged, progress=progress)


def sizes(recipe: ImageRecipe) -> list[tuple[int, ...]]:
    """The shape of one image, as the model takes it.

    Args:
        recipe: for its size.

    >>> sizes(ImageRecipe(name="mine", task="image", image={"size": 64}))
    [(1, 3, 64, 64)]
    """
    return [(1, 3, recipe.image.size, recipe.image.size)]


def networks(recipe: ImageRecipe) -> Iterator[StreamCost]:
    """The network of a recipe, for the profiler.

    Args:
        recipe: of a training, or of a grid of them.

    Raises:
        ValueError: settings that make no model.

    >>> (found,) = networks(ImageRecipe(name="mine", task="image", model={"attn": "se"}))
    >>> found.input_size, [attn.name for attn in found.attns]
    ((1, 3, 224, 224), ['se'])
    """
    rows = [recipe.single(row) for row in recipe.table()] if isinstance(recipe, ImageGrid) else [recipe]
    placed = {row.model.attn.title: row.model.attn for row in rows if row.model.attn.name != "none"}
    attns = tuple(Attention(a.name, a.options, a.site, a.stages, a.label, a.identity) for a in placed.values())
    plain = recipe.model.without_weights().model_copy(update={"attn": Placement(name="none")})
    with torch.device("meta"):
        model = create(recipe.model_copy(update={"model": plain}), 2)
    (size,) = sizes(recipe)
    yield StreamCost("image", model.backbone, attns, size)


def _gauge(recipe: ImageRecipe) -> tuple[nn.Module, tuple[int, ...], int]:
    (size,) = sizes(recipe)
    return create(recipe.without_weights(), 2), size, recipe.training.batch


SPEC = TaskSpec(
    recipe=ImageRecipe,
    grid=ImageGrid,
    create=create,
    check=check,
    reader=pictures,
    read=read,
    sizes=sizes,
    networks=networks,
    gauge=_gauge,
)
