"""Small copies of videos: the same frames at the same times with the same sound, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from attnzoo.cli import app
from attnzoo.emotion import media
from attnzoo.emotion.datasets import Folder, Video, read_folder
from attnzoo.emotion.prepare import Prepared, prepare
from attnzoo.emotion.protocols import split
from attnzoo.emotion.recipe import Data

Write = Callable[..., Path]
BUNNY = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"


def copy_of(path: Path, out: Path, **options: int) -> media.Index:
    """The prepared copy of a video."""
    index = media.read_index(path)
    done = prepare(Folder(path.parent, ("a", "b"), (Video(f"a/{path.name}", 0, index),), ()), out, **options)
    assert done == Prepared(1, 0, ())
    (video,) = out.glob("a/*.mp4")
    return media.read_index(video)


def times(index: media.Index) -> np.ndarray:
    return np.array(index.pts) * index.unit


def size(path: Path) -> tuple[int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.width, frame.height


def files(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*.mp4")}


def test_a_real_film_keeps_its_times_frames_and_sound(tmp_path: Path) -> None:
    film = media.read_index(BUNNY)
    small = copy_of(BUNNY, tmp_path)
    assert size(small.path) == (256, 144)
    assert times(small) == pytest.approx(times(film), abs=1e-6)
    assert small.seconds == pytest.approx(film.seconds)
    wanted = range(0, len(film.pts), 9)
    one, two = (media.read_frames(index, wanted, 112).astype(float) for index in (film, small))
    assert np.abs(one - two).mean() < 4
    heard, again = (media.read_sound(index, 16000) for index in (film, small))
    assert np.corrcoef(heard, again)[0, 1] > 0.99
    # A key frame every 16 frames at least, and no frame that is shown in another order than it is coded.
    with av.open(str(small.path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert all(p.pts == p.dts for p in packets)
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert max(np.diff([*keys, len(packets)])) <= 16


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mov"])
def test_uneven_times_and_an_offset_of_the_sound_are_kept(tmp_path: Path, write_video: Write, suffix: str) -> None:
    options: dict[str, object] = {} if suffix == "avi" else {"first_pts": 3}
    codec = "mpeg4" if suffix == "avi" else "libx264"
    path = write_video(tmp_path / "in" / f"late.{suffix}", click=1.0, codec=codec, **options)
    late, small = media.read_index(path), copy_of(path, tmp_path / "out")
    assert times(small) == pytest.approx(times(late), abs=1e-6)
    clicks = [int(np.abs(media.read_sound(index, 16000)).argmax()) / 16000 for index in (late, small)]
    assert clicks[1] == pytest.approx(clicks[0], abs=0.025)
    grey = [media.read_frames(index, [0, 10, 23], 32).mean((1, 2, 3)) for index in (late, small)]
    assert grey[1] == pytest.approx(grey[0], abs=2)


def test_a_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    when = [0, 40, 90, 95, 200, 1000, 1040, 1500]
    path = tmp_path / "in" / "uneven.mkv"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height = 64, 48
        for i, pts in enumerate(when):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 25 * i, np.uint8), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    small = copy_of(path, tmp_path / "out")
    assert times(small) == pytest.approx(np.array(when) / 1000)
    assert media.read_frames(small, range(8), 16).mean((1, 2, 3)) == pytest.approx(25.0 * np.arange(8), abs=6)


def test_a_turned_video_is_upright_and_a_small_one_not_enlarged(tmp_path: Path, write_video: Write) -> None:
    def left_half_white(_: int) -> np.ndarray:
        picture = np.zeros((90, 160, 3), np.uint8)
        picture[:, :80] = 255
        return picture

    path = write_video(tmp_path / "in" / "a.mp4", size=(160, 90), draw=left_half_white)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the matrix of the track: a quarter turn
    content[at : at + 36] = b"".join(
        v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    )
    path.write_bytes(content)
    turned, small = media.read_index(path), copy_of(path, tmp_path / "out", short_side=144)
    assert turned.rotation
    assert small.rotation == 0
    assert size(small.path) == (90, 160)
    one, two = (media.read_frames(index, [0], 32)[0].astype(float) for index in (turned, small))
    assert np.abs(one - two).mean() < 4
    assert abs(two[:8].mean() - two[-8:].mean()) > 200  # above and below, no longer left and right


@pytest.fixture
def mixed(tmp_path: Path, write_video: Write) -> Path:
    """Classes in an order of their own, speakers, two splits, and two files that differ in the suffix alone."""
    root = tmp_path / "mixed"
    for name in ("x/a.mp4", "x/a.mkv", "x/b.mp4", "y/c.mp4", "y/d.mp4", "y/e.mp4"):
        write_video(root / name, frames=6, click=0.2)
    rows = [f"{p.parent.name}/{p.name},{'joy' if p.parent.name == 'x' else 'calm'}" for p in sorted(root.glob("*/*"))]
    told = ["train,test,1", "test,train,2", "train,train,3", "train,test,1", "test,train,2", "train,train,3"]
    lines = ["path,label,split01,split02,speaker", *(f"{row},{more}" for row, more in zip(rows, told, strict=True))]
    (root / "videos.csv").write_text("\n".join(lines))
    return root


def test_the_copy_is_a_data_set_with_the_same_classes_speakers_and_splits(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = read_folder(mixed, 4)
    assert prepare(folder, out, short_side=32) == Prepared(6, 0, ())
    small = read_folder(out, 4)
    assert (small.layout, small.classes, small.splits) == ("list", folder.classes, ("split01", "split02"))
    assert [(v.label, v.speaker, v.parts) for v in small.videos] == [
        (v.label, v.speaker, v.parts) for v in folder.videos
    ]
    assert [v.name for v in small.videos][3:] == ["joy/x/a", "joy/x/a.mp4", "joy/x/b"]
    assert not small.findings
    for fold in (0, 1):
        one, two = (split(f, Data(protocol="from-list", fold=fold, val_fraction=0)).test for f in (folder, small))
        assert [v.speaker for v in one] == [v.speaker for v in two]


def test_frames_become_videos_again(tmp_path: Path) -> None:
    for name in ("Fear/100% a", "Joy/b.c"):
        (tmp_path / "in" / "imgs" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (64, 48), (20 * i + 20,) * 3).save(tmp_path / "in" / "imgs" / name / f"{i + 1:06d}.jpg")
    folder = read_folder(tmp_path / "in", 4, fps=25)
    prepare(folder, tmp_path / "out", short_side=32)
    small = read_folder(tmp_path / "out", 4)
    assert [v.name for v in small.videos] == [v.name for v in folder.videos] == ["Fear/100% a", "Joy/b.c"]
    for one, two in zip(folder.videos, small.videos, strict=True):
        assert times(two.index) == pytest.approx(times(one.index))
        assert media.read_frames(two.index, range(8), 16).mean((1, 2, 3)) == pytest.approx(
            20.0 * np.arange(1, 9), abs=3
        )


def test_only_what_changed_is_written_again(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(read_folder(mixed, 4), out, short_side=32)
    first = files(out)
    assert prepare(read_folder(mixed, 4), out, short_side=32) == Prepared(0, 6, ())
    assert files(out) == first
    os.utime(mixed / "x" / "b.mp4", ns=(1, 1))
    (out / "calm" / "y" / "c.mp4").unlink()
    with (out / "prepared.jsonl").open("a") as journal:
        journal.write('{"key": "joy/x/a.mp4", "sou')  # of a process that was killed
    assert prepare(read_folder(mixed, 4), out, short_side=32) == Prepared(2, 4, ())
    changed = {name for name, when in files(out).items() if first[name] != when}
    assert changed == {"joy/x/b.mp4", "calm/y/c.mp4"}
    assert prepare(read_folder(mixed, 4), out, short_side=16).written == 6


def test_a_video_that_fails_is_told_and_left_out(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = read_folder(mixed, 4)
    (mixed / "x" / "b.mp4").write_bytes(b"no longer a video")
    done = prepare(folder, out, short_side=32, workers=2)
    assert (done.written, [key for key, _ in done.failed]) == (5, ["joy/x/b.mp4"])
    assert not list(out.rglob("*.part"))
    listed = [video["path"] for video in json.loads((out / "videos.json").read_text())["videos"]]
    assert sorted(listed) == sorted(files(out))
    assert "joy/x/b.mp4" not in listed
    result = CliRunner().invoke(app, ["data", "prepare", str(mixed), str(out), "--short-side", "32", "--workers", "1"])
    assert result.exit_code == 0, result.output  # the folder is read anew, without the broken one
    assert "0 videos written, 5 finished before, 0 failed" in result.output


def test_killed_at_any_time_it_goes_on_and_leaves_whole_videos_alone(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "attnzoo", "data", "prepare", str(videos), str(out), "--workers", "1"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    for sign, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = len(files(out)) if out.exists() else 0
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
            while process.poll() is None and (not out.exists() or len(files(out)) < before + 2):
                time.sleep(0.01)
            process.send_signal(sign)
            _, err = process.communicate(timeout=60)
        assert process.returncode == status
    assert err.startswith(f"interrupted; finished videos are in {out}")
    assert 4 <= len(files(out)) < 18
    first = files(out)
    for path in out.rglob("[!.]*.mp4"):
        assert len(media.read_index(path).pts) == 24
    done = prepare(read_folder(videos, 4), out)
    assert done.written + done.before == 18
    assert done.before >= len(first) - 1  # killed between the file and the line that says it is finished
    assert len(read_folder(out, 4).videos) == 18
    assert not read_folder(out, 4).findings


def test_on_ray_the_videos_are_the_same(mixed: Path, tmp_path: Path) -> None:
    folder = read_folder(mixed, 4)
    prepare(folder, tmp_path / "local", short_side=32)
    assert prepare(folder, tmp_path / "ray", short_side=32, workers=1, engine="ray") == Prepared(6, 0, ())
    for path in (tmp_path / "local").rglob("*.mp4"):
        one, two = (
            media.read_index(at / path.relative_to(tmp_path / "local")) for at in (tmp_path / "local", tmp_path / "ray")
        )
        assert one.pts == two.pts
        assert np.array_equal(media.read_frames(one, range(6), 16), media.read_frames(two, range(6), 16))


def test_the_copy_of_another_data_set_is_left_alone(mixed: Path, videos: Path, tmp_path: Path) -> None:
    prepare(read_folder(mixed, 4), tmp_path / "out", short_side=32)
    before = files(tmp_path / "out"), (tmp_path / "out/videos.json").read_text()
    with pytest.raises(ValueError, match=r"copy of another data set, with .*; choose"):
        prepare(read_folder(videos, 4), tmp_path / "out", short_side=32)
    assert (files(tmp_path / "out"), (tmp_path / "out/videos.json").read_text()) == before


def test_bad_arguments_are_one_clear_line(mixed: Path, tmp_path: Path) -> None:
    folder = read_folder(mixed, 4)
    for options, told in (
        ({"short_side": 143}, "short side 143: H.264 in yuv420p needs an even number"),
        ({"gop": 0}, "gop 0: must be at least 1"),
        ({"workers": 0}, "workers 0: must be at least 1"),
        ({"engine": "slurm"}, "engine 'slurm' must be one of local, ray"),
    ):
        with pytest.raises(ValueError, match=told):
            prepare(folder, tmp_path / "out", **options)  # type: ignore[arg-type]
    for inside in (mixed, mixed / "small"):
        with pytest.raises(ValueError, match="prepare into a folder outside of the data set"):
            prepare(folder, inside)
    assert not (tmp_path / "out").exists()
