"""What a few runs on shared videos can tell, and what they cannot: the formulas, which know nothing of a store."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

SIGNIFICANCE = 0.05
RESAMPLES = 5_000
BLOCK = 20_000_000  # video weights that are held at once

Verdict = Literal["baseline", "better", "worse", "inside the noise", "one run: no spread", "not tested", "no baseline"]
Trial = tuple[int, int]  # seed and fold: what two runs that are paired have in common


@dataclass(frozen=True, slots=True)
class Results:
    """What the runs of one row gave.

    Attributes:
        accuracy: of each trial, 0 to 1.
        right: of each trial, for every video of the board: 1 right, 0 wrong, NaN not tested; of one length.
        ratio: of each trial, test videos per training video; NaN if it is not known.

    >>> Results({(0, 0): 0.5}, {(0, 0): np.array([1.0, 0.0])}, {(0, 0): 0.5}).accuracy
    {(0, 0): 0.5}
    """

    accuracy: Mapping[Trial, float]
    right: Mapping[Trial, NDArray[np.float64]]
    ratio: Mapping[Trial, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rows, trial by trial.

    Attributes:
        pairs: trials that both have.
        difference: mean accuracy of the first less that of the second: over the pairs; of all runs without any pair.
        margin: half the 95 % interval of the difference by the corrected t; None for fewer than two pairs or an unknown
            split.
        t_p: two-sided p of the corrected resampled t-test; None likewise, and for differences that are all equal.
        gains: test videos that the first gets right in more of the pairs than the second.
        losses: those that the second does; None for both where the test videos are not the same.
        video_p: two-sided p of McNemar's test on these videos, or None.

    >>> Comparison(1, 0.1, None, None, 3, 1, 0.625).p is None
    True
    """

    pairs: int
    difference: float
    margin: float | None
    t_p: float | None
    gains: int | None
    losses: int | None
    video_p: float | None

    @property
    def p(self) -> float | None:
        """The larger p of the tests that could be made: a difference counts only if all of them see it.

        The t-test asks whether other seeds and splits would say the same, McNemar's whether other videos would. To
        claim both is an intersection-union test, whose level is that of each of them (Berger, 1982). None if the
        spread over trials is not known, whatever the videos say.

        >>> Comparison(3, 0.1, 0.05, 0.01, 30, 10, 0.002).p
        0.01
        """
        if self.margin is None:
            return None
        return max((p for p in (self.t_p, self.video_p) if p is not None), default=None)


def compare(first: Results, second: Results) -> Comparison:
    """Two rows, paired by seed and fold.

    Args:
        first: of one row.
        second: of another one.

    >>> right = {(seed, 0): np.array([1.0, 1.0, 0.0, float(seed)]) for seed in (0, 1)}
    >>> wrong = {trial: 1 - found for trial, found in right.items()}
    >>> ratio = dict.fromkeys(right, 0.5)
    >>> rows = [Results({t: float(f.mean()) for t, f in some.items()}, some, ratio) for some in (right, wrong)]
    >>> made = compare(*rows)
    >>> made.pairs, round(made.difference, 2), made.gains, made.losses
    (2, 0.25, 2, 1)
    """
    trials = sorted(first.accuracy.keys() & second.accuracy.keys())
    if not trials:
        means = [float(np.mean(list(row.accuracy.values()))) for row in (first, second)]
        return Comparison(0, means[0] - means[1], None, None, None, None, None)
    differences = [first.accuracy[trial] - second.accuracy[trial] for trial in trials]
    ratio = float(np.mean([row.ratio[trial] for row in (first, second) for trial in trials]))
    p, margin = corrected_t(differences, ratio)
    gained, lost = discordant([first.right[t] for t in trials], [second.right[t] for t in trials]) or (None, None)
    video_p = None if gained is None or lost is None else mcnemar(gained, lost)
    return Comparison(len(trials), float(np.mean(differences)), margin, p, gained, lost, video_p)


def corrected_t(differences: Sequence[float], ratio: float) -> tuple[float | None, float | None]:
    """The corrected resampled t-test (Nadeau and Bengio, Machine Learning 52, 2003).

    Trials share training videos, so their differences are no independent samples: the variance of the mean of J
    differences is taken as s^2 (1 / J + n_test / n_train) instead of s^2 / J. With several seeds on each fold this is
    the form of Bouckaert and Frank (2004). With one split for all seeds the correction is more than the seeds alone
    want.

    Args:
        differences: of J trials.
        ratio: n_test / n_train.

    Returns:
        The two-sided p with J - 1 degrees of freedom, and half the 95 % interval of the mean; None and None for fewer
        than two trials or an unknown ratio, None and 0 for equal differences: they have no spread to test against.

    >>> p, margin = corrected_t([0.02, 0.05, 0.03], 0.5)
    >>> round(p, 3), round(margin, 3)
    (0.139, 0.06)
    """
    n = len(differences)
    if n < 2 or not math.isfinite(ratio):
        return None, None
    # Equal differences are common on a small test set; subtracting leaves rounding errors.
    if np.ptp(differences) < 1e-12:
        return None, 0.0
    error = float(np.std(differences, ddof=1)) * math.sqrt(1 / n + ratio)
    t = abs(float(np.mean(differences))) / error
    return float(2 * stdtr(n - 1, -t)), float(stdtrit(n - 1, 1 - SIGNIFICANCE / 2)) * error


