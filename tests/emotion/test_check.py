"""Each defect made by hand, and found: what `attnzoo data check` reports before a training meets it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from attnzoo.cli import app
from attnzoo.emotion.datasets import Folder, read_folder
from attnzoo.emotion.defects import KINDS

Write = Callable[..., Path]


def write_times(path: Path, times: list[int], unit: int = 1000) -> Path:
    """A video whose frames stand at these times, in 1 / unit s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=unit)
        stream.width, stream.height = 64, 48
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path) -> None:
    """Have an MP4 say that its picture is to be turned, as a telephone does: by the matrix in its track header."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def claim(path: Path, frames: int) -> None:
    """Have the header of an AVI say that there are so many frames."""
    content = bytearray(path.read_bytes())
    content[(at := content.index(b"avih") + 8 + 16) : at + 4] = struct.pack("<I", frames)
    content[(at := content.index(b"strh") + 8 + 32) : at + 4] = struct.pack("<I", frames)
    path.write_bytes(content)


def found(folder: Folder, name: str) -> dict[str, str]:
    return {f.kind: f.detail for f in folder.findings if f.key.startswith(name)}


def test_a_sound_data_set_has_nothing_to_report(videos: Path, tmp_path: Path, write_video: Write) -> None:
    assert read_folder(videos, 4).findings == ()
    for i, suffix in enumerate(("mp4", "mkv", "mov", "avi")):
        write_video(tmp_path / "ab"[i % 2] / f"{i}.{suffix}", codec="mpeg4" if suffix == "avi" else "libx264")
    write_video(tmp_path / "a" / "ntsc.mkv", fps=30)  # in milliseconds 33, 33, 34, ...
    assert read_folder(tmp_path, 4).findings == ()


def test_rates_offsets_and_turns_are_found(tmp_path: Path, write_video: Write) -> None:
    uneven = [round(40 * i + 30 * np.sin(i)) for i in range(40)]
    write_times(tmp_path / "a" / "uneven.mkv", uneven)
    write_times(tmp_path / "a" / "even.mkv", [40 * i for i in range(40) if i != 7])  # one dropped frame
    write_video(tmp_path / "a" / "slow.mp4", fps=5, click=0.5)
    write_video(tmp_path / "a" / "fast.mp4", fps=120, click=0.1)
    write_video(tmp_path / "b" / "late.mkv", first_pts=3)  # at 10 frames a second
    turned = write_video(tmp_path / "b" / "turned.mp4")
    turn(turned)
    folder = read_folder(tmp_path, 4)
    silent = {"silent": "no sound track"}
    assert found(folder, "a/uneven")["odd rate"].startswith("variable frame rate: ")
    assert found(folder, "a/even") == silent
    assert found(folder, "a/slow") == {"odd rate": "5 frames per second; usual are 10 to 61"}
    assert found(folder, "a/fast")["odd rate"].startswith("120 frames")
    assert found(folder, "b/late") == {
        "offset": "the first frame is at 0.300 s, the sound begins 0.300 s before the picture"
    }
    assert found(folder, "b/turned") == {"rotated": f"to be turned by {folder.videos[-1].index.rotation} degrees"}
    assert abs(folder.videos[-1].index.rotation) == 90
    assert len(folder.videos) == 6


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_cut_file_is_truncated_and_one_that_claims_too_much_is_not(
    tmp_path: Path, write_video: Write, suffix: str
) -> None:
    codec, options = ("libx264", {"movflags": "+faststart"}) if suffix == "mp4" else ("mpeg4", {})
    for name in ("a/whole", "b/cut", "b/whole"):
        write_video(tmp_path / f"{name}.{suffix}", codec=codec, options=options, size=(320, 240), frames=40)
    cut = tmp_path / "b" / f"cut.{suffix}"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    if suffix == "avi":
        claim(tmp_path / "a" / "whole.avi", 4000)
    folder = read_folder(tmp_path, 4)
    assert "truncated" in found(folder, "b/cut")
    assert found(folder, "b/whole") == {}
    if suffix == "avi":
        assert found(folder, "a/whole") == {"over-reported": "40 of the 4000 frames that it claims"}


def test_damage_in_the_middle_is_found_by_decoding(tmp_path: Path, write_video: Write) -> None:
    def noise(i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)

    for name in ("a/bad", "a/good", "b/good"):
        write_video(tmp_path / f"{name}.mkv", draw=noise, click=None, frames=40)
    bad = tmp_path / "a" / "bad.mkv"
    content = bytearray(bad.read_bytes())
    middle = len(content) // 2
    for at in range(middle, middle + 4000, 10):
        content[at] ^= 0xFF
    bad.write_bytes(content)
    assert "undecodable" not in read_folder(tmp_path, 4).counts()
    folder = read_folder(tmp_path, 4, decode=True)
    assert "undecodable" in found(folder, "a/bad")
    assert "undecodable" not in found(folder, "a/good")


def test_the_report_and_the_exit_status(tmp_path: Path, write_video: Write) -> None:
    def check(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data"), *arguments])
        return done.exit_code, done.stdout

    for name in ("a/x", "b/x"):
        write_video(tmp_path / "data" / f"{name}.mp4")
    status, out = check()
    assert (status, out.splitlines()[1:]) == (0, [])
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("a/x 1\nb/gone 2\n")
    (lists / "testlist01.txt").write_text("b/x 2\n")
    write_video(tmp_path / "data" / "a" / "more.mp4", click=None)
    status, out = check("--annotations", str(lists))
    assert status == 2
    lines = out.splitlines()
    assert "missing: b/gone: lists lists it, and it is not there" in lines
    assert "unlisted: a/more.mp4: it is not in lists" in lines
    assert any(line.split() == ["missing", "1", "skipped"] for line in lines)
    status, out = check("--annotations", str(lists), "--json")
    told = json.loads(out)
    assert (status, told["videos"], told["classes"]) == (2, 2, ["a", "b"])
    assert told["counts"] == {"missing": 1, "unlisted": 1}
    assert told["findings"][0] == {"key": "b/gone", "kind": "missing", "detail": "lists lists it, and it is not there"}
    assert set(told["counts"]) <= set(KINDS)
