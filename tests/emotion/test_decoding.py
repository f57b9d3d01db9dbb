"""Seeking, and torchcodec: the frames are those of decoding all of the file, in whatever it is packed."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from attnzoo.emotion import decoding, media

COUNT = 60


@dataclass(frozen=True)
class Kind:
    """A way to encode frames of noise that moves."""

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    b_frames: int = 2
    pixels: str = "yuv420p"
    pts: Callable[[int], int] = int

    def write(self, folder: Path) -> Path:
        noise = np.random.default_rng(0).integers(0, 256, (48 + COUNT, 64 + 2 * COUNT, 3), dtype=np.uint8)
        path = folder / self.name
        with av.open(str(path), "w", options=self.container) as container:
            stream = container.add_stream(self.codec, rate=30, options=self.options)
            stream.width, stream.height, stream.pix_fmt = 64, 48, self.pixels
            stream.gop_size, stream.codec_context.max_b_frames = 12, self.b_frames
            for i in range(COUNT):
                window = np.ascontiguousarray(noise[i : i + 48, 2 * i : 2 * i + 64])
                frame = av.VideoFrame.from_ndarray(window, format="rgb24").reformat(format=self.pixels)
                frame.pts, frame.time_base = self.pts(i), Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path


KINDS = [
    Kind("closed.mp4"),
    Kind("open.mp4", options={"x264-params": "open-gop=1"}),
    Kind("open.mkv", options={"x264-params": "open-gop=1"}),
    Kind("refresh.mp4", options={"x264-params": "intra-refresh=1"}),  # key frames that are not whole
    Kind("pyramid.avi"),  # no presentation times
    Kind("simple.avi", "mpeg4", b_frames=0),
    Kind("stream.ts"),  # no index
    Kind("open.mpg", "mpeg2video"),  # times of some frames only
    Kind("fragments.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    Kind("live.mkv", container={"live": "1"}),
    Kind("variable.mkv", pts=lambda i: i + i * i // 7),
    Kind("variable.mp4", pts=lambda i: i + i * i // 7),
    Kind("negative.mp4", pts=lambda i: i - 20),  # an edit list cuts off the beginning
    Kind("late.mp4", pts=lambda i: i + 50),
    Kind("a.flv", container={"flvflags": "no_duration_filesize"}),
    Kind("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}, b_frames=0),
    Kind("hevc.mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:open-gop=1"}),
    Kind("a.gif", "gif", b_frames=0, pixels="rgb8"),
]


def decoded(path: Path) -> np.ndarray:
    """All frames in the order of the decoder, the middle of each cut out."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24")[:, 8:56] for f in container.decode(video=0)])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_frames_are_those_of_straight_decoding(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    index, straight = media.read_index(path), decoded(path)
    assert len(index.pts) == len(straight) > COUNT // 2
    rng = np.random.default_rng(0)
    windows = [rng.integers(0, len(straight) - 4) + np.arange(4) for _ in range(6)]
    for wanted in (range(len(straight)), [len(straight) - 1], *windows, rng.permutation(len(straight))[:5]):
        frames = media.read_frames(index, [int(i) for i in wanted], 48)
        assert (frames == straight[list(wanted)]).all()


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = media.read_index(Kind("a.mp4").write(tmp_path))
    assert index.keys == index.pts[::12]
    decode, sent = decoding._decoded, []
    monkeypatch.setattr(decoding, "_decoded", lambda packet: decode(sent.append(packet.pts) or packet))
    # Frames, and packets for them: two groups of 12 for the first and the last; one group, with no leap within it.
    for wanted, most in (([0, 49], 6), ([1, 11], 14), (range(COUNT), COUNT + 1)):
        sent.clear()
        media.read_frames(index, list(wanted), 16)
        assert len(wanted) <= len(sent) == len(set(sent)) <= most


def test_frames_that_are_called_key_frames_and_are_none(tmp_path: Path) -> None:
    path = Kind("a.mp4", "mpeg4").write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))  # without that table every frame is a key frame
    index, straight = media.read_index(path), decoded(path)
    assert len(index.keys) == COUNT
    for wanted in ([30], [0, 29], [5, 23, 47]):
        assert (media.read_frames(index, wanted, 48) == straight[wanted]).all()


