"""What the runs of a board say about its attentions, and what they cannot say."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from attnzoo.leaderboard.store import Run

Verdict = Literal["baseline", "better", "worse", "inside the noise", "one run only", "no baseline"]
RESAMPLES = 10_000
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One attention on a board; accuracies and their differences are shares, 0 to 1.

    Attributes:
        attn: label of the attention.
        n: number of runs.
        mean: accuracy over the runs.
        sd: standard deviation of the accuracy over the runs (n - 1); None of one run.
        ci: 95 % bootstrap interval of the mean over the runs; None of one run. It knows nothing of the test set's size.
        test_se: standard error that the size of the test set leaves on one accuracy, however many seeds.
        params: number of parameters.
        macs: multiply-accumulates of one video.
        seconds: mean training time.
        difference: mean accuracy less that of the baseline; None without one, and for the baseline itself.
        noise: the difference that a verdict wants at the least, see `summarise`; None without a spread over seeds.
        p: paired t-test over the shared seeds, two-sided; None where it is not defined.
        verdict: what may be said.

    >>> Row("se", 1, 0.8, None, None, 0.1, 9, 99, 1.0, 0.05, None, None, "one run only").verdict
    'one run only'
    """

    attn: str
    n: int
    mean: float
    sd: float | None
    ci: tuple[float, float] | None
    test_se: float
    params: int
    macs: int
    seconds: float
    difference: float | None
    noise: float | None
    p: float | None
    verdict: Verdict


