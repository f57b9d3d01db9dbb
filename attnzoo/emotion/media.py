"""Video files -> frames and sound, by presentation time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attnzoo.emotion.decoding import MAX_PIXELS, decode, frames, jpeg, open_media, packets, pictures, video_stream
from attnzoo.emotion.samples import Damaged as Damaged  # which belongs to what reads here

MAX_SECONDS = 7200
MAX_FRAMES = 2**20  # two hours at 145 a second

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
        rotation: by how many degrees the frames are to be turned, as the display matrix says.
        sound_start: presentation time of the first sound, s.
        keys: presentation times of the frames at which decoding can begin. None where the container keeps no
            presentation times: there the frames are told by their number in the order of the decoder.

    >>> Index(Path("a.mp4"), (5, 6, 7), unit=0.1, fps=10.0, promised=3, sound=None).start
    0.5
    """

    path: Path
    pts: tuple[int, ...]
    unit: float
    fps: float
    promised: int
    sound: Path | None
    rotation: int = 0
    sound_start: float | None = None
    keys: tuple[int, ...] = ()

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
        Damaged: not a video, beyond `MAX_FRAMES`, `MAX_SECONDS` or `decoding.MAX_PIXELS`, or nothing in it can be
            decoded; one line with the reason.

    >>> read_index(Path("nowhere.mp4"))
    Traceback (most recent call last):
    attnzoo.emotion.samples.Damaged: nowhere.mp4: not a readable video (No such file or directory)
    """
    try:
        with open_media(path) as container:
            index = _read(path, container)
        first = next((frame for _, frame in frames(path, index.pts, index.keys, index.pts[:1])), None)
    except av.error.FFmpegError as error:
        raise Damaged(f"{path}: not a readable video ({error.strerror})") from None
    if first is None:
        raise Damaged(f"{path}: its frames cannot be decoded")
    return replace(index, rotation=first.rotation)


def _read(path: Path, container: Any) -> Index:
    form, stream = container.format.name, video_stream(container)
    if form == "tty" or stream is None:
        raise Damaged(f"{path}: no video stream")
    if stream.codec_context is None:
        raise Damaged(f"{path}: its frames are in a codec that FFmpeg does not know")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise Damaged(f"{path}: {width} x {height} pixels; at most {MAX_PIXELS}, as 8192 x 8192: scale it down")
    pts, keys, end = _times(path, container, stream)
    brand = container.metadata.get("major_brand", form)
    if form.endswith("_pipe") or form == "image2" or (len(pts) == 1 and brand in _MAYBE_STILL):
        raise Damaged(f"{path}: not a video: a still image")
    if not pts or stream.time_base is None:
        raise Damaged(f"{path}: the video stream holds no frames")
    unit, rate = float(stream.time_base), float(stream.average_rate or 0)
    if rate <= 0:
        span = (pts[-1] - pts[0]) * unit
        rate = (len(pts) - 1) / span if span > 0 else 25.0
    sound = next((s for s in container.streams.audio[:1] if s.codec_context is not None), None)
    promised, length = stream.frames, (container.duration or 0) / av.time_base
    # Matroska and fragmented MP4 claim no number of frames, or that of the first fragment.
    if promised < len(pts) and length - end > max(0.25, length / 50):
        promised = round(length * rate)
    index = Index(
        path=path,
        pts=tuple(pts),
        unit=unit,
        fps=rate,
        promised=promised,
        sound=path if sound else None,
        sound_start=float(sound.start_time * sound.time_base) if sound and sound.start_time is not None else None,
        keys=tuple(keys),
    )
    if index.seconds > MAX_SECONDS:
        raise Damaged(
            f"{path}: its frames span {index.seconds / 3600:.1f} hours; at most {MAX_SECONDS // 3600}: cut it, or mend "
            "its time stamps"
        )
    return index


# AVI keeps no presentation times and MPEG-PS not every frame's, and what FFmpeg makes up is wrong where frames are
# reordered. They come out of the decoder in the order in which they are shown.
_COUNTED = {"avi", "mpeg"}


def _times(path: Path, container: Any, stream: Any) -> tuple[list[int], list[int], float]:
    """Presentation times of a stream's frames and key frames in its own unit, and where the last stream ends, s."""
    form = container.format.name
    times, keys, end, count = set(), set(), 0.0, 0
    for packet in packets(container):
        time, ours = packet.dts if form == "avi" else packet.pts, packet.stream is stream and packet.size > 0
        count += ours
        if count > MAX_FRAMES:
            raise Damaged(f"{path}: more than {MAX_FRAMES} frames: cut it")
        if time is None:
            continue
        if ours and packet.is_keyframe:
            keys.add(int(time))
        if packet.is_discard:
            continue
        if ours:
            times.add(int(time))
        end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
    if count and not times:
        raise Damaged(f"{path}: its frames have no times: put it into a container such as MP4")
    if form not in _COUNTED:
        return sorted(times), sorted(keys), end
    if 1 < len(times) < count:
        times = set(np.linspace(min(times), max(times), count).round().astype(int).tolist())
    return sorted(times), [], end


