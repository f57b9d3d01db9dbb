"""A folder with one sub-folder of videos per class -> lists of videos, splits, and the clips that a model sees."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from attnzoo.emotion import audio, media, sampling
from attnzoo.emotion.recipe import Audio, Clip, Data


@dataclass(frozen=True, slots=True)
class Video:
    """One usable video.

    Attributes:
        key: "class/file name", unique in its folder.
        label: index of the class.
        index: where its frames are.

    >>> from attnzoo.emotion.media import Index
    >>> Video("joy/a.mp4", 0, Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, True)).key
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
    if not index.sound:
        found.append(Finding(key, "silent", "no sound track"))
    return found


@dataclass(frozen=True, slots=True)
class Split:
    """Videos for training, for validation (carved from training) and for test.

    >>> Split((), (), (), "nothing at all").protocol
    'nothing at all'
    """

    train: tuple[Video, ...]
    val: tuple[Video, ...]
    test: tuple[Video, ...]
    protocol: str


def split(folder: Folder, data: Data) -> Split:
    """Divide videos at random, each class in the same proportion.

    Args:
        folder: the videos.
        data: fractions and seed.

    Raises:
        ValueError: a class with too few videos for its share in each part.

    >>> index = media.Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, True)
    >>> videos = tuple(Video(f"{name}/{i}.mp4", label, index) for label, name in enumerate("ab") for i in range(5))
    >>> split(Folder(Path("mine"), ("a", "b"), videos, ()), Data(test_fraction=0.4, val_fraction=0.2)).protocol
    'one random split by class: 4 training, 2 validation, 4 test videos (split seed 0)'
    """
    rng = np.random.default_rng(data.split_seed)
    parts: tuple[list[Video], list[Video], list[Video]] = ([], [], [])
    for label, name in enumerate(folder.classes):
        videos = [v for v in folder.videos if v.label == label]
        order = rng.permutation(len(videos))
        n_test = max(1, round(len(videos) * data.test_fraction))
        n_val = max(1, round(len(videos) * data.val_fraction)) if data.val_fraction else 0
        if n_test + n_val >= len(videos):
            raise ValueError(
                f"class {name!r} of {folder.root} has {len(videos)} usable videos, too few for training, "
                f"{f'{n_val} for validation ' if n_val else ''}and {n_test} for test; add videos"
            )
        for part, chosen in zip(
            parts, (order[n_test + n_val :], order[n_test : n_test + n_val], order[:n_test]), strict=True
        ):
            part.extend(videos[i] for i in sorted(chosen))
    train, val, test = (tuple(part) for part in parts)
    protocol = (
        f"one random split by class: {len(train)} training, {len(val)} validation, {len(test)} test videos "
        f"(split seed {data.split_seed})"
    )
    return Split(train, val, test, protocol)


class Clips(Dataset[tuple[Tensor, Tensor, int]]):
    """What the model sees of each video: frames (T, 3, k, size, size) and MFCC maps (T, 1, coefficients, width).

    Args:
        videos: the videos.
        clip: segments, window and size.
        sound: settings of the MFCC maps.
        seed: None for evaluation (centred windows, centre crop); else windows, crop and flip are drawn from it, the
            epoch and the video's number.

    >>> len(Clips([], Clip(), Audio()))
    0
    """

    def __init__(self, videos: Sequence[Video], clip: Clip, sound: Audio, seed: int | None = None) -> None:
        self.videos = videos
        self.clip = clip
        self.sound = sound
        self.seed = seed

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        """Frames (0 to 255), sound and label of video `i`, or of (epoch, i) in training."""
        epoch, i = item if isinstance(item, tuple) else (0, item)
        try:
            return self._clip(epoch, i)
        except Exception as error:  # in a process that loads, nothing else says which video it was
            path, reason = str(self.videos[i].index.path), " ".join(str(error).split())
            known = isinstance(error, ValueError) and path in reason
            raise ValueError(reason if known else f"{path}: {type(error).__name__}: {reason}") from error

    def _clip(self, epoch: int, i: int) -> tuple[Tensor, Tensor, int]:
        video, clip = self.videos[i], self.clip
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch, i))
        wanted = sampling.windows(len(video.index.pts), clip.segments, clip.frames, rng)
        place = 0.5 if rng is None else rng.uniform()
        frames = media.read_frames(video.index, wanted.reshape(-1).tolist(), clip.size, place)
        if not len(frames):
            raise ValueError(f"{video.index.path}: its frames can no longer be decoded")
        if rng is not None and rng.uniform() < clip.flip:
            frames = frames[:, :, ::-1]
        pixels = torch.from_numpy(frames.copy()).reshape(clip.segments, clip.frames, *frames.shape[1:])
        maps = sound_maps(video.index, clip, self.sound)
        # Contiguous, since otherwise the layout of a batch would depend on the number of workers.
        return pixels.permute(0, 4, 1, 2, 3).contiguous(), torch.from_numpy(maps).unsqueeze(1), video.label


def sound_maps(index: media.Index, clip: Clip, sound: Audio) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """MFCC maps (T, coefficients, width) of a video, one per segment of the picture.

    Args:
        index: the video.
        clip: for the number of segments.
        sound: settings of the MFCC maps.

    >>> index = media.Index(Path("silent.mp4"), tuple(range(20)), 0.1, 10.0, 20, sound=False)
    >>> sound_maps(index, Clip(segments=4), Audio(coefficients=12, width=16)).shape
    (4, 12, 16)
    """
    cepstra = audio.mfcc(
        media.read_sound(index, sound.rate),
        sound.rate,
        coefficients=sound.coefficients,
        mels=sound.mels,
        window=sound.window,
        hop=sound.hop,
        preemphasis=sound.preemphasis,
    )
    return audio.segment_maps(cepstra, clip.segments, sound.width)


class Epochs(Sampler[tuple[int, int]]):
    """Videos as (epoch, i), in an order drawn from seed and epoch: a resumed training sees what it would have seen.

    Args:
        count: number of videos.
        seed: of the order.

    >>> sorted(Epochs(3, seed=0))
    [(0, 0), (0, 1), (0, 2)]
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        yield from ((self.epoch, int(i)) for i in order)
