"""What a board rests on and what it does not show, in words."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from attnzoo.leaderboard.board import Board
from attnzoo.leaderboard.stats import SIGNIFICANCE
from attnzoo.leaderboard.store import Run
from attnzoo.leaderboard.wording import percent

LISTED = 4  # protocol lines, one for each fold


def facts(board: Board) -> dict[str, str]:
    """What the figures rest on.

    Args:
        board: of `summarise`.

    >>> from attnzoo.leaderboard.board import summarise
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> facts(summarise([run]))["chance"]
    '50.0 % (2 classes)'
    """
    runs = board.runs
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    folds = ", ".join(map(str, sorted({run.fold for run in runs})))
    packages = sorted({(package, number) for run in runs for package, number in run.versions.items()})
    protocols = _distinct(run.protocol for run in sorted(runs, key=lambda run: run.fold))
    more = f"; and {len(protocols) - LISTED} more" if len(protocols) > LISTED else ""
    classes = len(board.classes)
    return {
        "protocol": "; ".join(protocols[:LISTED]) + more,
        "split": _split(board),
        "runs": f"{len(runs)} (seeds {seeds}; folds {folds})" + (f"; {_left_out(board)}" if board.left_out else ""),
        "spread": "± is the standard deviation over the runs of a row; an interval of 95 % is a bootstrap over runs "
        f"and test {board.samples} (percentiles; runs and {board.samples} are drawn independently)",
        "chance": f"{percent(1 / classes)} % ({classes} classes)",
        "data": runs[0].data,
        "commit": ", ".join(_distinct(run.commit for run in runs)),
        "versions": ", ".join(f"{package} {number}" for package, number in packages),
        "machine": "; ".join(_distinct(run.machine for run in runs)),
        "finished": max(run.finished for run in runs),
    }


def caveats(board: Board) -> list[str]:
    """What the figures do not show, the gravest first.

    Args:
        board: of `summarise`.

    >>> from attnzoo.leaderboard.board import summarise
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> any("ran once" in caveat for caveat in caveats(summarise([run])))
    True
    """
    return [*_selection(board), *_mixed(board), *_noise(board), *_against_paper(board), *_costs(board)]


def verdict_rule(board: Board) -> str:
    """How a verdict comes about.

    Args:
        board: of `summarise`.

    >>> from attnzoo.leaderboard.board import summarise
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> verdict_rule(summarise([run]))
    'There is no baseline among the rows, so no row has a verdict.'
    """
    if board.baseline is None:
        return "There is no baseline among the rows, so no row has a verdict."
    return (
        f'A row is "better" or "worse" than {board.baseline} only if two tests say so after Holm\'s correction over '
        f"the rows (p < {SIGNIFICANCE}): the corrected resampled t-test (Nadeau and Bengio, 2003) over the pairs of "
        f"runs with the same seed and fold, and McNemar's exact test over the shared test {board.samples}, each of "
        "which counts once, for the row that got it right in more of these pairs. All other differences are inside "
        "the noise. A rank 1–3 means that the same tests of all pairs of rows leave the ranks 1 to 3 open."
    )


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _split(board: Board) -> str:
    sizes = {run.fold: tuple(len(run.split.get(part, ())) for part in ("train", "val", "test")) for run in board.runs}
    if not all(train and test for train, _, test in sizes.values()):
        tested = sorted({len(run.predictions) for run in board.runs})
        return f"{' or '.join(map(str, tested))} test {board.samples} in each run; the others were not recorded"
    told = {
        fold: f"{train} for training, {val} for validation, {test} for test"
        for fold, (train, val, test) in sizes.items()
    }
    if len(_distinct(told.values())) == 1:
        return f"{board.samples}: {told[min(told)]}{', in each fold' if len(told) > 1 else ''}"
    return f"{board.samples}: " + "; ".join(f"fold {fold}: {told[fold]}" for fold in sorted(told))


def _left_out(board: Board) -> str:
    reasons = Counter(reason for _, reason in board.left_out)
    return "left out: " + ", ".join(f"{count} ({reason})" for reason, count in reasons.items())


def _selection(board: Board) -> list[str]:
    """Whether the test part chose anything, as far as the stored splits can tell."""
    known = [run for run in board.runs if run.split.get("train") and run.split.get("test")]
    seen = max((len(_seen(run)) for run in known), default=0)
    if seen:
        return [
            f"Beware: up to {seen} test {board.samples} of a run are among those that it was trained or validated on. "
            "Its accuracy is no test accuracy."
        ]
    if len(known) < len(board.runs):
        checked = "The stored runs do not tell how the data were divided, so this could not be checked again here."
    else:
        checked = f"In the stored splits no test {board.samples[:-1]} of a run is among its others."
    validated = all(run.split.get("val") for run in known) and known
    chosen = "on validation" if validated else "on validation, or is the last one where nothing was kept for it"
    return [
        f"No test {board.samples[:-1]} chose anything in a training: the epoch is chosen {chosen}. {checked} But to "
        "pick the best row of this table is a choice by test accuracy: its figure is the luckiest of "
        f"{len(board.rows)}, and a new test set would rather give less."
    ]


def _seen(run: Run) -> set[str]:
    return set(run.split["test"]) & {*run.split["train"], *run.split.get("val", ())}


def _mixed(board: Board) -> list[str]:
    """What the runs do not have in common."""
    found = []
    commits = _distinct(run.commit for run in board.runs)
    if len(commits) > 1:
        found.append(f"The runs are of {len(commits)} commits; what changed between them may be part of a difference.")
    if any(commit.endswith("-dirty") or commit == "unknown" for commit in commits):
        found.append("Some runs are of code that no commit holds, so that nobody else can run just this code.")
    by_fold: dict[int, set[str]] = {}
    for run in board.runs:
        by_fold.setdefault(run.fold, set()).add(run.protocol.partition(" fold ")[0].partition(":")[0])
    names = sorted(set().union(*by_fold.values()))
    if len(names) > 1:
        found.append(f"The folds are of {len(names)} protocols ({', '.join(names)}), whose accuracies are not alike.")
    if len(_distinct(run.machine for run in board.runs)) > 1:
        found.append("The runs are of several machines; times on one say nothing of those on another.")
    trials = {row.label: {(run.seed, run.fold) for run in row.runs} for row in board.rows}
    if len({frozenset(found) for found in trials.values()}) > 1:
        found.append(
            "Not every row has every seed and fold: means of different runs stand side by side, while the difference "
            "from the baseline and its tests use only the runs that both have."
        )
    if board.left_out:
        found.append(f"{len(board.left_out)} runs of this board do not count; {_left_out(board)}.")
    return found


def _noise(board: Board) -> list[str]:
    tested = min(len(run.predictions) for run in board.runs)
    every = {p.get("video") for run in board.runs for p in run.predictions}
    found = []
    if tested:
        n = max(len(every), tested)
        error = percent(max(math.sqrt(row.mean * (1 - row.mean) / n) for row in board.rows))
        found.append(
            f"There are {n} test {board.samples} in all. They alone leave a standard error of up to {error} points on "
            f"each accuracy, which more seeds do not lessen. The ± is the spread over runs, not over {board.samples}."
        )
    margins = [row.against.margin for row in board.rows if row.against and row.against.margin]
    if margins:
        limits = " to ".join(dict.fromkeys((percent(min(margins)), percent(max(margins)))))
        found.append(
            f"A difference from {board.baseline} of less than {limits} points, depending on the row, could not have "
            "been told from zero with so few runs, even before the correction for several rows."
        )
    if any(row.n == 1 for row in board.rows):
        found.append("Some rows ran once: their spread is not known, and nothing is claimed of them.")
    if len({run.fold for run in board.runs}) == 1:
        found.append("All runs share one split: another division of the data might give another order of the rows.")
    if any(row.against and row.against.margin == 0 for row in board.rows):
        found.append(
            "Where the t-test is missing, the differences are the same in all pairs, too few to show a spread; then "
            f"McNemar's test decides alone, which speaks of other {board.samples}, not of other trainings."
        )
    if any(row.against and row.against.pairs > 1 and row.against.margin is None for row in board.rows):
        found.append("Rows whose runs do not tell how the data were divided are not tested.")
    if any(row.against and row.against.pairs > 1 and row.against.video_p is None for row in board.rows):
        found.append(
            f"Some runs that are paired were not tested on the same {board.samples}; they are not compared by "
            "McNemar's test."
        )
    return found


def _against_paper(board: Board) -> list[str]:
    if not board.paper.get("rows"):
        return []
    source, dataset = board.paper.get("source", "the paper"), board.paper.get("dataset", "its own data")
    found = [
        f"The paper's figures are those of {source}, on {dataset}; this board's data are {board.runs[0].data}. A "
        "deviation says something only if the data, the protocol and the networks are the same."
    ]
    if missing := [label for label in board.paper["rows"] if label not in {row.label for row in board.rows}]:
        found.append(f"The paper has rows that this board has no run of: {', '.join(map(str, missing))}.")
    return found


def _costs(board: Board) -> list[str]:
    known: Sequence[str] = [cost for cost in ("bytes", "latency") if any(cost in row.costs for row in board.rows)]
    told = {"bytes": "bytes moved are what one forward pass reads and writes", "latency": "latency is measured"}
    return [
        f"Parameters and MACs are counted{''.join(f'; {told[cost]}' for cost in known)}. Training time"
        f"{' and latency are' if 'latency' in known else ' is'} of the machine named above and whatever else it did."
    ]
