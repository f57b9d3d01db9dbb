"""Figures of what a trained model does: the confusion matrix, and a strip of one video."""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnzoo.emotion.explain import Explanation, Floats

Pixels = NDArray[np.uint8]
GREY = 0.35  # of the frame's brightness that is taken away under a map
THUMBNAILS = 16  # at most, in a row of the strip
STREAMS = {"visual": "picture", "audio": "sound"}


def confusion_png(classes: Sequence[str], counts: Sequence[Sequence[int]], title: str = "", dpi: int = 150) -> bytes:
    """A confusion matrix as in figure 4 of the paper: a row for each true class, shaded by its share of the row.

    Args:
        classes: their names.
        counts: of videos, a row for each true class, a column for each predicted one.
        title: above it.
        dpi: resolution.

    Returns:
        A PNG file.

    >>> confusion_png(["calm", "joy"], [[3, 1], [0, 0]])[1:4]
    b'PNG'
    """
    table = np.array(counts, float)
    totals = table.sum(1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    edge = max(2.4, 0.7 * len(classes))  # of the matrix, in
    names = [short(name, 24) for name in classes]
    counted = [f"{name}\n{int(total)} videos" for name, total in zip(names, totals[:, 0], strict=True)]
    letters = 0.075 * max(9, *map(len, names))
    lines = textwrap.wrap(title, int((edge + letters + 1) / 0.075))
    left, right, top, bottom = 0.5 + letters, 1.0, 0.25 + 0.15 * len(lines), 0.6 + 0.65 * letters
    size = left + edge + right, top + edge + bottom
    with style():
        figure = canvas(*size)
        axes = figure.add_axes((left / size[0], bottom / size[1], edge / size[0], edge / size[1]))
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), counted)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        figure.text(0.1 / size[0], 1 - 0.1 / size[1], "\n".join(lines), va="top")
        for row, column in np.ndindex(*table.shape):
            share = f"\n{shares[row, column]:.1%}" if totals[row] else ""
            dark = shares[row, column] > 0.5
            colour = "white" if dark else "black" if table[row, column] else "0.6"
            axes.text(column, row, f"{int(table[row, column])}{share}", ha="center", va="center", color=colour, size=8)
        beside = figure.add_axes(((left + edge + 0.12) / size[0], bottom / size[1], 0.15 / size[0], edge / size[1]))
        figure.colorbar(image, cax=beside, format="{x:.0%}").set_label("share of the true class")
        return _png(figure, dpi)


def strip_png(explanation: Explanation, dpi: int = 110) -> bytes:
    """A video from left to right: frames, class activation and gate over them, and the curves of its segments.

    Args:
        explanation: of the video.
        dpi: resolution.

    Returns:
        A PNG file.

    >>> from pathlib import Path
    >>> from attnzoo.emotion.explain import Part
    >>> from attnzoo.emotion.predictions import Prediction
    >>> black, said = np.zeros((1, 4, 16, 16, 3), np.uint8), Prediction("a.mp4", (0.4, 0.6), ((0.4, 0.6),))
    >>> seen = (said, 1, 2.0, 10.0, True, black, "visual.layer3", np.zeros((1, 4, 16, 16)), (Part(0.3, 0.1),))
    >>> strip_png(Explanation(Path("a.mp4"), ("calm", "joy"), *seen))[1:4]
    b'PNG'
    """
    e = explanation
    columns = min(len(e.frames), THUMBNAILS)
    width = max(6.0, 1.15 * columns)  # of the axes, in
    edge = min(width / columns, 1.6)  # of a thumbnail, in
    middle = e.frames.shape[1] // 2
    rows: list[tuple[str, Pixels]] = [
        ("frames", e.frames[:, middle]),
        (f"activation\nof {short(e.classes[e.target])}", activation_over(e)[:, middle]),
        *([(e.gates.name.replace(" of ", "\nof "), gate_over(e)[:, middle])] if e.gates else []),
    ]
    curves = {draw_emotions: 1.5, draw_activation: 0.8, draw_sound: 0.8, **({draw_branches: 1.1} if e.branches else {})}
    left, right, gap, top, bottom = 1.3, 1.9, 0.14, 0.55, 1.25  # in
    heights = [edge] * len(rows) + list(curves.values())
    size = left + width + right, top + sum(heights) + gap * (len(heights) - 1) + bottom
    tops = size[1] - top - np.cumsum([0.0, *(height + gap for height in heights)])
    with style():
        figure = canvas(*size)
        boxes = [
            figure.add_axes((left / size[0], (y - h) / size[1], width / size[0], h / size[1]))
            for y, h in zip(tops, heights, strict=False)
        ]
        for axes, (name, pictures) in zip(boxes, rows, strict=False):
            _thumbnails(axes, e, pictures, 0.96 * edge / width * e.seconds)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, draw in zip(boxes[len(rows) :], curves, strict=True):
            draw(axes, e)
            axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False, fontsize=7)
            axes.tick_params(labelbottom=False)
        for axes in boxes:
            axes.set_xlim(0, e.seconds)
        boxes[-1].tick_params(labelbottom=True)
        boxes[-1].set_xlabel(
            f"s; {len(e.frames)} segments of {short(e.path.name, 60)}, {e.frames.shape[1]} frames of each"
        )
        figure.text(left / size[0], 1 - 0.3 / size[1], headline(e), fontsize=11, va="center")
        figure.text(0.1 / size[0], 0.08 / size[1], notes(e), fontsize=7, va="bottom", color="0.3")
        return _png(figure, dpi)


