"""Sound -> MFCC maps, one per segment, lined up with the frames (section 3.1 of the paper)."""

import librosa
import numpy as np
from numpy.typing import NDArray


def mfcc(
    sound: NDArray[np.float32],
    rate: int,
    *,
    coefficients: int = 32,
    mels: int = 64,
    window: float = 0.025,
    hop: float = 0.010,
    preemphasis: float = 0.97,
) -> NDArray[np.float32]:
    """Mel-frequency cepstral coefficients in the paper's order.

    Pre-emphasis, frames under a Hamming window, short-time Fourier transform, mel filters, decibels, cosine transform.

    Args:
        sound: (samples,), -1 to 1.
        rate: samples per second.
        coefficients: how many coefficients are kept.
        mels: bands of the mel filters.
        window: length of a frame, s.
        hop: from one frame to the next, s.
        preemphasis: coefficient of the first-order high-pass.

    Returns:
        (coefficients, frames); silence gives zeros.

    >>> mfcc(np.ones(16000, np.float32), 16000).shape
    (32, 101)
    """
    frame, step = round(window * rate), round(hop * rate)
    if not sound.any():
        return np.zeros((coefficients, len(sound) // step + 1), np.float32)
    emphasised = np.append(sound[:1], sound[1:] - np.float32(preemphasis) * sound[:-1])
    cepstra: NDArray[np.float32] = librosa.feature.mfcc(
        y=emphasised,
        sr=rate,
        n_mfcc=coefficients,
        n_mels=mels,
        n_fft=1 << (frame - 1).bit_length(),
        win_length=frame,
        hop_length=step,
        window="hamming",
    )
    return cepstra.astype(np.float32)


def segment_maps(cepstra: NDArray[np.float32], segments: int, width: int) -> NDArray[np.float32]:
    """Cut coefficients into T equal parts of time, the segments of the picture, each resampled to `width` frames.

    Args:
        cepstra: (coefficients, frames) over the whole video.
        segments: T.
        width: frames of each map.

    Returns:
        (T, coefficients, width).

    >>> segment_maps(np.arange(8, dtype=np.float32)[None], 2, 2)[:, 0].tolist()
    [[0.875, 2.625], [4.375, 6.125]]
    """
    total = cepstra.shape[1]
    # The middles of T * width equal parts of the video, in units of frames; the first and last frame are its ends.
    times = np.linspace(0, total - 1, 2 * segments * width + 1)[1::2]
    maps = np.stack([np.interp(times, np.arange(total), row) for row in cepstra])
    return maps.reshape(len(cepstra), segments, width).transpose(1, 0, 2).astype(np.float32)
