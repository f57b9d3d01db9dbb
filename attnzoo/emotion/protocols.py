"""Which samples are for training, for validation and for test: the published protocols and those for any data set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the recipe asks here for the names
    from attnzoo.emotion.experiment import Division
    from attnzoo.emotion.samples import DataSet, Sample


@dataclass(frozen=True, slots=True)
class Split:
    """Samples for training, for validation (carved from training) and for test.

    >>> Split((), (), (), "nothing at all").protocol
    'nothing at all'
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    protocol: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What a protocol says of one fold.

    Attributes:
        train: the samples that are not for test.
        test: those that are.
        val: those that the protocol itself keeps for validation.
        told: what a reader must know beside the name of the protocol.
        by_speaker: whether no speaker may be in two parts.

    >>> Parts([], []).by_speaker
    False
    """

    train: list[Sample]
    test: list[Sample]
    val: Sequence[Sample] = ()
    told: str = ""
    by_speaker: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to divide a data set that has a name.

    Attributes:
        name: as in a recipe.
        folds: how many there are; None: one for each published split.
        about: one line.
        divide: folder, settings -> the parts of the fold of the settings.

    >>> find("ve8-5fold").folds
    5
    """

    name: str
    folds: int | None
    about: str
    divide: Callable[[DataSet, Division], Parts]


def list_protocols() -> list[Protocol]:
    """All protocols; of kfold(n) and speakers(n) one example.

    >>> [protocol.name for protocol in list_protocols()][:3]
    ['ve8-10x', 've8-5fold', 'ek6-parity']
    """
    return [*_NAMED.values(), find("kfold(5)"), find("speakers(5)")]


def find(name: str) -> Protocol:
    """The protocol of a name.

    Args:
        name: one of `list_protocols()`, kfold and speakers with any number from 2 on.

    Raises:
        ValueError: there is none; the message has near ones.

    >>> find("ve8-5-fold")
    Traceback (most recent call last):
    ValueError: no protocol is called 've8-5-fold', did you mean ve8-5fold? There are ve8-10x, ve8-5fold, ...
    """
    if name in _NAMED:
        return _NAMED[name]
    match = re.fullmatch(r"(kfold|speakers)\(\s*(\d+)\s*\)", name)
    if match and (count := int(match[2])) >= 2:
        if match[1] == "kfold":
            return Protocol(name, count, f"{count} folds, each class in the same proportion", _folds(count))
        about = f"{count} folds of speakers: nobody is in training and test"
        return Protocol(name, count, about, _speaker_folds(count))
    names = [*_NAMED, "kfold(5)", "speakers(5)"]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(
        f"no protocol is called {name!r}{hint} There are {', '.join(_NAMED)}, and kfold(n) and speakers(n), n from 2 on"
    )


def check_fold(name: str | None, fold: int) -> None:
    """Refuse a fold that a protocol does not have, as far as that shows without the data.

    Args:
        name: of the protocol; None is one random split.
        fold: from 0.

    Raises:
        ValueError: no such protocol or fold.

    >>> check_fold("ve8-5fold", 5)
    Traceback (most recent call last):
    ValueError: fold=5: ve8-5fold has the folds 0 to 4
    """
    folds = 1 if name is None else find(name).folds
    if folds is not None and fold >= folds:
        has = f"the folds 0 to {folds - 1}" if folds > 1 else "the fold 0 alone"
        raise ValueError(f"fold={fold}: {name or 'one random split'} has {has}")


