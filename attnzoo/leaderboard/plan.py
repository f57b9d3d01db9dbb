"""What a grid will train, and about how long that takes, before anything starts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Group
from rich.table import Table

from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.grid import Gridded
from attnzoo.emotion.protocols import split
from attnzoo.emotion.samples import DataSet
from attnzoo.emotion.tasks import spec
from attnzoo.leaderboard.record import run_id
from attnzoo.leaderboard.run import duration
from attnzoo.profiling import profile

ENOUGH = 0.3  # s that a pass takes which tells the speed


@dataclass(frozen=True, slots=True)
class Planned:
    """One row of a grid.

    Attributes:
        label: of the row.
        runs: trainings of it.
        finished: how many of them are in the store.
        params: of the model.
        macs: multiply-accumulates for one sample.
        seconds: estimate for the runs that are left; None without data.

    >>> Planned("se", 3, 1, 99, 999, 60.0).runs
    3
    """

    label: str
    runs: int
    finished: int
    params: int
    macs: int
    seconds: float | None


def plan(recipe: Gridded, folder: DataSet | None = None, finished: Sequence[str] = ()) -> list[Planned]:
    """The rows of a grid and what they will cost.

    The time of a run is that of its multiply-accumulates, three times for a training sample in each epoch and once for
    one that is validated or tested, at the speed of the network (of videos the visual one) on this machine. Loading,
    frozen layers and cached features, which make it shorter or longer, are left out.

    Args:
        recipe: the grid.
        folder: the samples.
        finished: ids of the runs in the store.

    Raises:
        ValueError: a row that makes no model.

    >>> from attnzoo.emotion.grid import GridRecipe
    >>> settings = {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> recipe = GridRecipe(name="mine", model=settings, clip={"segments": 1, "frames": 4, "size": 32})
    >>> [(row.label, row.runs, row.seconds) for row in plan(recipe)]
    [('none', 1, None)]
    """
    task = spec(recipe.task)
    trials: dict[str, list[Experiment]] = {}
    for trial in recipe.trials():
        trials.setdefault(trial.label, []).append(trial.recipe)
    rate = None if folder is None else _seconds_per_mac(recipe)
    rows = []
    for label, recipes in trials.items():
        first = recipes[0]
        with torch.device("meta"):
            model = task.create(first.without_weights(), 2 if folder is None else len(folder.classes))
        cost = profile(model, task.sizes(first), counter="macs", memory=False)
        left = recipes if folder is None else [one for one in recipes if run_id(one, folder) not in finished]
        seconds = None
        if folder is not None and rate is not None:
            seconds = rate * cost.macs * sum(_passes(one, folder) for one in left)
        rows.append(Planned(label, len(recipes), len(recipes) - len(left), cost.params, cost.macs, seconds))
    return rows


def _passes(recipe: Experiment, folder: DataSet) -> int:
    """Forward passes of one sample that a run takes as long as; a backward pass is two."""
    parts = split(folder, recipe.data)
    return recipe.training.epochs * (3 * len(parts.train) + len(parts.val)) + len(parts.test)


def _seconds_per_mac(recipe: Experiment) -> float:
    network, one, most = spec(recipe.task).gauge(recipe)
    network.eval()
    macs = profile(network, one, counter="macs", memory=False).macs
    rates, count = [], 1
    # Small inputs one by one take many times as long as in a batch; large ones need none. Of all passes the quickest,
    # since whatever else the machine does only adds to it.
    with torch.inference_mode():
        while True:
            inputs = torch.rand(count, *one[1:])
            start = time.perf_counter()
            network(inputs)
            taken = time.perf_counter() - start
            rates.append(taken / (count * macs))
            if len(rates) > 2 and (taken > ENOUGH or count >= most):
                return min(rates)
            count = count if taken > ENOUGH else min(2 * count, most)


def render(rows: Sequence[Planned], recipe: Gridded) -> Group:
    """For the terminal.

    Args:
        rows: of `plan`.
        recipe: the grid.
    """
    table = Table(title=f"{recipe.name}: {sum(row.runs for row in rows)} runs", box=box.SIMPLE)
    table.add_column("row")
    for name in ("runs", "finished", "params (M)", f"MACs of one {recipe.task} (G)", "time left (about)"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = (row.runs, row.finished, f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.3f}", _told(row.seconds))
        table.add_row(row.label, *map(str, cells))
    known = [row.seconds for row in rows if row.seconds is not None]
    total = f"about {_told(sum(known))} in all" if known else "give --data for an estimate of the time"
    repetitions = ", ".join(f"seed {seed} fold {fold}" for seed, fold in recipe.repetitions())
    return Group(
        table,
        f"each row with: {repetitions}",
        f"{total}, without loading; frozen layers and cached features make it less",
    )


def _told(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)
