"""Folders of real files: what is used, what is skipped, how they are divided and what the model is shown."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from attnzoo.emotion.clips import Clips
from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.protocols import split
from attnzoo.emotion.recipe import Audio, Clip, Data
from attnzoo.emotion.samples import Epochs

CLIP, SOUND = Clip(segments=2, frames=4, size=32), Audio(coefficients=12, mels=24, width=16)


def test_what_is_no_file_of_a_class_folder_is_reported(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        write_video(root / name / "good.mp4")
    write_video(root / "a" / "more" / "deep.mp4")
    (root / "a" / "gone.mp4").symlink_to(root / "nowhere.mp4")
    (root / "c").symlink_to(root / "nowhere")
    shutil.copy(root / "b" / "good.mp4", root / "b" / os.fsdecode(b"\xff.mp4"))
    folder = read_folder(root, 4)
    assert [(f.kind, f.key) for f in folder.findings] == [
        ("unreadable", "c"),
        ("unreadable", "a/gone.mp4"),
        ("nested", "a/more"),
        ("unreadable", "b/\\udcff.mp4"),
    ]
    assert folder.fingerprint  # made of names, so of those that are UTF-8
    (root / "a" / "good.mp4").unlink()
    with pytest.raises(
        ValueError, match=r"a has no usable video: a/gone\.mp4: a link to .*; add videos, as in .*a/clip"
    ):
        read_folder(root, 4)
    (root / "a" / "gone.mp4").unlink()
    with pytest.raises(ValueError, match=r"a/more: a folder \(1 entries\); videos must lie in the class folder itself"):
        read_folder(root, 4)
    (root / "a").rename(root / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match=r"data/\\udcff has a name that is not UTF-8; rename it"):
        read_folder(root, 4)


def test_an_error_in_a_process_that_loads_names_the_video(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_folder(videos, CLIP.frames)

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("attnzoo.emotion.clips.sound_maps", broken)
    with pytest.raises(ValueError, match=r"calm_0001.mp4: KeyError: 'a bug'"):
        list(DataLoader(Clips(folder.videos[1:2], CLIP, SOUND), num_workers=1))


@pytest.fixture
def damaged(videos: Path, tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """The synthetic videos with one of each defect among them."""
    root = tmp_path / "damaged"
    shutil.copytree(videos, root)
    (root / "calm" / "text.mp4").write_text("this is no video")
    (root / "calm" / ".DS_Store").write_text("hidden, to be passed over")
    whole = write_video(tmp_path / "whole.mp4", options={"movflags": "+faststart"}, size=(320, 240))
    (root / "glad" / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    write_video(root / "cross" / "short.mp4", frames=2, click=0.0)
    write_video(root / "cross" / "silent.mp4", click=None)
    return root


def test_defects_are_listed_counted_and_skipped_or_padded(damaged: Path) -> None:
    folder = read_folder(damaged, CLIP.frames)
    assert {(f.kind, f.key) for f in folder.findings} == {
        ("unreadable", "calm/text.mp4"),
        ("truncated", "glad/cut.mp4"),
        ("short", "cross/short.mp4"),
        ("silent", "cross/silent.mp4"),
    }
    assert len(folder.videos) == 18 + 3  # all but the unreadable one
    for kind in ("unreadable", "truncated", "short", "silent"):
        assert f"1 {kind}" in folder.summary()
    by_key = {v.key: v for v in folder.videos}
    for key in ("glad/cut.mp4", "cross/short.mp4", "cross/silent.mp4"):
        frames, sound, _, _ = Clips([by_key[key]], CLIP, SOUND, seed=0)[0]
        assert frames.shape == (2, 3, 4, 32, 32)
        assert sound.shape == (2, 1, 12, 16)
        assert sound.any() == (key == "cross/short.mp4")  # the cut one was cut before its sound


def test_folders_that_cannot_be_used(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match="no data folder"):
        read_folder(tmp_path / "nowhere", 8)
    with pytest.raises(ValueError, match="is empty"):
        read_folder(tmp_path, 8)
    write_video(tmp_path / "flat.mp4")
    with pytest.raises(ValueError, match=r"holds 1 files and no folders; it must hold one sub-folder .*/joy/clip\.mp4"):
        read_folder(tmp_path, 8)
    write_video(tmp_path / "only" / "a.mp4")
    with pytest.raises(ValueError, match="one class only"):
        read_folder(tmp_path, 8)
    (tmp_path / "other").mkdir()
    with pytest.raises(
        ValueError, match=r"other has no usable video: it is empty; add videos, as in .*other/clip\.mp4"
    ):
        read_folder(tmp_path, 8)
    (tmp_path / "other" / "bad.mkv").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"other has no usable video: .*readable"):
        read_folder(tmp_path, 8)
    write_video(tmp_path / "other" / "b.mp4")
    with pytest.raises(ValueError, match=r"'only' .* has 1 usable videos, too few"):
        split(read_folder(tmp_path, 8), Data(test_fraction=0.5))


def test_the_split_is_a_stratified_partition_that_depends_on_its_seed_alone(videos: Path) -> None:
    folder = read_folder(videos, CLIP.frames)
    data = Data(test_fraction=1 / 3, val_fraction=0.2, split_seed=3)
    parts = split(folder, data)
    keys = [[v.key for v in part] for part in (parts.train, parts.val, parts.test)]
    assert sorted(keys[0] + keys[1] + keys[2]) == [v.key for v in folder.videos]
    for part, per_class in zip((parts.train, parts.val, parts.test), (3, 1, 2), strict=True):
        assert [sum(v.label == label for v in part) for label in range(3)] == [per_class] * 3
    assert split(read_folder(videos, CLIP.frames), data) == parts
    assert split(folder, data.model_copy(update={"split_seed": 4})).test != parts.test


def test_clips_are_drawn_from_seed_epoch_and_video_alone(videos: Path) -> None:
    folder = read_folder(videos, CLIP.frames)
    drawn = Clips(folder.videos, CLIP, SOUND, seed=1)
    again = Clips(folder.videos, CLIP, SOUND, seed=1)
    assert torch.equal(drawn[(2, 5)][0], again[(2, 5)][0])
    assert not torch.equal(drawn[(2, 5)][0], drawn[(3, 5)][0])
    assert not torch.equal(drawn[(2, 5)][0], Clips(folder.videos, CLIP, SOUND, seed=2)[(2, 5)][0])
    fixed = Clips(folder.videos, CLIP, SOUND)
    assert torch.equal(fixed[5][0], fixed[5][0])
    frames, sound, heard, label = fixed[5]
    assert heard
    assert (frames.dtype, sound.dtype) == (torch.uint8, torch.float32)
    assert frames.min() < 60 < 180 < frames.max()
    assert folder.classes[label] == folder.videos[5].key.split("/")[0]


def test_the_order_is_drawn_from_seed_and_epoch_alone() -> None:
    order = Epochs(10, seed=1)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(10))
    assert [i for _, i in first] != [i for _, i in second]
    resumed = Epochs(10, seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == second
