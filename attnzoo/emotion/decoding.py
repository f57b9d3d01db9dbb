"""The pictures of a video at given presentation times, by PyAV or torchcodec, neither of them more than it must.

No frame threads: in loader workers they are known to hang, and with one worker per core they gain nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from attnzoo.extras import need

MAX_PIXELS = 2**26  # 8192 x 8192: a picture of 200 MB
_LIMITS = {"max_pixels": str(MAX_PIXELS)}  # FFmpeg's own, for what a stream says of itself later than its container
# Titles that are not UTF-8 do no harm: PyAV 19 always takes them, older ones where they are told to.
_TITLES: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}

# Where a bit in the stream says that no other frame is made from this one.
_DISPOSABLE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
Picture = NDArray[np.uint8]
_INTRA = {PictureType.NONE, PictureType.I}


def open_media(path: Path) -> Any:
    """Open a file of picture or sound.

    Args:
        path: any container that FFmpeg reads.

    Raises:
        av.error.FFmpegError: it cannot be opened.

    >>> open_media(Path("nowhere.mp4"))
    Traceback (most recent call last):
    av.error.FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.mp4'
    """
    return av.open(str(path), options=_LIMITS, **_TITLES)


def video_stream(container: Any) -> Any:
    """The first video stream of an open file that is not the cover of an album; None if there is none."""
    covers = Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & covers), None)


def packets(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams or all, as far as they can be read: a truncated file ends early."""
    try:
        yield from container.demux(*streams)
    except av.error.FFmpegError:
        return


