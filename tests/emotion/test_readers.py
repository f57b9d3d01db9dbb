"""Data sets in the layouts in which people have them: which videos there are, of which class, in which part."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
from PIL import Image

from attnzoo.emotion import media
from attnzoo.emotion.annotations import read_annotations
from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.readers import LAYOUTS, Listing, list_videos
from attnzoo.emotion.recipe import Data

Write = Callable[..., Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def labels(found: Listing) -> dict[str, str]:
    return {entry.path.name: entry.label for entry in found.entries}


def kinds(found: Listing) -> list[tuple[str, str]]:
    return [(finding.kind, finding.key) for finding in found.findings]


def parts(found: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.parts for entry in found.entries}


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_ravdess_is_read_from_its_file_names(tmp_path: Path) -> None:
    # 03 is happy, 05 angry, 08 surprised; the first number is the modality, the last the actor.
    root = touch(
        tmp_path,
        "Actor_01/01-01-03-01-01-01-01.mp4",
        "Actor_01/02-01-03-01-01-01-01.mp4",
        "Actor_12/01-01-08-02-02-02-12.mp4",
        "Actor_12/01-02-05-01-02-01-12.mp4",
        "Actor_12/03-01-05-01-02-01-12.wav",
        "Actor_12/01-01-09-01-02-01-12.mp4",
        "README.txt",
    )
    found = list_videos(root)
    assert found.layout == "ravdess"
    assert found.classes == ("happy", "angry", "surprised")  # as numbered
    assert labels(found) == {
        "01-01-03-01-01-01-01.mp4": "happy",
        "01-02-05-01-02-01-12.mp4": "angry",
        "01-01-08-02-02-02-12.mp4": "surprised",
    }
    assert {e.key: e.speaker for e in found.entries}["angry/01-02-05-01-02-01-12.mp4"] == "12"
    assert found.notes == (
        "2 speakers",
        "1 passed over: 02 (picture alone)",
        "1 passed over: 03 (sound alone)",
        "1 passed over: named otherwise",
    )


def test_ravdess_as_its_archives_unpack_and_a_file_that_is_there_twice(tmp_path: Path) -> None:
    one, two = "01-01-06-01-02-01-12.mp4", "01-01-01-01-02-01-12.mp4"
    root = touch(tmp_path, f"Video_Speech_Actor_12/Actor_12/{one}", f"copy/{one}", f"copy/{two}")
    found = list_videos(root)
    assert found.classes == ("neutral", "fearful")
    assert kinds(found) == [("repeated", f"fearful/{one}")]


@pytest.mark.parametrize("folder", [".", "VideoFlash"])
def test_cremad_is_read_from_its_file_names(tmp_path: Path, folder: str) -> None:
    root = touch(
        tmp_path, *(f"{folder}/{n}" for n in ("1001_DFA_ANG_XX.flv", "1002_IEO_SAD_HI.flv", "1001_IEO_NEU_XX.mp4"))
    )
    touch(root, "AudioWAV/1001_DFA_ANG_XX.wav")
    found = list_videos(root)
    assert (found.layout, found.classes) == ("cremad", ("anger", "neutral", "sad"))
    assert {e.key: e.speaker for e in found.entries} == {
        "anger/1001_DFA_ANG_XX.flv": "1001",
        "neutral/1001_IEO_NEU_XX.mp4": "1001",
        "sad/1002_IEO_SAD_HI.flv": "1002",
    }
    assert found.notes == ("2 speakers", "1 passed over: sound files")


def test_a_folder_of_another_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "joy/a.mp4", "calm/b.mp4")
    assert list_videos(tmp_path).layout == "folders"
    for layout, told in (
        ("ravdess", r"01-01-06"),
        ("cremad", r"1001_DFA"),
        ("frames", r"imgs/Joy"),
        ("list", r"videos\.csv"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            list_videos(tmp_path, layout)
    with pytest.raises(ValueError, match=r"one class only \(happy\)"):
        list_videos(touch(tmp_path / "one", "01-01-03-01-01-01-01.mp4"))


@pytest.mark.parametrize(
    ("pictures", "sounds"),
    [("VideoEmotion8--imgs", "VideoEmotion8--mp3"), ("imgs", "mp3"), ("Ekman6-jpg", "Ekman6-wav")],
)
def test_frames_are_found_with_the_sound_beside_them(tmp_path: Path, pictures: str, sounds: str) -> None:
    video = "AnticipationVs.NoAnticipation"  # what looks like a suffix is none
    touch(tmp_path, f"{pictures}/Joy/{video}/000001.jpg", f"{pictures}/Joy/silent/000001.jpg")
    touch(tmp_path, f"{pictures}/Fear/b/000001.jpg", f"{pictures}/Fear/b/n_frames", "other--mp3/Joy/silent.mp3")
    suffix = sounds[-3:]
    touch(tmp_path, f"{sounds}/Joy/{video}.{suffix}", f"{sounds}/Fear/b.{suffix}")
    for root in (tmp_path, tmp_path / pictures):
        found = list_videos(root)
        assert (found.layout, found.classes) == ("frames", ("Fear", "Joy"))
        assert {e.name: e.sound for e in found.entries} == {
            "Fear/b": tmp_path / sounds / "Fear" / f"b.{suffix}",
            f"Joy/{video}": tmp_path / sounds / "Joy" / f"{video}.{suffix}",
            "Joy/silent": None,
        }


def test_the_recipe_takes_the_layouts_that_there_are() -> None:
    assert get_args(Data.model_fields["layout"].annotation) == LAYOUTS


# Two classes as VAANet publishes them: ids from 1, the order of classInd.txt and not of the alphabet.
CLASSES = ["2 Anger", "1 Joy"]
TRAIN = ["Joy/a 1", "Anger/EmilysBirthdaySurprise.mp4 2", "Joy/twin 1", "Anger/twin 2", "Joy/part 3 1"]
TEST = ["Joy/b.c", "Anger/d", "Joy/part 3b"]
HERE = [
    "Joy/a.mp4",
    "Joy/b.c.mp4",
    "Joy/twin.mp4",
    "Joy/part 3.mp4",
    "Joy/part 3b.mp4",
    "Anger/EmilysBirthdaySurprise.mp4.mp4",
    "Anger/twin.mp4",
    "Anger/d.avi",
]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A data set and its lists in the folder `annotations` in it."""
    root = touch(tmp_path / "ve", *HERE)
    lists = tmp_path / "annotations"
    for name, lines in (("classInd", CLASSES), ("trainlist01", TRAIN), ("testlist01", TEST)):
        write_lines(lists / f"{name}.txt", lines)
    return root


