"""Views of a video: drawn once for all its frames, from seed, epoch and video alone; and videos that are gone."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from attnzoo.emotion import media
from attnzoo.emotion.clips import Clips, sound_maps
from attnzoo.emotion.datasets import Video, read_folder
from attnzoo.emotion.inputs import Audio, Clip
from attnzoo.emotion.samples import collate
from attnzoo.emotion.sampling import View, edges

CLIP, SOUND = Clip(segments=2, frames=4, size=32), Audio(coefficients=12, mels=24, width=16)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """A video without loss whose frames are all the same: stripes whose grey tells their place."""
    path = tmp_path_factory.mktemp("still") / "a.mkv"
    picture = np.repeat(np.arange(96, dtype=np.uint8) * 2 + 30, 3).reshape(1, 96, 3).repeat(48, 0)
    picture[:12] = 220
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "bgr0"
        for _ in range(16):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return Video("still/a.mkv", 0, media.read_index(path))


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": "random"},
        {"crop": "five"},
        {"crop": "centre", "flip": 0, "rotation": 30},
        {"crop": "centre", "flip": 0, "brightness": (0.5, 1.5)},
        {"crop": "five", "flip": 1, "rotation": 20, "brightness": (0.5, 1), "augment": 0.9},
    ],
)
def test_all_frames_of_a_video_are_shown_alike_and_epochs_differ(still: Video, settings: dict[str, object]) -> None:
    clips = Clips([still], Clip(segments=2, frames=4, size=24, **settings), SOUND, seed=0)
    views = [clips[(epoch, 0)].frames for epoch in range(8)]
    for view in views:
        assert (view == view[:1, :, :1]).all()
    assert len({view.numpy().tobytes() for view in views}) > 2
    assert torch.equal(clips[(3, 0)].frames, views[3])
    centred = Clips([still], Clip(segments=2, frames=4, size=24, **settings), SOUND)
    plain = media.read_frames(still.index, [0], 24)
    assert (centred[0].frames[0, :, 0] == torch.from_numpy(plain[0]).permute(2, 0, 1)).all()


def test_where_the_square_lies() -> None:
    def places(crop: str) -> Counter[float]:
        return Counter(View.draw(Clip(crop=crop), np.random.default_rng(i)).place for i in range(2000))

    assert places("centre") == {0.5: 2000}
    five = places("five")
    assert {place: round(count / 2000, 1) for place, count in five.items()} == {0.0: 0.4, 0.5: 0.2, 1.0: 0.4}
    drawn = np.array(list(places("random")))
    assert len(drawn) == 2000
    assert np.abs(np.quantile(drawn, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.05


def test_vaanet_does_exactly_one_thing_to_three_videos_in_ten() -> None:
    clip = Clip(crop="five", flip=1, rotation=20, brightness=(0.5, 1), augment=0.3)
    views = [View.draw(clip, np.random.default_rng(i)) for i in range(3000)]
    done = Counter((v.mirrored, v.angle != 0, v.brightness != 1) for v in views)
    assert set(done) == {(False,) * 3, (True, False, False), (False, True, False), (False, False, True)}
    assert done[(False,) * 3] / 3000 == pytest.approx(0.7, abs=0.03)
    for kind in set(done) - {(False,) * 3}:
        assert done[kind] / 3000 == pytest.approx(0.1, abs=0.02)
    assert max(abs(v.angle) for v in views) == pytest.approx(20, abs=0.5)
    assert {0.5, 1.0} == {round(f(v.brightness for v in views), 1) for f in (min, max)}
    # Without `augment` they are drawn on their own; what is off is never done.
    alone = [View.draw(Clip(rotation=20), np.random.default_rng(i)) for i in range(200)]
    assert 70 < sum(v.mirrored for v in alone) < 130
    assert all(v.angle != 0 and v.brightness == 1 for v in alone)
    assert all(View.draw(Clip(flip=0, augment=1), np.random.default_rng(i)).angle == 0 for i in range(20))


def test_a_view_turns_mirrors_and_brightens_like_pillow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC))
    turned = np.asarray(Image.fromarray(picture).rotate(17, Image.Resampling.BILINEAR))
    ours = View(angle=17).show(picture[None])[0]
    assert np.abs(ours.astype(int) - turned)[16:48, 16:48].max() <= 2
    assert ours[0, 0].max() == 0
    assert np.abs(View(angle=90).show(picture[None])[0].astype(int) - np.rot90(picture)).max() <= 1
    assert (View(mirrored=True).show(picture[None])[0] == picture[:, ::-1]).all()
    darker = View(brightness=0.5).show(picture[None])[0]
    assert np.abs(darker - picture / 2).max() <= 0.5
    assert View(brightness=9.0).show(picture[None]).max() == 255


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"brightness": (1.0, 0.5)}, "the first must be the smaller"),
        ({"crop": "ten"}, "'random', 'five' or 'centre'"),
        ({"flip": 1.1}, "less than or equal to 1"),
        ({"decoder": "opencv"}, "'pyav' or 'torchcodec'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Clip(**settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_is_gone_is_skipped_and_told_or_stops(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    found = read_folder(videos, 4).videos[:4]
    for number, video in enumerate(found[:2]):  # one will be gone, one be other than it was
        (tmp_path / f"{number}.mp4").write_bytes(video.index.path.read_bytes())
    lost = [Video(v.key, v.label, media.read_index(tmp_path / f"{number}.mp4")) for number, v in enumerate(found[:2])]
    (tmp_path / "0.mp4").unlink()
    (tmp_path / "1.mp4").write_bytes(b"no video")
    chosen = [lost[0], *found[2:], lost[1]]
    clips = Clips(chosen, CLIP, SOUND, damaged="skip")
    loader = DataLoader(clips, 3, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    with caplog.at_level(logging.WARNING):
        batches = [list(loader) for _ in range(2)]
    for first, second in batches:
        assert first.frames.shape == (2, 2, 3, 4, 32, 32)
        assert first.label.tolist() == [v.label for v in found[2:]]
        assert second is None
    assert clips.lost.tolist() == [True, False, False, True]
    if workers == 0:
        assert [r.getMessage() for r in caplog.records] == [
            f"{tmp_path / '0.mp4'}: the file is gone; it is left out",
            f"{tmp_path / '1.mp4'}: its frames can no longer be decoded; it is left out",
        ]
    with pytest.raises(media.Damaged, match=r"0\.mp4: the file is gone"):
        Clips(chosen, CLIP, SOUND)[0]


def test_a_bug_is_no_damage(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    clips = Clips(read_folder(videos, 4).videos[:1], CLIP, SOUND, damaged="skip")
    monkeypatch.setattr("attnzoo.emotion.clips.sound_maps", broken)
    with pytest.raises(ValueError, match=r"\.mp4: ValueError: a bug"):
        clips[0]


def test_sound_follows_the_picture_where_its_rate_varies(write_video: Callable[..., Path], tmp_path: Path) -> None:
    # Twelve frames in 1.2 s, twelve in 4.8 s; the first half of the frames is the first fifth of the time.
    index = media.read_index(write_video(tmp_path / "a.mkv", frames=60, click=0.6))
    uneven = tuple(index.pts[i] for i in (*range(12), *range(12, 60, 4)))
    index = media.Index(index.path, uneven, index.unit, index.fps, 0, index.sound, keys=index.keys)
    shares = edges(np.array(index.pts) * index.unit, index.start + index.seconds, 2)
    assert shares == pytest.approx([0, 0.2, 1], abs=0.02)
    maps = sound_maps(index, Clip(segments=2), Audio(coefficients=1, mels=24, width=60))
    assert maps[0, 0].max() > maps[1, 0].max() + 20
    assert maps[0, 0].argmax() / 60 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("sound", "rows", "width"),
    [
        (Audio(preset="vaanet"), 32, 256),
        (Audio(preset="fbank"), 128, 100),
        (Audio(preset="fbank", mels=40, width=30), 40, 30),
        (Audio(preset="vaanet", coefficients=13, width=64), 13, 64),
    ],
)
def test_presets_give_maps_of_the_shape_that_they_say(videos: Path, sound: Audio, rows: int, width: int) -> None:
    assert (sound.coefficients, sound.width) == (rows, width)
    video = read_folder(videos, 4).videos[0]
    clips = Clips([video], CLIP, sound, seed=0)
    maps = clips[(0, 0)].sound
    assert maps.shape == (2, 1, rows, width)
    assert maps.any()
    assert torch.equal(maps, clips[(0, 0)].sound)
    evaluated = Clips([video], CLIP, sound)
    assert torch.equal(evaluated[0].sound, evaluated[0].sound)
    assert Audio.model_validate(sound.model_dump()) == sound
