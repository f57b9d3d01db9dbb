"""Videos re-encoded small, so that they decode several times faster, at the same presentation times.

H.264 with a small short side, a key frame every few frames and no B-frames; the sound beside it as AAC, one channel,
lined up with the picture. The copy is a data set of its own, with classes, speakers and splits in `videos.json`.
"""

import errno
import json
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from attnzoo.emotion import media
from attnzoo.emotion.cluster import ray_cluster
from attnzoo.emotion.datasets import Folder, Video
from attnzoo.emotion.decoding import open_media, pictures
from attnzoo.emotion.run_folder import claim

_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
LIST, JOURNAL = "videos.json", "prepared.jsonl"


@dataclass(frozen=True, slots=True)
class Job:
    """One video to encode.

    Attributes:
        index: of the source.
        target: the file to write.
        short_side: px; a smaller picture is not enlarged.
        gop: frames from one key frame to the next.

    >>> Job(media.Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None), Path("b.mp4"), 144, 16).gop
    16
    """

    index: media.Index
    target: Path
    short_side: int
    gop: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of it.

    Attributes:
        written: videos encoded now.
        before: videos that were finished already.
        failed: key and reason of those that could not be encoded.

    >>> Prepared(3, 0, (("joy/a.mp4", "no frame can be decoded"),)).failed[0][0]
    'joy/a.mp4'
    """

    written: int
    before: int
    failed: tuple[tuple[str, str], ...]


def prepare(
    folder: Folder,
    out: Path,
    *,
    short_side: int = 144,
    gop: int = 16,
    workers: int = 1,
    engine: str = "local",
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write a small copy of a data set; finished videos whose source did not change are not encoded again.

    Args:
        folder: the data set.
        out: the folder to write; it can be given as a data set itself.
        short_side: px, even.
        gop: frames from one key frame to the next.
        workers: processes; of a Ray that is started here, too. With more than one the calling script needs a
            `__main__` guard.
        engine: "local" for processes of this machine, "ray" for a Ray cluster: that of RAY_ADDRESS, or one on this
            machine. All its machines must see both folders.
        progress: called with the number of finished videos and of all.

    Raises:
        ValueError: an argument out of range, `out` in the data set, the copy of another one, or in another process's
            hands.
        OSError: the disk is full; what is finished stays.
        KeyboardInterrupt: likewise.

    >>> prepare(Folder(Path("videos"), (), (), ()), Path("videos/small"))
    Traceback (most recent call last):
    ValueError: videos/small lies in videos; prepare into a folder outside of the data set
    """
    if short_side < 16 or short_side % 2:
        raise ValueError(f"short side {short_side}: H.264 in yuv420p needs an even number of pixels, 16 or more")
    for name, value in (("gop", gop), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    if engine not in _ENGINES:
        raise ValueError(f"engine {engine!r} must be one of {', '.join(_ENGINES)}")
    if out.resolve().is_relative_to(folder.root.resolve()):
        raise ValueError(f"{out} lies in {folder.root}; prepare into a folder outside of the data set")
    targets = _targets(folder.videos, out)
    with claim(out) as mine:
        if not mine:
            raise ValueError(f"another process prepares videos in {out}; wait for it or choose another folder")
        journal = _read_journal(out / JOURNAL)
        if journal and journal.keys().isdisjoint(targets):
            raise ValueError(
                f"{out} holds the copy of another data set, with {next(iter(journal))}; choose another folder"
            )
        signs = {video.key: [*_sign(video.index), short_side, gop] for video in folder.videos}
        todo = {
            video.key: Job(video.index, targets[video.key], short_side, gop)
            for video in folder.videos
            if journal.get(video.key) != signs[video.key] or not targets[video.key].exists()
        }
        before, failed = len(folder.videos) - len(todo), []
        for path in {job.target.parent for job in todo.values()}:
            path.mkdir(parents=True, exist_ok=True)
        running = closing(_ENGINES[engine](list(todo.items()), workers))
        with (out / JOURNAL).open("a", encoding="utf-8") as lines, running as finished:
            for done, (key, reason) in enumerate(finished, before + 1):
                if reason:
                    failed.append((key, reason))
                else:
                    lines.write(json.dumps({"key": key, "source": signs[key]}) + "\n")
                    lines.flush()
                if progress:
                    progress(done, len(folder.videos))
        lost = {key for key, _ in failed}
        _write_list(folder, {key: path for key, path in targets.items() if key not in lost}, out)
    return Prepared(len(todo) - len(failed), before, tuple(sorted(failed)))


def _targets(videos: Sequence[Video], out: Path) -> dict[str, Path]:
    """The file of each video: its name in its class; with its old suffix where two differ in that alone."""
    targets: dict[str, Path] = {}
    taken: set[Path] = set()
    for video in videos:
        path = out / f"{video.name}.mp4"
        path = out / f"{video.key}.mp4" if path in taken else path
        taken.add(path)
        targets[video.key] = path
    return targets


def _sign(index: media.Index) -> list[int]:
    """What shows that a source has changed."""
    stats = [path.stat() for path in dict.fromkeys((index.path, index.sound)) if path is not None]
    return [number for s in stats for number in (s.st_size, s.st_mtime_ns)] + [len(index.pts), round(index.fps * 1000)]


def _read_journal(path: Path) -> dict[str, list[int]]:
    finished = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):  # the last line of a process that was killed may be torn
            entry = json.loads(line)
            finished[entry["key"]] = entry["source"]
    return finished


