"""Sound -> maps of its spectrum, one per segment (section 3.1 of the paper), and those of VAANet and CTEN."""

from collections.abc import Iterator

import librosa
import numpy as np
from librosa.filters import mel as mel_bank
from numpy.typing import NDArray

Maps = NDArray[np.float32]

_BLOCK = 4096  # frames whose spectra are in memory at once: hours of sound take no more than minutes


def mfcc(
    sound: NDArray[np.float32],
    rate: int,
    *,
    coefficients: int = 32,
    mels: int = 64,
    window: float = 0.025,
    hop: float = 0.010,
    preemphasis: float = 0.97,
    taper: str = "hamming",
) -> NDArray[np.float32]:
    """Mel-frequency cepstral coefficients in the paper's order.

    Pre-emphasis, frames under a window, short-time Fourier transform, mel filters, decibels, cosine transform. With a
    window of 2048 and a hop of 512 samples, 128 mels, no pre-emphasis and taper "hann" these are librosa's defaults.

    Args:
        sound: (samples,), -1 to 1.
        rate: samples per second.
        coefficients: how many coefficients are kept.
        mels: bands of the mel filters.
        window: length of a frame, s.
        hop: from one frame to the next, s.
        preemphasis: coefficient of the first-order high-pass.
        taper: shape of the window, a name that scipy knows.

    Returns:
        (coefficients, frames); silence gives zeros.

    >>> mfcc(np.ones(16000, np.float32), 16000).shape
    (32, 101)
    """
    frame, step = round(window * rate), round(hop * rate)
    if not sound.any():
        return np.zeros((coefficients, len(sound) // step + 1), np.float32)
    size = 1 << (frame - 1).bit_length()
    emphasised = np.pad(sound, size // 2)
    emphasised[size // 2 + 1 : size // 2 + len(sound)] -= np.float32(preemphasis) * sound[:-1]
    bank = mel_bank(sr=rate, n_fft=size, n_mels=mels)
    power = []
    for block in _blocks(emphasised, size, step):
        spectra = librosa.stft(block, n_fft=size, hop_length=step, win_length=frame, window=taper, center=False)
        power.append(bank @ np.abs(spectra) ** 2)
    decibels = librosa.power_to_db(np.concatenate(power, axis=1))
    cepstra: NDArray[np.float32] = librosa.feature.mfcc(S=decibels, n_mfcc=coefficients)
    return cepstra.astype(np.float32)


def _blocks(sound: NDArray[np.float32], size: int, step: int) -> Iterator[NDArray[np.float32]]:
    """Parts of a sound that hold some of its frames each and all of them together, none twice."""
    count = (len(sound) - size) // step + 1
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count) - 1
        yield sound[first * step : last * step + size]


# Of AudioSpectrogramTransformer on ESC-50, which CTEN took over.
_FBANK_MEAN, _FBANK_STD = -6.6268, 5.3585


def fbank(
    sound: NDArray[np.float32],
    rate: int,
    *,
    mels: int = 128,
    window: float = 0.025,
    hop: float = 0.010,
    preemphasis: float = 0.97,
) -> NDArray[np.float32]:
    """Logarithms of mel filters as Kaldi computes them, normalised as CTEN does.

    The mean of the sound is removed, then that of each frame; pre-emphasis within the frame, a Hanning window, the
    power spectrum, triangles of HTK's mel scale from 20 Hz up, logarithms; no dither. The first frame begins at 0.

    Args:
        sound: (samples,), -1 to 1.
        rate: samples per second.
        mels: bands of the mel filters.
        window: length of a frame, s.
        hop: from one frame to the next, s.
        preemphasis: coefficient of the first-order high-pass.

    Returns:
        (mels, frames), (x + 6.6268) / (2 * 5.3585); at least one frame.

    >>> fbank(np.ones(16000, np.float32), 16000).shape
    (128, 98)
    """
    frame, step = round(window * rate), round(hop * rate)
    size = 1 << (frame - 1).bit_length()
    bank, taper = _kaldi_bank(rate, size, mels), np.hanning(frame)
    centred = np.pad(sound - sound.mean(dtype=np.float64), (0, max(frame - len(sound), 0)))
    logs = []
    for block in _blocks(centred, frame, step):
        frames = np.lib.stride_tricks.sliding_window_view(block, frame)[::step].astype(np.float64)
        frames -= frames.mean(1, keepdims=True)
        before = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
        power = np.abs(np.fft.rfft((frames - preemphasis * before) * taper, size)) ** 2
        logs.append(np.log(np.maximum(bank @ power.T, np.finfo(np.float32).eps)))
    features = np.concatenate(logs, axis=1)
    return ((features - _FBANK_MEAN) / (2 * _FBANK_STD)).astype(np.float32)


def _kaldi_bank(rate: int, size: int, mels: int) -> NDArray[np.float64]:
    """Triangles that rise and fall evenly on the mel scale, (mels, size // 2 + 1)."""
    edges = np.linspace(_mel(20.0), _mel(rate / 2), mels + 2)
    bins = _mel(np.arange(size // 2 + 1) * rate / size)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank: NDArray[np.float64] = np.clip(np.minimum(rise, fall), 0, None)
    bank[:, -1] = 0  # Kaldi leaves out the highest frequency
    return bank


def _mel(frequency: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127 * np.log1p(np.asarray(frequency) / 700)


def segment_maps(features: NDArray[np.float32], edges: NDArray[np.float64], width: int) -> Maps:
    """Cut features into the segments of the picture, each resampled to `width` frames.

    Args:
        features: (rows, frames) over the whole video.
        edges: (T + 1,), where the segments begin and the last one ends, as shares of the time.
        width: frames of each map.

    Returns:
        (T, rows, width).

    >>> segment_maps(np.arange(8, dtype=np.float32)[None], np.array([0, 0.5, 1]), 2)[:, 0].tolist()
    [[0.875, 2.625], [4.375, 6.125]]
    """
    total = features.shape[1]
    # The middles of equal parts of each segment, in units of frames; the first and last one are the ends of the video.
    middles = (np.arange(width) + 0.5) / width
    times = (edges[:-1, None] + np.diff(edges)[:, None] * middles).reshape(-1) * (total - 1)
    maps = np.stack([np.interp(times, np.arange(total), row) for row in features])
    return maps.reshape(len(features), -1, width).transpose(1, 0, 2).astype(np.float32)


def tiled_maps(features: NDArray[np.float32], segments: int, width: int) -> Maps:
    """The first `segments` * `width` frames, cut into that many maps, whatever the picture shows meanwhile (VAANet).

    With the 16 segments and 256 frames of VAANet these are its 4096 frames, 47.55 s; other numbers cover more or less
    of the sound at the same pace. Shorter sounds are repeated from the start.

    Args:
        features: (rows, frames).
        segments: T.
        width: frames of each map.

    Returns:
        (T, rows, width).

    >>> tiled_maps(np.arange(5, dtype=np.float32)[None], 2, 3).tolist()
    [[[0.0, 1.0, 2.0]], [[3.0, 4.0, 0.0]]]
    """
    tiled = features[:, np.arange(segments * width) % features.shape[1]]
    return tiled.reshape(len(features), segments, width).transpose(1, 0, 2)


def block_maps(
    features: NDArray[np.float32], edges: NDArray[np.float64], width: int, rng: np.random.Generator | None = None
) -> Maps:
    """`width` consecutive frames of each segment (CTEN); too short a sound is repeated from the start.

    Args:
        features: (rows, frames) over the whole video.
        edges: (T + 1,), where the segments begin and the last one ends, as shares of the time.
        width: frames of each map.
        rng: draws their place in the segment (training); centred if None (evaluation).

    Returns:
        (T, rows, width).

    >>> block_maps(np.arange(8, dtype=np.float32)[None], np.array([0, 0.5, 1]), 2)[:, 0].tolist()
    [[1.0, 2.0], [5.0, 6.0]]
    """
    short = width * (len(edges) - 1)
    if features.shape[1] < short:
        features = features[:, np.arange(short) % features.shape[1]]
    bounds = edges * features.shape[1]
    room = np.diff(bounds) - width
    where = np.full(len(room), 0.5) if rng is None else rng.uniform(size=len(room))
    start = np.clip(np.floor(bounds[:-1] + room * where + 1e-9), 0, features.shape[1] - width).astype(np.int64)
    return features[:, start[:, None] + np.arange(width)].transpose(1, 0, 2)
