"""What the model goes by in one video: where it looks, how its attention gates, when, and how much it is the sound."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from attnzoo import maps
from attnzoo.emotion.checkpoints import load_checkpoint, whole
from attnzoo.emotion.clips import Batch, Clips
from attnzoo.emotion.evaluation import find_video
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.predictions import Prediction
from attnzoo.maps import GateMap

Floats = NDArray[np.float32]
KIND = {"gate": "gate", "gain": "gain", "energy": "output's energy"}
STEPS = 5


@dataclass(frozen=True, slots=True)
class Gates:
    """What the attention of the visual ResNet does, in all its places together.

    Attributes:
        name: of the attention, with the kind of its maps (see `attnzoo.maps.GateMap`), as in "gate of mpe".
        values: (T, k, size, size), the mean over its modules of their maps, each over its mean in the video: above 1
            it is more open than on average.
        levels: mean of the map of each module in each segment, as they are, by the module's path.

    >>> Gates("gate of se", np.ones((2, 4, 8, 8), np.float32), {"visual.layer4.0.bn2.attn": (0.5, 0.6)}).name
    'gate of se'
    """

    name: str
    values: Floats
    levels: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Branches:
    """The weights of parallel branches in one stream, such as MPE's dilations.

    Attributes:
        stream: "visual" or "audio".
        names: of the branches.
        weights: (T, branches), the mean over the stream's modules.
        modules: the same of each module, by its path.

    >>> Branches("visual", ("dilation 1", "dilation 3"), ((0.4, 0.6),), {}).names[1]
    'dilation 3'
    """

    stream: str
    names: tuple[str, ...]
    weights: Sequence[Sequence[float]]
    modules: Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Part:
    """What picture and sound add to the log-probability of the target in one segment, in nats; see `contributions`.

    >>> Part(picture=-0.25, sound=0.75).share
    0.75
    """

    picture: float
    sound: float

    @property
    def share(self) -> float | None:
        """|sound| / (|sound| + |picture|); None where both are 0."""
        total = abs(self.picture) + abs(self.sound)
        return abs(self.sound) / total if total else None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the model goes by in one video.

    Attributes:
        path: the video.
        classes: names of the classes.
        prediction: for the video and for each of its T segments.
        target: index of the class that is explained.
        seconds: of the video.
        fps: of the video, 1/s.
        heard: whether it has a sound track.
        frames: (T, k, size, size, 3), what the model saw.
        layer: of which the class activation is taken.
        activation: (T, k, size, size), the class activation, 1 the greatest in the video; zeros if nothing speaks for
            the target.
        parts: what picture and sound add in each segment.
        gates: of the visual ResNet's attention; None without.
        branches: of the attention in each stream that has branches.

    >>> black, said = np.zeros((1, 4, 16, 16, 3), np.uint8), Prediction("a.mp4", (0.4, 0.6), ((0.4, 0.6),))
    >>> seen = (said, 1, 2.0, 10.0, True, black, "visual.layer3", np.zeros((1, 4, 16, 16)), (Part(0.3, 0.1),))
    >>> Explanation(Path("a.mp4"), ("calm", "joy"), *seen).as_dict()["segments"][0]["sound_share"]
    0.25
    """

    path: Path
    classes: tuple[str, ...]
    prediction: Prediction
    target: int
    seconds: float
    fps: float
    heard: bool
    frames: NDArray[np.uint8]
    layer: str
    activation: Floats
    parts: tuple[Part, ...]
    gates: Gates | None = None
    branches: tuple[Branches, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "video": str(self.path),
            "label": self.classes[self.prediction.predicted],
            "target": self.classes[self.target],
            "probabilities": dict(zip(self.classes, self.prediction.probabilities, strict=True)),
            "seconds": self.seconds,
            "sound": self.heard,
            "layer": self.layer,
            "attention": self.gates.name if self.gates else None,
            "segments": list(self._segments()),
            "gates": dict(self.gates.levels) if self.gates else {},
            "branches": {
                b.stream: {"names": list(b.names), "mean": b.weights, "modules": dict(b.modules)} for b in self.branches
            },
        }

    def render(self) -> Table:
        """For the terminal: segment by segment."""
        name, count = escape(self.classes[self.target]), len(self.frames)
        head = ("time", "says", "", name, "activation", "of sound", *(f"{b.stream} branches" for b in self.branches))
        title = f"{escape(self.path.name)}: {escape(self.classes[self.prediction.predicted])}"
        table = Table(*head, box=box.SIMPLE, title=title, title_justify="left")
        for t, (row, part) in enumerate(zip(self.prediction.timeline, self.parts, strict=True)):
            best = int(np.argmax(row))
            table.add_row(
                f"{t * self.seconds / count:.1f} to {(t + 1) * self.seconds / count:.1f} s",
                Text(self.classes[best]),
                f"{row[best]:.0%}",
                f"{row[self.target]:.0%}",
                f"{self.activation[t].max():.2f}",
                "-" if part.share is None else f"{part.share:.0%}",
                *(" ".join(f"{weight:.2f}" for weight in b.weights[t]) for b in self.branches),
            )
        return table

    def _segments(self) -> Iterator[dict[str, Any]]:
        count = len(self.frames)
        for t, (row, part) in enumerate(zip(self.prediction.timeline, self.parts, strict=True)):
            frame, y, x = np.unravel_index(self.activation[t].argmax(), self.activation[t].shape)
            yield {
                "start": t * self.seconds / count,
                "end": (t + 1) * self.seconds / count,
                "probabilities": dict(zip(self.classes, row, strict=True)),
                "activation": {
                    "mean": float(self.activation[t].mean()),
                    "peak": float(self.activation[t].max()),
                    "at": {"frame": int(frame), "x": int(x), "y": int(y)},
                },
                "picture": part.picture,
                "sound": part.sound,
                "sound_share": part.share,
            }


