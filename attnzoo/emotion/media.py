"""Video files -> frames and sound, by presentation time, with PyAV.

No frame threads: in loader workers they are known to hang, and with one worker per core they gain nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

# Pictures and text that FFmpeg would otherwise play as a video of one frame.
_NOT_VIDEO = ("image2", "tty", "png_pipe", "jpeg_pipe", "bmp_pipe", "gif_pipe", "webp_pipe", "svg_pipe")


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a video file before its frames are decoded.

    Attributes:
        path: the file.
        pts: presentation times of the frames in the stream's own unit, ascending.
        unit: seconds of that unit.
        fps: mean frame rate, 1/s.
        promised: number of frames that the container claims, 0 if it does not say.
        sound: whether there is a sound track.
    """

    path: Path
    pts: tuple[int, ...]
    unit: float
    fps: float
    promised: int
    sound: bool

    @property
    def start(self) -> float:
        """Presentation time of the first frame, s."""
        return self.pts[0] * self.unit

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last, s."""
        return (self.pts[-1] - self.pts[0]) * self.unit + 1 / self.fps


def read_index(path: Path) -> Index:
    """Find the frames of a video without decoding more than the first.

    Args:
        path: any container that FFmpeg reads.

    Raises:
        ValueError: not a video, or nothing in it can be decoded; one line with the reason.
    """
    try:
        with av.open(str(path)) as container:
            if container.format.name in _NOT_VIDEO or not container.streams.video:
                raise ValueError(f"{path}: no video stream")
            stream = container.streams.video[0]
            pts = sorted(
                {
                    int(packet.pts)
                    for packet in _packets(container, stream)
                    if packet.pts is not None and not packet.is_discard
                }
            )
            if not pts or stream.time_base is None:
                raise ValueError(f"{path}: the video stream holds no frames")
            unit, rate = float(stream.time_base), float(stream.average_rate or 0)
            if rate <= 0:
                rate = (len(pts) - 1) / ((pts[-1] - pts[0]) * unit) if len(pts) > 1 else 25.0
            index = Index(path, tuple(pts), unit, rate, stream.frames, bool(container.streams.audio))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from None
    if not list(read_frames(index, [0], 8)):
        raise ValueError(f"{path}: its frames cannot be decoded")
    return index


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, as far as they can be read: a truncated file ends early."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return


def read_frames(index: Index, wanted: Sequence[int], size: int, place: float = 0.5) -> NDArray[np.uint8]:
    """Decode some frames, their short side scaled to `size` and a square cut out along the long side.

    Args:
        index: the video.
        wanted: indices of frames, in any order, with repeats. One that cannot be decoded is replaced by the nearest
            that can.
        size: edge of the square, px.
        place: where the square lies along the long side, 0 to 1.

    Returns:
        (len(wanted), size, size, 3) RGB, 0 to 255; no frames at all if none can be decoded.

    Raises:
        ValueError: the file can no longer be opened.
    """
    needed = {index.pts[i]: i for i in wanted}
    last = max(needed)
    found: dict[int, NDArray[np.uint8]] = {}
    scaler = VideoReformatter()  # one for all frames: setting it up costs more than scaling a small frame
    try:
        with av.open(str(index.path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if frame.pts in needed:
                    found[needed[frame.pts]] = _square(frame, scaler, size, place)
                if frame.pts is not None and frame.pts >= last:
                    break
    except av.error.FFmpegError as error:
        if isinstance(error, av.error.FileNotFoundError):
            raise ValueError(f"{index.path}: the file is gone") from None
        # Anything else is damage in the middle of the stream: what came before it is used.
    if not found:
        return np.empty((0, size, size, 3), np.uint8)
    decoded = np.array(sorted(found))
    nearest = [int(decoded[np.abs(decoded - i).argmin()]) for i in wanted]
    return np.stack([found[i] for i in nearest])


def _square(frame: av.VideoFrame, scaler: VideoReformatter, size: int, place: float) -> NDArray[np.uint8]:
    short = min(frame.width, frame.height)
    width, height = round(frame.width * size / short), round(frame.height * size / short)
    # Swscale's area filter is antialiased; the same filter serves training and inference.
    pixels: NDArray[Any] = scaler.reformat(frame, width, height, "rgb24", interpolation="AREA").to_ndarray()
    top, left = round((height - size) * place), round((width - size) * place)
    square: NDArray[np.uint8] = pixels[top : top + size, left : left + size]
    return square


def read_sound(index: Index, rate: int) -> NDArray[np.float32]:
    """The sound track as one channel, lined up with the picture: sample 0 sounds with the first frame.

    Args:
        index: the video.
        rate: samples per second to resample to.

    Returns:
        (samples,) from -1 to 1, as long as the picture; zeros where there is no sound.
    """
    track = np.zeros(round(index.seconds * rate), np.float32)
    if not index.sound:
        return track
    at: int | None = None  # the sample at which the next block of sound begins
    try:
        with av.open(str(index.path)) as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            for frame in container.decode(stream):
                if at is None:
                    at = round(((frame.time or 0.0) - index.start) * rate)
                at = _lay(track, at, resampler.resample(frame))
                if at >= len(track):
                    break
            else:
                _lay(track, at or 0, resampler.resample(None))
    except av.error.FFmpegError:
        pass  # damage in the middle of the track: what came before it is used
    return track


def _lay(track: NDArray[np.float32], at: int, blocks: Sequence[Any]) -> int:
    """Write blocks of sound into the track from sample `at` on; returns where the next block begins."""
    for block in blocks:
        samples = block.to_ndarray().reshape(-1)
        lo, hi = max(at, 0), min(at + len(samples), len(track))
        if lo < hi:
            track[lo:hi] = samples[lo - at : hi - at]
        at += len(samples)
    return at
