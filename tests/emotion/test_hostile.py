"""Files that lie, or are made to do harm: each is read or refused in one line, in little time and memory."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

Write = Callable[..., Path]

# In a process of its own, so that the memory is that of these files alone.
READ = """
import json, resource, sys
from pathlib import Path
import numpy as np
from attnzoo.emotion import audio, media, sampling
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
audio.mfcc(np.ones(16000, np.float32), 16000)
for path in map(Path, sys.argv[1:]):
    before = peak()
    try:
        index = media.read_index(path)
        frames = media.read_frames(index, sampling.windows(len(index.pts), 4, 4).reshape(-1).tolist(), 112)
        cepstra = audio.mfcc(media.read_sound(index, 16000), 16000)
        told = f"{len(frames)} frames, {cepstra.shape[1] / 100:.1f} s, {index.promised} promised"
    except media.Damaged as error:
        told = str(error)
    print(json.dumps([path.name, told, peak() - before]))
"""


def patched(path: Path, source: Path, name: bytes, offset: int, *values: int) -> Path:
    """A copy in which 32-bit numbers of an MP4 box stand otherwise, from some byte after its name on."""
    content = bytearray(source.read_bytes())
    at = content.find(name) + 4 + offset
    assert at > offset
    content[at : at + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    path.write_bytes(content)
    return path


def vp8(path: Path) -> Path:
    size = 256
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for _ in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path


def with_sound(path: Path, times: list[int], first: int = 0, rate: int = 8000) -> Path:
    """24 frames from some time on, and blocks of sound of 1/8 s at some times, in 1/8 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate)
        for i in range(24):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = i + first, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        block = np.full(rate // 8, 9000, np.int16).tobytes()
        for time in times:
            packet = av.Packet(block)
            packet.stream, packet.time_base, packet.pts, packet.dts = sound, Fraction(1, 8), time, time
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> dict[str, tuple[str, float]]:
    """What is said of each hostile file, and the memory it took, MiB."""
    folder = tmp_path_factory.mktemp("hostile")
    good = write_video(folder / "good.mp4", options={"movflags": "+faststart"})
    split = write_video(folder / "split.mp4", options={"movflags": "frag_every_frame+empty_moov"}, click=None)
    (folder / "empty.mp4").touch()
    (folder / "header.mp4").write_bytes(good.read_bytes()[: good.read_bytes().find(b"mdat") + 4])
    claim = 10**9
    patched(folder / "sizes.mp4", good, b"stsz", 8, claim)
    patched(folder / "durations.mp4", good, b"stts", 8, claim)
    patched(folder / "entries.mp4", good, b"stts", 4, claim)
    patched(folder / "one_size.mp4", good, b"stsz", 4, 1, claim)
    patched(patched(folder / "one_chunk.mp4", good, b"stsz", 4, 1, 10**7), folder / "one_chunk.mp4", b"stsc", 12, 10**7)
    patched(folder / "fragment.mp4", split, b"trun", 0, 0, claim)
    patched(folder / "slow.mp4", good, b"mdhd", 12, 1)  # ticks of a second
    small = vp8(folder / "small.webm").read_bytes()
    assert small.count(b"\xb0\x82\x01\x00\xba\x82\x01\x00") == 1
    claimed = small.replace(b"\xb0\x82\x01\x00\xba\x82\x01\x00", b"\xb0\x82\x40\x00\xba\x82\x40\x00")
    for name, content in (("small", small), ("claimed", claimed)):  # by the container
        coded = content.replace(b"\x9d\x01\x2a\x00\x01\x00\x01", b"\x9d\x01\x2a\xff\x3f\xff\x3f")
        (folder / f"{name}_coded.webm").write_bytes(coded)
    (folder / "claimed.webm").write_bytes(claimed)
    hours = 8 * 3600
    with_sound(folder / "hours.mkv", list(range(3 * hours)))
    with_sound(folder / "sound_later.mkv", [0, 1, 2, 30 * hours])
    with_sound(folder / "sound_first.mkv", list(range(20)), first=30 * 36000)
    with_sound(folder / "no_time.mkv", [0] * hours)
    with_sound(folder / "slow_sound.mkv", list(range(20)), rate=16)
    for name, pts in {
        "jump.mkv": lambda i: i + (i > 12) * 36000 * 30,
        "small_jump.mkv": lambda i: i + (i > 12) * 100,
        "negative.mp4": lambda i: i - 10,
        "variable.mp4": lambda i: i * i,
    }.items():
        write_times(folder / name, pts)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        container.mux(stream.encode(silence()))
        container.mux(stream.encode())
    write_cover(folder / "cover.mp3")
    names = sorted(path.name for path in folder.iterdir())
    command = [sys.executable, "-c", READ, *(str(folder / name) for name in names)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [name for name, *_ in lines] == names
    return {name: (what, memory) for name, what, memory in lines}


def silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8192), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    return frame


def write_times(path: Path, pts: Callable[[int], int]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(24):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = pts(i), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_cover(path: Path) -> None:
    """Sound with the picture of its album, which FFmpeg gives as a stream of video."""
    with av.open(str(path), "w", options={"id3v2_version": "3"}) as container:
        sound = container.add_stream("libmp3lame", rate=16000)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(sound.encode(silence()))
        container.mux(sound.encode())


USED = {
    "good.mp4": "16 frames, 2.4 s, 24 promised",
    "durations.mp4": "16 frames, 2.4 s, 1000000000 promised",
    "small.webm": "16 frames, 2.4 s, 0 promised",
    "claimed.webm": "16 frames, 2.4 s, 0 promised",
    "hours.mkv": "16 frames, 2.4 s, 0 promised",
    "sound_later.mkv": "16 frames, 2.4 s, 0 promised",
    "sound_first.mkv": "16 frames, 2.4 s, 0 promised",
    "no_time.mkv": "16 frames, 2.4 s, 0 promised",
    "slow_sound.mkv": "16 frames, 2.4 s, 0 promised",
    "small_jump.mkv": "16 frames, 12.4 s, 0 promised",
    "negative.mp4": "16 frames, 1.4 s, 24 promised",
    "variable.mp4": "16 frames, 54.8 s, 24 promised",
    "slow.mp4": "16 frames, 1024.0 s, 24 promised",
    "split.mp4": "16 frames, 2.4 s, 0 promised",
}
REFUSED = {
    "empty.mp4": "not a readable video",
    "header.mp4": "holds no frames",
    "sizes.mp4": "not a readable video",
    "one_size.mp4": "holds no frames",
    "claimed_coded.webm": "16383 x 16383 pixels; at most 67108864, as 8192 x 8192: scale it down",
    "small_coded.webm": "cannot be decoded",
    "jump.mkv": "its frames span 30.0 hours; at most 2: cut it, or mend its time stamps",
    "sound.mp4": "no video stream",
    "cover.mp3": "no video stream",
}


@pytest.mark.parametrize("name", [*USED, *REFUSED, "entries.mp4", "fragment.mp4", "one_chunk.mp4"])
def test_hostile_files(read: dict[str, tuple[str, float]], name: str) -> None:
    told, memory = read[name]
    assert "\n" not in told
    if name in USED:
        assert told == USED[name]
    else:
        assert f"/{name}: " in told
        assert REFUSED.get(name, "") in told
    assert memory < (700 if name == "one_chunk.mp4" else 200)
