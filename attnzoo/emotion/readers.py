"""The layouts of data sets -> which videos there are, before any is opened."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from attnzoo.emotion.annotations import Annotations, Row, read_annotations
from attnzoo.emotion.defects import Finding

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".ts")
SOUNDS = (".mp3", ".wav", ".m4a", ".aac", ".flac", ".ogg", ".opus")
LIST = ("videos.csv", "videos.json", "videos.jsonl")  # found in a folder without being asked for
DANGLING = "a link to a file that is not there"

# VideoEmotion8--imgs beside VideoEmotion8--mp3 (VAANet), imgs beside mp3 (CTEN), jpg (3D-ResNets).
_FRAMES = re.compile(r"(|.*[-_])(imgs?|jpgs?|frames)", re.IGNORECASE)
_SOUND = re.compile(r"(|.*[-_])(mp3|wav|audio|sound)", re.IGNORECASE)

_RAVDESS = re.compile(r"(\d\d)-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")
_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_RAVDESS_MODALITIES = {"01": "sound and picture", "02": "picture alone", "03": "sound alone"}
_CREMAD = re.compile(r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}")
_CREMAD_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A video that is to be looked into.

    Attributes:
        path: its file, or the folder of its frames.
        label: name of its class.
        key: "class/file name", unique.
        frames: whether it is a folder of frames.
        sound: the file of its sound, where that lies beside it.
        speaker: who speaks, if known.
        parts: "train", "val", "test" or "" for each split of the annotations.

    >>> Entry(Path("joy/a.b.mp4"), "joy", "joy/a.b.mp4").name
    'joy/a.b'
    """

    path: Path
    label: str
    key: str
    frames: bool = False
    sound: Path | None = None
    speaker: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key without the suffix of the file, as published lists have it."""
        return self.key if self.frames else self.key.removesuffix(self.path.suffix)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reader finds.

    Attributes:
        layout: which reader.
        classes: in the order of the annotations, or else of the layout.
        entries: the videos.
        findings: what is wrong with the list of them.
        notes: what was passed over, and other things to know.
        splits: a name for each published split.

    >>> Listing("folders", ("calm", "joy"), []).splits
    ()
    """

    layout: str
    classes: tuple[str, ...]
    entries: list[Entry]
    findings: list[Finding] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()


def list_videos(root: Path, layout: str = "auto", annotations: Path | None = None) -> Listing:
    """Find the videos of a data set.

    * folders: a sub-folder of video files for each class.
    * frames: a sub-folder for each class and in it one of jpg files for each video (VAANet, CTEN, 3D-ResNets); the
      sounds lie in a folder beside, `imgs/Joy/a/000001.jpg` with `mp3/Joy/a.mp3`.
    * ravdess, cremad: video files anywhere in the folder, whose names tell emotion and speaker.
    * list: what a CSV or JSON list names (see `annotations.read_annotations`); in a folder, `videos.csv` or `.json`.

    Published annotations give the order of the classes and the splits; videos that they do not name are passed over.

    Args:
        root: the folder, or a list.
        layout: one of these, or "auto".
        annotations: a file or folder, from here or from the root.

    Raises:
        FileNotFoundError: no such folder, or no such annotations.
        ValueError: the folder is not of this layout, or has one class only.

    >>> list_videos(Path("nowhere"))
    Traceback (most recent call last):
    FileNotFoundError: there is no data folder nowhere; it must hold one sub-folder of videos per class
    """
    if root.is_file():
        root, annotations = root.parent, annotations or root
    if not root.is_dir():
        raise FileNotFoundError(f"there is no data folder {root}; it must hold one sub-folder of videos per class")
    if annotations is not None and not annotations.exists() and (root / annotations).exists():
        annotations = root / annotations
    told = read_annotations(annotations) if annotations else None
    if layout == "auto":
        layout = "list" if told and told.files else find_layout(root)
    if layout == "list":
        found = _list(root, told)
    else:
        if told and told.files:
            raise ValueError(f"annotations {told.path} list files, which is layout list, not {layout}")
        found = _LAYOUTS[layout](root)
        found = _annotate(found, told) if told else found
    if len(found.classes) < 2:
        raise ValueError(
            f"data folder {root} has one class only ({', '.join(found.classes)}), as layout {layout} reads it; "
            "two or more are needed"
        )
    order = {label: i for i, label in enumerate(found.classes)}
    return replace(found, entries=sorted(found.entries, key=lambda e: (order[e.label], e.key)))