def explain(
    checkpoint: Path,
    path: Path,
    target: str | None = None,
    layer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Look at what a trained model looks at in a video.

    Args:
        checkpoint: of the training.
        path: the video.
        target: name of the class to explain; the one that the model says if None.
        layer: of the model, with maps to take the class activation of, as in visual.layer3; if None the deepest of the
            visual ResNet with at least 7 x 7 positions (see `attnzoo.maps.activation_layer`).
        progress: called with (steps done, steps in all).

    Raises:
        FileNotFoundError: no such video or checkpoint.
        ValueError: not a readable video, or an unknown class or layer.

    >>> explain(Path("model.safetensors"), Path("nowhere.mp4"))
    Traceback (most recent call last):
    FileNotFoundError: there is no video nowhere.mp4
    """
    tell = progress or (lambda done, total: None)
    video = find_video(path)
    model, info = load_checkpoint(checkpoint, "video")
    classes, recipe = tuple(info["classes"]), info["recipe"]
    if target is not None and target not in classes:
        raise ValueError(f"{checkpoint} knows no class {target!r}; it has {', '.join(classes)}")
    sample = Clips([video], recipe.clip, recipe.audio)[0]
    assert sample is not None  # a damaged video raises
    tell(1, STEPS)
    inputs = [x.unsqueeze(0) for x in (sample.frames, sample.sound, sample.heard)]
    visual, audio = _streams(model, inputs)
    logits = _classify(model, visual, audio)
    prediction = Prediction(
        key=video.key,
        probabilities=tuple(logits.mean(0).softmax(0).tolist()),
        timeline=tuple(tuple(row) for row in logits.softmax(1).tolist()),
    )
    chosen = prediction.predicted if target is None else classes.index(target)
    tell(2, STEPS)
    layer = layer or f"visual.{maps.activation_layer(model.visual, sample.frames[:1].float())}"
    activation = maps.activation_map(model, inputs, lambda logits: logits.mean(1)[:, chosen], layer)
    tell(3, STEPS)
    gates = maps.gate_maps(model, *inputs)
    tell(4, STEPS)
    branches = maps.branch_weights(model, *inputs)
    tell(5, STEPS)
    attention = recipe.model.attention("visual")
    return Explanation(
        path=path,
        classes=classes,
        prediction=prediction,
        target=chosen,
        seconds=video.index.seconds,
        fps=video.index.fps,
        heard=bool(sample.heard),
        frames=sample.frames.permute(0, 2, 3, 4, 1).numpy(),
        layer=layer,
        activation=_activation(activation, layer, sample),
        gates=_gates({k: m for k, m in gates.items() if k.startswith("visual.")}, attention, sample),
        branches=tuple(
            _branches(stream, {k: found for k, found in branches.items() if k.startswith(f"{stream}.")})
            for stream in ("visual", *(["audio"] if sample.heard else []))
            if any(k.startswith(f"{stream}.") for k in branches)
        ),
        parts=contributions(model, visual, audio, chosen),
    )


def write(e: Explanation, folder: Path, progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write a film, a strip and the numbers of an explanation, under the name of the video.

    Args:
        e: of the video.
        folder: for VIDEO.mp4, VIDEO.png and VIDEO.json; made if need be.
        progress: called with (pictures of the film that are written, pictures in all).

    Returns:
        Their paths.

    Raises:
        ValueError: they cannot be written, or the film would take the place of the video itself.

    >>> import tempfile
    >>> black, said = np.zeros((1, 4, 16, 16, 3), np.uint8), Prediction("a.mp4", (0.4, 0.6), ((0.4, 0.6),))
    >>> seen = (said, 1, 2.0, 10.0, True, black, "visual.layer3", np.zeros((1, 4, 16, 16)), (Part(0.3, 0.1),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write(Explanation(Path("a.mp4"), ("calm", "joy"), *seen), Path(folder))
    >>> [path.name for path in written]
    ['a.mp4', 'a.png', 'a.json']
    """
    from attnzoo.emotion.figures import strip_png
    from attnzoo.emotion.film import write_film

    film, strip, numbers = (folder / f"{e.path.stem}{suffix}" for suffix in (".mp4", ".png", ".json"))
    if film.resolve() == e.path.resolve():
        raise ValueError(f"{film} would take the place of the video; choose another folder with --out")
    with whole(strip) as part:
        part.write_bytes(strip_png(e))
    with whole(numbers) as part:
        part.write_text(json.dumps(e.as_dict(), indent=2) + "\n", encoding="utf-8")
    write_film(e, film, progress)
    return [film, strip, numbers]


def contributions(model: AudioVisualModel, visual: Tensor, audio: Tensor, target: int) -> tuple[Part, ...]:
    """What picture and sound add to the log-probability of a class in each segment: Shapley values of two players.

    A stream is left out by setting its features to zero in all segments, as the model itself has it for a video without
    sound. With f the log-probability, the sound adds ((f(v, a) - f(v, 0)) + (f(0, a) - f(0, 0))) / 2 and the picture
    likewise; both together f(v, a) - f(0, 0). The share made of them is that of MM-SHAP (Parcalabescu and Frank, 2023,
    https://arxiv.org/abs/2212.08158).

    Args:
        model: in eval mode.
        visual: (1, T, d), features of the picture.
        audio: (1, T, d), of the sound; zeros without a sound track, which then adds 0.
        target: index of the class.

    Returns:
        One for each segment.
    """

    def f(visual: Tensor, audio: Tensor) -> Tensor:
        return _classify(model, visual, audio).log_softmax(1)[:, target]

    no_picture, no_sound = torch.zeros_like(visual), torch.zeros_like(audio)
    both, neither = f(visual, audio), f(no_picture, no_sound)
    picture, sound = f(visual, no_sound), f(no_picture, audio)
    of_picture = (both - sound + picture - neither) / 2
    of_sound = (both - picture + sound - neither) / 2
    return tuple(Part(*values) for values in zip(of_picture.tolist(), of_sound.tolist(), strict=True))


def _streams(model: AudioVisualModel, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Both streams' features (1, T, d), as they enter the fusion."""
    entering: list[tuple[Tensor, Tensor]] = []
    with model.fusion.register_forward_pre_hook(lambda _, args: entering.append(args)), torch.no_grad():
        model(*inputs)
    return entering[0]


@torch.no_grad()
def _classify(model: AudioVisualModel, visual: Tensor, audio: Tensor) -> Tensor:
    """Logits (T, classes) of features (1, T, d)."""
    logits: Tensor = model.classifier(model.fusion(visual, audio))
    return logits[0]


def _activation(found: Tensor, layer: str, sample: Batch) -> Floats:
    segments, _, *window = sample.frames.shape
    if found.ndim != 4 or len(found) != segments:
        raise ValueError(f"layer {layer} has no maps of each segment's frames; choose one of the visual ResNet")
    large = maps.enlarge(found, window)
    return (large / large.max().clamp_min(torch.finfo(large.dtype).tiny)).numpy()


def _gates(found: Mapping[str, GateMap], attention: Any, sample: Batch) -> Gates | None:
    if not found:
        return None
    window = sample.frames.shape[2:]
    relative = [maps.enlarge(m.values / m.values.mean(), window) for m in found.values()]
    kind = KIND[next(iter(found.values())).kind]
    title = attention.title if attention else "the network's own attention"
    return Gates(
        name=f"{kind} of {title}",
        values=torch.stack(relative).mean(0).numpy(),
        levels={path: m.values.flatten(1).mean(1).tolist() for path, m in found.items()},
    )


def _branches(stream: str, found: Mapping[str, tuple[tuple[str, ...], Tensor]]) -> Branches:
    names = next(iter(found.values()))[0]
    weights = torch.stack([w for _, w in found.values()]).mean(0).tolist()
    return Branches(stream, names, weights, {path: w.tolist() for path, (_, w) in found.items()})
