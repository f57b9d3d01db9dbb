"""A folder of images -> the list of them with their classes and parts, and what is wrong with them."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from attnzoo.emotion.defects import Finding
from attnzoo.emotion.readers import escaped
from attnzoo.emotion.samples import Damaged
from attnzoo.images.pictures import probe, read_image

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif", ".jp2", ".tga")
SUFFIXES = (*_COMMON, ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# What the folders of parts may be called.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# What is found in a folder, and what becomes of it.
KINDS = {"unreadable": "skipped", "truncated": "skipped", "no image": "passed over"}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One usable image.

    Attributes:
        key: its path from the folder on, "class/file name" or "train/class/file name".
        label: index of the class.
        path: of the file.
        size: bytes.
        part: "train", "val" or "test" where the folders say so, or "".

    >>> ImageFile("cat/a.jpg", 0, Path("images/cat/a.jpg"), 99).name
    'cat/a.jpg'
    """

    key: str
    label: int
    path: Path
    size: int
    part: str = ""

    @property
    def name(self) -> str:
        """The key: two images of a class may differ in the suffix alone."""
        return self.key

    @property
    def speaker(self) -> None:
        """Nobody speaks in an image."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The part, of the one split that there is."""
        return (self.part,)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The images of a folder and what was found in looking through it.

    Attributes:
        root: the folder.
        classes: their names, sorted.
        samples: the usable images, sorted by key.
        findings: the files that are not as they should be.
        splits: what the folders of parts are, if there are any.
        notes: other things to know of the folder.

    >>> ImageFolder(Path("mine"), ("cat", "dog"), (), (Finding("cat/a.jpg", "unreadable", "empty"),)).summary()
    'mine: 0 images of 2 classes; 1 unreadable (skipped)'
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[ImageFile, ...]
    findings: tuple[Finding, ...]
    splits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["image"]:
        """What a sample is called."""
        return "image"

    @property
    def protocol(self) -> str | None:
        """That of the folders of parts, if there are any."""
        return "folders" if self.splits else None

    @property
    def fingerprint(self) -> str:
        """A hash of the keys and sizes of the usable images, and of the part that each is for."""
        lines = [f"{image.key} {image.size} {image.part}\n" for image in self.samples]
        return sha256("".join(lines).encode()).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, in the order of `KINDS`."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "root": str(self.root),
            "classes": list(self.classes),
            "images": len(self.samples),
            "fingerprint": self.fingerprint,
            "splits": list(self.splits),
            "notes": list(self.notes),
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self) -> str:
        """One line that counts the images and the findings."""
        counts = [f"{count} {kind} ({KINDS[kind]})" for kind, count in self.counts().items()]
        head = f"{self.root}: {len(self.samples)} images of {len(self.classes)} classes"
        return "; ".join((head, *self.splits, *self.notes, *counts))


def read_images(
    root: Path,
    *,
    damaged: str = "skip",
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageFolder:
    """Look through a folder with one sub-folder of images per class, or with such folders in train, val and test.

    Sub-folders of a class belong to it. Of each file the head is read; what breaks off behind it shows with `decode`,
    or in training, which leaves it out as `damaged` says. Where there are folders train and val and none that is
    called test, as in ImageNet, val is for test, and validation is carved from train.

    Args:
        root: the folder. Hidden files and folders are passed over.
        damaged: "skip" goes on without files that cannot be used, "stop" raises at the first of them.
        decode: whether every image is decoded; takes as long as decoding takes.
        progress: called with the number of files looked at and of all.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than two classes, a class without a usable image, or a damaged file where that is to stop the
            reading.

    >>> read_images(Path("nowhere"))
    Traceback (most recent call last):
    FileNotFoundError: there is no data folder nowhere; give one with a sub-folder of images per class
    """
    if not root.is_dir():
        what = f"{root} is no folder" if root.exists() else f"there is no data folder {root}"
        raise FileNotFoundError(f"{what}; give one with a sub-folder of images per class")
    folders, splits, notes = _classes(root)
    classes = tuple(sorted({folder.name for _, folder in folders}))
    if len(classes) < 2:
        there = f"one class only, {classes[0]}" if classes else "no sub-folders"
        raise ValueError(
            f"{root} holds {there}; put the images of each class into a sub-folder of its own, two or more"
        )
    labels = {name: i for i, name in enumerate(classes)}
    files = [(part, folder, path) for part, folder in folders for path in _files(folder)]
    images: list[ImageFile] = []
    findings: list[Finding] = []

    def look(entry: tuple[str, Path, Path]) -> ImageFile | Finding:
        part, folder, path = entry
        return _look(path, escaped(path.relative_to(root).as_posix()), labels[folder.name], part, decode)

    with ThreadPoolExecutor(4) as pool:
        try:
            for done, found in enumerate(pool.map(look, files), 1):
                if isinstance(found, ImageFile):
                    images.append(found)
                else:
                    findings.append(found)
                    if damaged == "stop" and found.kind != "no image":
                        raise ValueError(
                            f"{root}: {found.key} is {found.kind}: {found.detail}; mend it, or let data.damaged be skip"
                        )
                if progress:
                    progress(done, len(files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    usable = {image.label for image in images}
    for name, label in labels.items():
        if label not in usable:
            within = [f for f in findings if f"/{name}/" in f"/{f.key}"]
            why = f"{within[0].key}: {within[0].detail}" if within else "it is empty"
            raise ValueError(f"class {name} of {root} has no usable image: {why}; add images, or take the folder away")
    images.sort(key=lambda image: (image.label, image.key))
    return ImageFolder(root, classes, tuple(images), tuple(findings), splits, notes)


def _classes(root: Path) -> tuple[list[tuple[str, Path]], tuple[str, ...], tuple[str, ...]]:
    """(part, folder of a class), what the parts are, and what there is to know."""
    top = _folders(root)
    parts = {folder: PARTS[folder.name.lower()] for folder in top if folder.name.lower() in PARTS}
    named = set(parts.values())
    if len(parts) < len(top) or "train" not in named or len(named) < 2:
        return [("", folder) for folder in top], (), ()
    inside = {folder: _folders(folder) for folder in parts}
    notes = tuple(f"{folder.name} has no class folders: passed over" for folder in parts if not inside[folder])
    named = {part for folder, part in parts.items() if inside[folder]}
    order = sorted(parts, key=lambda folder: ("train", "val", "test").index(parts[folder]))
    told = " and ".join(folder.name for folder in order if inside[folder])
    if "test" not in named:
        parts = {folder: "test" if part == "val" else part for folder, part in parts.items()}
        told += " (for test)"
    return [(part, inner) for folder, part in parts.items() for inner in inside[folder]], (f"folders {told}",), notes


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(names) if not name.startswith("."))


def _look(path: Path, key: str, label: int, part: str, decode: bool) -> ImageFile | Finding:
    if path.suffix.lower() not in SUFFIXES:
        return Finding(key, "no image", f"a file {path.suffix or 'without a suffix'}")
    if escaped(str(path)) != str(path):
        return Finding(key, "unreadable", "its name is not UTF-8; rename it")
    try:
        size = path.stat().st_size
        probe(path)
    except (Damaged, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
        return Finding(key, "unreadable", said or "it cannot be opened")
    if decode:
        try:
            read_image(path)
        except Damaged as error:
            return Finding(key, "truncated", str(error).removeprefix(f"{path}: "))
    return ImageFile(key, label, path, size, part)
