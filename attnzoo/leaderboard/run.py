"""Run the grid of a recipe: train what is not in the store yet, store each run as it finishes."""

import json
import platform
import re
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.training import Outcome, train
from attnzoo.leaderboard.recipe import LeaderboardRecipe
from attnzoo.leaderboard.store import Run, Store

PACKAGES = ("attnzoo", "torch", "timm", "torchvision", "lightning", "av", "librosa")


def run_grid(recipe: LeaderboardRecipe, folder: Folder, store: Store, out: Path, console: Console) -> int:
    """Train every run of the grid that is not finished; an interrupted one goes on from its last epoch.

    Args:
        recipe: the trainings.
        folder: the videos.
        store: where finished runs are.
        out: for the checkpoints, one folder a run.
        console: where progress is shown.

    Returns:
        The number of runs that were trained now.
    """
    runs = list(recipe.runs())
    trained = 0
    for number, single in enumerate(runs, 1):
        name, seed = single.model.attn.title, single.training.seed
        title = f"[{number}/{len(runs)}] {name} seed {seed}"
        key = run_id(single, folder)
        if key in store.ids():
            console.print(f"{title}: finished before", highlight=False, markup=False)
            continue
        where = out / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name)}-seed{seed}-{key[:8]}"
        outcome = train(single, folder, where, console=console, title=title)
        store.add(record(single, folder, outcome, key))
        trained += 1
        console.print(
            f"{title}: test accuracy {outcome.accuracy:.1%} of {len(outcome.predictions)} videos",
            highlight=False,
            markup=False,
        )
    return trained


def run_id(recipe: Recipe, folder: Folder) -> str:
    """A hash of all that decides a run's result: the recipe and the videos, not where they lie or who loads them.

    Args:
        recipe: of one training.
        folder: the videos.
    """
    content = recipe.model_dump(mode="json", exclude={"data": {"root"}, "training": {"workers"}})
    return sha256(json.dumps([content, folder.fingerprint], sort_keys=True).encode()).hexdigest()[:16]


def record(recipe: Recipe, folder: Folder, outcome: Outcome, key: str) -> Run:
    """What the store keeps of a finished training.

    Args:
        recipe: of the training.
        folder: the videos.
        outcome: what came of it.
        key: its `run_id`.
    """
    predictions = tuple(
        {
            "video": p.key,
            "label": outcome.classes[p.label] if p.label is not None else None,
            "predicted": outcome.classes[p.predicted],
            "probabilities": list(p.probabilities),
        }
        for p in outcome.predictions
    )
    return Run(
        id=key,
        board=recipe.name,
        attn=recipe.model.attn.title,
        seed=recipe.training.seed,
        accuracy=outcome.accuracy,
        classes=outcome.classes,
        predictions=predictions,
        params=outcome.params,
        macs=outcome.macs,
        seconds=outcome.seconds,
        history=outcome.history,
        recipe=recipe.model_dump(mode="json"),
        protocol=outcome.protocol,
        data=f"{folder.root.name}, {len(folder.videos)} videos, {len(folder.classes)} classes, {folder.fingerprint}",
        commit=commit(),
        versions={package: version(package) for package in PACKAGES},
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def commit() -> str:
    """The git commit of the code that runs, with "-dirty" if it was changed; "unknown" outside a checkout."""
    here = Path(__file__).parents[1]  # the whole package

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):  # an installed copy inside somebody else's checkout
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + (
            "-dirty" if git("status", "--porcelain", "--", str(here)) else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