@pytest.mark.parametrize(("turn", "matrix"), [(90, (0, -1, 1, 0)), (270, (0, 1, -1, 0)), (180, (-1, 0, 0, -1))])
def test_a_rotated_video_stands_upright(
    write_video: Callable[..., Path], tmp_path: Path, turn: int, matrix: tuple[int, ...]
) -> None:
    def corner(_: int) -> np.ndarray:
        picture = np.zeros((48, 96, 3), np.uint8)
        picture[:24, :48] = 255
        return picture

    path = write_video(tmp_path / "a.mp4", size=(96, 48), draw=corner, click=None)
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 44
    a, b, c, d = (entry << 16 for entry in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    index = media.read_index(path)
    assert index.rotation % 360 == turn
    upright = np.rot90(corner(0), turn // 90)
    for place in (0.0, 1.0):
        length = max(upright.shape) - 48
        start = round(length * place)
        expected = upright[start:, :][:48] if upright.shape[0] > 48 else upright[:, start:][:, :48]
        assert np.abs(media.read_frames(index, [2], 48, place)[0].astype(int) - expected).mean() < 4


def test_scaling_is_antialiased_like_pillow(tmp_path: Path) -> None:
    path = Kind("a.mp4").write(tmp_path)
    ours = media.read_frames(media.read_index(path), [7], 20)[0]
    theirs = Image.fromarray(decoded(path)[7]).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize("name", ["{:06d}.jpg", "image_{:05d}.jpg"])
def test_a_folder_of_frames_beside_its_sound(write_video: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    for i in range(24):
        ramp = np.arange(96, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
        Image.fromarray(ramp + np.uint8(4 * i)).save(folder / name.format(i + 1), quality=95)
    (folder / "n_frames").write_text("25")
    (folder / "notes.txt").write_text("no frame")
    sound = write_video(tmp_path / "sound.mkv", click=1.0)
    index = media.read_frame_folder(folder, sound, fps=10)
    assert (len(index.pts), index.promised, index.start, index.seconds) == (24, 25, 0, pytest.approx(2.4))
    frames = media.read_frames(index, [3, 0, 20], 48)
    for frame, i in zip(frames, (3, 0, 20), strict=True):
        picture = np.asarray(Image.open(folder / name.format(i + 1)))[:, 24:72]
        assert np.abs(frame.astype(int) - picture).max() <= 2
    assert abs(int(np.abs(media.read_sound(index, 8000)).argmax()) / 8000 - 1.0) < 0.05
    # A frame that is gone or damaged is replaced by the nearest.
    (folder / name.format(4)).unlink()
    (folder / name.format(5)).write_bytes(b"no picture")
    assert (media.read_frames(index, [2, 3, 4, 5], 48) == media.read_frames(index, [2, 2, 5, 5], 48)).all()
    sound.unlink()
    with pytest.raises(media.Damaged, match=r"video: its sound .*sound\.mkv is gone"):
        media.read_sound(index, 8000)


def test_folders_that_hold_no_frames(tmp_path: Path) -> None:
    with pytest.raises(media.Damaged, match=r"nowhere: no folder of frames"):
        media.read_frame_folder(tmp_path / "nowhere", None)
    with pytest.raises(media.Damaged, match=r"it holds no frames, as in 000001\.jpg"):
        media.read_frame_folder(tmp_path, None)
    (tmp_path / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(media.Damaged, match=r"its frames can no longer be decoded"):
        media.read_frame_folder(tmp_path, None)


TORCHCODEC = """
import sys
from pathlib import Path
from attnzoo.emotion import decoding, media
decoding.check_torchcodec()
for name in sys.argv[1:]:
    index = media.read_index(Path(name))
    count = len(index.pts)
    wanted = [*range(0, count, 7), *range(count - 4, count), 3, 2]
    told = []
    for time, picture in decoding._by_torchcodec(index.path, sorted({index.pts[i] for i in wanted}), index.unit):
        told.append(time)
    one, two = (media.read_frames(index, wanted, 32, 0.3, decoder) for decoder in ("pyav", "torchcodec"))
    print(index.path.name, (one == two).all(), len(told) / len(set(wanted)))
"""


def with_ffmpeg(folder: Path) -> dict[str, str]:
    """An environment in which torchcodec finds the FFmpeg that comes with PyAV."""
    for library in (Path(av.__file__).parents[1] / "av.libs").iterdir():
        stem, _, version = library.name.partition(".so.")
        plain = f"{stem.rpartition('-')[0]}.so.{version.partition('.')[0]}"
        for name in {library.name, plain}:
            (folder / name).symlink_to(library)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def test_torchcodec_gives_the_same_frames(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    kinds = [kind for kind in KINDS if kind.name not in ("a.gif", "a.flv", "simple.avi")]
    paths = [kind.write(tmp_path) for kind in kinds]
    turned = tmp_path / "turned.mp4"
    content = bytearray(paths[0].read_bytes())
    at = content.find(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned.write_bytes(content)
    cut = tmp_path / "cut.mkv"
    whole = next(path for path in paths if path.name == "open.mkv").read_bytes()
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    command = [sys.executable, "-c", TORCHCODEC, *map(str, (*paths, turned, cut))]
    told = subprocess.run(command, env=with_ffmpeg(tmp_path / "lib"), capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    shares = {}
    for line in told.stdout.splitlines():
        name, same, share = line.split()
        assert same == "True", line
        shares[name] = float(share)
    # Those are its own; the others are PyAV's where it has them not, or at the wrong time.
    assert all(shares[name] == 1 for name in ("closed.mp4", "open.mkv", "variable.mp4", "late.mp4", "turned.mp4"))


def test_what_torchcodec_lacks_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(50, 70):
        (tmp_path / f"libavutil.so.{version}").write_bytes(b"no library")
    check = "from attnzoo.emotion.decoding import check_torchcodec; check_torchcodec()"
    told = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "ImportError: torchcodec finds no FFmpeg that it can load" in told.stderr.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ImportError, match=r'needs torchcodec; install it with: pip install "attnzoo\[torchcodec\]"'):
        decoding.check_torchcodec()
