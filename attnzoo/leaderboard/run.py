"""Run the grid of a recipe: train what is not in the store yet, store each run as it finishes."""

import math
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Protocol

from rich.console import Console

from attnzoo.emotion.grid import Gridded, Trial
from attnzoo.emotion.processes import layout
from attnzoo.emotion.protocols import split
from attnzoo.emotion.run_folder import claim, run_name
from attnzoo.emotion.samples import DataSet
from attnzoo.emotion.tasks import spec
from attnzoo.emotion.training import train
from attnzoo.leaderboard.record import record, run_id
from attnzoo.leaderboard.store import Run, Store


@dataclass(frozen=True, slots=True)
class Job:
    """One training of a grid that is to be done.

    Attributes:
        trial: what to train.
        key: its `run_id`.
        out: its folder.
        title: what stands before its progress.

    >>> from attnzoo.emotion.grid import GridRecipe
    >>> Job(Trial("se", {}, GridRecipe(name="mine"), {}), "1f", Path("runs/se"), "[1/2] se seed 0").key
    '1f'
    """

    trial: Trial
    key: str
    out: Path
    title: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A training that ended without a run.

    Attributes:
        reason: one line.

    >>> Failed("the disk is full").reason
    'the disk is full'
    """

    reason: str


class Skipped(StrEnum):
    """Why a job was not trained here.

    >>> print(Skipped.BEFORE)
    finished before
    """

    BEFORE = "finished before"
    ELSEWHERE = "another process trains it"


Ended = Run | Failed | Skipped


class Engine(Protocol):
    """Where runs are trained."""

    @property
    def parallel(self) -> int:
        """How many at a time."""

    def run(self, jobs: Iterator[Job], folder: DataSet, wait: bool) -> Iterator[tuple[Job, Ended]]:
        """Train runs, each in its folder, which it claims.

        Args:
            jobs: taken as there is room for them.
            folder: the samples.
            wait: for the folders that other processes have claimed; else those are skipped.

        Returns:
            Each job as it ends.
        """


@dataclass(frozen=True)
class Here:
    """The engine that trains in this process, one run after the other; several such processes can share a grid.

    Attributes:
        store: where other processes put their runs.
        console: where progress is shown.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/runs.sqlite") as store:
    ...     Here(store, Console()).parallel
    1
    """

    store: Store
    console: Console
    parallel: int = 1

    def run(self, jobs: Iterator[Job], folder: DataSet, wait: bool) -> Iterator[tuple[Job, Ended]]:
        """See `Engine`."""
        for job in jobs:
            # Until the run is stored, or a process that waits for the folder would not see that it is finished.
            with claim(job.out, wait=wait) as mine:
                if not mine:
                    yield job, Skipped.ELSEWHERE
                elif job.key in self.store.ids():
                    yield job, Skipped.BEFORE
                else:
                    yield job, attempt(job, folder, self.console)


@dataclass(frozen=True, slots=True)
class GridEnd:
    """How a grid ended.

    Attributes:
        trained: number of runs that were trained now.
        failed: title and reason of those that failed.

    >>> GridEnd(3, (("[4/4] mpe seed 0", "the training diverged"),)).trained
    3
    """

    trained: int
    failed: tuple[tuple[str, str], ...]


def run_grid(
    recipe: Gridded, folder: DataSet, store: Store, out: Path, console: Console, engine: Engine | None = None
) -> GridEnd:
    """Train every run of the grid that is not finished; an interrupted one goes on from its last checkpoint.

    A run that fails does not keep the others from being trained; the next call tries it again.

    Args:
        recipe: the trainings.
        folder: the samples.
        store: where finished runs are.
        out: for the checkpoints, one folder a run.
        console: where progress is shown.
        engine: what trains them; this process if None.

    Raises:
        ValueError: a model of the grid that cannot be built or samples that cannot be divided, before anything is
            trained; a folder that cannot be written, a store that cannot be used.
        KeyboardInterrupt: interrupted; the same call goes on.

    >>> import tempfile
    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.grid import GridRecipe
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
        spec(recipe.task).check(recipe.single(row))
    trials = list(recipe.trials())
    for data in {trial.recipe.data.model_dump_json(): trial.recipe.data for trial in trials}.values():
        split(folder, data)
    engine = engine or Here(store, console)
    left = [_job(trial, folder, out, f"[{n}/{len(trials)}]") for n, trial in enumerate(trials, 1)]
    known = store.ids()
    unfinished = {job.key for job in left} - known
    failed: list[tuple[str, str]] = []
    seconds: list[float] = []

    def say(job: Job, said: str) -> None:
        console.print(f"{job.title}: {said}", highlight=False, markup=False, soft_wrap=True)

    def to_train(jobs: Iterable[Job]) -> Iterator[Job]:
        for job in jobs:
            if job.key in store.ids():
                unfinished.discard(job.key)
                say(job, Skipped.BEFORE)
            else:
                yield job

    # What another process is training is left to it, and looked at again at the end, in case it did not finish.
    for wait in (False, True):
        todo, left = left, []
        for job, ended in engine.run(to_train(todo), folder, wait):
            unfinished.discard(job.key)
            match ended:
                case Run():
                    store.add(ended)
                    seconds.append(ended.seconds)
                    still = math.ceil(len(unfinished) / engine.parallel) * fmean(seconds)
                    about = f"; about {duration(still)} left" if unfinished else ""
                    say(job, f"test accuracy {ended.accuracy:.1%} of {len(ended.predictions)} {folder.kind}s{about}")
                case Failed(reason):
                    failed.append((job.title, reason))
                    say(job, f"failed: {reason}")
                case Skipped():
                    left += [job] if ended is Skipped.ELSEWHERE else []
                    say(job, ended)
    return GridEnd(len(seconds), tuple(failed))


def _job(trial: Trial, folder: DataSet, out: Path, number: str) -> Job:
    key = run_id(trial.recipe, folder)
    where = out / f"{run_name(trial.label, trial.recipe.training.seed)}-{key[:8]}"
    return Job(trial, key, where, f"{number} {trial.title}")


def attempt(job: Job, folder: DataSet, console: Console | None = None) -> Run | Failed:
    """Train one run whose folder is claimed, wherever that is; one that is trained already is only evaluated.

    Args:
        job: what to train.
        folder: the samples.
        console: where progress is shown; nowhere if None.

    Returns:
        The run, or why there is none. What nobody foresaw leaves `traceback.txt` in the folder of the run.

    Raises:
        KeyboardInterrupt: as `train`.

    >>> import tempfile
    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.grid import GridRecipe
    >>> with tempfile.TemporaryDirectory() as out:
    ...     job = Job(Trial("se", {}, GridRecipe(name="mine"), {}), "1f", Path(out), "se seed 0")
    ...     attempt(job, Folder(Path("videos"), ("calm", "joy"), (), ()))
    Failed(reason="class 'calm' of videos has 0 usable videos, too few for training, ...")
    """
    try:
        outcome = train(job.trial.recipe, folder, job.out, console=console, title=job.title)
        return record(job.trial, folder, outcome, job.key)
    except (ValueError, OSError) as error:
        return Failed(" ".join(str(error).split()))
    except Exception as error:
        trace = job.out / "traceback.txt"
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        said = " ".join(str(error).split())
        return Failed(f"{type(error).__name__}: {said}; see {trace}")


def duration(seconds: float) -> str:
    """A time in the unit in which it is easily read.

    Args:
        seconds: the time.

    >>> duration(42), duration(5400), duration(200_000)
    ('42 s', '1.5 h', '2.3 d')
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
