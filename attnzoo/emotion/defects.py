"""What can be wrong with a video file, how it is noticed, and what becomes of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from attnzoo.emotion import media
from attnzoo.emotion.decoding import open_media, video_stream

# What is found in a data set, and what becomes of it.
KINDS = {
    "unreadable": "skipped",
    "missing": "skipped",
    "nested": "passed over",
    "unlisted": "passed over",
    "repeated": "used once",
    "doubled": "told apart by class/name",
    "truncated": "used as far as it goes",
    "over-reported": "its claim is not believed",
    "undecodable": "the nearest frames stand in",
    "short": "repeated to the length of a window",
    "silent": "its sound is zeros",
    "odd rate": "used frame by frame",
    "offset": "lined up by its time stamps",
    "rotated": "turned upright",
}
DAMAGED = ("unreadable", "missing", "truncated")
SLOWEST, FASTEST = 10, 61  # frames per second
APART = 0.040  # s between the beginnings of picture and sound: half of it is what people notice


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know of one file.

    Attributes:
        key: "class/file name", whatever is not UTF-8 in it escaped.
        kind: a key of `KINDS`.
        detail: one line.

    >>> KINDS[Finding("joy/a.mp4", "silent", "no sound track").kind]
    'its sound is zeros'
    """

    key: str
    kind: str
    detail: str


def defects(index: media.Index, frames: int) -> Iterator[tuple[str, str]]:
    """What is not as it should be with a video that can be used.

    Args:
        index: the video.
        frames: k, the length of a window.

    Yields:
        A kind and one line.

    >>> list(defects(media.Index(Path("a.mp4"), (4, 5, 6), 0.1, 10.0, 3, None), frames=16))[:2]
    [('short', '3 frames; a window is 16'), ('silent', 'no sound track')]
    """
    count = len(index.pts)
    # Some writers count a frame or two more than there are; that is no damage.
    lost = index.promised - count > max(2, index.promised // 50)
    if lost:
        kind = "over-reported" if _is_cut(index.path) is False else "truncated"
        yield kind, f"{count} of the {index.promised} frames that it claims"
    if count < frames:
        yield "short", f"{count} frames; a window is {frames}"
    if index.sound is None:
        yield "silent", "no sound track"
    if count > 1 and not lost and (odd := _odd_rate(index)):
        yield "odd rate", odd
    if offset := _offset(index):
        yield "offset", offset
    if index.rotation:
        yield "rotated", f"to be turned by {index.rotation} degrees"


def undecodable(path: Path) -> str:
    """How much of a video cannot be decoded; unlike `defects` this decodes all of it.

    Args:
        path: of a video that `media.read_index` takes.

    Returns:
        One line, empty if all is well.

    >>> undecodable(Path("nowhere.mp4"))
    'it can no longer be opened'
    """
    lost = count = 0
    try:
        with open_media(path) as container:
            stream = video_stream(container)
            for packet in container.demux(stream):
                try:
                    count += sum(not frame.is_corrupt for frame in packet.decode())
                except av.error.FFmpegError:
                    lost += 1
    except av.error.FFmpegError:
        return f"the file breaks off after {count} frames" if count else "it can no longer be opened"
    return f"{lost} of its packets, {count} frames are whole" if lost else ""


def _odd_rate(index: media.Index) -> str:
    steps = np.diff(np.array(index.pts, np.float64)) * index.unit
    typical = float(np.median(steps))
    # A time base of milliseconds makes 33 and 34 of 1/30 s, and a dropped frame here and there is no other rate.
    strange = float(np.mean(np.abs(steps - typical) > typical / 4))
    if strange > 0.05:
        return f"variable frame rate: {strange:.0%} of the frames do not last {1000 * typical:.0f} ms"
    rate = round(1 / typical, 2)
    return "" if SLOWEST <= rate <= FASTEST else f"{rate:g} frames per second; usual are {SLOWEST} to {FASTEST}"


def _offset(index: media.Index) -> str:
    told = []
    if abs(index.start) >= 0.001:
        told.append(f"the first frame is at {index.start:.3f} s")
    if index.sound_start is not None and abs(late := index.sound_start - index.start) > APART:
        told.append(f"the sound begins {abs(late):.3f} s {'after' if late > 0 else 'before'} the picture")
    return ", ".join(told)


def _is_cut(path: Path) -> bool | None:
    """Whether a file ends before its outermost boxes do; None for a container that this does not know."""
    if path.is_dir():
        return None
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            return any(end > length + 1 for end in _riff(file, length))  # the last pad byte is often left out
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return any(end > length for end in _boxes(file, length))
    return None


def _riff(file: BinaryIO, length: int) -> Iterator[int]:
    """Where each outermost chunk of an AVI ends."""
    at = 0
    while at + 8 <= length:
        file.seek(at + 4)
        size = int.from_bytes(file.read(4), "little")
        if size in (0, 0xFFFFFFFF):  # never filled in
            return
        at += 8 + size + size % 2
        yield at


def _boxes(file: BinaryIO, length: int) -> Iterator[int]:
    """Where each outermost box of an MP4 or MOV ends."""
    at = 0
    while at + 8 <= length:
        file.seek(at)
        size = int.from_bytes(file.read(4))
        if size == 1:  # the real one follows
            file.seek(at + 8)
            size = int.from_bytes(file.read(8))
        if size < 8:  # 0: to the end of the file
            return
        at += size
        yield at
