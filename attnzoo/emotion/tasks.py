"""The tasks: all that differs between classifying videos and classifying images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

from torch import Tensor, nn

from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.grid import Gridded
from attnzoo.emotion.samples import DataSet, Reader

# Task -> the module that has its SPEC, which is imported when it is used: each builds on what all share.
_MODULES = {"video": "attnzoo.emotion.video", "image": "attnzoo.images.spec"}
TASKS = tuple(_MODULES)

Progress = Callable[[int, int], None]


class Classifier(nn.Module):
    """A model that is trained: tensors of samples -> logits of each, (B, classes), or of its segments, (B, T, classes).

    Attributes:
        frozen: paths of modules that stay in eval mode, or their running statistics would drift.

    >>> list(Classifier().parameters())
    []
    """

    frozen: tuple[str, ...] = ()

    def train(self, mode: bool = True) -> Self:
        """As nn.Module.train, but for what is frozen."""
        super().train(mode)
        for path in self.frozen:
            self.get_submodule(path).eval()
        return self

    def passes(self, *inputs: Any, **named: Any) -> tuple[Tensor, ...]:
        """Logits as `forward` gives them, once for each pass that is trained on; the first counts for what is right."""
        return (self(*inputs, **named),)


def of_samples(logits: Tensor) -> Tensor:
    """Logits (B, classes) of samples, the mean over their segments where they have any.

    Args:
        logits: of a `Classifier`.

    >>> import torch
    >>> of_samples(torch.tensor([[[1.0, 3.0], [3.0, 5.0]]]))
    tensor([[2., 4.]])
    """
    return logits.mean(1) if logits.ndim == 3 else logits


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What is particular to a task.

    Attributes:
        recipe: the settings of one training.
        grid: a recipe with the grid of a leaderboard.
        create: recipe, number of classes -> the model from its initial weights.
        check: refuses, with a ValueError, settings that make no model.
        reader: samples, recipe, seed (None for evaluation), model, progress -> what the model sees of the samples.
        read: settings of the data, recipe, progress -> the data set.
        sizes: of the model's inputs for one sample.
        networks: recipe, maybe a grid -> each network with the attention of its rows, for the profiler.
        gauge: recipe -> the network in which the work is, the size of its input, how many there are in a batch.
    """

    recipe: type[Experiment]
    grid: type[Gridded]
    create: Callable[[Any, int], Classifier]
    check: Callable[[Any], None]
    reader: Callable[[Sequence[Any], Any, int | None, Any, Progress | None], Reader]
    read: Callable[[Any, Any, Progress | None], DataSet]
    sizes: Callable[[Any], list[tuple[int, ...]]]
    networks: Callable[[Any], Iterator[Any]]
    gauge: Callable[[Any], tuple[nn.Module, tuple[int, ...], int]]


def spec(name: Any) -> TaskSpec:
    """What is particular to a task.

    Args:
        name: one of `TASKS`, as in a recipe.

    Raises:
        ValueError: there is none.

    >>> spec("sound")
    Traceback (most recent call last):
    ValueError: task 'sound' must be one of video, image
    """
    if name not in _MODULES:
        raise ValueError(f"task {name!r} must be one of {', '.join(TASKS)}")
    found: TaskSpec = import_module(_MODULES[name]).SPEC
    return found


def grid_of(content: Mapping[str, Any]) -> type[Gridded]:
    """What a recipe is, for `attnzoo.recipes.load`: that of its task, of videos if it names none.

    Args:
        content: of the file.

    Raises:
        ValueError: there is no such task, or it is a recipe of costs, for `attnzoo table`.

    >>> grid_of({"name": "mine"}).__name__, grid_of({"name": "mine", "task": "image"}).__name__
    ('GridRecipe', 'ImageGrid')
    >>> grid_of({"name": "table1", "counter": "fvcore"})
    Traceback (most recent call last):
    ValueError: counter is a field of recipes of costs, in which nothing is trained; try: attnzoo table table1
    """
    if of_costs := {"counter", "protocol"} & content.keys():
        tried = f"try: attnzoo table {content.get('name', 'RECIPE')}"
        raise ValueError(f"{min(of_costs)} is a field of recipes of costs, in which nothing is trained; {tried}")
    return spec(content.get("task", "video")).grid