def database(train: list[str], test: list[str]) -> dict[str, Any]:
    """The JSON as VAANet's tool makes it: by bare names, so that of two videos of one name the later one stays."""
    names = [(line, "training") for line in train] + [(line, "validation") for line in test]
    entries = {}
    for line, subset in names:
        label, name = line.split("/")
        entries[name] = {"subset": subset, "annotations": {"label": label}}
    return {"labels": ["Joy", "Anger"], "database": entries}


def test_published_txt_lists_give_classes_parts_and_what_is_missing(published: Path, tmp_path: Path) -> None:
    found = list_videos(published, annotations=tmp_path / "annotations")
    assert found.classes == ("Joy", "Anger")
    assert parts(found) == {
        "Joy/a": ("train",),
        "Joy/b.c": ("test",),
        "Joy/twin": ("train",),
        "Joy/part 3": ("train",),
        "Joy/part 3b": ("test",),
        "Anger/EmilysBirthdaySurprise.mp4": ("train",),
        "Anger/twin": ("train",),
        "Anger/d": ("test",),
    }
    assert not found.findings
    (published / "Joy" / "a.mp4").unlink()
    touch(published, "Joy/new.mp4", "Trust/other.mp4")
    found = list_videos(published, annotations=tmp_path / "annotations" / "trainlist01.txt")
    assert kinds(found) == [("missing", "Joy/a"), ("unlisted", "Joy/new.mp4"), ("unlisted", "Trust/other.mp4")]
    assert len(found.entries) == 7