def split(folder: DataSet, data: Division) -> Split:
    """Divide the samples of a data set.

    Test samples are those of the protocol. Validation is carved from training, never from test: `val_fraction` of each
    class, or of the speakers where the protocol keeps speakers apart.

    Args:
        folder: the samples.
        data: protocol and fold, fractions and seed.

    Returns:
        The parts, and a line that tells this division from any other.

    Raises:
        ValueError: a class or speakers with too few samples for their share in each part, or no such fold.

    >>> from pathlib import Path
    >>> from attnzoo.emotion.datasets import Folder, Video
    >>> from attnzoo.emotion.media import Index
    >>> from attnzoo.emotion.recipe import Data
    >>> index = Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None)
    >>> videos = tuple(Video(f"{name}/{i}.mp4", label, index) for label, name in enumerate("ab") for i in range(5))
    >>> split(Folder(Path("mine"), ("a", "b"), videos, ()), Data(test_fraction=0.4, val_fraction=0.2)).protocol
    'one random split by class: 4 training, 2 validation, 4 test videos (split seed 0, test set ...)'
    """
    data = data if data.protocol else data.model_copy(update={"protocol": folder.protocol})
    check_fold(data.protocol, data.fold)
    if data.protocol is None:
        parts, name = _random(data.test_fraction)(folder, data), "one random split by class"
    else:
        protocol = find(data.protocol)
        parts, name = protocol.divide(folder, data), protocol.name
        folds = protocol.folds or len(folder.splits)
        name += f" fold {data.fold} of 0 to {folds - 1}" if folds > 1 else ""
    train, val = (parts.train, list(parts.val)) if parts.val else _carve(folder, data, parts)
    _check_classes(folder, data, train, len(val), len(parts.test))
    test_set = sha256("\n".join(sorted(v.name for v in parts.test)).encode()).hexdigest()[:8]
    told = ", ".join(filter(None, (f"split seed {data.split_seed}", parts.told, f"test set {test_set}")))
    line = f"{name}: {len(train)} training, {len(val)} validation, {len(parts.test)} test {folder.kind}s ({told})"
    return Split(tuple(train), tuple(val), tuple(parts.test), line)


def _ordered(samples: Sequence[Sample]) -> list[Sample]:
    """In an order that is the same for videos, prepared videos and folders of frames."""
    return sorted(samples, key=lambda sample: sample.name)


def _without(samples: Sequence[Sample], taken: Sequence[Sample]) -> list[Sample]:
    keys = {sample.key for sample in taken}
    return [sample for sample in samples if sample.key not in keys]


def _random(share: float, *, by_fold: bool = False) -> Callable[[DataSet, Division], Parts]:
    """A share of each class for test, drawn at random."""

    def divide(folder: DataSet, data: Division) -> Parts:
        rng = np.random.default_rng((data.split_seed, data.fold) if by_fold else data.split_seed)
        test: list[Sample] = []
        for label in range(len(folder.classes)):
            videos = _ordered([v for v in folder.samples if v.label == label])
            order = rng.permutation(len(videos))
            test += [videos[i] for i in sorted(order[: max(1, round(len(videos) * share))])]
        return Parts(_without(folder.samples, test), test)

    return divide


def _ten_times(folder: DataSet, data: Division) -> Parts:
    return _listed(folder, data) if len(folder.splits) == 10 else _random(1 / 3, by_fold=True)(folder, data)


def _folds(count: int) -> Callable[[DataSet, Division], Parts]:
    """Videos of each class dealt out in turn: the folds differ by one video at most, in each class and in all."""

    def divide(folder: DataSet, data: Division) -> Parts:
        rng = np.random.default_rng(data.split_seed)
        dealt: list[Sample] = []
        for label, name in enumerate(folder.classes):
            videos = _ordered([v for v in folder.samples if v.label == label])
            if len(videos) < count:
                raise ValueError(
                    f"class {name!r} of {folder.root} has {len(videos)} usable {folder.kind}s, too few for "
                    f"{count} folds; add {folder.kind}s or take fewer folds"
                )
            dealt += [videos[i] for i in rng.permutation(len(videos))]
        test = _ordered(dealt[data.fold :: count])
        return Parts(_without(folder.samples, test), test)

    return divide


def _parity(folder: DataSet, data: Division) -> Parts:
    """Every other video of the sorted list of class/name, counted on over the classes; the first is for training."""
    ordered = _ordered(folder.samples)
    return Parts(ordered[::2], ordered[1::2])


