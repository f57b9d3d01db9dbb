"""What a trained model says: of the test videos of its training, of another folder, of single files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from attnzoo.emotion import media
from attnzoo.emotion.checkpoints import load_checkpoint
from attnzoo.emotion.datasets import Folder, Video
from attnzoo.emotion.protocols import split
from attnzoo.emotion.training import Prediction, accuracy, score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy on labelled videos.

    Attributes:
        classes: their names.
        predictions: one for each video.
        protocol: which videos these are.

    >>> right, wrong = Prediction("a", (0.9, 0.1), (), 0), Prediction("b", (0.6, 0.4), (), 1)
    >>> Evaluation(("calm", "joy"), (right, wrong), "two videos").confusion()
    [[1, 0], [1, 0]]
    """

    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    protocol: str

    def confusion(self) -> list[list[int]]:
        """Counts of videos, a row for each true class, a column for each predicted one."""
        counts = [[0] * len(self.classes) for _ in self.classes]
        for p in self.predictions:
            if p.label is not None:
                counts[p.label][p.predicted] += 1
        return counts

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "accuracy": accuracy(self.predictions),
            "videos": len(self.predictions),
            "protocol": self.protocol,
            "classes": list(self.classes),
            "confusion": self.confusion(),
            "predictions": {p.key: dict(zip(self.classes, p.probabilities, strict=True)) for p in self.predictions},
        }

    def render(self) -> Group:
        """For the terminal."""
        table = Table("true \\ predicted", box=box.SIMPLE, title="videos by true and predicted class")
        for name in (*self.classes, "recall"):
            table.add_column(name, justify="right")
        for name, row in zip(self.classes, self.confusion(), strict=True):
            recall = f"{row[self.classes.index(name)] / sum(row):.0%}" if sum(row) else "-"
            table.add_row(name, *map(str, row), recall)
        lines = (
            f"accuracy {accuracy(self.predictions):.1%} of {len(self.predictions)} videos "
            f"(chance {1 / len(self.classes):.1%})",
            f"protocol: {self.protocol}",
        )
        return Group(*lines, table)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model sees in one file.

    Attributes:
        path: the file.
        classes: names of the classes.
        prediction: for the video and for each segment.
        seconds: of the video.
        sound: whether it has a sound track; without one its sound is zeros.

    >>> seen = Prediction("a.mp4", (0.25, 0.75), ((0.5, 0.5), (0.0, 1.0)))
    >>> Reading(Path("a.mp4"), ("calm", "joy"), seen, seconds=2.0, sound=True).as_dict()["timeline"][1]
    {'start': 1.0, 'end': 2.0, 'probabilities': {'calm': 0.0, 'joy': 1.0}}
    """

    path: Path
    classes: tuple[str, ...]
    prediction: Prediction
    seconds: float
    sound: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        count = len(self.prediction.timeline)
        return {
            "video": str(self.path),
            "label": self.classes[self.prediction.predicted],
            "probabilities": dict(zip(self.classes, self.prediction.probabilities, strict=True)),
            "timeline": [
                {
                    "start": i * self.seconds / count,
                    "end": (i + 1) * self.seconds / count,
                    "probabilities": dict(zip(self.classes, row, strict=True)),
                }
                for i, row in enumerate(self.prediction.timeline)
            ],
        }

    def render(self) -> Group:
        """For the terminal: the label, the probabilities as bars, the most probable class through time."""
        p, count = self.prediction, len(self.prediction.timeline)
        bars = Table.grid(padding=(0, 2))
        for value, name in sorted(zip(p.probabilities, self.classes, strict=True), reverse=True):
            bars.add_row(f"  {name}", f"{value:.1%}", "█" * round(30 * value))
        time = Table("time", "class", "", box=box.SIMPLE, title="segment by segment", title_justify="left")
        for i, row in enumerate(p.timeline):
            best = max(range(len(row)), key=row.__getitem__)
            span = f"{i * self.seconds / count:.1f} to {(i + 1) * self.seconds / count:.1f} s"
            time.add_row(span, self.classes[best], f"{row[best]:.1%} {'█' * round(20 * row[best])}")
        note = "" if self.sound else " (no sound track: its sound is zeros)"
        return Group(Text(f"{self.path}: {self.classes[p.predicted]}{note}"), bars, time)


def evaluate(checkpoint: Path, folder: Folder, *, every: bool = False) -> Evaluation:
    """Classify the test videos of a training, or every video of a folder.

    Args:
        checkpoint: of the training.
        folder: the videos of the training; with `every`, any videos of the same classes.
        every: take all videos of the folder.

    Raises:
        ValueError: other classes than the model's, or other videos than those of the training without `every`.

    >>> evaluate(Path("nowhere.pt"), Folder(Path("mine"), ("calm", "joy"), (), ()))
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint nowhere.pt; `attnzoo train` writes model.pt into its --out folder
    """
    model, info = load_checkpoint(checkpoint)
    if tuple(info["classes"]) != folder.classes:
        raise ValueError(
            f"{checkpoint} tells {', '.join(info['classes'])} apart, "
            f"but {folder.root} holds {', '.join(folder.classes)}"
        )
    if every:
        videos, protocol = folder.videos, f"every video of {folder.root}"
        if info["data"] == folder.fingerprint:
            protocol += ", the model's training videos among them"
    elif info["data"] != folder.fingerprint:
        raise ValueError(
            f"{folder.root} holds other videos than {checkpoint} was trained and tested on; --all takes every one"
        )
    else:
        parts = split(folder, info["recipe"].data)
        videos, protocol = parts.test, parts.protocol
    return Evaluation(folder.classes, tuple(score(model, info["recipe"], videos)), protocol)


def predict(checkpoint: Path, paths: Sequence[Path]) -> list[Reading]:
    """What the model sees in video files.

    Args:
        checkpoint: of a training.
        paths: the files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not a readable video.

    >>> predict(Path("model.pt"), [Path("nowhere.mp4")])
    Traceback (most recent call last):
    FileNotFoundError: there is no video nowhere.mp4
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no video {path}")
    model, info = load_checkpoint(checkpoint)
    videos = [Video(str(path), 0, media.read_index(path)) for path in paths]
    recipe = info["recipe"].model_copy(update={"training": info["recipe"].training.model_copy(update={"workers": 0})})
    return [
        Reading(path, tuple(info["classes"]), prediction, video.index.seconds, video.index.sound is not None)
        for path, video, prediction in zip(paths, videos, score(model, recipe, videos), strict=True)
    ]
