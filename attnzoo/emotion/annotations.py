"""Annotation files -> which videos there are, of which class, in which part of each published split."""

import csv
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "": ("", "none"),
}
_COLUMNS = ("path", "label", "split", "speaker", "sound")
_NUMBERED = re.compile(r"(train|test)list(\d*)\.txt")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an annotation.

    Attributes:
        label: name of the class.
        name: of the video in its class; or its path, in a list of files.
        parts: "train", "val", "test" or "" for each split.
        speaker: who speaks, if told.
        sound: path of the sound, if it lies in another file.

    >>> Row("joy", "a.mp4", ("train",)).parts
    ('train',)
    """

    label: str
    name: str
    parts: tuple[str, ...]
    speaker: str | None = None
    sound: str | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """What annotation files say.

    Attributes:
        path: the file or folder.
        rows: the videos.
        classes: in their order.
        splits: a name for each published split.
        bare: the videos are named without their class, so that a name in two classes stands for both.
        files: the names of the rows are paths.

    >>> Annotations(Path("videos.csv"), (Row("joy", "a.mp4", ()),), ("joy",), (), files=True).rows[0].label
    'joy'
    """

    path: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    bare: bool = False
    files: bool = False


def read_annotations(path: Path) -> Annotations:
    """Read published splits, or a list of files.

    Published are the JSON of VAANet, CTEN and 3D-ResNets (`{"labels": [...], "database": {name: {"subset": "training",
    "annotations": {"label": "Joy"}}}}`) and the lists `trainlist01.txt` ("Class/video id"), `testlist01.txt`
    ("Class/video", with the id or without) and `classInd.txt` ("id Class"), one file or a folder with any number of
    splits. The Excel sheets of VideoEmotion-8 are not read: export them as a CSV list.

    A list of files is CSV, JSON (an array, or `{"classes": [...], "videos": [...]}`) or JSON lines; each file has path
    and label and, if need be, split, speaker and sound. Columns `split01`, `split02`, ... or an array hold several
    splits. A split without a test part is tested on what it calls validation, as VAANet's.

    Args:
        path: the file, or a folder of published files.

    Raises:
        FileNotFoundError: no such file, or nothing of the kind in the folder.
        ValueError: a file that is none of these, or a wrong line in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.csv"
    ...     _ = path.write_text("path,label,split\\na.mp4,joy,train\\nb.mp4,calm,test\\n")
    ...     read_annotations(path).classes
    ('calm', 'joy')
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no annotations {path}; give a CSV, JSON or txt file, or a folder of them")
    if _NUMBERED.fullmatch(path.name):
        return _read_txt(path.parent, [_NUMBERED.fullmatch(path.name)[2]])  # type: ignore[index]
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json", ".jsonl"):
        raise ValueError(
            f"annotations {path}: must be .csv, .json, .jsonl, or trainlist01.txt with testlist01.txt beside it"
        )
    if suffix == ".csv":
        return _listed(path, csv.DictReader(_text(path).splitlines(), skipinitialspace=True))
    if suffix == ".jsonl":
        return _listed(path, [_json(path, line) for line in _text(path).splitlines() if line.strip()])
    content = _json(path, _text(path))
    if isinstance(content, _Pairs) and "database" in content:
        return _published(path, [(path.name, content)])
    if isinstance(content, _Pairs) and "videos" in content:
        return _listed(path, content["videos"], content.get("classes"), content.get("splits"))
    if isinstance(content, list):
        return _listed(path, content)
    raise ValueError(f'annotations {path}: neither an array of videos nor an object with "database" or "videos"')


