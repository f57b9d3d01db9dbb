"""What a model says of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.loading import evaluation_loader, loading_told
from attnzoo.emotion.samples import Sample
from attnzoo.emotion.tasks import Classifier, of_samples, spec


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one sample.

    Attributes:
        key: "class/file name", or the path.
        probabilities: of the classes, for a video as a whole.
        timeline: of the classes for each segment of a video, (T, classes); () for an image.
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
    model: Classifier,
    recipe: Experiment,
    samples: Sequence[Sample],
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """What the model says of samples as it sees them in evaluation; it works on the accelerator if there is one.

    Args:
        model: in eval mode.
        recipe: with which it was trained.
        samples: the samples; one that cannot be read stops the evaluation or is left out, as the recipe says.
        progress: called with the number of samples done and of all.

    Raises:
        ValueError: none of the samples can be read.

    >>> from attnzoo.emotion.recipe import Recipe
    >>> settings = {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> recipe = Recipe.model_validate({"name": "mine", "model": settings, "training": {"workers": 0}})
    >>> score(spec("video").create(recipe, 2).eval(), recipe, [])
    []
    """
    home = next(model.parameters()).device
    device = torch.accelerator.current_accelerator(check_available=True) or home
    predictions: list[Prediction] = []
    done = 0
    with torch.inference_mode(), loading_told(f"{recipe.task}s"):
        loader = evaluation_loader(spec(recipe.task).reader(samples, recipe, None, model, None), recipe)
        model.to(device)
        for loaded in loader:
            done += len(loaded.keys) + len(loaded.lost)
            if progress:
                progress(done, len(samples))
            if loaded.batch is None:
                continue
            *inputs, labels = loaded.batch
            logits = model(*(values.to(device) for values in inputs)).cpu()
            probabilities = of_samples(logits).softmax(-1).tolist()
            timelines = logits.softmax(-1).tolist() if logits.ndim == 3 else [()] * len(labels)
            for key, shares, segments, label in zip(loaded.keys, probabilities, timelines, labels, strict=True):
                predictions.append(Prediction(key, tuple(shares), tuple(map(tuple, segments)), int(label)))
    model.to(home)
    if samples and not predictions:
        raise ValueError(f"none of the {len(samples)} {recipe.task}s can be read")
    return predictions


def score_files(model: Classifier, recipe: Experiment, samples: Sequence[Sample]) -> list[Prediction]:
    """`score` for files that somebody names: a damaged one is an error, and no processes are started for a few.

    Args:
        model: in eval mode.
        recipe: of the model.
        samples: the files.

    Raises:
        ValueError: a file cannot be decoded.

    >>> from attnzoo.emotion.recipe import Recipe
    >>> score_files(torch.nn.Linear(1, 1), Recipe(name="mine"), [])
    []
    """
    here = {
        "data": recipe.data.model_copy(update={"damaged": "stop"}),
        "training": recipe.training.model_copy(update={"workers": 0}),
    }
    return score(model, recipe.model_copy(update=here), samples)
