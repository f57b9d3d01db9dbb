"""Which frames of a video the model sees: T equal segments, one window of consecutive frames in each (section 3.1).

And how: where the square is cut out, mirrored, turned and how bright, drawn once for all frames of a video.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attnzoo.emotion.inputs import Clip


def windows(frames: int, segments: int, length: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Indices of the frames in one window per segment.

    A segment shorter than the window gives a window centred on it that reaches into its neighbours; a video shorter
    than the window is repeated from its start.

    Args:
        frames: frames of the video, at least 1.
        segments: T, equal parts of the video.
        length: k, consecutive frames of a window.
        rng: draws the place of each window in its segment (training); centred if None (evaluation).

    Returns:
        (T, k) indices.

    >>> windows(32, 2, 4)
    array([[ 6,  7,  8,  9],
           [22, 23, 24, 25]])
    """
    low = np.arange(segments) * frames / segments
    room = frames / segments - length
    where = 0.5 if rng is None or room <= 0 else rng.uniform(size=segments)
    start = np.clip(np.floor(low + room * where + (rng is None) * 1e-9), 0, max(frames - length, 0))
    indices: NDArray[np.int64] = (start[:, None].astype(np.int64) + np.arange(length)) % frames
    return indices


def edges(times: NDArray[np.float64], end: float, segments: int) -> NDArray[np.float64]:
    """Where the segments of the picture begin and the last one ends, as shares of its time.

    Equal parts of the frames are equal parts of the time only at a constant rate.

    Args:
        times: (frames,), presentation times, ascending.
        end: when the last frame ends.
        segments: T.

    Returns:
        (T + 1,) from 0 to 1.

    >>> edges(np.array([0.0, 1.0, 2.0, 6.0]), end=8.0, segments=2).tolist()
    [0.0, 0.25, 1.0]
    """
    bounds = np.linspace(0, len(times), segments + 1)
    at = np.interp(bounds, np.arange(len(times) + 1), np.append(times, end))
    shares: NDArray[np.float64] = (at - at[0]) / (at[-1] - at[0])
    return shares


@dataclass(frozen=True, slots=True)
class View:
    """How one video is shown.

    Attributes:
        place: where the square lies along the long side, 0 to 1.
        mirrored: left to right.
        angle: by which it is turned, counter-clockwise, degrees; what is not in the picture is black.
        brightness: factor of the pixels.

    >>> View().place
    0.5
    """

    place: float = 0.5
    mirrored: bool = False
    angle: float = 0.0
    brightness: float = 1.0

    @classmethod
    def draw(cls, clip: Clip, rng: np.random.Generator) -> "View":
        """One of the views that a recipe allows in training.

        Args:
            clip: its settings.
            rng: from which it is drawn.

        >>> View.draw(Clip(crop="centre", flip=1), np.random.default_rng(0))
        View(place=0.5, mirrored=True, angle=0.0, brightness=1.0)
        """
        match clip.crop:
            case "random":
                place = rng.uniform()
            case "five":  # all corners of one side are the same square, for it is as high as the video
                place = float(rng.choice((0.5, 0.0, 0.0, 1.0, 1.0)))
            case "centre":
                place = 0.5
        done = {"flip": rng.uniform() < clip.flip, "rotation": True, "brightness": True}
        if clip.augment is not None:
            kinds = [
                name
                for name, off in (("flip", 0), ("rotation", 0), ("brightness", (1, 1)))
                if getattr(clip, name) != off
            ]
            one = rng.choice(kinds) if kinds and rng.uniform() < clip.augment else None
            done = {name: name == one for name in done}
        return cls(
            place=place,
            mirrored=done["flip"],
            angle=rng.uniform(-clip.rotation, clip.rotation) if done["rotation"] else 0.0,
            brightness=rng.uniform(*clip.brightness) if done["brightness"] else 1.0,
        )

    def show(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames mirrored, turned and brightened.

        Args:
            frames: (frames, size, size, 3), 0 to 255.

        Returns:
            Likewise.

        >>> View(mirrored=True).show(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3))[0, 0].tolist()
        [[3, 4, 5], [0, 1, 2]]
        """
        if self.mirrored:
            frames = frames[:, :, ::-1]
        if self.angle == 0 and self.brightness == 1:
            return frames
        pixels = torch.from_numpy(frames.astype(np.float32)).permute(0, 3, 1, 2)
        if self.angle != 0:
            radians = np.deg2rad(self.angle)
            cos, sin = float(np.cos(radians)), float(np.sin(radians))
            turned = torch.tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(frames), 2, 3)
            grid = F.affine_grid(turned, list(pixels.shape), align_corners=False)
            pixels = F.grid_sample(pixels, grid, align_corners=False)
        shown: NDArray[np.uint8] = (pixels * self.brightness).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return shown
