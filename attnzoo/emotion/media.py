"""Video files -> frames and sound, by presentation time, with PyAV.

No frame threads: in loader workers they are known to hang, and with one worker per core they gain nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

# What FFmpeg reads with the same formats as films and only its one frame gives away: GIF, and the brands of AVIF, HEIF.
_MAYBE_STILL = {"gif", "apng", "webp", "avif", "mif1", "heic", "heix"}


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a video file before its frames are decoded.

    Attributes:
        path: the file.
        pts: presentation times of the frames in the stream's own unit, ascending.
        unit: seconds of that unit.
        fps: mean frame rate, 1/s.
        promised: number of frames that the container claims, 0 if it does not say. Where it claims a length alone and
            ends before it, the number of frames in that length.
        sound: the file of the sound track, which may be the video itself; None without sound.

    >>> Index(Path("a.mp4"), (5, 6, 7), unit=0.1, fps=10.0, promised=3, sound=None).start
    0.5
    """

    path: Path
    pts: tuple[int, ...]
    unit: float
    fps: float
    promised: int
    sound: Path | None

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

    >>> read_index(Path("nowhere.mp4"))
    Traceback (most recent call last):
    ValueError: nowhere.mp4: not a readable video (No such file or directory)
    """
    try:
        with _open(path) as container:
            form = container.format.name
            if form == "tty" or not container.streams.video:
                raise ValueError(f"{path}: no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError(f"{path}: its frames are in a codec that FFmpeg does not know")
            pts, end = _times(container, stream)
            brand = container.metadata.get("major_brand", form)
            if form.endswith("_pipe") or form == "image2" or (len(pts) == 1 and brand in _MAYBE_STILL):
                raise ValueError(f"{path}: not a video: a still image")
            if not pts or stream.time_base is None:
                raise ValueError(f"{path}: the video stream holds no frames")
            unit, rate = float(stream.time_base), float(stream.average_rate or 0)
            if rate <= 0:
                rate = (len(pts) - 1) / ((pts[-1] - pts[0]) * unit) if len(pts) > 1 else 25.0
            sound = bool(container.streams.audio) and container.streams.audio[0].codec_context is not None
            promised, length = stream.frames, (container.duration or 0) / av.time_base
            # Matroska and fragmented MP4 claim no number of frames, or that of the first fragment.
            if promised < len(pts) and length - end > max(0.25, length / 50):
                promised = round(length * rate)
            index = Index(path, tuple(pts), unit, rate, promised, path if sound else None)
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from None
    if not list(read_frames(index, [0], 8)):
        raise ValueError(f"{path}: its frames cannot be decoded")
    return index


def _open(path: Path) -> Any:
    return av.open(str(path), metadata_errors="replace")  # titles that are not UTF-8 do no harm


def _packets(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams or all, as far as they can be read: a truncated file ends early."""
    try:
        yield from container.demux(*streams)
    except av.error.FFmpegError:
        return


def _times(container: Any, stream: Any) -> tuple[list[int], float]:
    """Presentation times of a stream's frames in its own unit, ascending, and where the last stream ends, s."""
    times, end = set(), 0.0
    for packet in _packets(container):
        if packet.pts is None or packet.is_discard:
            continue
        if packet.stream is stream:
            times.add(int(packet.pts))
        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return sorted(times), end


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream that can be decoded: damage costs the frames it hits, not those after it."""
    for packet in _packets(container, stream):
        with suppress(av.error.FFmpegError):
            yield from packet.decode()


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

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "grey.mkv"
    ...     with av.open(str(path), "w") as container:
    ...         stream = container.add_stream("mpeg4", rate=10)
    ...         for _ in range(3):
    ...             grey = np.full((stream.height, stream.width, 3), 99, np.uint8)
    ...             container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    ...         container.mux(stream.encode())
    ...     read_frames(read_index(path), [0, 2], size=32).shape
    (2, 32, 32, 3)
    """
    needed = {index.pts[i]: i for i in wanted}
    last = max(needed)
    found: dict[int, NDArray[np.uint8]] = {}
    spare = None  # the frame decoded last, for a video of which none of those asked for can be decoded
    scaler = VideoReformatter()  # one for all frames: setting it up costs more than scaling a small frame
    try:
        with _open(index.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in _decode(container, stream):
                spare = frame
                if frame.pts in needed:
                    found[needed[frame.pts]] = _square(frame, scaler, size, place)
                if frame.pts is not None and frame.pts >= last:
                    break
    except av.error.FFmpegError as error:
        if isinstance(error, av.error.FileNotFoundError):
            raise ValueError(f"{index.path}: the file is gone") from None
        # Anything else is damage: what came before it is used.
    if not found and spare is not None:
        found[needed[last]] = _square(spare, scaler, size, place)
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

    >>> read_sound(Index(Path("silent.mp4"), (0, 1, 2, 3), 0.1, 10.0, 4, sound=None), 8000).shape
    (3200,)
    """
    track = np.zeros(round(index.seconds * rate), np.float32)
    if index.sound is None:
        return track
    at, resampler = 0, None  # the sample at which the next block of sound begins
    try:
        with _open(index.sound) as container:
            stream = container.streams.audio[0]
            for frame in _decode(container, stream):
                now = at if frame.time is None else round((frame.time - index.start) * rate)
                # After damage the sound goes on at its own time; smaller steps are the resampler's delay and rounding.
                if resampler is None or abs(now - at) > rate // 20:
                    at, resampler = now, av.AudioResampler(format="flt", layout="mono", rate=rate)
                at = _lay(track, at, resampler.resample(frame))
                if at >= len(track):
                    break
            else:
                if resampler is not None:
                    _lay(track, at, resampler.resample(None))
    except av.error.FFmpegError:
        pass  # damage: what came before it is used
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