def headline(e: Explanation) -> str:
    """What the model says of the video, in one line."""
    label = e.prediction.predicted
    said = f"{short(e.classes[label], 40)} {e.prediction.probabilities[label]:.0%}"
    of = "" if label == e.target else f", explained for {short(e.classes[e.target], 40)}"
    return f"{short(e.path.name, 60)}: {said}{of}"


def notes(e: Explanation) -> str:
    """How the maps and curves are made."""
    target = short(e.classes[e.target])
    lines = [
        f"Activation: HiResCAM of {target} at {e.layer}, red are the greatest 1 % in the video"
        + ("." if e.activation.any() else "; nothing in the picture speaks for it."),
    ]
    if e.gates:
        lines.append(
            f"{e.gates.name}: {len(e.gates.levels)} modules of the visual ResNet, each over its mean in the video; "
            f"red {_range(e).removeprefix('±')} above it, blue as much below."
        )
    else:
        lines.append("No attention in the visual ResNet, hence no gate.")
    heard = "" if e.heard else " No sound track: its share is 0."
    lines.append(
        f"Sound: Shapley values of picture and sound in log p({target}), each left out by features of zero; "
        f"share = |sound| / (|sound| + |picture|).{heard}"
    )
    return "\n".join(lines)


def short(text: str, length: int = 18) -> str:
    """A text that fits, with its end cut off if need be.

    >>> short("anticipation", 6)
    'antic…'
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"


def activation_over(e: Explanation) -> Pixels:
    """The class activation over the frames, (T, k, size, size, 3); red from its outermost hundredth on."""
    # By the greatest value alone a single point would take the colour from all others.
    shown = (e.activation / max(float(np.quantile(e.activation, 0.99)), 1e-3)).clip(0, 1)
    return _over(e.frames, mpl.colormaps["turbo"](shown)[..., :3], 0.75 * np.sqrt(shown))


def gate_over(e: Explanation) -> Pixels:
    """The gate over the frames, (T, k, size, size, 3): red above its mean, blue below."""
    if e.gates is None:
        return e.frames
    departure = (e.gates.values - 1) / gate_range(e)
    colours = mpl.colormaps["coolwarm"](0.5 + 0.5 * departure.clip(-1, 1))[..., :3]
    return _over(e.frames, colours, np.full_like(departure, 0.5))


def gate_range(e: Explanation) -> float:
    """How far the gate departs from its mean, but for the outermost hundredth of its values."""
    return 0.0 if e.gates is None else max(float(np.quantile(np.abs(e.gates.values - 1), 0.99)), 1e-3)


def _range(e: Explanation) -> str:
    return f"±{gate_range(e):.1%}"


def _over(frames: Pixels, colours: Any, opacity: NDArray[np.floating[Any]]) -> Pixels:
    grey = (1 - GREY) / 255 * frames.mean(-1, keepdims=True, dtype=np.float32)
    mixed = grey + opacity[..., None] * (colours - grey)
    mixed_pixels: Pixels = (255 * mixed.clip(0, 1)).round().astype(np.uint8)
    return mixed_pixels


def draw_emotions(axes: Any, e: Explanation) -> None:
    """Probabilities of the classes in each segment."""
    table = np.array(e.prediction.timeline)
    colours = mpl.colormaps["tab10" if len(e.classes) <= 10 else "tab20"]
    for i, name in enumerate(e.classes):
        bold = i in (e.target, e.prediction.predicted)
        _curve(axes, e, table[:, i], short(name), color=colours(i % colours.N), linewidth=2.2 if bold else 1)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability")


def draw_activation(axes: Any, e: Explanation) -> None:
    """How strong the class activation is in each segment."""
    _curve(axes, e, e.activation.max((1, 2, 3)), "strongest", color="#d55e00")
    _curve(axes, e, e.activation.mean((1, 2, 3)), "mean", color="#d55e00", linestyle="--")
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("activation")


def draw_sound(axes: Any, e: Explanation) -> None:
    """The sound's share in each segment."""
    shares = np.array([math.nan if part.share is None else part.share for part in e.parts])
    speaks = np.array([part.sound for part in e.parts])
    step = e.seconds / len(shares)
    for chosen, label, colour in ((speaks >= 0, "speaks for it", "#0072b2"), (speaks < 0, "speaks against", "#e69f00")):
        if chosen.any():
            middles = (np.arange(len(shares))[chosen] + 0.5) * step
            axes.bar(middles, shares[chosen], 0.8 * step, color=colour, label=label)
    axes.axhline(0.5, color="0.7", linewidth=0.6)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("sound's share")


