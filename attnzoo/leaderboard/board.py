"""A board: the runs that may stand in one table, row by row, each compared with a baseline."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnzoo.leaderboard.stats import SIGNIFICANCE, Comparison, Results, Verdict, compare, holm, intervals, ranks
from attnzoo.leaderboard.store import Run


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost as people read it.

    Attributes:
        head: its name.
        unit: in which it is shown.
        scale: one of that unit, in what runs hold.
        digits: after the decimal point.

    >>> Cost("MACs", "G", 1e9, 3).text(7_801_405_440)
    '7.801'
    """

    head: str
    unit: str
    scale: float
    digits: int

    def text(self, value: float | None) -> str:
        """A value, in its unit.

        Args:
            value: as runs hold it, or None.
        """
        return "–" if value is None else f"{value / self.scale:.{self.digits}f}"


COSTS = {
    "params": Cost("Params", "M", 1e6, 3),
    "macs": Cost("MACs", "G", 1e9, 3),
    "bytes": Cost("Moved", "MB", 1e6, 1),
    "latency": Cost("Latency", "ms", 1e-3, 1),
    "seconds": Cost("Train", "s", 1.0, 0),
}
# What runs of one table may differ in beside what the rows vary: trial, machine, and what a figure is compared with.
FREE = {"seed", "fold", "workers", "root", "paper", "grid", "attn", "audio_attn"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a board. Accuracies and their differences are shares, 0 to 1.

    Attributes:
        label: of the row.
        factors: what it varies.
        runs: of it, by fold and seed.
        mean: accuracy over the runs.
        sd: standard deviation of the accuracy over the runs (n - 1); None of one run.
        ci: see `attnzoo.leaderboard.stats.intervals`.
        rank: the best and the worst one that the runs leave open.
        costs: of COSTS what is known: parameters, multiply-accumulates and bytes moved of one sample, seconds of one
            forward pass and of the training, the last two as means over the runs.
        against: comparison with the baseline; None for itself and without one.
        p: of that comparison, after Holm's correction over the rows; None if it was not tested.
        verdict: what may be said.
        paper: what the paper prints for this row, as in {"accuracy": 57.6} in %, {"params": 43.26} in M.
    """

    label: str
    factors: Mapping[str, str]
    runs: tuple[Run, ...]
    mean: float
    sd: float | None
    ci: tuple[float, float] | None
    rank: tuple[int, int]
    costs: Mapping[str, float]
    against: Comparison | None
    p: float | None
    verdict: Verdict
    paper: Mapping[str, float]

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def deviation(self, metric: str) -> float | None:
        """What was measured less what the paper prints, in the paper's unit; None where either is lacking.

        Args:
            metric: "accuracy" in per cent points, "params" in M or "macs" in G.
        """
        measured = {
            "accuracy": 100 * self.mean,
            "params": self.costs.get("params", math.nan) / 1e6,
            "macs": self.costs.get("macs", math.nan) / 1e9,
        }.get(metric, math.nan)
        found = measured - self.paper.get(metric, math.nan)
        return found if math.isfinite(found) else None


@dataclass(frozen=True, slots=True)
class Board:
    """A board, ready to be shown.

    Attributes:
        name: of the recipe.
        rows: the best mean first.
        baseline: label of the row that the others are compared with, or None.
        runs: those that count.
        left_out: those that do not, each with the reason.
        paper: the paper's figures, as the recipe has them: "rows", and maybe "source" and "dataset".
    """

    name: str
    rows: tuple[Row, ...]
    baseline: str | None
    runs: tuple[Run, ...]
    left_out: tuple[tuple[Run, str], ...]
    paper: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.runs[0].classes

    @property
    def known(self) -> list[str]:
        """Those of COSTS that any row has."""
        return [cost for cost in COSTS if any(cost in row.costs for row in self.rows)]

    @property
    def samples(self) -> str:
        """What the board classifies: "videos" or "images"."""
        return f"{self.runs[0].task}s"


def summarise(runs: Sequence[Run], baseline: str | None = None) -> Board:
    """The board of some runs: one row per label, each compared with the baseline.

    A row is "better" or "worse" than the baseline only if the corrected resampled t-test over the trials and McNemar's
    test over the test videos both say so after Holm's correction over the rows (p < 0.05). Where they share no test
    videos the t-test decides alone, and where the differences are all equal McNemar's. Else the difference is "inside
    the noise". Nothing is said of rows with fewer than two shared trials or an unknown split.

    Args:
        runs: of one board; those that are not comparable with the newest do not count.
        baseline: label of the row to compare with. If None it is the one that the newest recipe names; without such a
            row "none", or the one row without attention.

    Raises:
        ValueError: no runs, those of several boards, or no row of the baseline's label.

    >>> def run(row, seed, right):
    ...     guesses = tuple({"video": str(i), "label": "a", "predicted": "a" if i < right else "b"} for i in range(400))
    ...     split = {"train": ["x"] * 800, "val": [], "test": [str(i) for i in range(400)]}
    ...     found = ("1f", "b", row, seed, right / 400, ("a", "b"), guesses, 1, 1, 1.0, (), {}, "", "", "", {}, "", "")
    ...     return Run(*found, split=split)
    >>> found = {"none": (200, 202, 199), "se": (290, 291, 293), "sa": (203, 198, 202)}
    >>> made = summarise([run(row, seed, a) for row, scores in found.items() for seed, a in enumerate(scores)])
    >>> [(row.label, round(row.mean, 2), row.verdict, row.rank) for row in made.rows]
    [('se', 0.73, 'better', (1, 1)), ('sa', 0.5, 'inside the noise', (2, 3)), ('none', 0.5, 'baseline', (2, 3))]
    """
    used, left_out = comparable(runs)
    groups: dict[str, list[Run]] = {}
    for run in sorted(used, key=lambda run: (run.fold, run.seed)):
        groups.setdefault(run.row, []).append(run)
    base = _baseline(groups, baseline, used)
    results = dict(zip(groups, _results(groups.values()), strict=True))
    against = {label: compare(results[label], results[base]) for label in groups if base and label != base}
    tested = {label: made.p for label, made in against.items() if made.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    every = list(results.values())
    ranges, cis = ranks(every), intervals(every)
    paper = _paper(used)
    rows = [
        Row(
            label=label,
            factors=group[-1].factors,
            runs=tuple(group),
            mean=statistics.fmean(run.accuracy for run in group),
            sd=statistics.stdev(run.accuracy for run in group) if len(group) > 1 else None,
            ci=ci,
            rank=rank,
            costs=_costs(group),
            against=against.get(label),
            p=adjusted.get(label),
            verdict=_verdict(label == base, against.get(label), adjusted.get(label)),
            paper=_numbers(paper.get("rows", {}).get(label, {})),
        )
        for (label, group), rank, ci in zip(groups.items(), ranges, cis, strict=True)
    ]
    rows.sort(key=lambda row: (-row.mean, row.costs["macs"], row.label))
    return Board(used[0].board, tuple(rows), base, tuple(used), tuple(left_out), paper)


def comparable(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """The runs that may stand in one table, and the others.

    Those of one table have the data, classes and settings of the newest run; settings are the recipe but for the trial,
    the attention and what the rows vary. The runs of one row have all settings of its newest run, and those of one fold
    its split. Of several runs of one row, seed and fold (of an older commit, say) it is the newest, so that nobody
    picks the luckiest.

    Args:
        runs: of one board.

    Returns:
        The runs that count, and those that do not with the reason.

    Raises:
        ValueError: no runs, or those of several boards.

    >>> old, new = (
    ...     Run(x, "b", "se", 0, 0.9, (), (), 1, 1, 1.0, (), {}, "", "", "", {}, "", f"2026-01-0{x}") for x in "12"
    ... )
    >>> used, left_out = comparable([new, old])
    >>> used == [new], left_out == [(old, "a newer run of the same row, seed and fold counts")]
    (True, True)
    """
    if not runs:
        raise ValueError("there are no runs to compare; make some with: attnzoo leaderboard run RECIPE")
    boards = sorted({run.board for run in runs})
    if len(boards) > 1:
        raise ValueError(f"the runs are of {len(boards)} boards, {', '.join(boards)}; give those of one")
    by_age = sorted(runs, key=lambda run: run.finished, reverse=True)
    newest = by_age[0]
    varied = {name.rpartition(".")[2] for run in runs for name in run.factors} | FREE
    shared = _without(newest.recipe, varied)
    rows: dict[str, object] = {}
    folds: dict[int, object] = {}
    kept: dict[tuple[str, int, int], Run] = {}
    reasons: dict[int, str] = {}
    for run in by_age:
        reason = None
        if (run.data, run.classes, run.task) != (newest.data, newest.classes, newest.task):
            reason = "other data"
        elif _without(run.recipe, varied) != shared:
            reason = "other settings"
        elif folds.setdefault(run.fold, (run.protocol, run.split)) != (run.protocol, run.split):
            reason = "another split"
        elif rows.setdefault(run.row, settings := _without(run.recipe, FREE - {"attn", "audio_attn"})) != settings:
            reason = "other settings than the newest run of its row"
        elif kept.setdefault((run.row, run.seed, run.fold), run) is not run:
            reason = "a newer run of the same row, seed and fold counts"
        if reason:
            reasons[id(run)] = reason
    return (
        [run for run in runs if id(run) not in reasons],
        [(run, reasons[id(run)]) for run in runs if id(run) in reasons],
    )


def _without(part: Any, names: set[str]) -> Any:
    """A recipe without the fields of some names, wherever they are."""
    if not isinstance(part, dict):
        return part
    return {name: _without(value, names) for name, value in part.items() if name not in names}


def _baseline(groups: Mapping[str, Sequence[Run]], wanted: str | None, used: Sequence[Run]) -> str | None:
    if wanted is not None and wanted not in groups:
        raise ValueError(f"baseline {wanted!r} is none of the rows: {', '.join(groups)}")
    grids = [run.recipe.get("grid") for run in sorted(used, key=lambda run: run.finished, reverse=True)]
    named = next((grid.get("baseline") for grid in grids if isinstance(grid, dict)), None)
    plain = [label for label, group in groups.items() if group[-1].factors.get("attn") == "none"]
    return wanted or (
        named if named in groups else "none" if "none" in groups else plain[0] if len(plain) == 1 else None
    )


def _results(groups: Iterable[Sequence[Run]]) -> list[Results]:
    """What `attnzoo.leaderboard.stats` wants of the runs of each row."""
    groups = list(groups)
    videos = {key: i for i, key in enumerate(sorted({p["video"] for g in groups for r in g for p in _labelled(r)}))}
    results = []
    for group in groups:
        right = {(run.seed, run.fold): np.full(len(videos), np.nan) for run in group}
        for run in group:
            for p in _labelled(run):
                right[run.seed, run.fold][videos[p["video"]]] = p["label"] == p["predicted"]
        results.append(
            Results(
                {(run.seed, run.fold): run.accuracy for run in group},
                right,
                {(run.seed, run.fold): _ratio(run) for run in group},
            )
        )
    return results


def _labelled(run: Run) -> list[dict[str, Any]]:
    return [p for p in run.predictions if p.get("label") is not None and "video" in p]


def _ratio(run: Run) -> float:
    """Test samples per training sample; those for validation chose the epoch, but count as neither."""
    train = len(run.split.get("train", ()))
    return len(run.split.get("test", ())) / train if train else math.nan


def _verdict(itself: bool, against: Comparison | None, p: float | None) -> Verdict:
    if itself:
        return "baseline"
    if against is None:
        return "no baseline"
    if against.pairs == 1:
        return "one run: no spread"
    if p is None:
        return "not tested"
    if p >= SIGNIFICANCE or against.difference == 0:
        return "inside the noise"
    return "better" if against.difference > 0 else "worse"


def _costs(group: Sequence[Run]) -> dict[str, float]:
    found: dict[str, float] = {}
    for cost in COSTS:
        values = [value for run in group if (value := getattr(run, cost)) is not None]
        if values:  # counts are those of the newest code, times vary from run to run
            found[cost] = statistics.fmean(values) if cost in ("latency", "seconds") else values[-1]
    return found


def _paper(used: Sequence[Run]) -> dict[str, Any]:
    """The paper's figures in the newest recipe that has any; the recipe is checked where it is read, not here."""
    by_age = sorted(used, key=lambda run: run.finished)
    found = [run.recipe.get("paper") for run in by_age]
    return next((paper for paper in reversed(found) if isinstance(paper, dict)), {})


def _numbers(printed: Any) -> dict[str, float]:
    """Figures as a paper prints them, "57.60%" or 57.6, as numbers; what is no number is left out."""
    found = {}
    for metric, value in (printed if isinstance(printed, dict) else {}).items():
        try:
            found[str(metric)] = float(str(value).rstrip("% "))
        except ValueError:
            continue
    return found
