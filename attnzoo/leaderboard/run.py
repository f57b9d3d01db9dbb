"""Run the grid of a recipe: train what is not in the store yet, store each run as it finishes."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.grid import GridRecipe, Trial
from attnzoo.emotion.model import check
from attnzoo.emotion.optimisation import RUNNING
from attnzoo.emotion.processes import layout
from attnzoo.emotion.recipe import WHERE, Recipe
from attnzoo.emotion.run_folder import claim, run_name
from attnzoo.emotion.training import Outcome, train
from attnzoo.leaderboard.store import Run, Store

PACKAGES = ("attnzoo", "torch", "timm", "torchvision", "lightning", "av", "librosa")


def run_grid(recipe: GridRecipe, folder: Folder, store: Store, out: Path, console: Console) -> int:
    """Train every run of the grid that is not finished; an interrupted one goes on from its last checkpoint.

    Args:
        recipe: the trainings.
        folder: the videos.
        store: where finished runs are.
        out: for the checkpoints, one folder a run.
        console: where progress is shown.

    Returns:
        The number of runs that were trained now.

    Raises:
        ValueError: a model of the grid that cannot be built, before anything is trained; what `train` raises.

    >>> import tempfile
    >>> recipe = GridRecipe(name="mine", model={"visual": {"backbone": "timm/resnet18"}})
    >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
    ...     run_grid(recipe, Folder(Path("videos"), ("calm", "joy"), (), ()), store, Path(folder), Console())
    Traceback (most recent call last):
    ValueError: model.visual.backbone = 'timm/resnet18' is a 2D network; give a 3D one, as in resnet3d/18
    """
    if layout(recipe.training) != (1, 1):
        raise ValueError(
            "a leaderboard trains each run in one process: leave training.devices and nodes at 1, and start the "
            "command several times to share the grid"
        )
    for row in recipe.table():
        check(recipe.single(row))
    left = list(enumerate(recipe.trials(), 1))
    total, trained = len(left), 0
    # What another process is training is left to it, and looked at again at the end, in case it did not finish.
    for wait in (False, True):
        todo, left = left, []
        for number, trial in todo:
            single = trial.recipe
            title = f"[{number}/{total}] {trial.title}"
            key = run_id(single, folder)
            where = out / f"{run_name(trial.label, single.training.seed)}-{key[:8]}"
            said = "finished before"
            if key not in store.ids():
                with claim(where, wait=wait) as mine:
                    if not mine:
                        said = "another process trains it"
                        left.append((number, trial))
                    elif key not in store.ids():  # nor did the other process finish it before the folder was ours
                        outcome = train(single, folder, where, console=console, title=title)
                        store.add(record(trial, folder, outcome, key))
                        trained += 1
                        said = f"test accuracy {outcome.accuracy:.1%} of {len(outcome.predictions)} videos"
            console.print(f"{title}: {said}", highlight=False, markup=False)
    return trained


def run_id(recipe: Recipe, folder: Folder) -> str:
    """A hash of all that decides a run's result: the recipe and the videos, not where they lie or how it is run.

    Args:
        recipe: of one training.
        folder: the videos.

    >>> folder, elsewhere = (Folder(Path(name), ("calm", "joy"), (), ()) for name in ("videos", "elsewhere"))
    >>> run_id(Recipe(name="mine"), folder) == run_id(Recipe(name="mine"), elsewhere)
    True
    """
    content = recipe.model_dump(mode="json", exclude={"data": set(WHERE), "training": set(RUNNING)})
    return sha256(json.dumps([content, folder.fingerprint], sort_keys=True).encode()).hexdigest()[:16]


def record(trial: Trial, folder: Folder, outcome: Outcome, key: str) -> Run:
    """What the store keeps of a finished training.

    Args:
        trial: the training.
        folder: the videos.
        outcome: what came of it.
        key: its `run_id`.

    >>> from attnzoo.emotion.predictions import Prediction
    >>> from attnzoo.emotion.protocols import Split
    >>> parts = Split((), (), (), "")
    >>> right = Prediction("joy/a.mp4", (0.1, 0.9), (), 1)
    >>> outcome = Outcome(Path("model.safetensors"), ("calm", "joy"), (right,), (), "70/30", 9, 99, 1.5, 7, parts)
    >>> trial = Trial("se", {}, Recipe(name="mine"), {})
    >>> run = record(trial, Folder(Path("videos"), ("calm", "joy"), (), ()), outcome, "1f")
    >>> run.board, run.row, run.accuracy, run.predictions[0]["predicted"]
    ('mine', 'se', 1.0, 'joy')
    """
    recipe, parts = trial.recipe, outcome.split
    predictions = tuple(
        {
            "video": p.key,
            "label": outcome.classes[p.label] if p.label is not None else None,
            "predicted": outcome.classes[p.predicted],
            "probabilities": list(p.probabilities),
        }
        for p in outcome.predictions
    )
    root = folder.root.resolve()  # or the name of "." would be empty
    return Run(
        id=key,
        board=recipe.name,
        row=trial.label,
        seed=recipe.training.seed,
        accuracy=outcome.accuracy,
        classes=outcome.classes,
        predictions=predictions,
        params=outcome.params,
        macs=outcome.macs,
        seconds=outcome.seconds,
        history=outcome.history,
        recipe=recipe.model_dump(mode="json") | trial.origin,
        protocol=outcome.protocol,
        data=f"{root.name or root}, {len(folder.videos)} videos, {len(folder.classes)} classes, {folder.fingerprint}",
        commit=commit(),
        versions={package: version(package) for package in PACKAGES},
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        factors=trial.factors,
        fold=recipe.data.fold,
        split={name: [video.key for video in getattr(parts, name)] for name in ("train", "val", "test")},
        bytes=outcome.bytes,
    )


def commit() -> str:
    """The git commit of the code that runs, with "-dirty" if it was changed; "unknown" outside a checkout.

    >>> bool(commit())
    True
    """
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