def read_frame_folder(path: Path, sound: Path | None, fps: float = 30.0) -> Index:
    """A folder of numbered JPEG files, as VAANet, CTEN and 3D-ResNets prepare their videos.

    Args:
        path: a folder of 000001.jpg, 000002.jpg and so on, or of image_00001.jpg; beside them may stand `n_frames`, a
            file with their number.
        sound: the file of the sound track, which begins with number 1.
        fps: frames per second.

    Raises:
        Damaged: no such folder, no such files in it, or one that cannot be decoded.

    >>> read_frame_folder(Path("nowhere"), None)
    Traceback (most recent call last):
    attnzoo.emotion.samples.Damaged: nowhere: no folder of frames
    """
    if not path.is_dir():
        raise Damaged(f"{path}: no folder of frames")
    names = (_NUMBERED.fullmatch(p.name) for p in path.iterdir())
    numbers = sorted({int(name[1] or name[2]) for name in names if name})
    if not numbers:
        raise Damaged(f"{path}: it holds no frames, as in {jpeg(path, 1).name}")
    if len(numbers) > MAX_FRAMES:
        raise Damaged(f"{path}: more than {MAX_FRAMES} frames")
    claim = path / "n_frames"
    said = claim.read_text().strip() if claim.is_file() else ""
    promised = int(said) if said.isascii() and said.isdigit() else 0
    index = Index(path, tuple(number - 1 for number in numbers), 1 / fps, fps, promised, sound)
    read_frames(index, [0], 16)
    return index


_NUMBERED = re.compile(r"(?:image_(\d{5})|(\d{6}))\.jpg")


def read_frames(
    index: Index, wanted: Sequence[int], size: int, place: float = 0.5, decoder: str = "pyav"
) -> NDArray[np.uint8]:
    """Decode some frames, a square cut out along their long side and scaled to `size`.

    Args:
        index: the video.
        wanted: indices of frames, in any order, with repeats. One that cannot be decoded is replaced by the nearest
            that can.
        size: edge of the square, px.
        place: where the square lies along the long side, 0 to 1.
        decoder: "pyav" or "torchcodec"; the frames are the same.

    Returns:
        (len(wanted), size, size, 3) RGB, 0 to 255.

    Raises:
        Damaged: the file can no longer be opened, or none of its frames can be decoded.

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
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        for time, picture in pictures(
            index.path, index.pts, index.keys, sorted(needed), unit=index.unit, decoder=decoder
        ):
            found[needed[time]] = _square(picture, size, place)
    except av.error.FFmpegError as error:
        if isinstance(error, av.error.FileNotFoundError):
            raise Damaged(f"{index.path}: the file is gone") from None
        # Anything else is damage: what came before it is used.
    if not found:
        raise Damaged(f"{index.path}: its frames can no longer be decoded")
    decoded = np.array(sorted(found))
    nearest = [int(decoded[np.abs(decoded - i).argmin()]) for i in wanted]
    return np.stack([found[i] for i in nearest])


def _square(picture: NDArray[np.uint8], size: int, place: float) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = round((height - edge) * place), round((width - edge) * place)
    square = np.ascontiguousarray(picture[top : top + edge, left : left + edge])
    # Antialiased, as Pillow does it; the same filter serves training and inference.
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None]
    scaled = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def read_sound(index: Index, rate: int) -> NDArray[np.float32]:
    """The mean of the sound track's channels, lined up with the picture: sample 0 sounds with the first frame.

    Args:
        index: the video.
        rate: samples per second to resample to.

    Returns:
        (samples,) from -1 to 1, as long as the picture; zeros where there is no sound.

    Raises:
        Damaged: the file of the sound is gone.

    >>> read_sound(Index(Path("silent.mp4"), (0, 1, 2, 3), 0.1, 10.0, 4, sound=None), 8000).shape
    (3200,)
    """
    track = np.zeros(round(index.seconds * rate), np.float32)
    if index.sound is None:
        return track
    at, resampler = 0, None  # the sample at which the next block of sound begins
    form: tuple[Any, ...] = ()
    try:
        with open_media(index.sound) as container:
            stream = container.streams.audio[0]
            for frame in decode(container, stream):
                if not _SLOWEST <= frame.sample_rate <= _FASTEST or frame.samples > _LONGEST * frame.sample_rate:
                    continue
                now = at if frame.time is None else round((frame.time - index.start) * rate)
                last, form = form, (frame.sample_rate, frame.layout.name, frame.format.name)
                # After damage the sound goes on at its own time; smaller steps are the resampler's delay and rounding.
                if resampler is None or form != last or abs(now - at) > rate // 20:
                    at, resampler = now, av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
                at = _lay(track, at, resampler.resample(frame))
                if at >= len(track):
                    break
            else:
                if resampler is not None:
                    _lay(track, at, resampler.resample(None))
    except av.error.FileNotFoundError:
        raise Damaged(f"{index.path}: its sound {index.sound} is gone") from None
    except (av.error.FFmpegError, IndexError):
        pass  # damage, or no sound where there was some: what came before it is used
    return track


# Samples per second, and seconds: other blocks could grow beyond all bounds when they are resampled.
_SLOWEST, _FASTEST, _LONGEST = 1_000, 768_000, 30


def _lay(track: NDArray[np.float32], at: int, blocks: Sequence[Any]) -> int:
    """Write blocks of sound into the track from sample `at` on; returns where the next block begins."""
    for block in blocks:
        samples = block.to_ndarray().mean(0)
        lo, hi = max(at, 0), min(at + len(samples), len(track))
        if lo < hi:
            track[lo:hi] = samples[lo - at : hi - at]
        at += len(samples)
    return at
