"""A board that looks like a real one: rows that differ a little, and videos of which some are hard for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from attnzoo.leaderboard.store import Run

CLASSES = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
# label: how often right beyond the rest, parameters, MACs; sa and none cost the same to all shown digits
ROWS = {
    "none": (0.00, 42_500_000, 7_800_000_000),
    "se": (0.03, 47_280_000, 7_805_000_000),
    "cbam": (0.02, 47_290_000, 7_812_000_000),
    "ca": (0.05, 45_100_000, 7_820_000_000),
    "sa": (0.00, 42_500_100, 7_800_000_500),
    "triplet": (-0.02, 42_510_000, 7_900_000_000),
    "epsa": (0.10, 35_600_000, 6_900_000_000),
    "mpe": (0.22, 43_660_000, 9_300_000_000),
}


def simulate(
    rows: Mapping[str, Sequence[Any]] = ROWS,
    *,
    seeds: int = 3,
    folds: int = 2,
    videos: int = 360,
    classes: Sequence[str] = CLASSES,
    factors: Callable[[str], dict[str, str]] = lambda label: {"attn": label},
    paper: Mapping[str, Any] | None = None,
) -> list[Run]:
    rng = np.random.default_rng(0)
    names = [f"{classes[i % len(classes)]}/{i:03}.mp4" for i in range(videos)]
    hard = rng.beta(3, 4, videos)  # how likely the plain network is right about each video
    parts = np.array_split(rng.permutation(videos), max(folds, 2))[:folds]
    runs = []
    for label, (skill, params, macs, *_) in rows.items():
        for fold, part in enumerate(parts):
            others = [name for i, name in enumerate(names) if i not in part]
            for seed in range(seeds):
                chance = np.clip(hard[part] + skill + rng.normal(0, 0.01), 0, 1)
                labels = [int(i) % len(classes) for i in part]
                guesses = [_guess(rng, classes, label, p) for label, p in zip(labels, chance, strict=True)]
                accuracy = float(np.mean(np.equal(labels, guesses)))
                best = accuracy + 0.1 * (1 - accuracy)
                model = {"attn": {"name": label, "options": {}, "label": None}, "width": 64}
                recipe = {
                    "name": "table2",
                    "data": {"root": "/home/someone/videos", "protocol": "kfold(2)", "fold": fold},
                    "model": model,
                    "training": {"epochs": 8, "seed": seed, "workers": 2},
                }
                runs.append(
                    Run(
                        id=f"{len(runs):016x}",
                        board="table2",
                        row=label,
                        seed=seed,
                        accuracy=accuracy,
                        classes=tuple(classes),
                        predictions=tuple(
                            {
                                "video": names[i],
                                "label": classes[label],
                                "predicted": classes[guess],
                                "probabilities": [],
                            }
                            for i, label, guess in zip(part, labels, guesses, strict=True)
                        ),
                        params=params,
                        macs=macs,
                        seconds=60 + macs / 1e9 + seed,
                        history=tuple(
                            {
                                "epoch": e,
                                "loss": 1.8 * (0.85 - skill / 2) ** e,
                                "val_accuracy": best - (best - 1 / 6) * 0.6**e,
                            }
                            for e in range(8)
                        ),
                        recipe=recipe | ({"paper": paper} if paper else {}),
                        protocol=f"kfold(2) fold {fold} of 0 to 1: {len(others) - 20} training, 20 validation, "
                        f"{len(part)} test videos (split seed 0, test set 0{fold}ab)",
                        data="synth, 360 videos, 6 classes, 4f1c09aa",
                        commit="c0ffee123456",
                        versions={"attnzoo": "0.1.0", "torch": "2.15.0"},
                        machine="x86_64, Linux, Python 3.11.7",
                        finished=f"2026-01-0{seed + 1}T03:04:05+00:00",
                        factors=factors(label),
                        fold=fold,
                        split={"train": others[20:], "val": others[:20], "test": [names[i] for i in part]},
                        bytes=int(macs / 40 + params * 4),
                        latency=macs / 4e10 + rng.normal(0, 1e-3),
                    )
                )
    return runs


def _guess(rng: np.random.Generator, classes: Sequence[str], label: int, right: float) -> int:
    """The label, or often its neighbour, else any class."""
    if rng.random() < right:
        return label
    return (label + 1) % len(classes) if rng.random() < 0.5 else int(rng.integers(len(classes)))


@pytest.fixture(scope="session")
def simulated() -> Callable[..., list[Run]]:
    """The function that makes runs: of eight attentions, three seeds and two folds if it is not told otherwise."""
    return simulate
