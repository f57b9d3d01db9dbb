"""What several tests share: commands, videos, and small videos with known content."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from attnzoo import cli
from attnzoo.emotion.synth import synthesise

torch.set_num_threads(2)
# A shell has what it starts in the background ignore Ctrl-C, which the tests send for real.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def attnzoo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit status, standard output, standard error)."""
    monkeypatch.setattr(cli.console, "width", 200)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, one for all tests: a second one in the same process would find playwright's event loop running."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "/usr/bin/chromium"
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic videos: three classes of six, 1.5 s each."""
    root = tmp_path_factory.mktemp("videos") / "synth"
    return synthesise(root, classes=("calm", "glad", "cross"), per_class=6, seconds=1.5, width=96, height=64)


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """A function that encodes a video whose frame i is uniformly grey 8 * i + 20, with a click in its sound."""

    def write(
        path: Path,
        *,
        frames: int = 24,
        fps: int = 10,
        size: tuple[int, int] = (64, 48),
        click: float | None = 1.0,
        rate: int = 16000,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        first_pts: int = 0,
        draw: Callable[[int], np.ndarray] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            sound = container.add_stream("aac", rate=rate) if click is not None else None
            for i in range(frames):
                grey = np.full((size[1], size[0], 3), min(8 * i + 20, 250), np.uint8) if draw is None else draw(i)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p")
                frame.pts = i + first_pts
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound is not None and click is not None:
                samples = np.zeros((1, int(frames / fps * rate)), np.float32)
                at = int(click * rate)
                samples[0, at : at + rate // 50] = 0.9
                block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                block.sample_rate, block.pts = rate, 0
                container.mux(sound.encode(block))
                container.mux(sound.encode())
        return path

    return write
