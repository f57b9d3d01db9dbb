"""What a model says of videos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attnzoo.emotion.datasets import Video
from attnzoo.emotion.features import cached
from attnzoo.emotion.loading import clips, evaluation_loader, loading_told
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one video.

    Attributes:
        key: "class/file name", or the path.
        probabilities: of the classes, for the whole video.
        timeline: of the classes for each segment, (T, classes).
        label: index of the true class, if known.

    >>> Prediction("joy/a.mp4", (0.2, 0.8), ((0.1, 0.9), (0.3, 0.7))).predicted
    1
    """

    key: str
    probabilities: tuple[float, ...]
    timeline: tuple[tuple[float, ...], ...]
    label: int | None = None

    @property
    def predicted(self) -> int:
        """Index of the most probable class."""
        return int(np.argmax(self.probabilities))


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Top-1 accuracy.

    Args:
        predictions: with known labels.

    >>> accuracy([Prediction("a", (0.9, 0.1), (), 0), Prediction("b", (0.6, 0.4), (), 1)])
    0.5
    """
    return sum(p.predicted == p.label for p in predictions) / len(predictions)


def score(
    model: AudioVisualModel,
    recipe: Recipe,
    videos: Sequence[Video],
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """What the model says of videos, from centred windows; it works on the accelerator if there is one.

    Args:
        model: in eval mode.
        recipe: with which it was trained.
        videos: the videos; one that cannot be read stops the evaluation or is left out, as the recipe says.
        progress: called with the number of videos done and of all.

    Raises:
        ValueError: none of the videos can be read.

    >>> settings = {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> recipe = Recipe.model_validate({"name": "mine", "model": settings, "training": {"workers": 0}})
    >>> score(AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 2).eval(), recipe, [])
    []
    """
    home = next(model.parameters()).device
    device = torch.accelerator.current_accelerator(check_available=True) or home
    predictions: list[Prediction] = []
    done = 0
    with torch.inference_mode(), loading_told():
        loader = evaluation_loader(cached(clips(videos, recipe), model, recipe), recipe)
        model.to(device)
        for loaded in loader:
            done += len(loaded.keys) + len(loaded.lost)
            if progress:
                progress(done, len(videos))
            if loaded.batch is None:
                continue
            frames, sound, heard, labels = loaded.batch
            logits = model(frames.to(device), sound.to(device), heard.to(device))
            for key, segments, label in zip(loaded.keys, logits.cpu(), labels, strict=True):
                predictions.append(
                    Prediction(
                        key=key,
                        probabilities=tuple(segments.mean(0).softmax(0).tolist()),
                        timeline=tuple(tuple(s) for s in segments.softmax(1).tolist()),
                        label=int(label),
                    )
                )
    model.to(home)
    if videos and not predictions:
        raise ValueError(f"none of the {len(videos)} videos can be read")
    return predictions
