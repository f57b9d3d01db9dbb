"""What a trained model says of single images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from attnzoo.emotion.checkpoints import load_checkpoint
from attnzoo.emotion.evaluation import bars
from attnzoo.emotion.predictions import Prediction, score_files
from attnzoo.images.folder import ImageFile


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model sees in one image.

    Attributes:
        path: the file.
        classes: names of the classes.
        prediction: the probability of each.

    >>> Reading(Path("a.png"), ("cat", "dog"), Prediction("a.png", (0.2, 0.8), ())).as_dict()["label"]
    'dog'
    """

    path: Path
    classes: tuple[str, ...]
    prediction: Prediction

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "image": str(self.path),
            "label": self.classes[self.prediction.predicted],
            "probabilities": dict(zip(self.classes, self.prediction.probabilities, strict=True)),
        }

    def render(self) -> Group:
        """For the terminal: the label, and the probabilities as bars."""
        told = f"{self.path}: {self.classes[self.prediction.predicted]}"
        return Group(Text(told), bars(self.classes, self.prediction.probabilities))


def predict(checkpoint: Path, paths: Sequence[Path]) -> list[Reading]:
    """What the model sees in images.

    Args:
        checkpoint: of a training.
        paths: the files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not a readable image.

    >>> predict(Path("model.safetensors"), [Path("nowhere.png")])
    Traceback (most recent call last):
    FileNotFoundError: there is no image nowhere.png
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no image {path}")
    model, info = load_checkpoint(checkpoint, "image")
    classes = tuple(info["classes"])
    images = [ImageFile(str(path), 0, path, path.stat().st_size) for path in paths]
    predictions = score_files(model, info["recipe"], images)
    return [Reading(path, classes, prediction) for path, prediction in zip(paths, predictions, strict=True)]
