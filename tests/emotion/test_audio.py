"""MFCC and mel filters against their definitions, written out with other operations, and against librosa."""

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
from pydantic import ValidationError

from attnzoo.emotion import audio
from attnzoo.emotion.inputs import Audio


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


def test_equals_librosa_over_several_blocks() -> None:
    rate = 8000
    rng = np.random.default_rng(0)
    sound = (rng.normal(size=95 * rate) * np.linspace(0.001, 0.5, 95 * rate)).astype(np.float32)
    theirs = librosa.feature.mfcc(
        y=librosa.effects.preemphasis(sound, coef=0.9, zi=[0.0]),
        sr=rate,
        n_mfcc=20,
        n_mels=40,
        n_fft=256,
        win_length=200,
        hop_length=80,
        window="hamming",
    )
    ours = audio.mfcc(sound, rate, coefficients=20, mels=40, preemphasis=0.9)
    assert ours.shape == theirs.shape
    assert ours.shape[1] > 2 * audio._BLOCK
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_the_vaanet_preset_is_librosa_as_it_comes() -> None:
    settings = Audio(preset="vaanet")
    sound = np.random.default_rng(0).normal(size=3 * 44100).astype(np.float32)
    ours = audio.mfcc(
        sound,
        settings.rate,
        coefficients=settings.coefficients,
        mels=settings.mels,
        window=settings.window,
        hop=settings.hop,
        preemphasis=settings.preemphasis,
        taper="hann",
    )
    theirs = librosa.feature.mfcc(y=sound, sr=44100, n_mfcc=32)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4
    assert 16 * settings.width == 4096


def kaldi(sound: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """compute-fbank-feats frame by frame, in float64: what CTEN asks of it, then its normalisation."""
    frame, hop = rate // 40, rate // 100
    size = 2 ** int(np.ceil(np.log2(frame)))
    sound = sound - sound.mean()

    def to_mel(f: float) -> float:
        return 1127.0 * float(np.log(1 + f / 700))

    low, high = to_mel(20), to_mel(rate / 2)
    step = (high - low) / (mels + 1)
    rows = []
    for start in range(0, len(sound) - frame + 1, hop):
        piece = scipy.signal.detrend(sound[start : start + frame], type="constant")
        piece = piece - 0.97 * np.r_[piece[0], piece[:-1]]
        piece = piece * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / (frame - 1)))
        power = np.abs(scipy.fft.fft(piece, size)[: size // 2]) ** 2
        row = []
        for band in range(mels):
            left, centre, right = (low + (band + i) * step for i in range(3))
            total = 0.0
            for i in range(size // 2):
                mel = to_mel(i * rate / size)
                if left < mel < right:
                    total += power[i] * ((mel - left) if mel <= centre else (right - mel)) / step
            row.append(np.log(max(total, 1.1920929e-07)))
        rows.append(row)
    return (np.array(rows).T + 6.6268) / (2 * 5.3585)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_fbank_equals_kaldis_definition(rate: int) -> None:
    rng = np.random.default_rng(0)
    sound = (0.2 + 0.1 * rng.normal(size=rate // 5)).astype(np.float32)
    sound[: rate // 20] = 0
    ours, theirs = audio.fbank(sound, rate, mels=24), kaldi(sound.astype(float), rate, 24)
    assert ours.shape == theirs.shape == (24, 18)
    assert np.abs(ours - theirs).max() < 1e-4


def test_fbank_of_a_long_and_of_a_very_short_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    whole = audio.fbank(sound, 16000)
    monkeypatch.setattr(audio, "_BLOCK", 7)
    assert (audio.fbank(sound, 16000) == whole).all()
    assert audio.fbank(sound[:100], 16000).shape == (128, 1)


def test_tiles_are_the_frames_from_the_start_on() -> None:
    features = np.arange(2 * 50, dtype=np.float32).reshape(2, 50)
    maps = audio.tiled_maps(features, 3, 30)
    assert maps.shape == (3, 2, 30)
    assert (np.concatenate(list(maps), axis=1) == np.tile(features, 2)[:, :90]).all()
    assert (audio.tiled_maps(features, 2, 10)[1] == features[:, 10:20]).all()


def test_blocks_are_frames_of_their_segment() -> None:
    features = np.arange(1000, dtype=np.float32)[None]
    thirds = np.array([0, 0.3, 0.6, 1])
    centred = audio.block_maps(features, thirds, 100)
    assert centred.shape == (3, 1, 100)
    assert centred[:, 0, 0].tolist() == [100, 400, 750]
    starts = np.stack([audio.block_maps(features, thirds, 100, np.random.default_rng(i))[:, 0] for i in range(300)])
    assert (np.diff(starts, axis=2) == 1).all()
    assert (starts[:, :, 0].min(0) < [5, 305, 605]).all()
    assert (starts[:, :, 0].min(0) >= [0, 300, 600]).all()
    assert (starts[:, :, -1].max(0) <= [299, 599, 999]).all()
    assert (starts[:, :, -1].max(0) > [290, 590, 990]).all()
    short = audio.block_maps(features[:, :70], np.linspace(0, 1, 4), 100)
    assert (np.concatenate(list(short), axis=1)[0] == np.tile(np.arange(70), 5)[:300]).all()


def test_silence_is_zeros_of_the_same_shape() -> None:
    assert not audio.mfcc(np.zeros(8000, np.float32), 16000).any()
    assert audio.mfcc(np.zeros(8000, np.float32), 16000).shape == audio.mfcc(np.ones(8000, np.float32), 16000).shape


def test_segments_keep_their_place_in_time() -> None:
    # A single loud frame at three fifths of the time must be in the segment that covers three fifths, and nowhere else.
    cepstra = np.zeros((2, 1001), np.float32)
    cepstra[:, 600] = 1
    maps = audio.segment_maps(cepstra, np.linspace(0, 1, 5), 500)
    assert maps.shape == (4, 2, 500)
    assert [bool(m.any()) for m in maps] == [False, False, True, False]
    assert maps[2, 0].argmax() / 500 == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "fbank", "coefficients": 32}, "coefficients=32 must be mels=128 with preset=fbank"),
        ({"preset": "loud"}, "'aligned', 'vaanet' or 'fbank'"),
        ({"preset": "vaanet", "coefficients": 200}, "coefficients=200 must be at most mels=128"),
        ({"preset": "vaanet", "rate": 20}, "window=0.046.* s must be at least 2 samples"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Audio(**settings)


def test_what_is_given_goes_before_the_preset() -> None:
    assert Audio(preset="fbank", rate=8000).rate == 8000
    assert Audio.model_validate({"width": 64, "preset": "vaanet"}).width == 64
    assert Audio(preset="aligned") == Audio()