def draw_branches(axes: Any, e: Explanation) -> None:
    """Weights of the attention's branches in each segment."""
    for branches in e.branches:
        for i, (name, weights) in enumerate(zip(branches.names, np.array(branches.weights).T, strict=True)):
            style = {"color": f"C{i}", "linestyle": "-" if branches.stream == "visual" else "--"}
            _curve(axes, e, weights, f"{name}, {STREAMS[branches.stream]}", **style)
    axes.set_ylabel("branch weight")
    axes.margins(y=0.15)


def _curve(axes: Any, e: Explanation, values: Floats, label: str, **style: Any) -> None:
    """A curve through the middles of the segments."""
    middles = (np.arange(len(values)) + 0.5) * e.seconds / len(values)
    axes.plot(middles, values, marker="o", markersize=2.5, label=label, **{"linewidth": 1.3, **style})
    axes.grid(alpha=0.25)


def _thumbnails(axes: Any, e: Explanation, pictures: Pixels, width: float) -> None:
    """Pictures of the segments, `width` seconds wide, where they are in time; of every second or third if too many."""
    every = math.ceil(len(pictures) / THUMBNAILS)
    step = e.seconds / len(pictures)
    for t in range(0, len(pictures), every):
        middle = (t + min(every, len(pictures) - t) / 2) * step
        edges = (middle - width / 2, middle + width / 2, 0.02, 0.98)
        axes.imshow(pictures[t], extent=edges, aspect="auto", interpolation="bilinear")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.set_frame_on(False)


@contextmanager
def style() -> Iterator[None]:
    """Names are shown as they are: no mathematics in dollar signs, no complaint about letters that the font lacks."""
    settings = {"text.parse_math": False, "text.usetex": False, "font.size": 8, "axes.titlesize": 9}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def canvas(width: float, height: float) -> Any:
    """A figure of its own, which nothing else knows of, of a width and a height in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Any, dpi: int) -> Pixels:
    """A figure as a picture (height, width, 3)."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    drawn: Pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return drawn


def _png(figure: Any, dpi: int) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
