"""A data set in one of the layouts of `readers` -> the list of its videos, and what is wrong with them."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import av

from attnzoo.emotion import media
from attnzoo.emotion.decoding import open_media
from attnzoo.emotion.defects import DAMAGED, KINDS, Finding, defects, undecodable
from attnzoo.emotion.readers import DANGLING, Entry, escaped, list_videos

# Of frames without their rate: one of these is taken if it fits the length of the sound to 2 %.
_RATES = (12, 12.5, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60000 / 1001, 60)


@dataclass(frozen=True, slots=True)
class Video:
    """One usable video.

    Attributes:
        key: "class/file name", unique in its data set.
        label: index of the class.
        index: where its frames are.
        speaker: who speaks, if known.
        parts: "train", "val", "test" or "" for each published split.

    >>> from attnzoo.emotion.media import Index
    >>> Video("joy/a.mp4", 0, Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None)).name
    'joy/a'
    """

    key: str
    label: int
    index: media.Index
    speaker: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Of the file, or of the folder of frames."""
        return self.index.path

    @property
    def name(self) -> str:
        """The key without the suffix of a file: the same for a video and its frames, and what published lists say."""
        return self.key if self.index.path.is_dir() else self.key.removesuffix(self.index.path.suffix)


@dataclass(frozen=True, slots=True)
class Folder:
    """The videos of a data set and what was found in looking through it.

    Attributes:
        root: the folder.
        classes: their names; the order is that of the annotations, or else of the layout.
        videos: the usable ones, sorted by class and key.
        findings: the files that are not as they should be.
        layout: how they lie there.
        splits: a name for each published split.
        notes: other things to know of the data set.

    >>> Folder(Path("mine"), ("calm", "joy"), (), (Finding("joy/a.mp4", "unreadable", "no video stream"),)).summary()
    'mine: 0 videos of 2 classes; 1 unreadable (skipped)'
    """

    root: Path
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    findings: tuple[Finding, ...]
    layout: str = "folders"
    splits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[Video, ...]:
        """The videos."""
        return self.videos

    @property
    def protocol(self) -> None:
        """None: whatever splits were published, a recipe says which is meant."""

    @property
    def kind(self) -> Literal["video"]:
        """What a sample is called."""
        return "video"

    @property
    def fingerprint(self) -> str:
        """A hash of the keys and sizes of the usable videos, and of all else that decides which is what."""
        lines = [f"{video.key} {_size(video)}\n" for video in self.videos]
        if list(self.classes) != sorted(self.classes):
            lines.append(f"{' '.join(self.classes)}\n")
        return sha256("".join(lines).encode()).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, in the order of `KINDS`."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "classes": list(self.classes),
            "videos": len(self.videos),
            "fingerprint": self.fingerprint,
            "splits": list(self.splits),
            "notes": list(self.notes),
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self) -> str:
        """One line that counts the videos and the findings."""
        layout = "" if self.layout == "folders" else f" (layout {self.layout})"
        counts = [f"{count} {kind} ({KINDS[kind]})" for kind, count in self.counts().items()]
        head = f"{self.root}: {len(self.videos)} videos of {len(self.classes)} classes{layout}"
        return "; ".join((head, *self.notes, *counts))


def _size(video: Video) -> str:
    """What of a video is told without reading it: bytes of files, number of frames in a folder."""
    path, sound = video.index.path, video.index.sound
    told: list[Any] = [len(video.index.pts) if path.is_dir() else path.stat().st_size]
    if sound is not None and sound != path:
        told.append(sound.stat().st_size)
    if video.speaker:
        told.append(video.speaker)
    if video.parts:
        told.append(",".join(video.parts))
    return " ".join(map(str, told))


