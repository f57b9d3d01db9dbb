"""MFCC against their definition, written out with other operations."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal

from attnzoo.emotion import audio


def definition(sound: np.ndarray, rate: int, coefficients: int, mels: int) -> np.ndarray:
    """Pre-emphasis, frames, Hamming window, spectrum, Slaney's mel filters, decibels, cosine transform."""
    frame, hop, n_fft = round(0.025 * rate), round(0.010 * rate), 512
    high = scipy.signal.lfilter([1, -0.97], [1], sound)
    window = np.zeros(n_fft)
    window[(n_fft - frame) // 2 : (n_fft - frame) // 2 + frame] = scipy.signal.get_window("hamming", frame)
    padded = np.pad(high, n_fft // 2)
    starts = range(0, len(sound) + 1, hop)
    power = np.abs(np.fft.rfft([padded[s : s + n_fft] * window for s in starts])) ** 2

    def to_mel(f: np.ndarray) -> np.ndarray:
        return np.where(f < 1000, 3 * f / 200, 15 + np.log(np.maximum(f, 1) / 1000) * 27 / np.log(6.4))

    def to_hz(m: np.ndarray) -> np.ndarray:
        return np.where(m < 15, 200 * m / 3, 1000 * np.exp(np.log(6.4) * (m - 15) / 27))

    edges = to_hz(np.linspace(0, to_mel(np.array(rate / 2.0)), mels + 2))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bank = np.clip(np.minimum(rise, fall), 0, None) * (2 / (edges[2:] - edges[:-2]))[:, None]
    decibels = 10 * np.log10(np.maximum(power @ bank.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return scipy.fft.dct(decibels, norm="ortho", axis=1)[:, :coefficients].T


def test_equals_the_definition() -> None:
    rate = 16000
    t = np.arange(rate) / rate
    sound = (0.4 * np.sin(2 * np.pi * 440 * t * (1 + t)) + 0.05 * np.random.default_rng(0).normal(size=rate)).astype(
        "f4"
    )
    ours = audio.mfcc(sound, rate, coefficients=20, mels=40)
    theirs = definition(sound.astype(float), rate, 20, 40)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_silence_is_zeros_of_the_same_shape() -> None:
    assert not audio.mfcc(np.zeros(8000, np.float32), 16000).any()
    assert audio.mfcc(np.zeros(8000, np.float32), 16000).shape == audio.mfcc(np.ones(8000, np.float32), 16000).shape


def test_segments_keep_their_place_in_time() -> None:
    # A single loud frame at three fifths of the time must be in the segment that covers three fifths, and nowhere else.
    cepstra = np.zeros((2, 1001), np.float32)
    cepstra[:, 600] = 1
    maps = audio.segment_maps(cepstra, 4, 500)
    assert maps.shape == (4, 2, 500)
    assert [bool(m.any()) for m in maps] == [False, False, True, False]
    assert maps[2, 0].argmax() / 500 == pytest.approx(0.4, abs=0.01)
