"""The synthetic task: real clips, the promised truth, and classes that need both modalities."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnzoo.emotion.puppet import SAMPLE_RATE, Puppet
from attnzoo.emotion.synth import CUES, EKMAN, cue_table, synthesise

PER_CLASS, FOLDS = 24, 3
SMALL: dict[str, Any] = {"classes": ("calm", "glad", "cross"), "per_class": 2, "seconds": 1, "width": 64, "height": 48}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(
        tmp_path_factory.mktemp("synth"), per_class=PER_CLASS, seconds=2.5, width=96, height=72, workers=2
    )


def truth(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "truth.jsonl").read_text().splitlines()]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pictures(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def test_clips_are_h264_and_aac_of_the_asked_length(task: Path) -> None:
    clips = sorted(path.relative_to(task).as_posix() for path in task.glob("*/*"))
    assert clips == [f"{name}/{name}_{index:04d}.mp4" for name in EKMAN for index in range(PER_CLASS)]
    with av.open(task / clips[0]) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == ("h264", "yuv420p", 16)
        assert (video.width, video.height) == (96, 72)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", SAMPLE_RATE, 1)
        assert video.duration * video.time_base == audio.duration * audio.time_base == 2.5
    assert len(pictures(task / clips[0])) == 40


def test_sound_and_picture_start_together(task: Path) -> None:
    puppet = Puppet(cue_table()["joy"], 40, 16, 96, 72, (0, EKMAN.index("joy"), 1))
    drawn = np.stack(list(puppet.pictures())).astype(float)
    assert np.abs(pictures(task / "joy" / "joy_0001.mp4") - drawn).mean() < 10
    played = puppet.sound()
    assert np.corrcoef(sound(task / "joy" / "joy_0001.mp4")[: len(played)], played)[0, 1] > 0.8


def test_same_arguments_same_bytes_however_many_workers(tmp_path: Path) -> None:
    one = synthesise(tmp_path / "one", **SMALL)
    two = synthesise(tmp_path / "two", **SMALL, workers=2)
    other = synthesise(tmp_path / "other", **SMALL, seed=1)
    assert contents(one) == contents(two)
    assert all(contents(one)[name] != contents(other)[name] for name in contents(one))


def test_an_interrupted_call_is_resumed(tmp_path: Path) -> None:
    root = synthesise(tmp_path / "task", **SMALL)
    whole = contents(root)
    lost = root / "glad" / "glad_0001.mp4"
    lost.rename(lost.with_name(f".{lost.name}.part"))
    times = {path: path.stat().st_mtime_ns for path in root.glob("*/*.mp4")}
    calls: list[tuple[int, int]] = []
    synthesise(root, **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(6, 6)]
    assert contents(root) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("n", range(3, 17))
def test_only_both_modalities_together_name_a_class(n: int) -> None:
    table = cue_table([f"class{i}" for i in range(n)])
    words = [tuple(cues.values()) for cues in table.values()]
    assert len(set(words)) == n
    assert len({word[:3] for word in words}) == len({word[3:] for word in words}) == (n + 1) // 2


def test_with_six_classes_one_cue_does_not_tell_the_words_apart() -> None:
    words = np.array([list(cues.values()) for cues in cue_table().values()])
    for modality in words[:, :3], words[:, 3:]:
        distinct = np.unique(modality, axis=0)
        assert len(distinct) == 3
        assert (distinct.sum(0) == 2).all()
        assert all(len(np.unique(np.delete(distinct, cue, 1), axis=0)) == 3 for cue in range(3))  # any two cues do


def test_truth_agrees_with_the_table(task: Path) -> None:
    rows = truth(task)
    assert len(rows) == len(EKMAN) * PER_CLASS
    assert all(row["cues"] == cue_table()[row["class"]] for row in rows)
    assert all((task / row["clip"]).is_file() for row in rows)
    boxes = np.array([list(row["boxes"].values()) for row in rows])
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[..., :2] < boxes[..., 2:]).all()


def test_an_unused_cue_is_a_coin_and_changes_nothing_else(tmp_path: Path) -> None:
    kept = tuple(cue for cue in CUES if cue != "macro")
    rows = truth(synthesise(tmp_path / "task", **(SMALL | {"per_class": 40}), cues=kept))
    for name, cues in cue_table(SMALL["classes"]).items():
        shown = [row["cues"] for row in rows if row["class"] == name]
        assert all(row[cue] == cues[cue] for row in shown for cue in kept)
        # 40 fair coins: outside of these bounds in one of 10 000 sets, and the seed is fixed
        assert 8 <= sum(row["macro"] for row in shown) <= 32


@pytest.mark.parametrize("cue", ["micro", "meso", "macro"])
def test_a_picture_cue_is_a_motion_within_its_boxes(cue: str) -> None:
    off = Puppet(dict.fromkeys(CUES, False), 20, 16, 128, 96, (0, 0, 0))
    on = replace(off, cues={**off.cues, cue: True})
    change = np.stack(list(on.pictures())).astype(int) - np.stack(list(off.pictures()))
    assert not change[0].any()  # a single frame tells nothing
    assert np.abs(change).max() > 60
    parts = {"micro": ["patch"], "meso": ["face", "patch"], "macro": ["left_arm", "right_arm"]}[cue]
    for part in parts:
        left, top, right, bottom = np.array(on.look().boxes()[part]) * (128, 96, 128, 96)
        # a pixel more on every side for the antialiasing
        change[:, max(0, int(top) - 1) : int(bottom) + 2, max(0, int(left) - 1) : int(right) + 2] = 0
    assert not change.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("calm", "glad")}, "2 classes.*3 to 16"),
        ({"classes": ("calm", "glad", "Calm")}, "differ in more than case"),
        ({"classes": ("calm", "glad", "a/b")}, "'a/b': must name a folder"),
        ({"cues": ("pitch", "tempo")}, "unknown cue tempo: choose from micro, meso"),
        ({"per_class": 0}, "per_class = 0: must be at least 1"),
        ({"seconds": 0.5}, "seconds = 0.5: must be at least 1"),
        ({"fps": 8}, "fps = 8: must be at least 15"),
        ({"height": 49}, "height = 49: H.264 in yuv420p needs an even number; give 50"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        synthesise(tmp_path / "task", **(SMALL | change))
    assert not (tmp_path / "task").exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    root = synthesise(tmp_path / "task", **SMALL)
    with pytest.raises(ValueError, match=r"seed = 0, not 1: give another folder"):
        synthesise(root, **SMALL, seed=1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "holiday.mp4").touch()
    with pytest.raises(ValueError, match=r"no synth.json.*new or empty folder"):
        synthesise(mine, **SMALL)
    assert [path.name for path in mine.iterdir()] == ["holiday.mp4"]


def picture_features(path: Path) -> np.ndarray:
    """Energy of change in four bands of frequency, on a grid of 6 x 8 cells."""
    grey = pictures(path)[:, ::2, ::2].mean(-1) / 255
    spectrum = np.abs(np.fft.rfft(grey - grey.mean(0), axis=0)) ** 2
    rates = np.fft.rfftfreq(len(grey), 1 / 16)
    bands = [
        spectrum[(rates >= low) & (rates < high)].sum(0) for low, high in ((0.7, 1.8), (1.8, 3.4), (3.4, 5.5), (5.5, 8))
    ]
    cells = np.stack(bands).reshape(4, 6, 6, 8, 6).mean((2, 4))
    return np.log(cells + 1e-3).ravel()


def sound_features(path: Path) -> np.ndarray:
    """Mean and spread of the MFCC, and the autocorrelation of the loudness over time."""
    wave = sound(path)
    mfcc = librosa.feature.mfcc(y=wave, sr=SAMPLE_RATE, n_mfcc=20, n_fft=400, hop_length=160, n_mels=40)
    loudness = mfcc[0] - mfcc[0].mean()
    echo = np.correlate(loudness, loudness, "full")[len(loudness) :: 4][:20] / (loudness @ loudness)
    return np.concatenate([mfcc.mean(1), mfcc.std(1), 3 * echo])


def probe(features: Tensor, labels: Tensor) -> Tensor:
    """Labels (N,) that softmax regressions give to clips which they were not trained on."""
    guesses = torch.empty_like(labels)
    folds = torch.arange(len(labels)) % FOLDS
    for fold in range(FOLDS):
        train = folds != fold
        scaled = (features - features[train].mean(0)) / features[train].std(0)
        guesses[~train] = (scaled[~train] @ softmax_regression(scaled[train], labels[train])).argmax(1)
    return guesses


def softmax_regression(features: Tensor, labels: Tensor) -> Tensor:
    weights = torch.zeros(features.shape[1], len(EKMAN), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(features @ weights, labels) + 0.1 * (weights**2).sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    return weights.detach()


def test_classes_need_both_modalities(task: Path) -> None:
    rows = truth(task)
    seen = torch.tensor(np.stack([picture_features(task / row["clip"]) for row in rows])).float()
    heard = torch.tensor(np.stack([sound_features(task / row["clip"]) for row in rows])).float()
    labels = torch.tensor([EKMAN.index(row["class"]) for row in rows])
    guesses = [probe(features, labels) for features in (seen, heard, torch.cat([seen, heard], 1))]
    picture, audio, both = (float((guess == labels).double().mean()) for guess in guesses)

    # three standard errors of an accuracy of 1/6 and of 1/2
    above_chance, above_ceiling = (p + 3 * (p * (1 - p) / len(rows)) ** 0.5 for p in (1 / 6, 1 / 2))
    assert above_chance < picture < above_ceiling
    assert above_chance < audio < above_ceiling
    assert both > 0.9
    # each modality alone fails to tell apart the classes that share its word, and nothing else
    assert (guesses[0] // 2 == labels // 2).double().mean() > 0.9
    assert ((guesses[1] + 1) // 2 % 3 == (labels + 1) // 2 % 3).double().mean() > 0.9