def test_the_video_that_a_json_by_bare_names_loses_is_kept(published: Path, tmp_path: Path) -> None:
    bare = [line.rpartition(" ")[0] for line in TRAIN]
    path = tmp_path / "ve8_01.json"
    path.write_text(json.dumps(database(bare, TEST)))
    assert len(json.loads(path.read_text())["database"]) == len(HERE) - 1
    found = list_videos(published, annotations=path)
    assert parts(found) == parts(list_videos(published, annotations=tmp_path / "annotations"))
    assert kinds(found) == [("doubled", "Joy/twin.mp4")]
    assert found.splits == ("ve8_01",)


def test_several_published_lists_are_several_splits(published: Path, tmp_path: Path) -> None:
    lists = tmp_path / "annotations"
    write_lines(lists / "trainlist02.txt", ["Joy/b.c 1", "Anger/d 2"])
    write_lines(lists / "testlist02.txt", ["Joy/a"])
    told = parts(list_videos(published, annotations=lists))
    assert told["Joy/a"] == ("train", "test")
    assert told["Anger/d"] == ("test", "train")
    assert told["Joy/twin"] == ("train", "")
    write_lines(lists / "trainlist02.txt", ["Joy/a 1"])
    with pytest.raises(ValueError, match=r"Joy/a is for train and for test"):
        list_videos(published, annotations=lists)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("classInd.txt", "Joy 1\n", r"classInd.txt: 'Joy 1' is not a number and a class"),
        ("trainlist01.txt", "Joy\n", r"'Joy' is not Class/video"),
        ("trainlist01.txt", "Fear/x 3\n", r"'Fear' is not in classInd"),
        ("ve.json", "[", r"not JSON"),
        ("ve.json", '{"x": 1}', r'neither an array of videos nor an object with "database" or "videos"'),
        ("ve.json", '{"database": {"a": {"subset": "training"}}}', r"'a' needs .*annotations"),
        ("ve.json", '{"database": {"a": {"subset": "third", "annotations": {"label": "Joy"}}}}', r"'a' needs"),
        ("ve.json", '{"labels": [], "database": []}', r'"database" must map names'),
        ("ve.xlsx", "", r"must be \.csv, \.json"),
        ("v.csv", "file,label\na.mp4,Joy\n", r"has no path, only file, label; known are path, label, split"),
        ("v.csv", "path,label,spliit\na.mp4,Joy,train\n", r"there is no 'spliit'; did you mean split"),
        ("v.csv", "path,label,split\na.mp4,Joy,half\n", r"video 1: split 'half' must be one of train, val, test"),
        ("v.csv", "path,label\na.mp4,\n", r"label='': neither may be empty"),
        ("v.csv", "path,label\na.mp4,Joy,x\n", r"more fields than the first line"),
        ("v.csv", "path,label\n", r"lists no videos"),
        (
            "v.json",
            '{"classes": ["Joy"], "videos": [{"path": "a.mp4", "label": "Fear"}]}',
            r"'Fear' is none of its classes",
        ),
    ],
)
def test_wrong_annotations_are_one_clear_line(published: Path, tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / "annotations" / name
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        list_videos(published, annotations=path if name != "classInd.txt" else path.parent)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="there are no annotations nowhere"):
        list_videos(published, annotations=Path("nowhere"))


