"""What a trained model says: of the test samples of its training, of another folder, of single files."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnzoo.emotion import media
from attnzoo.emotion.checkpoints import load_checkpoint, whole
from attnzoo.emotion.datasets import Video
from attnzoo.emotion.predictions import Prediction, accuracy, score, score_files
from attnzoo.emotion.protocols import split
from attnzoo.emotion.samples import DataSet


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a class is told from the others.

    Attributes:
        precision: share of its samples among those that are taken for it; None if none is.
        recall: share of its samples that are taken for it; None if it has none.
        f1: 2 TP / (2 TP + FP + FN), the harmonic mean of both; None if the class is neither there nor predicted.
        samples: of the class.

    >>> Scores.of(true=4, predicted=3, both=2)
    Scores(precision=0.6666666666666666, recall=0.5, f1=0.5714285714285714, samples=4)
    """

    precision: float | None
    recall: float | None
    f1: float | None
    samples: int

    @classmethod
    def of(cls, true: int, predicted: int, both: int) -> "Scores":
        """From the numbers of samples of the class, of those taken for it, and of those that are both."""
        return cls(
            both / predicted if predicted else None,
            both / true if true else None,
            2 * both / (true + predicted) if true + predicted else None,
            true,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well labelled samples are classified.

    Attributes:
        classes: their names.
        predictions: one for each sample.
        protocol: which samples these are.
        kind: what a sample is called.

    >>> right, wrong = Prediction("a", (0.9, 0.1), (), 0), Prediction("b", (0.6, 0.4), (), 1)
    >>> Evaluation(("calm", "joy"), (right, wrong), "two videos").confusion()
    [[1, 0], [1, 0]]
    """

    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    protocol: str
    kind: str = "video"

    def confusion(self) -> list[list[int]]:
        """Counts of samples, a row for each true class, a column for each predicted one."""
        counts = [[0] * len(self.classes) for _ in self.classes]
        for p in self.predictions:
            if p.label is not None:
                counts[p.label][p.predicted] += 1
        return counts

    def scores(self) -> dict[str, Scores]:
        """Of each class."""
        counts = self.confusion()
        columns = [sum(column) for column in zip(*counts, strict=True)]
        return {
            name: Scores.of(sum(row), columns[i], row[i])
            for i, (name, row) in enumerate(zip(self.classes, counts, strict=True))
        }

    def macro(self) -> Scores:
        """Mean over the classes that have samples; one that no sample is taken for has precision 0."""
        there = [scores for scores in self.scores().values() if scores.samples]

        def mean(values: Iterable[float | None]) -> float:
            return sum(value or 0 for value in values) / len(there)

        return Scores(
            mean(s.precision for s in there),
            mean(s.recall for s in there),
            mean(s.f1 for s in there),
            sum(s.samples for s in there),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "accuracy": accuracy(self.predictions),
            "samples": len(self.predictions),
            "protocol": self.protocol,
            "classes": list(self.classes),
            "scores": {name: asdict(scores) for name, scores in self.scores().items()},
            "macro": asdict(self.macro()),
            "confusion": self.confusion(),
            "labels": {p.key: self.classes[p.label] for p in self.predictions if p.label is not None},
            "predictions": {p.key: dict(zip(self.classes, p.probabilities, strict=True)) for p in self.predictions},
        }

    def render(self) -> Group:
        """For the terminal."""
        table = Table("true \\ predicted", box=box.SIMPLE, title=f"{self.kind}s by true and predicted class")
        for name in (*map(escape, self.classes), "recall", "precision", "F1"):
            table.add_column(name, justify="right")
        for (name, scores), row in zip(self.scores().items(), self.confusion(), strict=True):
            shares = [f"{s:.0%}" if s is not None else "-" for s in (scores.recall, scores.precision, scores.f1)]
            table.add_row(Text(name), *map(str, row), *shares)
        mean = self.macro()
        lines = (
            f"accuracy {accuracy(self.predictions):.1%} of {len(self.predictions)} {self.kind}s "
            f"(chance {1 / len(self.classes):.1%})",
            f"mean over classes: recall {mean.recall:.1%}, precision {mean.precision:.1%}, F1 {mean.f1:.1%}",
            Text(f"protocol: {self.protocol}"),
        )
        return Group(*lines, table)

    def write(self, folder: Path) -> list[Path]:
        """Write `evaluation.json` and the confusion matrix, `confusion.png`.

        Args:
            folder: for both; made if need be.

        Returns:
            Their paths.

        Raises:
            ValueError: they cannot be written.
        """
        from attnzoo.emotion.figures import confusion_png

        title = f"accuracy {accuracy(self.predictions):.1%} of {len(self.predictions)} {self.kind}s; {self.protocol}"
        written = {
            folder / "evaluation.json": (json.dumps(self.as_dict(), indent=2) + "\n").encode(),
            folder / "confusion.png": confusion_png(self.classes, self.confusion(), title),
        }
        for path, content in written.items():
            with whole(path) as part:
                part.write_bytes(content)
        return list(written)


def bars(classes: Sequence[str], probabilities: Sequence[float]) -> Table:
    """The probabilities of the classes for the terminal, the greatest first.

    Args:
        classes: their names.
        probabilities: one for each.

    >>> bars(["calm", "joy"], [0.2, 0.8]).row_count
    2
    """
    table = Table.grid(padding=(0, 2))
    for value, name in sorted(zip(probabilities, classes, strict=True), reverse=True):
        table.add_row(Text(f"  {name}"), f"{value:.1%}", "█" * round(30 * value))
    return table


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
        time = Table("time", "class", "", box=box.SIMPLE, title="segment by segment", title_justify="left")
        for i, row in enumerate(p.timeline):
            best = max(range(len(row)), key=row.__getitem__)
            span = f"{i * self.seconds / count:.1f} to {(i + 1) * self.seconds / count:.1f} s"
            time.add_row(span, self.classes[best], f"{row[best]:.1%} {'█' * round(20 * row[best])}")
        note = "" if self.sound else " (no sound track: its sound is zeros)"
        return Group(Text(f"{self.path}: {self.classes[p.predicted]}{note}"), bars(self.classes, p.probabilities), time)


def evaluate(
    checkpoint: Path, folder: DataSet, *, every: bool = False, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Classify the test samples of a training, or every sample of a folder.

    Args:
        checkpoint: of the training.
        folder: the samples of the training; with `every`, any samples of the same classes.
        every: take all samples of the folder.
        progress: called with the number of samples done and of all.

    Raises:
        ValueError: other classes than the model's, or other samples than those of the training without `every`.

    >>> from attnzoo.emotion.datasets import Folder
    >>> evaluate(Path("nowhere.pt"), Folder(Path("mine"), ("calm", "joy"), (), ()))
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint nowhere.pt; `attnzoo train` writes model.safetensors into its --out folder
    """
    model, info = load_checkpoint(checkpoint)
    if tuple(info["classes"]) != folder.classes:
        raise ValueError(
            f"{checkpoint} tells {', '.join(info['classes'])} apart, "
            f"but {folder.root} holds {', '.join(folder.classes)}"
        )
    if every:
        samples, protocol = folder.samples, f"every {folder.kind} of {folder.root}"
        if info["data"] == folder.fingerprint:
            protocol += f", the model's training {folder.kind}s among them"
    elif info["data"] != folder.fingerprint:
        raise ValueError(
            f"{folder.root} holds other {folder.kind}s than {checkpoint} was trained and tested on; "
            "--all takes every one"
        )
    else:
        parts = split(folder, info["recipe"].data)
        samples, protocol = parts.test, parts.protocol
    return Evaluation(folder.classes, tuple(score(model, info["recipe"], samples, progress)), protocol, folder.kind)


def predict(checkpoint: Path, paths: Sequence[Path]) -> list[Reading]:
    """What the model sees in video files.

    Args:
        checkpoint: of a training.
        paths: the files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not a readable video.

    >>> predict(Path("model.safetensors"), [Path("nowhere.mp4")])
    Traceback (most recent call last):
    FileNotFoundError: there is no video nowhere.mp4
    """
    videos = [find_video(path) for path in paths]
    model, info = load_checkpoint(checkpoint, "video")
    return [
        Reading(path, tuple(info["classes"]), prediction, video.index.seconds, video.index.sound is not None)
        for path, video, prediction in zip(paths, videos, score_files(model, info["recipe"], videos), strict=True)
    ]


def find_video(path: Path) -> Video:
    """A single file as a video without a label.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not a readable video.

    >>> find_video(Path("nowhere.mp4"))
    Traceback (most recent call last):
    FileNotFoundError: there is no video nowhere.mp4
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no video {path}")
    return Video(str(path), 0, media.read_index(path))
