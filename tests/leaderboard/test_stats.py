"""Every formula against scipy or a closed form, and verdicts that do not promise too much."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from attnzoo.leaderboard.stats import Row, comparable, summarise
from attnzoo.leaderboard.store import Run

RUN = Run("", "demo", "", 0, 0.5, ("a", "b"), (), 9, 99, 2.0, (), {}, "70/30", "synth", "c", {}, "m", "2026-01-01")


def _runs(videos: int = 400, **accuracies: tuple[float, ...]) -> list[Run]:
    return [
        replace(RUN, id=f"{attn}{seed}", attn=attn, seed=seed, accuracy=a, predictions=({},) * videos)
        for attn, found in accuracies.items()
        for seed, a in enumerate(found)
    ]


def _row(runs: list[Run], attn: str, baseline: str = "none") -> Row:
    return next(row for row in summarise(runs, baseline) if row.attn == attn)


def test_formulas() -> None:
    none, se = (0.70, 0.72, 0.69, 0.75), (0.80, 0.79, 0.83, 0.82)
    row = _row(_runs(none=none, se=se), "se")
    assert row.n == 4
    assert row.mean == pytest.approx(np.mean(se))
    assert row.sd == pytest.approx(np.std(se, ddof=1))
    assert row.test_se == pytest.approx(math.sqrt(0.81 * 0.19 / 400))
    assert row.difference == pytest.approx(0.095)
    assert row.p == pytest.approx(stats.ttest_rel(se, none).pvalue)
    seeds = stats.sem(se) ** 2 + stats.sem(none) ** 2
    assert row.noise == pytest.approx(2 * math.sqrt(seeds + (0.81 * 0.19 + 0.715 * 0.285) / 400))
    reference = stats.bootstrap((se,), np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert row.ci == pytest.approx(tuple(reference), abs=0.002)
    # Of two runs a quarter of the resamples is twice the lower one, a quarter twice the higher one.
    assert _row(_runs(none=(0.5, 0.75)), "none").ci == (0.5, 0.75)


def test_only_shared_seeds_are_paired() -> None:
    runs = _runs(none=(0.70, 0.72, 0.69, 0.75), se=(0.80, 0.79, 0.83))
    assert _row(runs[::-1], "se").p == pytest.approx(stats.ttest_rel((0.80, 0.79, 0.83), (0.70, 0.72, 0.69)).pvalue)
    strangers = [replace(run, seed=run.seed + 10) if run.attn == "se" else run for run in runs]
    assert _row(strangers, "se").p is None


@pytest.mark.parametrize(
    ("videos", "none", "se", "verdict"),
    [
        (2000, (0.70, 0.71, 0.72), (0.80, 0.82, 0.81), "better"),
        (2000, (0.80, 0.82, 0.81), (0.70, 0.71, 0.72), "worse"),
        (40, (0.70, 0.71, 0.72), (0.80, 0.82, 0.81), "inside the noise"),  # the test set is too small
        (2000, (0.60, 0.80, 0.70), (0.90, 0.70, 0.80), "inside the noise"),  # the seeds disagree
        (2000, (0.70, 0.71, 0.72), (0.70, 0.71, 0.72), "inside the noise"),
        (10**6, (0.70, 0.78), (0.90, 0.85), "inside the noise"),  # beyond twice the error, but not for the t-test
        (2000, (0.70, 0.71), (0.80, 0.81), "better"),  # equal differences: the t-test is not defined
        (4, (1.0, 1.0), (1.0, 1.0), "inside the noise"),
        (2, (0.5, 0.5), (1.0, 1.0), "inside the noise"),  # all right of two videos is no certainty
        (2000, (0.70,), (0.80,), "one run only"),
        (2000, (0.70, 0.71), (0.80,), "one run only"),
        (2000, (), (0.80, 0.81), "no baseline"),
    ],
)
def test_verdict(videos: int, none: tuple[float, ...], se: tuple[float, ...], verdict: str) -> None:
    rows = summarise(_runs(videos, none=none, se=se))
    assert next(row.verdict for row in rows if row.attn == "se") == verdict
    assert [row.verdict for row in rows if row.attn == "none"] == ["baseline"] * bool(none)
    assert [row.mean for row in rows] == sorted((row.mean for row in rows), reverse=True)


def test_noise_is_called_noise() -> None:
    """Two equal networks, 3 seeds, 60 videos that both are tested on: hardly ever "better" or "worse"."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        hard = rng.beta(4, 2, 60)  # how likely each video of this test set is recognised
        accuracies = (rng.random((2, 3, 60)) < hard).mean(axis=2)
        runs = _runs(60, none=tuple(accuracies[0]), se=tuple(accuracies[1]))
        wrong += _row(runs, "se").verdict != "inside the noise"
    assert wrong <= 0.05 * 200


def test_what_may_stand_in_one_table() -> None:
    runs = _runs(none=(0.7, 0.7), se=(0.8, 0.8))
    again = replace(runs[2], id="newer", accuracy=0.6, finished="2026-01-03")
    other = replace(runs[3], id="other", data="other data", accuracy=0.99, finished="2026-01-02")
    assert [run.id for run in comparable([again, *runs, other])] == ["newer", "none0", "none1", "se1"]
    assert _row([again, *runs, other], "se").mean == pytest.approx(0.7)
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
    with pytest.raises(ValueError, match="2 boards, demo, table2"):
        summarise([*runs, replace(RUN, board="table2")])


def test_runs_of_other_settings_are_not_mixed_in() -> None:
    def run(attn: str, seed: int, day: int, epochs: int, **options: int) -> Run:
        recipe = {
            "data": {"root": f"somewhere{day}", "test_fraction": 0.3},
            "model": {"attn": {"name": attn, "options": options}, "width": 8},
            "training": {"epochs": epochs, "seed": seed, "workers": day},
        }
        return replace(
            RUN,
            id=f"{attn}{seed}{day}",
            attn=attn,
            seed=seed,
            finished=f"2026-01-0{day}",
            recipe=recipe,
            predictions=({},),
        )

    old = [run("none", 0, 1, epochs=3), run("none", 1, 1, epochs=3), run("mpe", 1, 3, epochs=5, groups=4)]
    new = [run("none", 0, 2, epochs=5), run("mpe", 0, 4, epochs=5, groups=8)]
    assert comparable(old + new) == new