ROWS = [
    {"path": "clips/a.mp4", "label": "joy", "split": "train", "speaker": "7"},
    {"path": "joy/b.mp4", "label": "joy", "split": "testing", "speaker": ""},
    {"path": "clips/c.mp4", "label": "calm", "split": "dev", "speaker": "8"},
]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_lists_of_files_say_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path / "data", *(row["path"] for row in ROWS), "clips/extra.mp4")
    path = tmp_path / "data" / f"videos.{suffix}"
    with path.open("w", newline="") as file:
        if suffix == "csv":
            table = csv.DictWriter(file, list(ROWS[0]))
            table.writeheader()
            table.writerows(ROWS)
        else:
            file.write(json.dumps(ROWS) if suffix == "json" else "\n".join(map(json.dumps, ROWS)))
    for root, annotations in ((path.parent, None), (path, None), (path.parent, path), (path.parent, Path(path.name))):
        found = list_videos(root, annotations=annotations)
        assert (found.layout, found.classes, found.splits) == ("list", ("calm", "joy"), ("split",))
        assert [(e.key, e.parts, e.speaker) for e in found.entries] == [
            ("calm/clips/c.mp4", ("val",), "8"),
            ("joy/b.mp4", ("test",), None),
            ("joy/clips/a.mp4", ("train",), "7"),
        ]
        assert kinds(found) == [("unlisted", str(path.parent / "clips" / "extra.mp4"))]


