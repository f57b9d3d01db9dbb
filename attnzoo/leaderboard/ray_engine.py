"""The runs of a grid as tasks of a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from attnzoo.emotion.cluster import ray_cluster
from attnzoo.emotion.run_folder import claim
from attnzoo.emotion.samples import DataSet
from attnzoo.leaderboard.run import Ended, Failed, Job, Skipped, attempt

ATTEMPTS = 4  # at a run whose machine or process is lost


@contextmanager
def ray_engine(
    console: Console,
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    workers: int = 0,
) -> Iterator["RayEngine"]:
    """An engine for `run_grid`, for as long as the block.

    Args:
        console: where progress is shown.
        address: of the cluster, see `ray_cluster`.
        cpus: of each run; if None one for it and one for each of its workers, as far as a machine has so many.
        gpus: of each run, may be a part of one; if None 1 where the cluster has any.
        workers: processes that load samples in each run.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster answers at the address, or no machine of it has what a run takes.

    >>> with ray_engine(Console(), "127.0.0.1:1", cpus=2) as engine:
    ...     run_grid(recipe, folder, store, Path("runs"), Console(), engine)
    Traceback (most recent call last):
    ValueError: no Ray cluster answers at 127.0.0.1:1; start one with `ray start --head`, ...
    """
    with ray_cluster(address) as ray:
        machines = _machines(ray)
        most = {kind: max((machine.get(kind, 0.0) for machine in machines), default=0.0) for kind in ("CPU", "GPU")}
        cpus = max(1, min(1 + workers, int(most["CPU"]))) if cpus is None else cpus
        gpus = min(1.0, most["GPU"]) if gpus is None else gpus
        engine = RayEngine(ray, console, cpus, gpus)
        if not engine.parallel:
            raise ValueError(
                f"no machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs for a run, the largest has "
                f"{most['CPU']:g} and {most['GPU']:g}; give others with --cpus-per-run and --gpus-per-run"
            )
        count = f"{len(machines)} machine{'s' * (len(machines) > 1)}"
        each = f"{cpus} CPU{'s' * (cpus > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
        console.print(f"Ray: {count}, {engine.parallel} at a time with {each} each", highlight=False)
        yield engine


class RayEngine:
    """Trains each run as one task; see `Engine`.

    The tasks give their runs back, and this process alone stores them: a SQLite file need not be seen by the cluster.
    A machine may be lost at any moment, then the task is given out again. What it had trained is in the folder of the
    run, if the machines share that; without a shared folder it begins anew. All machines need the data under the same
    path and the same attnzoo.

    Args:
        ray: the module, connected.
        console: where progress is shown.
        cpus: of each run.
        gpus: of each run.
    """

    def __init__(self, ray: Any, console: Console, cpus: int, gpus: float) -> None:
        self.ray = ray
        self.console = console
        self.cpus = cpus
        self.gpus = gpus

    @property
    def parallel(self) -> int:
        """How many runs the machines have room for now."""
        return sum(
            int(min(machine.get(kind, 0.0) / each for kind, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each))
            for machine in _machines(self.ray)
        )

    def run(self, jobs: Iterator[Job], folder: DataSet, wait: bool) -> Iterator[tuple[Job, Ended]]:
        """See `Engine`."""
        ray = self.ray
        # Ray's own retries are not told, and without end where memory runs out.
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(work)
        folder = ray.put(folder)
        running: dict[Any, tuple[Job, int]] = {}

        def submit(job: Job, number: int) -> None:
            running[task.remote(job, folder, wait, self.cpus, version("attnzoo"), Path.cwd())] = job, number

        try:
            while True:
                # Twice as many as there is room for, so that none waits for this process, and no more: another process
                # may finish those that are not given out yet, and machines may come and go.
                for job in islice(jobs, max(0, 2 * max(1, self.parallel) - len(running))):
                    submit(job, 1)
                if not running:
                    return
                (ref, *_), _ = ray.wait(list(running))
                job, number = running.pop(ref)
                try:
                    ended = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    ended = Failed(str(error).strip().splitlines()[-1])
                except ray.exceptions.RayError as error:
                    reason = " ".join(str(error).split()).partition(". ")[0]  # Ray tells what to read besides
                    if number < ATTEMPTS:
                        self._say(f"{job.title}: lost, begins again: {reason}")
                        submit(job, number + 1)
                        continue
                    ended = Failed(f"lost {number} times: {reason}")
                yield job, ended
        finally:
            for ref in running:
                ray.cancel(ref, force=True)

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def work(job: Job, folder: DataSet, wait: bool, cpus: int, code: str, cwd: Path) -> Ended:
    """What a task does, on whatever machine.

    Args:
        job: what to train.
        folder: the samples.
        wait: for another process that trains it.
        cpus: threads to compute with.
        code: the version of attnzoo that the id of the run names.
        cwd: where relative paths begin, if this machine has it.
    """
    if version("attnzoo") != code:
        return Failed(f"its machine has attnzoo {version('attnzoo')}, not {code}; install the same on all of them")
    with suppress(OSError):
        os.chdir(cwd)
    torch.set_num_threads(cpus)
    with claim(job.out, wait=wait) as mine:
        return attempt(job, folder) if mine else Skipped.ELSEWHERE


def _machines(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
