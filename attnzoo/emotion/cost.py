"""The networks of the emotion model, for the profiler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Attention, Recipe, StreamName
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
    rows = [recipe.single(row).model for row in recipe.table()] if isinstance(recipe, GridRecipe) else [recipe.model]
    clip, sound = recipe.clip, recipe.audio
    plain = recipe.model.without_weights().model_copy(update={"attn": Attention(name="none"), "audio_attn": None})
    with torch.device("meta"):
        model = AudioVisualModel(plain, clip, sound, 2)
    sizes: dict[StreamName, tuple[int, ...]] = {
        "visual": (1, 3, clip.frames, clip.size, clip.size),
        "audio": (1, 1, sound.coefficients, sound.width),
    }
    for name, size in sizes.items():
        entries: list[Attention] = []
        for attn in (row.attention(name) for row in rows):
            if attn is not None and attn not in entries:
                entries.append(attn)
        attns = tuple(
            Placed(a.name, a.options, a.site, a.stages, a.label, a.identity, None if a.dims == 3 else 2)
            for a in entries
        )
        yield StreamCost(name, model.get_submodule(name), attns, size)