def _listed(folder: DataSet, data: Division) -> Parts:
    """The parts of the annotations."""
    if data.fold >= len(folder.splits):
        if not folder.splits and data.protocol == "folders":
            raise ValueError(f"{folder.root} has no folders train and test (or val) with the classes in them")
        if not folder.splits:
            raise ValueError(f"{folder.root} comes without published splits: name them with data.annotations")
        named = ", ".join(f"{i} {name}" for i, name in enumerate(folder.splits))
        raise ValueError(f"fold={data.fold}: the splits of {folder.root} are {named}")
    parts: dict[str, list[Sample]] = {part: [] for part in ("train", "val", "test", "")}
    for video in folder.samples:
        parts[video.parts[data.fold]].append(video)
    told = folder.splits[data.fold]
    if parts["val"]:
        told += ", with its own validation"
    if parts[""]:
        told += f", {len(parts[''])} {folder.kind}s in none of its parts"
    return Parts(parts["train"], parts["test"], parts["val"], told)


def _speaker_folds(count: int) -> Callable[[DataSet, Division], Parts]:
    """Speakers dealt out in turn, in an order drawn at random."""

    def divide(folder: DataSet, data: Division) -> Parts:
        unknown = [video.key for video in folder.samples if video.speaker is None]
        if unknown:
            raise ValueError(
                f"{len(unknown)} {folder.kind}s of {folder.root} have no speaker, as {unknown[0]}; layouts "
                "ravdess and cremad tell it, and so does a column speaker in a list"
            )
        speakers = _speakers(folder.samples)
        if len(speakers) < count:
            raise ValueError(f"{folder.root} has {len(speakers)} speakers, too few for speakers({count})")
        order = np.random.default_rng(data.split_seed).permutation(len(speakers))
        tested = {speakers[i] for i in order[data.fold :: count]}
        test = _ordered([v for v in folder.samples if v.speaker in tested])
        return Parts(
            _without(folder.samples, test), test, told=f"{len(tested)} of {len(speakers)} speakers", by_speaker=True
        )

    return divide


def _speakers(videos: Sequence[Sample]) -> list[str]:
    return sorted({video.speaker for video in videos if video.speaker is not None})


def _carve(folder: DataSet, data: Division, parts: Parts) -> tuple[list[Sample], list[Sample]]:
    """Training and validation from what is not for test."""
    if not data.val_fraction:
        return list(parts.train), []
    rng = np.random.default_rng((data.split_seed, data.fold, 1))
    val: list[Sample] = []
    if parts.by_speaker:
        speakers = _speakers(parts.train)
        chosen = rng.permutation(len(speakers))[: _share(len(_speakers(folder.samples)), data.val_fraction)]
        kept = {speakers[i] for i in chosen}
        val = [video for video in parts.train if video.speaker in kept]
    else:
        for label in range(len(folder.classes)):
            videos = _ordered([v for v in parts.train if v.label == label])
            whole = len(videos) + sum(v.label == label for v in parts.test)
            val += [videos[i] for i in sorted(rng.permutation(len(videos))[: _share(whole, data.val_fraction)])]
    return _without(parts.train, val), val


def _share(count: int, fraction: float) -> int:
    return max(1, round(count * fraction))


def _check_classes(folder: DataSet, data: Division, train: Sequence[Sample], val: int, test: int) -> None:
    for label, name in enumerate(folder.classes):
        if not test or not any(v.label == label for v in train):
            raise ValueError(
                f"class {name!r} of {folder.root} has {sum(v.label == label for v in folder.samples)} usable "
                f"{folder.kind}s, too few for training, {'validation ' if val else ''}and test by "
                f"{data.protocol or 'a random split'}; add {folder.kind}s"
            )


_NAMED = {
    protocol.name: protocol
    for protocol in (
        Protocol("ve8-10x", 10, "VideoEmotion-8: ten random splits 2:1 by class, or the published ten", _ten_times),
        Protocol("ve8-5fold", 5, "VideoEmotion-8 as in CTEN's files: five folds by class", _folds(5)),
        Protocol("ek6-parity", 1, "Ekman-6 as in CTEN: every other file of the sorted list for training", _parity),
        Protocol("ek6-1to1", 1, "Ekman-6: one random split 1:1 by class", _random(1 / 2)),
        Protocol("from-list", None, "the parts that the annotations name", _listed),
        Protocol("folders", None, "images: the folders train, val and test in which they lie", _listed),
    )
}
