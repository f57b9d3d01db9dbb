"""The networks of the emotion model, for the profiler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Attention, GridRecipe, Recipe
from attnzoo.profiling.table import Attention as Placed


@dataclass(frozen=True, slots=True)
class StreamCost:
    """One stream of the model, as it is to be profiled.

    Attributes:
        name: "visual" or "audio".
        network: without attention, on the meta device.
        attns: what the recipe puts into it.
        input_size: of one segment.
    """

    name: str
    network: nn.Module
    attns: tuple[Placed, ...]
    input_size: tuple[int, ...]


def streams(recipe: Recipe) -> Iterator[StreamCost]:
    """Both streams of a recipe.

    Args:
        recipe: of a training, or of a grid of them.

    Raises:
        ValueError: settings that make no model.

    >>> settings = {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}, "attn": "se"}
    >>> [(s.name, s.input_size) for s in streams(Recipe(name="mine", model=settings))]
    [('visual', (1, 3, 16, 112, 112)), ('audio', (1, 1, 32, 128))]
    """
    grid = recipe.grid if isinstance(recipe, GridRecipe) else None
    entries = grid.attn if grid else (recipe.model.attn,)
    clip, sound = recipe.clip, recipe.audio
    plain = recipe.model.without_weights().model_copy(update={"attn": Attention(name="none")})
    with torch.device("meta"):
        model = AudioVisualModel(plain, clip, sound, 2)
    for name, network, size in (
        ("visual", model.visual, (1, 3, clip.frames, clip.size, clip.size)),
        ("audio", model.audio, (1, 1, sound.coefficients, sound.width)),
    ):
        attns = tuple(
            Placed(e.name, e.options, e.site, e.stages, e.label, e.identity)
            for e in entries
            if e.name != "none" and name in e.streams
        )
        yield StreamCost(name, network, attns, size)