class _Pairs(dict[str, Any]):
    """A JSON object that remembers keys that stand in it twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 (byte {error.start}); save it as UTF-8") from None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def _read_folder(folder: Path) -> Annotations:
    numbers = sorted({m[2] for p in folder.iterdir() if (m := _NUMBERED.fullmatch(p.name))})
    if numbers:
        return _read_txt(folder, numbers)
    found = [(p.name, _json(p, _text(p))) for p in sorted(folder.glob("*.json"))]
    published = [(name, content) for name, content in found if isinstance(content, _Pairs) and "database" in content]
    if not published:
        raise FileNotFoundError(
            f'annotations {folder}: neither trainlist01.txt and testlist01.txt nor a JSON with "database" in it'
        )
    return _published(folder, published)


def _read_txt(folder: Path, numbers: list[str]) -> Annotations:
    ids: dict[str, str] = {}
    for line in _lines(folder / "classInd.txt", needed=False):
        number, _, label = line.partition(" ")
        if not number.isdecimal() or not label:
            raise ValueError(f"{folder / 'classInd.txt'}: {line!r} is not a number and a class, as in 5 Joy")
        ids[label.strip()] = number
    given = set(ids)
    parts: dict[tuple[str, str], list[str]] = {}
    for i, number in enumerate(numbers):
        for part in ("train", "test"):
            path = folder / f"{part}list{number}.txt"
            for line in _lines(path):
                label, sign, name = line.partition("/")
                bare, _, last = name.rpartition(" ")
                # A name may end in a number itself; only the number of its class is none of it.
                if bare and last.isdecimal() and ids.get(label, last) == last:
                    name = bare
                    ids.setdefault(label, last)
                if not sign or not name:
                    raise ValueError(f"{path}: {line!r} is not Class/video, as in Joy/3352403345")
                if given and label not in given:
                    raise ValueError(f"{path}: class {label!r} is not in classInd.txt ({', '.join(ids)})")
                _put(parts, (label, name), i, part, len(numbers), path)
    labels = {label for label, _ in parts}
    order = sorted(ids, key=lambda label: int(ids[label])) if labels <= set(ids) else sorted(labels)
    rows = tuple(Row(label, name, tuple(p)) for (label, name), p in parts.items())
    return Annotations(folder, rows, tuple(order), tuple(f"list {number or 1}" for number in numbers))


def _lines(path: Path, needed: bool = True) -> list[str]:
    if not path.is_file():
        if needed:
            raise FileNotFoundError(f"there is no {path}; trainlist01.txt and testlist01.txt stand side by side")
        return []
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _put(
    parts: dict[tuple[str, str], list[str]], video: tuple[str, str], split: int, part: str, splits: int, where: Any
) -> None:
    told = parts.setdefault(video, [""] * splits)
    if told[split] not in ("", part):
        raise ValueError(f"{where}: {'/'.join(video)} is for {told[split]} and for {part}; take one of the two away")
    told[split] = part


def _published(path: Path, files: list[tuple[str, _Pairs]]) -> Annotations:
    parts: dict[tuple[str, str], list[str]] = {}
    labels: list[str] = list(dict.fromkeys(label for _, content in files for label in content.get("labels", [])))
    keyed = True
    for i, (file, content) in enumerate(files):
        if not isinstance(content["database"], _Pairs):
            raise ValueError(f'{path}: "database" must map names to {{"subset": ..., "annotations": {{"label": ...}}}}')
        for name, entry in content["database"].pairs:
            try:
                label, part = entry["annotations"]["label"], _part(entry["subset"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f'{file}: {name!r} needs {{"subset": "training" or "validation", "annotations": {{"label": ...}}}}'
                ) from None
            if labels and label not in labels:
                raise ValueError(f"{file}: {name!r} is of class {label!r}, which is none of {', '.join(labels)}")
            keyed = keyed and name.startswith(f"{label}/")
            _put(parts, (label, name.removeprefix(f"{label}/")), i, part, len(files), file)
    rows = _tested([Row(label, name, tuple(p)) for (label, name), p in parts.items()])
    classes = labels or sorted({row.label for row in rows})
    return Annotations(path, rows, tuple(classes), tuple(Path(file).stem for file, _ in files), bare=not keyed)


def _listed(path: Path, lines: Any, classes: Any = None, named: Any = None) -> Annotations:
    rows: list[Row] = []
    splits = [str(name) for name in named or ()]
    for number, line in enumerate(lines, 1):
        where = f"{path}: video {number}"
        if not isinstance(line, Mapping):
            raise ValueError(f"{where}: {line!r} is no object with path and label")
        _check_columns(where, line)
        given = [(c, line[c]) for c in line if isinstance(c, str) and re.fullmatch(r"split_?\d*", c)]
        if len(given) == 1 and isinstance(given[0][1], list):
            given = [(f"split {i}", value) for i, value in enumerate(given[0][1])]
        splits = splits or [name for name, _ in given]
        if len(given) != len(splits):
            raise ValueError(f"{where}: tells {len(given)} splits, the first one {len(splits)}")
        label, name = (str(line.get(column) or "").strip() for column in ("label", "path"))
        if not label or not name or "/" in label or label.startswith("."):
            raise ValueError(f"{where}: path={name!r}, label={label!r}: neither may be empty, and a label is no path")
        try:
            parts = tuple(_part(value) for _, value in given)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        told = [str(line[c]).strip() if line.get(c) not in (None, "") else None for c in ("speaker", "sound")]
        rows.append(Row(label, name, parts, *told))
    if not rows:
        raise ValueError(f"{path}: lists no videos")
    labels = list(dict.fromkeys(map(str, classes or ()))) or sorted({row.label for row in rows})
    if unknown := {row.label for row in rows} - set(labels):
        raise ValueError(f"{path}: label {min(unknown)!r} is none of its classes {', '.join(labels)}")
    return Annotations(path, _tested(rows), tuple(labels), tuple(splits), files=True)


def _tested(rows: list[Row]) -> tuple[Row, ...]:
    """Rows with "test" in place of "val" in every split that has no test part."""
    without = [
        {"val": "test"} if "test" not in parts else {} for parts in zip(*(row.parts for row in rows), strict=True)
    ]
    return tuple(
        replace(row, parts=tuple(t.get(p, p) for t, p in zip(without, row.parts, strict=False))) for row in rows
    )


def _check_columns(where: str, line: Mapping[Any, Any]) -> None:
    if None in line:  # what csv calls the fields beyond the last column
        raise ValueError(f"{where}: has more fields than the first line has names")
    for needed in ("path", "label"):
        if needed not in line:
            raise ValueError(f"{where}: has no {needed}, only {', '.join(line)}; known are {', '.join(_COLUMNS)}")
    for column in line:
        near = difflib.get_close_matches(column, _COLUMNS, n=1, cutoff=0.75)
        if near and near[0] not in line and not column.startswith("split"):
            raise ValueError(f"{where}: there is no {column!r}; did you mean {near[0]}?")


def _part(told: Any) -> str:
    word = str(told or "").strip().lower()
    for part, words in _PARTS.items():
        if word in words:
            return part
    raise ValueError(f"split {told!r} must be one of train, val, test or empty")
