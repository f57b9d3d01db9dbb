"""Which videos are for training, for validation and for test."""

from dataclasses import dataclass

import numpy as np

from attnzoo.emotion.datasets import Folder, Video
from attnzoo.emotion.recipe import Data


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

    >>> from pathlib import Path
    >>> from attnzoo.emotion.media import Index
    >>> index = Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None)
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
