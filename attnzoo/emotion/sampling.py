"""Which frames of a video the model sees: T equal segments, one window of consecutive frames in each (section 3.1)."""

import numpy as np
from numpy.typing import NDArray


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