def summarise(runs: Sequence[Run], baseline: str = "none") -> list[Row]:
    """One row per attention, the best mean first, each compared with the baseline.

    Seeds that share one split are no independent samples of the videos: more of them shrink the spread over seeds,
    never the error of the test set. So a difference d of two means counts only if both hold:

    * |d| is at least twice its standard error, whose square is the sum, over the two attentions, of sd^2 / n (seeds)
      and p (1 - p) / n_test (test set, as if each had one of its own, which overrates the error; p at least half a
      video away from 0 and 1, where the formula would claim certainty);
    * the paired t-test over the shared seeds, where it is defined, gives p < 0.05 (not corrected for several rows).

    Else it is "inside the noise". The bootstrap interval is no part of the rule: of few runs it is too narrow.

    Args:
        runs: of one board; only those of `comparable` count.
        baseline: label of the attention to compare with.

    Raises:
        ValueError: no runs, or those of several boards.

    >>> def run(attn, seed, accuracy):
    ...     return Run("1f", "b", attn, seed, accuracy, (), ({},) * 400, 1, 1, 1.0, (), {}, "", "", "", {}, "", "")
    >>> found = {"none": (0.70, 0.71, 0.72), "se": (0.85, 0.87, 0.86), "sa": (0.72, 0.71, 0.73)}
    >>> rows = summarise([run(attn, seed, a) for attn, scores in found.items() for seed, a in enumerate(scores)])
    >>> [(row.attn, round(row.mean, 2), row.verdict) for row in rows]
    [('se', 0.86, 'better'), ('sa', 0.72, 'inside the noise'), ('none', 0.71, 'baseline')]
    """
    groups: dict[str, list[Run]] = {}
    for run in comparable(runs):
        groups.setdefault(run.attn, []).append(run)
    rows = [_row(group, groups.get(baseline)) for group in groups.values()]
    return sorted(rows, key=lambda row: (-row.mean, row.macs, row.attn))


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs that may stand in one table: with the settings, data, protocol and classes of the newest run.

    Settings are the recipe but for attention and seed; the runs of one attention have the options of its newest run.
    Of several runs of one attention and seed (of an older commit, say) it is the newest, so that nobody picks the
    luckiest.

    Args:
        runs: of one board.

    Raises:
        ValueError: no runs, or those of several boards.

    >>> old, new = (
    ...     Run(x, "b", "se", 0, 0.9, (), (), 1, 1, 1.0, (), {}, "", "", "", {}, "", f"2026-01-0{x}") for x in "12"
    ... )
    >>> comparable([new, old]) == [new]
    True
    """
    if not runs:
        raise ValueError("there are no runs to compare; make some with: attnzoo leaderboard run RECIPE")
    boards = sorted({run.board for run in runs})
    if len(boards) > 1:
        raise ValueError(f"the runs are of {len(boards)} boards, {', '.join(boards)}; give those of one")
    by_age = sorted(runs, key=lambda run: run.finished)
    like_newest = [run for run in by_age if _settings(run) == _settings(by_age[-1])]
    options = {run.attn: _attention(run) for run in like_newest}
    kept = {(run.attn, run.seed): run for run in like_newest if _attention(run) == options[run.attn]}
    return [run for run in runs if kept.get((run.attn, run.seed)) is run]


def _settings(run: Run) -> tuple[object, ...]:
    """All that runs of one table have in common."""
    parts = {name: dict(part) if isinstance(part, dict) else part for name, part in run.recipe.items()}
    for name, free in (("model", "attn"), ("training", "seed"), ("training", "workers"), ("data", "root")):
        parts.get(name, {}).pop(free, None)
    return parts, run.data, run.protocol, run.classes


def _attention(run: Run) -> object:
    return run.recipe.get("model", {}).get("attn")


def _row(runs: list[Run], base: list[Run] | None) -> Row:
    accuracies = [run.accuracy for run in runs]
    difference, noise, p, verdict = _against(runs, base)
    return Row(
        attn=runs[0].attn,
        n=len(runs),
        mean=statistics.fmean(accuracies),
        sd=statistics.stdev(accuracies) if len(runs) > 1 else None,
        ci=_bootstrap(accuracies) if len(runs) > 1 else None,
        test_se=_test_se(runs),
        params=runs[0].params,
        macs=runs[0].macs,
        seconds=statistics.fmean(run.seconds for run in runs),
        difference=difference,
        noise=noise,
        p=p,
        verdict=verdict,
    )


def _against(runs: list[Run], base: list[Run] | None) -> tuple[float | None, float | None, float | None, Verdict]:
    """Difference, noise, p and verdict."""
    if base is None:
        return None, None, None, "no baseline"
    if base is runs:
        return None, None, None, "baseline"
    difference = _mean(runs) - _mean(base)
    if min(len(runs), len(base)) == 1:
        return difference, None, None, "one run only"
    variance = sum(
        statistics.variance([run.accuracy for run in group]) / len(group) + _test_se(group) ** 2
        for group in (runs, base)
    )
    noise, p = 2 * math.sqrt(variance), _paired_p(runs, base)
    if abs(difference) < noise or (p is not None and p >= SIGNIFICANCE):
        return difference, noise, p, "inside the noise"
    return difference, noise, p, "better" if difference > 0 else "worse"


def _mean(runs: list[Run]) -> float:
    return statistics.fmean(run.accuracy for run in runs)


def _test_se(runs: list[Run]) -> float:
    n = max(1, min(len(run.predictions) for run in runs))
    p = min(max(_mean(runs), 0.5 / n), 1 - 0.5 / n)
    return math.sqrt(p * (1 - p) / n)


def _bootstrap(accuracies: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the mean."""
    values: NDArray[np.float64] = np.asarray(accuracies)
    means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _paired_p(runs: list[Run], base: list[Run]) -> float | None:
    by_seed = {run.seed: run.accuracy for run in base}
    pairs = [(run.accuracy, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    differences = [a - b for a, b in pairs]
    # Equal differences, common on a small test set, have no spread to test against; subtracting leaves rounding errors.
    if len(pairs) < 2 or all(math.isclose(a, b, abs_tol=1e-12) for a, b in itertools.pairwise(differences)):
        return None
    return float(scipy.stats.ttest_1samp(differences, 0.0).pvalue)