def find_layout(root: Path) -> str:
    """The layout that a folder looks like; "folders" if like none.

    Args:
        root: a folder.

    >>> find_layout(Path("tests"))
    'folders'
    """
    if any((root / name).is_file() for name in LIST):
        return "list"
    if _frames_root(root):
        return "frames"
    for pattern, layout in ((_RAVDESS, "ravdess"), (_CREMAD, "cremad")):
        # Beside the files themselves, the folders in which they are published.
        files = (p for at in (".", "VideoFlash", "*Actor_*", "*Actor_*/Actor_*") for p in root.glob(f"{at}/*.*"))
        if any(pattern.fullmatch(p.stem) and p.suffix.lower() in VIDEOS for p in files):
            return layout
    return "folders"


def escaped(name: str) -> str:
    """A name as it can be printed, hashed and stored: bytes that are not UTF-8 are written as \\udcXX.

    Args:
        name: of a file.

    >>> escaped("\\udcff.mp4")
    '\\\\udcff.mp4'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _class_folders(root: Path) -> list[Path]:
    folders = [p for p in _visible(root) if p.is_dir()]
    if len(folders) < 2:
        files = len(_visible(root)) - len(folders)
        empty = f"holds {files} files and no folders" if files else "is empty"
        what = f"has one class only ({folders[0].name})" if folders else empty
        raise ValueError(
            f"data folder {root} {what}; it must hold one sub-folder of videos per class, two or more, "
            f"as in {root}/joy/clip.mp4"
        )
    for path in map(str, (root, *folders)):
        if escaped(path) != path:
            raise ValueError(f"folder {escaped(path)} has a name that is not UTF-8; rename it")
    return folders


def _folders(root: Path) -> Listing:
    folders = _class_folders(root)
    entries = [
        Entry(p, folder.name, f"{folder.name}/{escaped(p.name)}") for folder in folders for p in _visible(folder)
    ]
    findings = [Finding(escaped(p.name), "unreadable", DANGLING) for p in _visible(root) if not p.exists()]
    return Listing("folders", tuple(folder.name for folder in folders), entries, findings)


def _frames(root: Path) -> Listing:
    pictures = _frames_root(root)
    if pictures is None:
        raise ValueError(
            f"{root} holds no folders of frames, as in {root}/imgs/Joy/clip/000001.jpg with {root}/mp3/Joy/clip.mp3"
        )
    folders = _class_folders(pictures)
    stem = _FRAMES.fullmatch(pictures.name)
    sounds = [p for p in _visible(pictures.parent) if stem and (m := _SOUND.fullmatch(p.name)) and m[1] == stem[1]]
    entries = []
    for folder in folders:
        for path in _visible(folder):
            beside = (at / folder.name / f"{path.name}{suffix}" for at in sounds for suffix in SOUNDS)
            sound = next((p for p in beside if p.is_file()), None)
            entries.append(Entry(path, folder.name, f"{folder.name}/{escaped(path.name)}", True, sound))
    notes = () if sounds else (f"no folder of sounds beside {pictures}, such as mp3",)
    return Listing("frames", tuple(folder.name for folder in folders), entries, notes=notes)


def _frames_root(root: Path) -> Path | None:
    """The folder that holds class/video/000001.jpg: this one, or one in it with a name for it."""
    inner = [p for p in _visible(root) if p.is_dir() and _FRAMES.fullmatch(p.name)]
    for folder in (*inner, root):
        for label in (p for p in _visible(folder) if p.is_dir()):
            first = next(iter(_visible(label)), None)
            if first and first.is_dir():
                if any(p.suffix == ".jpg" or p.name == "n_frames" for p in first.iterdir()):
                    return folder
                break
    return None


class _Said(NamedTuple):
    """What the name of a file says: its class and speaker, or why it is passed over."""

    label: str
    speaker: str
    passed: str = ""


def _ravdess(name: str) -> _Said:
    """RAVDESS: modality-channel-emotion-intensity-statement-repetition-actor; only 01, sound and picture, is used."""
    if not (match := _RAVDESS.fullmatch(name)) or not 1 <= int(match[3]) <= len(_RAVDESS_EMOTIONS):
        return _Said("", "", "named otherwise")
    passed = "" if match[1] == "01" else f"{match[1]} ({_RAVDESS_MODALITIES.get(match[1], 'unknown')})"
    return _Said(_RAVDESS_EMOTIONS[int(match[3]) - 1], match[4], passed)


def _cremad(name: str) -> _Said:
    """CREMA-D: actor_sentence_emotion_level."""
    match = _CREMAD.fullmatch(name)
    return _Said(_CREMAD_EMOTIONS[match[2]], match[1]) if match else _Said("", "", "named otherwise")


def _by_name(root: Path, layout: str, classes: Sequence[str], read: Callable[[str], _Said], example: str) -> Listing:
    """A layout in which the names of the files tell everything, wherever they lie."""
    entries: dict[str, Entry] = {}
    findings, passed = [], Counter[str]()
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEOS + SOUNDS):
        said = read(path.stem)
        if why := said.passed or ("sound files" if path.suffix.lower() in SOUNDS else ""):
            passed[why] += 1
            continue
        key = f"{said.label}/{escaped(path.name)}"
        if key in entries:
            findings.append(Finding(key, "repeated", f"{path} and {entries[key].path}"))
        entries.setdefault(key, Entry(path, said.label, key, speaker=said.speaker))
    if not entries:
        raise ValueError(f"{root} holds no video files named as those of layout {layout}, such as {example}")
    here = {entry.label for entry in entries.values()}
    notes = [f"{len({entry.speaker for entry in entries.values()})} speakers"]
    notes += [f"{count} passed over: {why}" for why, count in sorted(passed.items())]
    present = tuple(label for label in classes if label in here)
    return Listing(layout, present, list(entries.values()), findings, tuple(notes))


_LAYOUTS: dict[str, Callable[[Path], Listing]] = {
    "folders": _folders,
    "frames": _frames,
    "ravdess": lambda root: _by_name(root, "ravdess", _RAVDESS_EMOTIONS, _ravdess, "01-01-06-01-02-01-12.mp4"),
    "cremad": lambda root: _by_name(root, "cremad", [*_CREMAD_EMOTIONS.values()], _cremad, "1001_DFA_ANG_XX.flv"),
}
LAYOUTS = ("auto", *_LAYOUTS, "list")


def _list(root: Path, told: Annotations | None) -> Listing:
    if told is None:
        path = next((root / name for name in LIST if (root / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"there is no {root / LIST[0]}; name the list with data.annotations")
        told = read_annotations(path)
    if not told.files:
        raise ValueError(f"annotations {told.path} name videos by class, and layout list needs their paths")
    base = told.path.parent
    entries: dict[str, Entry] = {}
    findings = []
    for row in told.rows:
        path = base / row.name
        key = _key(row, base)
        if key in entries:
            same = entries[key]
            if (same.path, same.parts) != (path, row.parts):
                raise ValueError(f"{told.path}: {row.name} and {same.path} are both called {key}; rename one")
            findings.append(Finding(key, "repeated", f"stands more than once in {told.path.name}"))
        elif not path.exists():
            findings.append(Finding(key, "missing", f"{told.path.name} lists it, and there is no {path}"))
        else:
            sound = base / row.sound if row.sound else None
            entries[key] = Entry(path, row.label, key, path.is_dir(), sound, row.speaker, row.parts)
    used = {entry.path.resolve() for entry in entries.values()}
    for folder in sorted({entry.path.parent for entry in entries.values()}):
        for path in _visible(folder):
            if path.suffix.lower() in VIDEOS and path.resolve() not in used:
                findings.append(Finding(escaped(str(path)), "unlisted", f"it is not in {told.path.name}"))
    return Listing("list", told.classes, list(entries.values()), findings, splits=told.splits)


def _key(row: Row, base: Path) -> str:
    """ "class/path" without the class where the path begins with it, and without what leads out of the folder."""
    path = Path(row.name)
    path = path.relative_to(base) if path.is_absolute() and path.is_relative_to(base) else path
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return "/".join([row.label, *parts[parts[0] == row.label and len(parts) > 1 :]])


def _annotate(found: Listing, told: Annotations) -> Listing:
    """Published splits put to the videos that are there."""
    by_key: dict[str, Entry] = {entry.key: entry for entry in found.entries}
    by_name: dict[str, list[Entry]] = {}
    for entry in found.entries:
        by_name.setdefault(entry.name, []).append(entry)
    file = told.path.name
    findings = list(found.findings)
    parts: dict[str, tuple[str, ...]] = {}
    listed: dict[str, Row] = {}  # by the bare name
    for row in told.rows:
        place = f"{row.label}/{row.name}"
        fits = [by_key[place]] if place in by_key else by_name.get(place, [])
        if not fits:
            findings.append(Finding(place, "missing", f"{file} lists it, and it is not there"))
            continue
        if len(fits) > 1:
            findings.append(Finding(fits[0].key, "repeated", f"{file} means it or {fits[1].path.name}"))
        parts[fits[0].key] = row.parts
        listed.setdefault(row.name, row)
    for entry in found.entries:
        if entry.key in parts:
            continue
        twin = listed.get(entry.name.partition("/")[2]) if told.bare else None
        if twin and entry.label in told.classes:
            # In a JSON keyed by bare names one entry overwrites the other: both go to the part of the one that is left.
            parts[entry.key] = twin.parts
            findings.append(Finding(entry.key, "doubled", f"{file} knows {twin.label}/{twin.name} alone"))
        else:
            findings.append(Finding(entry.key, "unlisted", f"it is not in {file}"))
    entries = [replace(entry, parts=parts[entry.key]) for entry in found.entries if entry.key in parts]
    return replace(found, classes=told.classes, entries=entries, findings=findings, splits=told.splits)
