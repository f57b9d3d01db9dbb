"""A film of what the model goes by: the frames as it saw them, class activation and gate over them, and the curves."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.nn.functional import interpolate

from attnzoo.emotion.checkpoints import whole
from attnzoo.emotion.explain import Explanation
from attnzoo.emotion.figures import (
    Pixels,
    activation_over,
    canvas,
    draw_branches,
    draw_emotions,
    draw_sound,
    gate_over,
    gate_range,
    headline,
    pixels,
    short,
    style,
)

PANEL, GAP, HEAD, FOOT = 256, 24, 64, 40  # px
CURVE = {draw_emotions: 130, draw_sound: 70, draw_branches: 80}
DPI = 100
RATES = (2, 30)  # pictures per second: no film is too slow or too fast to look at


def write_film(e: Explanation, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write an explanation as an MP4 (H.264), one picture for each frame that the model saw, in their order.

    Args:
        e: of the video.
        path: the file.
        progress: called with (pictures written, pictures in all).

    Raises:
        ValueError: it cannot be written; what was at `path` is still there.

    >>> import tempfile
    >>> from attnzoo.emotion.explain import Part
    >>> from attnzoo.emotion.predictions import Prediction
    >>> black, said = np.zeros((1, 4, 16, 16, 3), np.uint8), Prediction("a.mp4", (0.4, 0.6), ((0.4, 0.6),))
    >>> seen = (said, 1, 2.0, 10.0, True, black, "visual.layer3", np.zeros((1, 4, 16, 16)), (Part(0.3, 0.1),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_film(Explanation(Path("a.mp4"), ("calm", "joy"), *seen), Path(folder) / "film.mp4", print)
    1 4
    2 4
    3 4
    4 4
    """
    count = e.frames.shape[0] * e.frames.shape[1]
    rate = Fraction(min(max(e.fps, RATES[0]), RATES[1])).limit_denominator(1000)
    with whole(path) as part, av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for done, picture in enumerate(pictures(e), 1):
            if done == 1:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if progress:
                progress(done, count)
        container.mux(stream.encode(None))


def pictures(e: Explanation) -> Iterator[Pixels]:
    """The pictures of the film, each (height, width, 3), both even.

    Args:
        e: of the video.
    """
    panels = [e.frames, activation_over(e), *([gate_over(e)] if e.gates else [])]
    background, spans = _background(e, len(panels))
    segments, window = e.frames.shape[:2]
    for t in range(segments):
        large = [_enlarged(panel[t]) for panel in panels]
        for j in range(window):
            picture = background.copy()
            for i, panel in enumerate(large):
                left = GAP + i * (PANEL + GAP)
                picture[HEAD : HEAD + PANEL, left : left + PANEL] = panel[j]
            now = (t + (j + 0.5) / window) / segments
            for first, last, top, bottom in spans:
                x = round(first + now * (last - first))
                picture[top:bottom, x - 1 : x + 1] = (200, 30, 30)
            yield picture


def _enlarged(frames: Pixels) -> Pixels:
    """Frames (k, size, size, 3) at the size of a panel."""
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    large = interpolate(planes.float(), (PANEL, PANEL), mode="bilinear", align_corners=False, antialias=True)
    result: Pixels = large.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return result


def _background(e: Explanation, panels: int) -> tuple[Pixels, list[tuple[int, int, int, int]]]:
    """All that stands still, and left, right, top and bottom of the curves in px."""
    curves: list[Any] = [draw_emotions, draw_sound, *([draw_branches] if e.branches else [])]
    width = GAP + panels * (PANEL + GAP)
    tops = [HEAD + PANEL + GAP]
    for draw in curves:
        tops.append(tops[-1] + CURVE[draw] + GAP)
    height = tops[-1] + FOOT
    height += height % 2
    left, right = GAP + 40, width - 170
    target = short(e.classes[e.target])
    titles = ["what the model sees", f"class activation of {target}"]
    if e.gates:
        titles.append(f"{e.gates.name}: red above its mean, ±{gate_range(e):.1%}")
    with style():
        figure = canvas(width / DPI, height / DPI)
        figure.text(GAP / width, 1 - 18 / height, headline(e), fontsize=10, va="center", weight="bold")
        for i, title in enumerate(titles):
            x = (GAP + i * (PANEL + GAP)) / width
            figure.text(x, 1 - (HEAD - 10) / height, title, fontsize=7.5, va="center")
        for draw, top in zip(curves, tops, strict=False):
            box = (left / width, 1 - (top + CURVE[draw]) / height, (right - left) / width, CURVE[draw] / height)
            axes = figure.add_axes(box)
            draw(axes, e)
            axes.set_xlim(0, e.seconds)
            axes.tick_params(labelsize=6, labelbottom=draw is curves[-1])
            axes.yaxis.label.set_size(6.5)
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=6)
        axes.set_xlabel(f"s, in {len(e.frames)} segments; {'with' if e.heard else 'no'} sound track", fontsize=6.5)
        drawn = pixels(figure, DPI)
    spans = [(left, right, top, top + CURVE[draw]) for draw, top in zip(curves, tops, strict=False)]
    return drawn[:height, :width], spans