def _write_list(folder: Folder, targets: dict[str, Path], out: Path) -> None:
    videos: list[dict[str, Any]] = []
    for video in folder.videos:
        if video.key not in targets:
            continue
        line: dict[str, Any] = {"path": targets[video.key].relative_to(out).as_posix()}
        line["label"] = folder.classes[video.label]
        if video.speaker:
            line["speaker"] = video.speaker
        if video.parts:
            line["split"] = list(video.parts)
        videos.append(line)
    content = {"classes": list(folder.classes), "splits": list(folder.splits), "videos": videos}
    part = out / f".{LIST}.part"
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(out / LIST)


Jobs = list[tuple[str, Job]]
Encoded = Generator[tuple[str, str], None, None]  # key, and why it failed


def _local(jobs: Jobs, workers: int) -> Encoded:
    if workers == 1 or len(jobs) < 2:
        yield from ((key, encode(job)) for key, job in jobs)
        return
    # spawn: a child forked from a process in which FFmpeg has threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # Ctrl-C is for this process alone, which lets the others finish the videos they have: they inherit the block.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        running = {pool.submit(encode, job): key for key, job in jobs}
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        try:
            for finished in as_completed(running):
                yield running[finished], finished.result()
        except BrokenProcessPool:
            raise ValueError(
                "a process that encodes was killed, as when memory runs out; the same command goes on, with fewer "
                "--workers if need be"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ray(jobs: Jobs, workers: int) -> Encoded:
    with ray_cluster(cpus=workers) as ray:
        remote = ray.remote(encode)
        running = {remote.remote(job): key for key, job in jobs}
        while running:
            (finished, *_), _ = ray.wait(list(running))
            yield running.pop(finished), ray.get(finished)


_ENGINES: dict[str, Callable[[Jobs, int], Encoded]] = {"local": _local, "ray": _ray}


def encode(job: Job) -> str:
    """Encode one video, whole or not at all.

    Args:
        job: what and where to.

    Returns:
        Why it could not be encoded; empty if it was.

    Raises:
        OSError: the disk is full.

    >>> encode(Job(media.Index(Path("nowhere.mp4"), (0, 1), 0.1, 10.0, 2, None), Path("b.mp4"), 144, 16))
    'No such file or directory'
    """
    part = job.target.with_name(f".{job.target.name}.part")
    try:
        _write(job, part)
        part.replace(job.target)
    except (av.error.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"the disk is full: {job.target}; the videos before it are kept") from None
        return getattr(error, "strerror", None) or " ".join(str(error).split())
    finally:
        part.unlink(missing_ok=True)
    return ""


def _write(job: Job, path: Path) -> None:
    index = job.index
    rate = _sound_rate(index)
    track = media.read_sound(index, rate) if rate else np.zeros(0, np.float32)
    unit = Fraction(index.unit).limit_denominator(1_000_000)
    first = max(0, index.pts[0])  # a picture before time 0 would be cut away: all is moved there
    start = round(first * index.unit * rate)
    with av.open(str(path), "w", format="mp4") as container:
        # One thread, since there is a process for each core.
        options = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}
        video = container.add_stream("libx264", rate=Fraction(index.fps).limit_denominator(1001), options=options)
        video.pix_fmt, video.codec_context.time_base, video.codec_context.gop_size = "yuv420p", unit, job.gop
        video.codec_context.colorspace, video.codec_context.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
        sound = container.add_stream("aac", rate=rate, layout="mono") if rate else None
        at, last = 0, None
        for frame in _small(index, job.short_side):
            if last is None:
                video.width, video.height = frame.width, frame.height
            last, frame.pts, frame.time_base = frame.pts, frame.pts - index.pts[0] + first, unit
            container.mux(video.encode(frame))
            if sound is not None:
                upto = round((last - index.pts[0]) * index.unit * rate)
                at = _mux_sound(container, sound, track, at, upto, start)
        if last is None:
            raise ValueError("none of its frames can be decoded")
        container.mux(video.encode(None))
        if sound is not None:
            _mux_sound(container, sound, track, at, len(track), start)
            container.mux(sound.encode(None))


def _mux_sound(container: Any, stream: Any, track: Any, at: int, upto: int, start: int) -> int:
    """Encode the samples from `at` to `upto`, if there are any; returns where to go on."""
    block = track[at:upto]
    if len(block):
        frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start + at, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
    return at + len(block)


def _sound_rate(index: media.Index) -> int:
    """Samples per second of the sound as it is, or the next that AAC knows, up to 48 kHz; 0 without sound."""
    if index.sound is None:
        return 0
    with open_media(index.sound) as container:
        rate = container.streams.audio[0].rate if container.streams.audio else 0
    return next((known for known in _RATES if known >= rate), _RATES[-1]) if rate else 0


def _small(index: media.Index, short_side: int) -> Iterator[Any]:
    """The frames of a video, upright and scaled, with presentation times that ascend."""
    scaler = VideoReformatter()
    last, size = index.pts[0] - 1, None
    for time, picture in pictures(index.path, index.pts, index.keys, index.pts, unit=index.unit):
        if time <= last:
            continue
        if size is None:  # should that of the picture change on the way, H.264 stays at the first one
            height, width = picture.shape[:2]
            scale = min(short_side, min(height, width) // 2 * 2) / min(height, width)
            size = 2 * round(width * scale / 2), 2 * round(height * scale / 2)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = scaler.reformat(frame, *size, "yuv420p", interpolation="AREA", threads=1)
        last = frame.pts = time
        yield frame
