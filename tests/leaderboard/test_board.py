"""What may stand in one table, and verdicts that do not promise too much."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from attnzoo.leaderboard.ablation import ablations
from attnzoo.leaderboard.board import Board, Row, comparable, summarise
from attnzoo.leaderboard.remarks import caveats, facts
from attnzoo.leaderboard.stats import corrected_t, holm, mcnemar
from attnzoo.leaderboard.store import Run

RUN = Run("", "demo", "", 0, 0.5, ("a", "b"), (), 9, 99, 2.0, (), {}, "70/30", "synth", "c", {}, "m", "2026-01-01")


def _run(label: str, seed: int, right: np.ndarray, fold: int = 0, train: int = 1000) -> Run:
    videos = [f"{fold}-{i}" for i in range(len(right))]
    guesses = ({"video": v, "label": "a", "predicted": "a" if r else "b"} for v, r in zip(videos, right, strict=True))
    split = {"train": [f"other{i}" for i in range(train)], "val": [], "test": videos}
    return replace(
        RUN,
        id=f"{label}{seed}{fold}",
        row=label,
        seed=seed,
        fold=fold,
        accuracy=float(np.mean(right)),
        predictions=tuple(guesses),
        split=split,
        factors={"attn": label},
    )


def _first(accuracy: float, videos: int) -> np.ndarray:
    """That share of the videos right, the first ones: whoever is better is right on all that another one is."""
    return np.arange(videos) < round(accuracy * videos)


def _board(videos: int = 400, baseline: str | None = None, **accuracies: tuple[float, ...]) -> Board:
    runs = [_run(row, seed, _first(a, videos)) for row, found in accuracies.items() for seed, a in enumerate(found)]
    return summarise(runs, baseline)


def _row(board: Board, label: str) -> Row:
    return next(row for row in board.rows if row.label == label)


def test_a_row() -> None:
    none, se, sa = (0.70, 0.72, 0.69, 0.75), (0.80, 0.79, 0.83, 0.82), (0.71, 0.70, 0.72, 0.72)
    board = _board(none=none, se=se, sa=sa)
    row = _row(board, "se")
    assert (row.n, row.mean, row.sd) == pytest.approx((4, np.mean(se), np.std(se, ddof=1)))
    assert (row.against.pairs, row.against.difference) == pytest.approx((4, 0.095))
    assert row.against.t_p == pytest.approx(corrected_t(list(np.subtract(se, none)), 0.4)[0])
    # Videos 276 to 331 are right in more pairs with se, none in fewer.
    assert (row.against.gains, row.against.losses) == (332 - 276, 0)
    raw = [row.against.p, _row(board, "sa").against.p]
    assert [row.p, _row(board, "sa").p] == pytest.approx(holm(raw))
    assert raw[0] == pytest.approx(max(row.against.t_p, mcnemar(56, 0)))
    assert board.baseline == "none"
    assert [r.label for r in board.rows] == ["se", "none", "sa"]


@pytest.mark.parametrize(
    ("videos", "none", "se", "verdict"),
    [
        (2000, (0.70, 0.71, 0.72, 0.70), (0.80, 0.82, 0.81, 0.81), "better"),
        (2000, (0.80, 0.82, 0.81, 0.81), (0.70, 0.71, 0.72, 0.70), "worse"),
        (20, (0.70, 0.75, 0.70), (0.80, 0.85, 0.85), "inside the noise"),  # few videos, whatever the seeds say
        (2000, (0.60, 0.80, 0.70), (0.90, 0.70, 0.80), "inside the noise"),  # the seeds disagree
        (2000, (0.70, 0.71, 0.72), (0.70, 0.71, 0.72), "inside the noise"),
        (2000, (0.70, 0.71), (0.80, 0.81), "better"),  # equal differences: McNemar alone
        (4, (1.0, 1.0), (1.0, 1.0), "inside the noise"),
        (2, (0.5, 0.5), (1.0, 1.0), "inside the noise"),  # all right of two videos is no certainty
        (2000, (0.70,), (0.80,), "one run: no spread"),
        (2000, (0.70, 0.71), (0.80,), "one run: no spread"),
        (2000, (), (0.80, 0.81), "no baseline"),
    ],
)
def test_verdict(videos: int, none: tuple[float, ...], se: tuple[float, ...], verdict: str) -> None:
    board = _board(videos, none=none, se=se)
    assert _row(board, "se").verdict == verdict
    assert [row.verdict for row in board.rows if row.label == "none"] == ["baseline"] * bool(none)
    assert [row.mean for row in board.rows] == sorted((row.mean for row in board.rows), reverse=True)


def test_what_is_better_alone_may_be_noise_among_many() -> None:
    better = {"se": (0.745, 0.752, 0.748)}
    none = (0.70, 0.71, 0.70)
    assert _row(_board(2000, none=none, **better), "se").verdict == "better"
    rivals = {f"rival{i}": (0.70 + 0.01 * i, 0.70, 0.71) for i in range(12)}
    assert _row(_board(2000, none=none, **better, **rivals), "se").verdict == "inside the noise"


def test_noise_is_called_noise() -> None:
    """Four equal networks, 3 seeds, 60 videos that all are tested on: hardly ever is any of them better or worse."""
    rng = np.random.default_rng(0)
    wrong = wrongly_ranked = 0
    for _ in range(100):
        hard = rng.beta(4, 2, 60)
        runs = [_run(row, seed, rng.random(60) < hard, train=120) for row in "abcd" for seed in range(3)]
        board = summarise(runs, "a")
        wrong += any(row.verdict in ("better", "worse") for row in board.rows)
        wrongly_ranked += any(row.rank != (1, 4) for row in board.rows)
    assert wrong <= 5
    assert wrongly_ranked <= 5


def test_the_baseline() -> None:
    found = {"se": (0.8, 0.8), "plain": (0.7, 0.7)}
    assert _board(**found).baseline is None
    assert _board(baseline="se", **found).baseline == "se"
    named = [replace(_run(row, 0, _first(0.7, 9)), recipe={"grid": {"baseline": "se"}}) for row in ("none", "se")]
    assert (summarise(named).baseline, summarise(named, "none").baseline) == ("se", "none")
    assert summarise(named[:1]).baseline == "none"  # of the named row there is no run yet
    with pytest.raises(ValueError, match="baseline 'sa' is none of the rows: se, plain"):
        _board(baseline="sa", **found)
    runs = [replace(_run(row, 0, _first(0.5, 4)), factors={"attn": attn}) for row, attn in (("p", "none"), ("s", "se"))]
    assert summarise(runs).baseline == "p"


def test_unknown_splits_and_other_videos() -> None:
    def runs(label: str, right: tuple[float, ...]) -> list[Run]:
        return [_run(label, seed, _first(a, 1000)) for seed, a in enumerate(right)]

    none, se = runs("none", (0.5, 0.51, 0.5)), runs("se", (0.6, 0.63, 0.64))
    old = summarise([replace(run, split={}) for run in none + se])
    row = _row(old, "se")
    assert row.against.video_p < 0.001
    assert (row.against.t_p, row.p, row.verdict, row.rank) == (None, None, "not tested", (1, 2))
    assert any("divided are not tested" in caveat for caveat in caveats(old))
    assert any("do not tell how the data were divided" in caveat for caveat in caveats(old))
    # The same seed and fold, but predictions of other videos: no McNemar.
    renamed = [replace(r, predictions=tuple(p | {"video": "x" + p["video"]} for p in r.predictions)) for r in se]
    other = summarise(none + renamed)
    assert _row(other, "se").against.video_p is None
    assert any("not compared by McNemar's test" in caveat for caveat in caveats(other))
    unpaired = summarise(none + [replace(run, seed=run.seed + 10) for run in se])
    assert _row(unpaired, "se").verdict == "not tested"


def test_what_may_stand_in_one_table() -> None:
    runs = [_run(row, seed, _first(0.5, 10)) for row in ("none", "se") for seed in (0, 1)]
    again = replace(runs[2], id="newer", accuracy=0.6, finished="2026-01-03")
    other = replace(runs[3], id="other", data="other data", accuracy=0.9, finished="2026-01-02")
    split = replace(runs[3], id="split", seed=5, protocol="another one", finished="2025-01-02")
    used, left_out = comparable([again, *runs, other, split])
    assert [run.id for run in used] == ["newer", "none00", "none10", "se10"]
    assert {run.id: reason for run, reason in left_out} == {
        "se00": "a newer run of the same row, seed and fold counts",
        "other": "other data",
        "split": "another split",
    }
    board = summarise([again, *runs, other, split])
    assert _row(board, "se").mean == pytest.approx(0.55)
    assert "left out: 1 (a newer run" in facts(board)["runs"]
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
    with pytest.raises(ValueError, match="2 boards, demo, table2"):
        summarise([*runs, replace(RUN, board="table2")])


def test_runs_of_other_settings_are_not_mixed_in() -> None:
    def run(attn: str, seed: int, day: int, epochs: int, fold: int = 0, fusion: str = "gmu", **options: int) -> Run:
        recipe = {
            "data": {"root": f"somewhere{day}", "test_fraction": 0.3, "fold": fold},
            "model": {"attn": {"name": attn, "options": options}, "width": 8, "fusion": fusion},
            "training": {"epochs": epochs, "seed": seed, "workers": day},
        }
        name = f"{attn}{seed}{day}"
        return replace(RUN, id=name, row=attn, seed=seed, fold=fold, finished=f"2026-01-0{day}", recipe=recipe)

    old = [run("none", 0, 1, epochs=3), run("none", 1, 1, epochs=3), run("mpe", 1, 3, epochs=5, groups=4)]
    new = [run("none", 0, 2, epochs=5), run("mpe", 0, 4, epochs=5, groups=8), run("none", 0, 2, epochs=5, fold=1)]
    used, left_out = comparable(old + new)
    assert used == new
    assert [reason for _, reason in left_out] == [
        "other settings",
        "other settings",
        "other settings than the newest run of its row",
    ]
    fused = [run("none", 0, 5, epochs=5, fusion="concat")]
    assert comparable(new + fused)[0] == fused
    both = [replace(r, factors={"attn": r.row, "fusion": r.recipe["model"]["fusion"]}, row=r.row + r.id) for r in new]
    assert comparable([*both, replace(fused[0], factors={"fusion": "concat"}, row="x")])[1] == []


def test_what_is_mixed_is_told(simulated: Callable[..., list[Run]]) -> None:
    runs = simulated(seeds=2)
    told = " ".join(caveats(summarise(runs)))
    assert "is among its others" in told
    assert "commits" not in told
    mixed = [replace(runs[0], commit="other-dirty", machine="arm64"), *runs[1:-1]]
    told = " ".join(caveats(summarise(mixed)))
    for words in ("of 2 commits", "code that no commit holds", "several machines", "Not every row has every seed"):
        assert words in told
    leaky = replace(runs[0], split=runs[0].split | {"val": runs[0].split["test"][:3]})
    both_of_the_fold = [replace(run, split=leaky.split) if run.fold == 0 else run for run in runs]
    assert caveats(summarise(both_of_the_fold))[0].startswith("Beware: up to 3 test videos")
    folds = [replace(r, protocol="thirds: 1 training") if r.fold else r for r in runs]
    assert "2 protocols (kfold(2), thirds)" in " ".join(caveats(summarise(folds)))


def test_the_paper(simulated: Callable[..., list[Run]]) -> None:
    rows = {"se": {"accuracy": "54.20%", "macs": "7.84"}, "mpe": {"accuracy": 57.6}, "[19]": {"accuracy": "n/a"}}
    paper = {"rows": rows, "source": "Table 2", "dataset": "VE-8"}
    board = summarise(simulated(seeds=1, paper=paper))
    se, none = _row(board, "se"), _row(board, "none")
    assert se.deviation("accuracy") == pytest.approx(100 * se.mean - 54.2)
    assert se.deviation("macs") == pytest.approx(7.805 - 7.84)
    assert se.deviation("params") is None
    assert none.deviation("accuracy") is None
    told = " ".join(caveats(board))
    assert "Table 2, on VE-8; this board's data are synth" in told
    assert "no run of: [19]." in told
    (made,) = ablations(board)
    assert (made.factor, made.level) == ("row", None)
    assert made.ticks[-2:] == ("se", "mpe")


def test_ablations_are_over_factors_that_are_numbers(simulated: Callable[..., list[Run]]) -> None:
    def factors(label: str) -> dict[str, str]:
        attn, _, groups = label.partition("-")
        return {"attn": attn, "groups": groups} if groups else {"attn": attn}

    rows = dict.fromkeys(("none", "mpe-16", "mpe-2", "ema-2", "ema-4"), (0, 1, 1))
    (made,) = ablations(summarise(simulated(rows, seeds=1, factors=factors)))
    assert made.factor == "groups"
    assert {name: [place for place, _ in line] for name, line in made.lines.items()} == {"mpe": [2, 16], "ema": [2, 4]}
    assert made.level.label == "none"
    assert ablations(summarise(simulated(seeds=1))) == []


def test_costs_that_are_not_known_are_left_out(simulated: Callable[..., list[Run]]) -> None:
    runs = [replace(run, bytes=None, latency=None if run.row == "se" else run.latency) for run in simulated(seeds=2)]
    board = summarise(runs)
    assert board.known == ["params", "macs", "latency", "seconds"]
    assert "latency" not in _row(board, "se").costs
    times = [run.latency for run in runs if run.row == "mpe"]
    assert _row(board, "mpe").costs["latency"] == pytest.approx(math.fsum(times) / len(times))
