"""What the store keeps of a finished training, and the id that says what was trained."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from attnzoo.emotion.experiment import WHERE, Experiment
from attnzoo.emotion.grid import Trial
from attnzoo.emotion.optimisation import RUNNING
from attnzoo.emotion.samples import DataSet
from attnzoo.emotion.training import Outcome
from attnzoo.leaderboard.store import Run
from attnzoo.profiling.latency import machine

PACKAGES = ("attnzoo", "torch", "timm", "torchvision", "lightning", "av", "librosa", "pillow")


def run_id(recipe: Experiment, folder: DataSet) -> str:
    """A hash of all that decides a run's result: recipe, samples and code, not where they lie or how it is run.

    The code counts by attnzoo's version: a release that changes results trains them again. An edit or a commit in a
    checkout does not, since a grid may take days in which it would begin again with each of them; `Run.commit` says
    which code it was. To train again after an edit, give another store.

    Args:
        recipe: of one training.
        folder: the samples.

    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.recipe import Recipe
    >>> folder, elsewhere = (Folder(Path(name), ("calm", "joy"), (), ()) for name in ("videos", "elsewhere"))
    >>> run_id(Recipe(name="mine"), folder) == run_id(Recipe(name="mine"), elsewhere)
    True
    """
    content = recipe.model_dump(mode="json", exclude={"data": set(WHERE), "training": set(RUNNING)})
    return sha256(json.dumps([content, folder.fingerprint, version("attnzoo")], sort_keys=True).encode()).hexdigest()[
        :16
    ]


def record(trial: Trial, folder: DataSet, outcome: Outcome, key: str) -> Run:
    """What the store keeps of a finished training.

    Args:
        trial: the training.
        folder: the samples.
        outcome: what came of it.
        key: its `run_id`.

    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.predictions import Prediction
    >>> from attnzoo.emotion.protocols import Split
    >>> from attnzoo.emotion.recipe import Recipe
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
    counted = f"{len(folder.samples)} {folder.kind}s, {len(folder.classes)} classes"
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
        data=f"{root.name or root}, {counted}, {folder.fingerprint}",
        commit=commit(),
        versions={package: version(package) for package in PACKAGES},
        machine=f"{machine()}, {platform.system()}, Python {platform.python_version()}",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        factors=trial.factors,
        fold=recipe.data.fold,
        task=folder.kind,
        split={name: [sample.key for sample in getattr(parts, name)] for name in ("train", "val", "test")},
        bytes=outcome.bytes,
        latency=outcome.latency,
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
