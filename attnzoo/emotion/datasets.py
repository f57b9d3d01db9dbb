"""A folder with one sub-folder of videos per class -> the list of its videos, and what is wrong with them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from attnzoo.emotion import media


@dataclass(frozen=True, slots=True)
class Video:
    """One usable video.

    Attributes:
        key: "class/file name", unique in its folder.
        label: index of the class.
        index: where its frames are.

    >>> from attnzoo.emotion.media import Index
    >>> Video("joy/a.mp4", 0, Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None)).key
    'joy/a.mp4'
    """

    key: str
    label: int
    index: media.Index


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


# What is found in a folder, and what becomes of it.
KINDS = {
    "unreadable": "skipped",
    "nested": "passed over",
    "truncated": "used as far as it goes",
    "short": "repeated to the length of a window",
    "silent": "its sound is zeros",
}


@dataclass(frozen=True, slots=True)
class Folder:
    """The videos of a folder and what was found in looking through it.

    Attributes:
        root: the folder.
        classes: names of the sub-folders, sorted.
        videos: the usable ones, sorted by key.
        findings: the files that are not as they should be.

    >>> Folder(Path("mine"), ("calm", "joy"), (), (Finding("joy/a.mp4", "unreadable", "no video stream"),)).summary()
    'mine: 0 videos of 2 classes; 1 unreadable (skipped)'
    """

    root: Path
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    findings: tuple[Finding, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of the keys and sizes of the usable videos."""
        lines = [f"{video.key} {video.index.path.stat().st_size}\n" for video in self.videos]
        return sha256("".join(lines).encode()).hexdigest()[:16]

    def summary(self) -> str:
        """One line that counts the videos and the findings."""
        counts = [f"{sum(f.kind == kind for f in self.findings)} {kind} ({fate})" for kind, fate in KINDS.items()]
        said = "; ".join(c for c in counts if not c.startswith("0 "))
        return f"{self.root}: {len(self.videos)} videos of {len(self.classes)} classes" + (f"; {said}" if said else "")


def read_folder(root: Path, frames: int, *, progress: Callable[[int, int], None] | None = None) -> Folder:
    """Look through a folder with one sub-folder of video files per class.

    Args:
        root: the folder. Hidden files and folders are passed over, and files that lie beside the class folders.
        frames: k, the length of a window; shorter videos are reported.
        progress: called with the number of files looked at and of all.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no sub-folders, one class only, a class without a usable video, or a name that is not UTF-8.

    >>> import tempfile
    >>> from attnzoo.emotion.synth import synthesise
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = synthesise(Path(folder), classes=["calm", "glad", "cross"], per_class=1, seconds=1)
    ...     [video.key for video in read_folder(root, 16).videos]
    ['calm/calm_0000.mp4', 'cross/cross_0000.mp4', 'glad/glad_0000.mp4']
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no data folder {root}; it must hold one sub-folder of videos per class")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        files = sum(1 for p in root.iterdir() if not p.name.startswith("."))
        empty = f"holds {files} files and no folders" if files else "is empty"
        what = f"has one class only ({names[0]})" if names else empty
        raise ValueError(
            f"data folder {root} {what}; it must hold one sub-folder of videos per class, two or more, "
            f"as in {root}/joy/clip.mp4"
        )
    for path in map(str, (root, *(root / name for name in names))):
        if _escaped(path) != path:
            raise ValueError(f"folder {_escaped(path)} has a name that is not UTF-8; rename it")
    paths = [
        (label, path)
        for label, name in enumerate(names)
        for path in sorted((root / name).iterdir())
        if not path.name.startswith(".")
    ]
    videos: list[Video] = []
    findings = [
        Finding(_escaped(path.name), "unreadable", _DANGLING)
        for path in sorted(root.iterdir())
        if not path.exists() and not path.name.startswith(".")
    ]
    with ThreadPoolExecutor(2) as pool:
        for done, found in enumerate(pool.map(lambda p: _look(p[1], p[0], frames), paths), 1):
            videos += [video for video in found if isinstance(video, Video)]
            findings += [finding for finding in found if isinstance(finding, Finding)]
            if progress:
                progress(done, len(paths))
    usable = {video.label for video in videos}
    for label, name in enumerate(names):
        if label not in usable:
            why = next((f"{f.key}: {f.detail}" for f in findings if f.key.startswith(f"{name}/")), "it is empty")
            raise ValueError(
                f"class folder {root / name} has no usable video: {why}; add videos, as in {root / name}/clip.mp4, or "
                "take the folder away"
            )
    return Folder(root, tuple(names), tuple(videos), tuple(findings))


_DANGLING = "a link to a file that is not there"


def _escaped(name: str) -> str:
    """A name as it can be printed, hashed and stored: bytes that are not UTF-8 are written as \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()


def _look(path: Path, label: int, frames: int) -> list[Video | Finding]:
    key = f"{path.parent.name}/{_escaped(path.name)}"
    if path.is_dir():
        count = sum(1 for _ in path.iterdir())
        return [Finding(key, "nested", f"a folder ({count} entries); videos must lie in the class folder itself")]
    if not path.is_file():
        return [Finding(key, "unreadable", "neither a file nor a folder" if path.exists() else _DANGLING)]
    if _escaped(path.name) != path.name:
        return [Finding(key, "unreadable", "its name is not UTF-8; rename it")]
    try:
        index = media.read_index(path)
    except ValueError as error:
        return [Finding(key, "unreadable", str(error).removeprefix(f"{path}: "))]
    found: list[Video | Finding] = [Video(key, label, index)]
    count = len(index.pts)
    # Some writers count a frame or two more than there are; that is no damage.
    if index.promised - count > max(2, index.promised // 50):
        found.append(Finding(key, "truncated", f"{count} of the {index.promised} frames that it claims"))
    if count < frames:
        found.append(Finding(key, "short", f"{count} frames; a window is {frames}"))
    if index.sound is None:
        found.append(Finding(key, "silent", "no sound track"))
    return found