def test_a_list_names_its_classes_in_order_and_cannot_lead_out_of_them(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4")
    videos = [{"path": str(tmp_path / "x" / "a.mp4"), "label": "joy"}, {"path": "../y/a.mp4", "label": "calm"}]
    (tmp_path / "x" / "videos.json").write_text(json.dumps({"classes": ["joy", "calm"], "videos": videos * 2}))
    found = list_videos(tmp_path / "x")
    assert found.classes == ("joy", "calm")
    assert [e.key for e in found.entries] == ["joy/a.mp4", "calm/y/a.mp4"]
    assert kinds(found) == [("repeated", "joy/a.mp4"), ("repeated", "calm/y/a.mp4")]


def test_a_list_is_read_with_its_own_sound_files_and_what_is_missing(
    tmp_path: Path, write_video: Write, videos: Path
) -> None:
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mp4", click=None)
    (tmp_path / "sound.mp4").symlink_to(next(videos.rglob("*.mp4")))
    write_lines(
        tmp_path / "mine.csv",
        ["path,label,sound", "a.mp4,joy,sound.mp4", "b.mp4,calm,", "c.mp4,calm,gone.mp3", "d.mp4,calm,"],
    )
    folder = read_folder(tmp_path / "mine.csv", 4)
    assert [(v.key, v.index.sound) for v in folder.videos] == [
        ("calm/b.mp4", None),
        ("joy/a.mp4", tmp_path / "sound.mp4"),
    ]
    assert folder.counts() == {"unreadable": 1, "missing": 1, "unlisted": 1, "silent": 1}
    with pytest.raises(ValueError, match=r"calm/d.mp4 is missing: mine.csv lists it, .*data\.damaged"):
        read_folder(tmp_path / "mine.csv", 4, damaged="stop")


def test_reading_stops_at_the_first_damaged_file_if_told_so(tmp_path: Path, write_video: Write) -> None:
    for name in ("a/good", "a/good2", "b/good"):
        write_video(tmp_path / f"{name}.mp4", click=None)
    assert len(read_folder(tmp_path, 4, damaged="stop").videos) == 3  # silence is no damage
    (tmp_path / "a" / "fine.mp4").write_bytes(b"")
    assert len(read_folder(tmp_path, 4).videos) == 3
    with pytest.raises(ValueError, match=r"a/fine.mp4 is unreadable: .*; mend it, or let data.damaged be skip"):
        read_folder(tmp_path, 4, damaged="stop")


def test_the_fingerprint_tells_data_sets_apart_that_would_be_divided_differently(
    tmp_path: Path, write_video: Write
) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", click=None)

    def fingerprint(*lines: str) -> str:
        return read_folder(write_lines(tmp_path / "list.csv", lines), 4).fingerprint

    told = [
        fingerprint("path,label", "a.mp4,joy", "b.mp4,calm"),
        fingerprint("path,label", "a.mp4,calm", "b.mp4,joy"),
        fingerprint("path,label,split", "a.mp4,joy,train", "b.mp4,calm,test"),
        fingerprint("path,label,split", "a.mp4,joy,test", "b.mp4,calm,train"),
        fingerprint("path,label,speaker", "a.mp4,joy,1", "b.mp4,calm,2"),
    ]
    assert len(set(told)) == len(told)
    assert fingerprint("label,path", "calm,b.mp4", "joy,a.mp4") == told[0]  # the order of the lines says nothing
    os.utime(tmp_path / "a.mp4")
    assert fingerprint("path,label", "a.mp4,joy", "b.mp4,calm") == told[0]


def test_ids_without_a_class_file_give_the_order(tmp_path: Path) -> None:
    write_lines(tmp_path / "trainlist01.txt", ["zeal/a 1", "awe/b 2", "awe/c 2"])
    write_lines(tmp_path / "testlist01.txt", ["zeal/d", "awe/e 2"])
    told = read_annotations(tmp_path)
    assert told.classes == ("zeal", "awe")
    assert Counter(row.parts for row in told.rows) == {("train",): 3, ("test",): 2}


def write_frames(folder: Path, count: int, name: str = "{:06d}.jpg") -> Path:
    """Frames as VAANet cuts them from a video: frame i is uniformly grey 8 * i + 20."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (64, 48), (8 * i + 20,) * 3).save(folder / name.format(i + 1), quality=95)
    return folder


@pytest.mark.parametrize(("told", "rate"), [(12, 12), (25, 25), (30000 / 1001, 30000 / 1001), (37, 30), (None, 30)])
def test_frames_are_read_at_the_rate_that_the_length_of_their_sound_tells(
    tmp_path: Path, told: float | None, rate: float
) -> None:
    for name in ("Fear/a", "Joy/b"):
        write_frames(tmp_path / "imgs" / name, 24)
    if told:
        (tmp_path / "mp3" / "Joy").mkdir(parents=True)
        with av.open(str(tmp_path / "mp3" / "Joy" / "b.mp3"), "w") as container:
            stream = container.add_stream("mp3", rate=44100, layout="mono")
            hum = np.sin(np.arange(round(24 / told * 44100)) / 20, dtype=np.float32)[None] / 2
            block = av.AudioFrame.from_ndarray(hum, format="fltp", layout="mono")
            block.sample_rate, block.pts = 44100, 0
            container.mux(stream.encode(block))
            container.mux(stream.encode())
    folder = read_folder(tmp_path, 4)
    silent, video = folder.videos
    assert (silent.key, video.key, silent.index.sound) == ("Fear/a", "Joy/b", None)
    assert (len(video.index.pts), video.index.fps) == (24, pytest.approx(rate))
    assert video.index.seconds == pytest.approx(24 / rate)
    assert media.read_sound(video.index, 8000).any() == bool(told)
    assert [round((float(f.mean()) - 20) / 8) for f in media.read_frames(video.index, [0, 9, 23], 32)] == [0, 9, 23]
    forced = read_folder(tmp_path, 4, fps=50).videos[1].index
    assert (forced.fps, forced.seconds) == (50, pytest.approx(24 / 50))
    before = folder.fingerprint
    next((tmp_path / "imgs" / "Joy" / "b").glob("*24.jpg")).unlink()
    assert read_folder(tmp_path, 4).fingerprint != before


def test_folders_of_frames_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    write_frames(tmp_path / "Fear" / "a", 5, "image_{:05d}.jpg")
    write_frames(tmp_path / "Joy" / "b", 5, "image_{:05d}.jpg")
    (tmp_path / "Joy" / "b" / "n_frames").write_text("500")
    (tmp_path / "Joy" / "empty").mkdir()
    (tmp_path / "Joy" / "notes.txt").touch()
    folder = read_folder(tmp_path, 4, layout="frames")
    assert [v.key for v in folder.videos] == ["Fear/a", "Joy/b"]
    assert folder.counts() == {"unreadable": 2, "truncated": 1, "silent": 2}
    assert "no folder of sounds beside" in folder.notes[0]
