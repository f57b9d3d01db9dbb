"""What decoding costs beside OpenCV, decord and torchcodec, and how much less it costs from prepared files.

16 segments of 16 frames at 112 px, one thread each. The figure of record is a ratio of medians of CPU seconds in one
alternating run, in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnzoo.emotion import media
from attnzoo.emotion.prepare import Job, encode

SECONDS, FPS, WIDTH, HEIGHT = 60, 30, 640, 360

RUN = """
import json, statistics, sys, time
from pathlib import Path
import cv2, decord, numpy as np, torch
from torchcodec.decoders import VideoDecoder
from attnzoo.emotion import media, sampling
torch.set_num_threads(1)
cv2.setNumThreads(1)

def attnzoo(path):
    return media.read_frames(indices[path], wanted, 112)

def attnzoo_by_torchcodec(path):
    return media.read_frames(indices[path], wanted, 112, decoder="torchcodec")

def opencv(path):
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    asked, frames = set(wanted), []
    for i in range(max(wanted) + 1):
        capture.grab()
        if i in asked:
            picture = capture.retrieve()[1]
            start = (picture.shape[1] - picture.shape[0]) // 2
            square = picture[:, start : start + picture.shape[0]]
            scaled = cv2.resize(square, (112, 112), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB))
    return np.stack(frames)

def decord_(path):
    frames = decord.VideoReader(path, width=199, height=112, num_threads=1).get_batch(wanted).asnumpy()
    return frames[:, :, 43:155]

def windows(path):
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
    for start in wanted[::16]:
        yield decoder.get_frames_in_range(start, start + 16).data

def torchcodec(path):
    frames = []
    for pictures in windows(path):
        edge, left = pictures.shape[1], round((pictures.shape[2] - pictures.shape[1]) / 2)
        square = pictures[:, :, left : left + edge].permute(0, 3, 1, 2)
        scaled = torch.nn.functional.interpolate(square, (112, 112), mode="bilinear", antialias=True)
        frames.append(scaled.permute(0, 2, 3, 1).numpy())
    return np.concatenate(frames)

def torchcodec_full_size(path):
    for pictures in windows(path):
        pass

rounds, *paths = sys.argv[1:]
indices = {path: media.read_index(Path(path)) for path in paths}
wanted = sampling.windows(len(indices[paths[0]].pts), 16, 16).reshape(-1).tolist()
methods = (attnzoo, attnzoo_by_torchcodec, opencv, decord_, torchcodec, torchcodec_full_size)
for path in paths:
    frames = {method.__name__: method(path) for method in methods}
    for name in ("attnzoo_by_torchcodec", "torchcodec"):
        assert (frames["attnzoo"] == frames[name]).all(), name
    for name in ("opencv", "decord_"):  # other filters
        assert np.abs(frames["attnzoo"].astype(int) - frames[name]).mean() < 12, name
seconds = {path: {method.__name__: [] for method in methods} for path in paths}
for _ in range(int(rounds)):
    for method in methods:
        for path in paths:
            start = time.process_time()
            method(path)
            seconds[path][method.__name__].append(time.process_time() - start)
print(json.dumps([{name: statistics.median(s) for name, s in seconds[path].items()} for path in paths]))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that sweeps over a landscape of blots while a disc circles in front of it."""
    path = tmp_path_factory.mktemp("decode") / "original.mp4"
    blots = torch.randint(0, 256, (1, 3, 80, 200), generator=torch.Generator().manual_seed(0)).float()
    landscape = F.interpolate(blots, (1000, 2400), mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0).byte().numpy()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "medium", "g": "250"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 500_000
        for i in range(SECONDS * FPS):
            top, left = int(300 + 280 * np.sin(i / 61)), int(800 + 700 * np.sin(i / 97))
            picture = landscape[top : top + HEIGHT, left : left + WIDTH].copy()
            across, down = WIDTH / 2 + 250 * np.cos(i / 9), HEIGHT / 2 + 120 * np.sin(i / 13)
            picture[(columns - across) ** 2 + (rows - down) ** 2 < 1600] = (250, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def prepared(original: Path) -> Path:
    target = original.with_name("prepared.mp4")
    assert not encode(Job(media.read_index(original), target, short_side=144, gop=16))
    return target


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FFmpeg that comes with PyAV, under the names by which torchcodec looks for it."""
    folder = tmp_path_factory.mktemp("lib")
    for library in (Path(av.__file__).parents[1] / "av.libs").iterdir():
        stem, _, version = library.name.partition(".so.")
        for name in {library.name, f"{stem.rpartition('-')[0]}.so.{version.partition('.')[0]}"}:
            (folder / name).symlink_to(library)
    return folder


def test_decoding(benchmark: Any, original: Path, prepared: Path, libraries: Path) -> None:
    rounds = 5 if benchmark.enabled else 1
    command = [sys.executable, "-c", RUN, str(rounds), str(original), str(prepared)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "OMP_NUM_THREADS": "1"}

    def measure() -> str:
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    medians = json.loads(benchmark.pedantic(measure, rounds=1))
    for path, seconds in zip((original, prepared), medians, strict=True):
        ours = seconds["attnzoo"]
        ratios = {name.rstrip("_"): s / ours for name, s in seconds.items() if name != "attnzoo"}
        benchmark.extra_info[path.stem] = {"seconds": ours, "ratios": ratios}
        told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        print(f"\n{path.stem}: {ours:.2f} CPU s; others / attnzoo: {told}", end="")
    print(" (goals: opencv and decord at least 1.00, torchcodec 0.77)")
    ratio = medians[0]["attnzoo"] / medians[1]["attnzoo"]
    megabytes = prepared.stat().st_size / 1e6 * 60 / SECONDS
    benchmark.extra_info.update(ratio=ratio, megabytes=megabytes)
    print(f"original / prepared = {ratio:.2f} (goal: at least 3), at {megabytes:.1f} MB per minute")