def discordant(first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]]) -> tuple[int, int] | None:
    """The test videos on which two rows disagree, each counted once however many trials it was in.

    A video is a gain if the first row got it right in more of the paired trials than the second, a loss if in fewer.
    With one trial these are McNemar's discordant pairs. Adding the pairs of all trials instead would count a video
    once for each seed, as if that were another video.

    Args:
        first: for each trial the videos: 1 right, 0 wrong, NaN not tested.
        second: likewise.

    Returns:
        Gains and losses; None if the two were not tested on the same videos in each trial, or on none.

    >>> discordant([np.array([1.0, 1.0, 0.0])] * 2, [np.array([0.0, 1.0, 1.0])] * 2)
    (1, 1)
    """
    a, b = np.stack(first), np.stack(second)
    tested = ~np.isnan(a)
    if not tested.any() or (tested == np.isnan(b)).any():
        return None
    sums = np.nansum(a - b, axis=0)
    return int((sums > 0).sum()), int((sums < 0).sum())


def mcnemar(gains: int, losses: int) -> float:
    """McNemar's test, exact: how likely are so uneven discordant pairs if each falls to either side by a coin.

    It speaks of other videos for the networks as they were trained, not of other trainings.

    Args:
        gains: videos that only the first gets right.
        losses: videos that only the second gets right.

    Returns:
        The two-sided p of the binomial distribution, 1 without any discordant pair.

    >>> mcnemar(8, 1)
    0.0390625
    """
    return float(scipy.stats.binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, so enlarged that one error in all of them is as rare as in a single one (Holm, 1979).

    Args:
        p: of each test.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = largest
    return adjusted


def ranks(rows: Sequence[Results]) -> list[tuple[int, int]]:
    """The best and the worst rank that the runs leave open for each row.

    Every row is compared with every other one, with Holm's correction over all pairs: a rank is 1 + the number of rows
    that are surely better, up to all but those that are surely worse. The true ranks are within all of these ranges at
    once in 95 % of boards (Mogstad et al., Inference for ranks, 2024).

    Args:
        rows: of one board.

    >>> ranks([Results({(0, 0): 0.5}, {(0, 0): np.ones(2)}, {(0, 0): 0.5})] * 2)
    [(1, 2), (1, 2)]
    """
    best, worst = [1] * len(rows), [len(rows)] * len(rows)
    pairs = [(i, j, compare(rows[i], rows[j])) for i in range(len(rows)) for j in range(i)]
    tested = [(i, j, made.difference, made.p) for i, j, made in pairs if made.p is not None]
    adjusted = holm([p for *_, p in tested])
    for (i, j, difference, _), p in zip(tested, adjusted, strict=True):
        if p < SIGNIFICANCE:
            winner, loser = (i, j) if difference > 0 else (j, i)
            best[loser] += 1
            worst[winner] -= 1
    return list(zip(best, worst, strict=True))


def intervals(rows: Sequence[Results]) -> list[tuple[float, float] | None]:
    """95 % bootstrap intervals of the mean accuracies, over runs and over test videos at once.

    Percentiles of the mean when both the runs and the videos are drawn anew with replacement, independently of each
    other (the pigeonhole bootstrap: Owen, 2007, who shows that it is wide rather than narrow). Drawing runs alone would
    know nothing of the size of a test set that all of them share. The draws are the same for all rows and all times.

    Args:
        rows: of one board.

    Returns:
        For each row low and high, 0 to 1; None if it was not told which videos it got right.

    >>> low, high = intervals([Results({(0, 0): 0.5}, {(0, 0): np.array([1.0, 0.0] * 50)}, {(0, 0): 0.5})])[0]
    >>> round(low, 1), round(high, 1)
    (0.4, 0.6)
    """
    right = [np.stack(list(row.right.values())) for row in rows]
    if right[0].size == 0:
        return [None] * len(rows)
    means: list[list[NDArray[np.float64]]] = [[] for _ in rows]
    size = max(1, min(RESAMPLES, BLOCK // right[0].shape[1]))
    for start in range(0, RESAMPLES, size):
        rng = np.random.default_rng(start)
        resamples = min(size, RESAMPLES - start)
        videos = _draws(rng, resamples, right[0].shape[1])
        seed = int(rng.integers(2**32))
        for found, row in zip(means, right, strict=True):
            found.append(_means(row, videos, _draws(np.random.default_rng(seed), resamples, len(row))))
    return [_percentiles(np.concatenate(found)) for found in means]


def _means(right: NDArray[np.float64], videos: NDArray[np.float64], runs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean accuracy of each resample; NaN where a drawn run was tested on none of the drawn videos."""
    tested = ~np.isnan(right)
    with np.errstate(invalid="ignore"):
        accuracies = (videos @ np.where(tested, right, 0.0).T) / (videos @ tested.T.astype(float))
    means: NDArray[np.float64] = np.where(runs > 0, runs * accuracies, 0.0).sum(axis=1) / len(right)
    return means


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float] | None:
    if np.isnan(means).all():
        return None
    low, high = np.nanquantile(means, (SIGNIFICANCE / 2, 1 - SIGNIFICANCE / 2))
    return float(low), float(high)


def _draws(rng: np.random.Generator, size: int, n: int) -> NDArray[np.float64]:
    """How often each of n things is drawn in n draws with replacement, `size` times over."""
    drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)