def decode(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream that can be decoded: damage costs the frames it hits, not those after it."""
    _alone(stream)
    for packet in packets(container, stream):
        yield from _decoded(packet)
    yield from _drained(stream)


def _alone(stream: Any) -> None:
    stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    stream.codec_context.options = _LIMITS


def _decoded(packet: Any) -> Iterator[Any]:
    with suppress(av.error.FFmpegError):
        yield from packet.decode()


def _drained(stream: Any) -> Iterator[Any]:
    """The frames that the decoder has kept back to bring them in order."""
    with suppress(av.error.FFmpegError):
        yield from stream.codec_context.decode(None)


def pictures(
    path: Path,
    pts: Sequence[int],
    keys: Sequence[int],
    wanted: Sequence[int],
    *,
    unit: float,
    decoder: str = "pyav",
) -> Iterator[tuple[int, Picture]]:
    """Some pictures of a video, the same as if all of it were decoded.

    Args:
        path: a video, or a folder of numbered JPEG files, of which number n has the time n - 1.
        pts: presentation times of the frames, ascending.
        keys: those at which decoding can begin; if none, frames are told by their number in the order of the decoder.
        wanted: some of `pts`, ascending.
        unit: seconds of those times.
        decoder: "pyav", or "torchcodec" where it can: it fetches some frames of files without an index, as MPEG-TS,
            at the wrong time, and those are left to PyAV.

    Yields:
        A time and an upright picture (height, width, 3), RGB from 0 to 255; damaged ones are left out. If none of them
        can be decoded, one that stands nearby.

    Raises:
        av.error.FFmpegError: the file cannot be opened.

    >>> list(pictures(Path("nowhere.mp4"), [0], [0], [0], unit=0.1))
    Traceback (most recent call last):
    av.error.FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.mp4'
    """
    left = list(wanted)
    if decoder == "torchcodec" and keys:
        for time, picture in _by_torchcodec(path, wanted, unit):
            left.remove(time)
            yield time, picture
    converter = VideoReformatter()  # one for all frames: setting it up costs more than converting a small one
    found = _from_folder(path, left) if path.is_dir() else frames(path, pts, keys, left)
    for time, frame in found if left else ():
        with suppress(av.error.FFmpegError):
            pixels: Any = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield time, np.rot90(pixels, frame.rotation // 90)


def _from_folder(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    context = av.CodecContext.create("mjpeg", "r")
    context.options = _LIMITS
    for time in wanted:
        with suppress(av.error.FFmpegError, FileNotFoundError):
            content = jpeg(path, time + 1).read_bytes()
            yield from ((time, frame) for frame in context.decode(av.Packet(content)))


def jpeg(folder: Path, number: int) -> Path:
    """The file of a numbered frame, as VAANet and CTEN name it, or as 3D-ResNets does.

    >>> jpeg(Path("nowhere"), 7).name
    '000007.jpg'
    """
    other = folder / f"image_{number:05d}.jpg"
    return other if other.exists() else folder / f"{number:06d}.jpg"


def check_torchcodec() -> None:
    """Say in one line what torchcodec lacks.

    Raises:
        ImportError: it is not installed, or finds no FFmpeg.
    """
    need("torchcodec", "torchcodec")
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (RuntimeError, OSError, ValueError) as error:
        if "libtorchcodec" in str(error):
            raise ImportError(
                "torchcodec finds no FFmpeg that it can load: it needs the shared libraries of FFmpeg 4 to 9 and the "
                "torchcodec made for this torch; install them, or let clip.decoder be pyav"
            ) from None


def _by_torchcodec(path: Path, wanted: Sequence[int], unit: float) -> Iterator[tuple[int, Picture]]:
    from torchcodec.decoders import VideoDecoder

    with suppress(RuntimeError, ValueError, IndexError):  # damage: PyAV says what can be had
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
        at_once = min(16, max(1, MAX_PIXELS // (decoder.metadata.width * decoder.metadata.height)))
        for first in range(0, len(wanted), at_once):
            times = wanted[first : first + at_once]
            # A little later than each begins, so that rounding does not give the one before.
            batch = decoder.get_frames_played_at([(time + 0.5) * unit for time in times])
            for time, begins, picture in zip(times, batch.pts_seconds.tolist(), batch.data.numpy(), strict=True):
                if abs(begins - time * unit) < 0.5 * unit:
                    yield time, picture


def frames(path: Path, pts: Sequence[int], keys: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Some frames of a video, the same as if all of it were decoded.

    Args:
        path: the video.
        pts: presentation times of its frames, ascending.
        keys: those of them at which decoding can begin; if none, frames are told by their number in the order of the
            decoder.
        wanted: some of `pts`, ascending.

    Yields:
        A time and its frame; damaged ones are left out. If none of them can be decoded, one that stands nearby.

    Raises:
        av.error.FFmpegError: the file cannot be opened.

    >>> list(frames(Path("nowhere.mp4"), [], [], []))
    Traceback (most recent call last):
    av.error.FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.mp4'
    """
    missing, spare = set(wanted), None
    for seek in (True, False) if keys else (False,):
        with open_media(path) as container:
            stream = video_stream(container)
            if stream is None or stream.codec_context is None:
                return
            if seek:
                found = _seeking(container, stream, pts, keys, wanted)
            else:  # also after seeking, in case it led astray
                found = _straight(container, stream, () if keys else pts, wanted)
            for time, frame in found:
                spare = frame
                if time in missing:
                    missing.discard(time)
                    yield time, frame
        if not missing:
            return
    if spare is not None and len(missing) == len(set(wanted)):
        yield wanted[-1], spare


def _straight(container: Any, stream: Any, counted: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """All frames from the first on, up to the last one wanted."""
    for number, frame in enumerate(decode(container, stream)):
        time = counted[min(number, len(counted) - 1)] if counted else frame.pts
        if time is None:
            continue
        yield time, frame
        if time >= wanted[-1]:
            return


def _seeking(
    container: Any, stream: Any, pts: Sequence[int], keys: Sequence[int], wanted: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """The frames that are needed: it leaps to a later key frame where that lies before the next frame wanted.

    Ends early where a leap fails or does not lead to a frame that stands on its own: then straight decoding has to do.
    """
    _alone(stream)
    context = stream.codec_context
    asked, unsent = frozenset(wanted), set(wanted)
    newest, landed = pts[0] - 1, None
    source = packets(container, stream)
    for target in wanted:
        if target not in unsent:
            continue
        key = keys[max(bisect_right(keys, target) - 1, 0)]
        if key > newest and bisect_left(pts, key) - bisect_right(pts, newest) > 1:
            yield from ((frame.pts, frame) for frame in _drained(stream))
            landing = _leap(container, stream, key)
            if landing is None or not newest < landing.pts <= target:
                return
            landed, source = landing.pts, chain([landing], packets(container, stream))
        for packet in source:
            time = packet.pts
            unsent.discard(time)
            newest = newest if time is None else max(newest, time)
            if context.name in _DISPOSABLE:
                context.skip_frame = "DEFAULT" if time in asked or time is None else "NONREF"
            for frame in _decoded(packet):
                if frame.pts == landed and frame.pict_type not in _INTRA:
                    return  # called a key frame, and is none
                yield frame.pts, frame
            if target not in unsent:
                break
    yield from ((frame.pts, frame) for frame in _drained(stream))


def _leap(container: Any, stream: Any, key: int) -> Any:
    """The packet of a key frame at or before some time; None if the container cannot lead there."""
    with suppress(av.error.FFmpegError):
        container.seek(key, stream=stream)
        return next((p for p in packets(container, stream) if p.is_keyframe and p.pts is not None), None)
    return None