def read_folder(
    root: Path,
    frames: int,
    *,
    layout: str = "auto",
    annotations: Path | None = None,
    fps: float | None = None,
    damaged: str = "skip",
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Folder:
    """Look through a data set: by default a folder with one sub-folder of video files per class.

    Args:
        root: the folder, or a list of files. Hidden files and folders are passed over.
        frames: k, the length of a window; shorter videos are reported.
        layout: one of `readers.LAYOUTS`; "auto" finds it.
        annotations: published splits or a list of files, see `annotations.read_annotations`.
        fps: of folders of frames, 1/s. If None, told by the length of the sound; 30 without.
        damaged: "skip" goes on without files that cannot be used, "stop" raises at the first damaged one.
        decode: whether every frame is decoded, to find damage in the middle; takes as long as decoding takes.
        progress: called with the number of files looked at and of all.

    Raises:
        FileNotFoundError: no such folder or annotations.
        ValueError: not of this layout, one class only, a class without a usable video, a name that is not UTF-8, or a
            damaged file where that is to stop the reading.

    >>> import tempfile
    >>> from attnzoo.emotion.synth import synthesise
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = synthesise(Path(folder), classes=["calm", "glad", "cross"], per_class=1, seconds=1)
    ...     [video.key for video in read_folder(root, 16).videos]
    ['calm/calm_0000.mp4', 'cross/cross_0000.mp4', 'glad/glad_0000.mp4']
    """
    listing = list_videos(root, layout, annotations)
    labels = {name: i for i, name in enumerate(listing.classes)}
    videos: list[Video] = []
    findings: list[Finding] = []

    def add(found: list[Video | Finding]) -> None:
        for what in found:
            if isinstance(what, Video):
                videos.append(what)
                continue
            findings.append(what)
            if damaged == "stop" and what.kind in DAMAGED:
                raise ValueError(
                    f"{root}: {what.key} is {what.kind}: {what.detail}; mend it, or let data.damaged be skip"
                )

    add(list(listing.findings))
    with ThreadPoolExecutor(4) as pool:
        looked = pool.map(lambda entry: _look(entry, labels[entry.label], frames, fps, decode), listing.entries)
        try:
            for done, found in enumerate(looked, 1):
                add(found)
                if progress:
                    progress(done, len(listing.entries))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    usable = {video.label for video in videos}
    for name, label in labels.items():
        if label not in usable:
            why = next((f"{f.key}: {f.detail}" for f in findings if f.key.startswith(f"{name}/")), "it is empty")
            where = root / name if listing.layout == "folders" else f"{name} of {root}"
            raise ValueError(
                f"class folder {where} has no usable video: {why}; add videos, as in {root / name}/clip.mp4, or "
                "take the folder away"
            )
    return Folder(root, listing.classes, tuple(videos), tuple(findings), listing.layout, listing.splits, listing.notes)


def _look(entry: Entry, label: int, frames: int, fps: float | None, decode: bool) -> list[Video | Finding]:
    path, key = entry.path, entry.key
    if path.is_dir() and not entry.frames:
        count = sum(1 for _ in path.iterdir())
        return [Finding(key, "nested", f"a folder ({count} entries); videos must lie in the class folder itself")]
    if not path.is_dir() and (entry.frames or not path.is_file()):
        there = "neither a file nor a folder" if path.exists() else DANGLING
        return [Finding(key, "unreadable", "no folder of frames" if entry.frames and path.exists() else there)]
    if escaped(path.name) != path.name:
        return [Finding(key, "unreadable", "its name is not UTF-8; rename it")]
    try:
        index = _index(entry, fps)
    except ValueError as error:
        return [Finding(key, "unreadable", str(error).removeprefix(f"{path}: "))]
    found: list[Video | Finding] = [Video(key, label, index, entry.speaker, entry.parts)]
    found += [Finding(key, kind, detail) for kind, detail in defects(index, frames)]
    if decode and not entry.frames and (lost := undecodable(path)):
        found.append(Finding(key, "undecodable", lost))
    return found


def _index(entry: Entry, fps: float | None) -> media.Index:
    if entry.frames:
        index = media.read_frame_folder(entry.path, entry.sound, fps or 30.0)
        rate = fps or _rate(index.pts[-1] + 1, entry.sound)
        return replace(index, unit=1 / rate, fps=rate)
    index = media.read_index(entry.path)
    if entry.sound is None:
        return index
    if not entry.sound.is_file():
        raise ValueError(f"{entry.path}: its sound {entry.sound} is not there")
    return replace(index, sound=entry.sound, sound_start=None)


def _rate(count: int, sound: Path | None) -> float:
    """The rate at which frames were taken from a video, by the length of its sound; 30 if that fits no usual rate."""
    if sound is None:
        return 30.0
    try:
        with open_media(sound) as container:
            seconds = (container.duration or 0) / av.time_base
    except av.error.FFmpegError:
        return 30.0
    told = count / seconds if seconds > 0 else 30.0
    best = min(_RATES, key=lambda rate: abs(rate / told - 1))
    return float(best) if abs(best / told - 1) < 0.02 else 30.0
