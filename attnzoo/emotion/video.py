"""The task of classifying videos by picture and sound."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from attnzoo.emotion import audio
from attnzoo.emotion.clips import Clips
from attnzoo.emotion.cost import streams
from attnzoo.emotion.datasets import Folder, Video, read_folder
from attnzoo.emotion.features import cached
from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.model import AudioVisualModel, check
from attnzoo.emotion.recipe import Data, Recipe
from attnzoo.emotion.samples import Reader
from attnzoo.emotion.tasks import Progress, TaskSpec


def create(recipe: Recipe, classes: int) -> AudioVisualModel:
    """The model of a recipe.

    Args:
        recipe: its settings.
        classes: number of classes.

    >>> import torch
    >>> with torch.device("meta"):
    ...     create(Recipe(name="mine", model={"visual": {"backbone": "resnet3d/10"}}), 2).classifier
    Linear(in_features=512, out_features=2, bias=True)
    """
    return AudioVisualModel(recipe.model, recipe.clip, recipe.audio, classes)


def clips(
    videos: Sequence[Video],
    recipe: Recipe,
    seed: int | None = None,
    model: AudioVisualModel | None = None,
    progress: Progress | None = None,
) -> Reader:
    """What the model of a recipe sees of videos.

    Args:
        videos: the videos.
        recipe: of the model.
        seed: of windows and crops in training; None for evaluation.
        model: whose frozen streams' features stand for the clips, if the recipe has a cache for them.
        progress: called with the number of features that are worked out and of all.

    >>> len(clips([], Recipe(name="mine")))
    0
    """
    # Loaded once here, and not in every worker: librosa takes a second to import.
    audio.mfcc(np.ones(recipe.audio.rate, np.float32), recipe.audio.rate)
    seen = Clips(videos, recipe.clip, recipe.audio, seed, recipe.data.damaged, recipe.training.views)
    return seen if model is None else cached(seen, model, recipe, progress=progress)


def read(data: Data, recipe: Recipe, progress: Progress | None = None) -> Folder:
    """The data set of a recipe.

    Args:
        data: where it is.
        recipe: for the length of a window.
        progress: called with the number of files looked at and of all.

    >>> read(Data(root="nowhere"), Recipe(name="mine"))
    Traceback (most recent call last):
    FileNotFoundError: there is no data folder nowhere; ...
    """
    assert data.root is not None
    return read_folder(
        data.root,
        recipe.clip.frames,
        layout=data.layout,
        annotations=data.annotations,
        fps=data.fps,
        damaged=data.damaged,
        progress=progress,
    )


def sizes(recipe: Recipe) -> list[tuple[int, ...]]:
    """The shapes of frames and sound of one video, as the model takes them.

    Args:
        recipe: for the sizes of its clips.

    >>> sizes(Recipe(name="mine", clip={"segments": 2, "frames": 8, "size": 56}))
    [(1, 2, 3, 8, 56, 56), (1, 2, 1, 32, 128)]
    """
    clip, sound = recipe.clip, recipe.audio
    return [
        (1, clip.segments, 3, clip.frames, clip.size, clip.size),
        (1, clip.segments, 1, sound.coefficients, sound.width),
    ]


def _gauge(recipe: Recipe) -> tuple[nn.Module, tuple[int, ...], int]:
    clip = recipe.clip
    network = create(recipe.without_weights(), 2).visual
    return network, (1, 3, clip.frames, clip.size, clip.size), recipe.training.batch * clip.segments


SPEC = TaskSpec(
    recipe=Recipe,
    grid=GridRecipe,
    create=create,
    check=check,
    reader=clips,
    read=read,
    sizes=sizes,
    networks=streams,
    gauge=_gauge,
)
