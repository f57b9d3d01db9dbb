"""Every formula against scipy, statsmodels or a closed form."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from attnzoo.leaderboard.stats import Results, compare, corrected_t, discordant, holm, intervals, mcnemar, ranks


def _results(*right: np.ndarray, ratio: float = 0.5) -> Results:
    """One run a seed, all on the same split."""
    found = {(seed, 0): np.asarray(run, float) for seed, run in enumerate(right)}
    return Results({t: float(np.nanmean(run)) for t, run in found.items()}, found, dict.fromkeys(found, ratio))


def test_without_overlap_the_corrected_test_is_the_paired_t_test() -> None:
    first, second = np.array([0.80, 0.79, 0.83, 0.82]), np.array([0.70, 0.72, 0.69, 0.75])
    paired = stats.ttest_rel(first, second)
    p, margin = corrected_t(list(first - second), 0.0)
    assert p == pytest.approx(paired.pvalue)
    low, high = paired.confidence_interval()
    assert margin == pytest.approx((high - low) / 2)
    # Nadeau and Bengio divide t by sqrt(1 + J n_test / n_train), and leave the degrees of freedom.
    p, _ = corrected_t(list(first - second), 0.5)
    assert p == pytest.approx(2 * stats.t.sf(paired.statistic / math.sqrt(1 + 4 * 0.5), 3))


def test_the_corrected_test_holds_its_level_where_trials_share_their_training_videos() -> None:
    """Differences that correlate as n_test / (n_test + n_train), which is what the correction supposes."""
    rng, ratio, n = np.random.default_rng(0), 0.5, 10
    share = ratio / (1 + ratio)
    common, own = rng.normal(size=(2000, 1)), rng.normal(size=(2000, n))
    differences = math.sqrt(share) * common + math.sqrt(1 - share) * own
    p = np.array([corrected_t(list(row), ratio)[0] for row in differences])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    uncorrected = np.array([corrected_t(list(row), 0.0)[0] for row in differences])
    assert (uncorrected < 0.05).mean() > 0.3


def test_what_cannot_be_tested() -> None:
    assert corrected_t([0.1], 0.5) == (None, None)
    assert corrected_t([0.1, 0.2], math.nan) == (None, None)
    assert corrected_t([0.3 - 0.2, 0.2 - 0.1], 0.5) == (None, 0.0)  # equal but for rounding
    right = np.array([1.0, 0.0, 1.0, 1.0])
    alone = compare(_results(right), _results(1 - right))
    assert (alone.pairs, alone.p, alone.t_p) == (1, None, None)
    assert alone.video_p == pytest.approx(mcnemar(3, 1))
    strangers = Results({(7, 0): 0.5}, {(7, 0): right}, {(7, 0): 0.5})
    assert compare(_results(right), strangers).pairs == 0
    assert compare(_results(right), strangers).difference == pytest.approx(0.25)


def test_pairs_are_those_of_seed_and_fold() -> None:
    accuracies = {(0, 0): 0.70, (1, 0): 0.72, (0, 1): 0.60, (5, 0): 0.9}
    others = {(1, 0): 0.66, (0, 1): 0.58, (0, 0): 0.69, (9, 9): 0.1}
    first, second = (
        Results(found, {trial: np.array([]) for trial in found}, dict.fromkeys(found, 0.25))
        for found in (accuracies, others)
    )
    made = compare(first, second)
    differences = [0.01, 0.06, 0.02]
    assert (made.pairs, made.difference) == (3, pytest.approx(np.mean(differences)))
    assert (made.t_p, made.margin) == pytest.approx(corrected_t(differences, 0.25))
    assert made.video_p is None
    assert made.p == made.t_p


def test_mcnemar() -> None:
    for gains, losses in ((8, 1), (1, 8), (5, 5), (0, 0), (40, 20), (3, 0)):
        table = [[10, gains], [losses, 10]]
        assert mcnemar(gains, losses) == pytest.approx(mcnemar_of_statsmodels(table, exact=True).pvalue)
    # Of one trial each it is the usual table.
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 50)).astype(float)
    assert discordant([a], [b]) == (((a == 1) & (b == 0)).sum(), ((a == 0) & (b == 1)).sum())


def test_a_video_counts_once_however_many_trials_it_was_in() -> None:
    a = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [1, 0, 1, 1, 1]], float)
    b = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0]], float)
    # Gains 1, 0, -1, 1 and 3 more right ones: three videos for a, one for b, one for neither.
    assert discordant(list(a), list(b)) == (3, 1)
    assert discordant(list(np.repeat(a, 4, axis=0)), list(np.repeat(b, 4, axis=0))) == (3, 1)
    # Folds test other videos each; a pair that did not test the same ones is not compared.
    fold = np.array([[1, 0, np.nan, np.nan], [np.nan, np.nan, 1, 1]])
    assert discordant(list(fold), list(1 - fold)) == (3, 1)
    assert discordant([fold[0]], [fold[1]]) is None
    assert discordant([np.array([])], [np.array([])]) is None


def test_mcnemar_by_video_holds_its_level_though_seeds_share_the_videos() -> None:
    rng, wrong, pooled = np.random.default_rng(0), 0, 0
    for _ in range(400):
        # Two networks that each find other videos hard, whatever the seed.
        a, b = rng.random((2, 1, 80)) < 0.5
        a, b = ((np.repeat(x, 5, axis=0) ^ (rng.random((5, 80)) < 0.1)).astype(float) for x in (a, b))
        wrong += mcnemar(*discordant(list(a), list(b))) < 0.05
        pooled += mcnemar(int((a > b).sum()), int((a < b).sum())) < 0.05
    assert wrong <= 0.07 * 400
    assert pooled > 0.15 * 400  # what adding up the seeds would have done


def test_holm() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 28):
        p = rng.random(n) ** 3
        assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([0.01, 0.01]) == pytest.approx([0.02, 0.02])
    assert holm([]) == []


def test_the_interval_of_one_run_is_the_bootstrap_of_its_videos() -> None:
    right = (np.random.default_rng(0).random(200) < 0.7).astype(float)
    reference = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert intervals([_results(right)])[0] == pytest.approx(tuple(reference), abs=0.006)


def test_the_interval_of_runs_without_any_spread_over_videos_is_that_of_the_runs() -> None:
    # A run is as right on each video: those that are drawn do not matter.
    runs = [np.full(20, share) for share in np.random.default_rng(0).random(8)]
    reference = stats.bootstrap(
        ([run[0] for run in runs],), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    assert intervals([_results(*runs)])[0] == pytest.approx(tuple(reference), abs=0.01)


def test_the_interval_draws_runs_and_videos() -> None:
    """Its width against the exact variance of a mean over runs and videos that are both drawn with replacement."""
    rng = np.random.default_rng(1)
    right = (rng.random((6, 150)) < rng.beta(2, 2, 150) + rng.normal(0, 0.1, (6, 1))).astype(float)
    runs, videos = right.shape
    # E[w w'] of the counts of n draws from n things.
    a, b = (np.eye(n) + 1 - 1 / n for n in (runs, videos))
    variance = np.trace(a @ right @ b @ right.T) / (runs * videos) ** 2 - right.mean() ** 2
    low, high = intervals([_results(*right)])[0]
    assert (high - low) / 2 == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance), rel=0.06)
    assert (high + low) / 2 == pytest.approx(right.mean(), abs=0.01)


def test_intervals_over_folds_and_of_what_is_not_known() -> None:
    fold = np.array([[1, 0, 1, 1, np.nan, np.nan], [np.nan, np.nan, np.nan, np.nan, 0, 1]])
    low, high = intervals([_results(*fold)])[0]
    assert 0 <= low < np.nanmean(fold) < high <= 1
    assert intervals([_results(*fold)]) == intervals([_results(*fold)])
    nothing = Results({(0, 0): 0.5}, {(0, 0): np.full(6, np.nan)}, {(0, 0): 0.5})
    assert intervals([nothing, _results(*fold)]) == [None, (low, high)]


def test_ranks_are_left_open_where_the_runs_cannot_tell() -> None:
    rng = np.random.default_rng(0)

    def row(skill: float) -> Results:
        return _results(*(rng.random((5, 2000)) < skill + rng.normal(0, 0.002, (5, 1))))

    assert ranks([row(0.9), row(0.5), row(0.5), row(0.2)]) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert ranks([row(0.5), row(0.5)]) == [(1, 2), (1, 2)]
    assert ranks([row(0.5)]) == [(1, 1)]
