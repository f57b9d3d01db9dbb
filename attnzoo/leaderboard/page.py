"""A board as one HTML page that works offline and asks the network for nothing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from attnzoo.leaderboard.ablation import Ablation, ablations
from attnzoo.leaderboard.board import COSTS, Board, Row
from attnzoo.leaderboard.commands import commands, recipe_text
from attnzoo.leaderboard.remarks import caveats, facts, verdict_rule
from attnzoo.leaderboard.store import Run
from attnzoo.leaderboard.wording import difference, interval, p_told, p_value, percent, ranking, spread


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the ranking.

    Attributes:
        text: what is shown.
        value: what is sorted by; None comes last either way.

    >>> Cell("12.3", 0.123).value
    0.123
    """

    text: str
    value: str | float | None


def page(board: Board) -> str:
    """The page.

    Args:
        board: of `summarise`.

    Returns:
        HTML with all of its styles, scripts and data inside.

    >>> from attnzoo.leaderboard.board import summarise
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> "<title>demo" in page(summarise([run]))
    True
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # Jinja's own would sort the keys
    confusions = {row.label: confusion(row.runs) for row in board.rows}
    return environment.from_string(_resource("page.html.j2")).render(
        board=board,
        facts=facts(board),
        caveats=caveats(board),
        rule=verdict_rule(board),
        columns=columns(board),
        rows=[(row, cells(board, row), _told(board, row), recipe_text(row)) for row in board.rows],
        recalls=[(row, [_recall(counts, i) for i in range(len(counts))]) for row, counts in _zip(board, confusions)],
        percent=percent,
        data=_data(board, confusions),
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
    )


def _resource(name: str) -> str:
    return resources.files("attnzoo.leaderboard").joinpath(name).read_text(encoding="utf-8")


def _zip(board: Board, found: dict[str, list[list[int]]]) -> list[tuple[Row, list[list[int]]]]:
    return [(row, found[row.label]) for row in board.rows]


def columns(board: Board) -> list[tuple[str, str]]:
    """Heads of the ranking, each with a line that explains it.

    Args:
        board: of `summarise`.
    """
    base = board.baseline or "baseline"
    paper = [
        ("Paper, %", f"accuracy that {board.paper.get('source', 'the paper')} prints"),
        ("Δ paper", "accuracy here less the paper's, in points"),
    ]
    costs = [(f"{COSTS[key].head}, {COSTS[key].unit}", _EXPLAINED[key]) for key in board.known]
    return [
        ("Row", "what was varied; open it for the runs, the tests and the recipe"),
        ("Rank", "the ranks that the tests of all pairs of rows leave open"),
        ("Accuracy, %", "top-1 on the test part: mean ± standard deviation over the runs"),
        ("Verdict", f"against {base}; the rule stands below the table"),
        (f"Δ {base}", "difference from the baseline in points ± half its 95 % interval (corrected t)"),
        ("p", "the larger p of the two tests, after Holm's correction over the rows"),
        ("95 % CI", f"bootstrap over runs and test {board.samples}"),
        ("n", "runs: seeds times folds"),
        *(paper if _printed(board) else ()),
        *costs,
    ]


_EXPLAINED = {
    "params": "parameters",
    "macs": "multiply-accumulates of one forward pass of one sample",
    "bytes": "bytes that one forward pass reads and writes",
    "latency": "one forward pass, measured on the machine named above",
    "seconds": "mean time of a training",
}


def _printed(board: Board) -> bool:
    return any("accuracy" in row.paper for row in board.rows)


def cells(board: Board, row: Row) -> list[Cell]:
    """A row of the ranking, a cell for each of `columns`.

    Args:
        board: of `summarise`.
        row: of it.
    """
    against = row.against
    paper, deviation = row.paper.get("accuracy"), row.deviation("accuracy")
    printed = [
        Cell("–" if paper is None else f"{paper:g}", paper),
        Cell("–" if deviation is None else f"{deviation:+.1f}", deviation),
    ]
    return [
        Cell(row.label, row.label),
        Cell(ranking(row), sum(row.rank)),
        Cell(spread(row), row.mean),
        Cell(row.verdict, row.verdict),
        Cell(difference(row), against.difference if against else None),
        Cell(p_value(row.p), row.p),
        Cell(interval(row), row.ci[0] if row.ci else None),
        Cell(str(row.n), row.n),
        *(printed if _printed(board) else ()),
        *(Cell(COSTS[key].text(row.costs.get(key)), row.costs.get(key)) for key in board.known),
    ]


def confusion(runs: Sequence[Run]) -> list[list[int]]:
    """How often each class was taken for each, over all runs: a row per true class, a column per predicted one.

    Args:
        runs: of one row of a board.

    >>> guesses = ({"video": "v", "label": "joy", "predicted": "fear"},)
    >>> run = Run("1f", "b", "se", 0, 0.0, ("joy", "fear"), guesses, 9, 99, 1.5, (), {}, "", "", "", {}, "", "")
    >>> confusion([run])
    [[0, 1], [0, 0]]
    """
    places = {name: i for i, name in enumerate(runs[0].classes)}
    counts = [[0] * len(places) for _ in places]
    for p in (p for run in runs for p in run.predictions):
        if p.get("label") in places and p.get("predicted") in places:
            counts[places[p["label"]]][places[p["predicted"]]] += 1
    return counts


def _recall(counts: Sequence[Sequence[int]], i: int) -> tuple[int, int]:
    """Right ones and all of a class."""
    return counts[i][i], sum(counts[i])


def _told(board: Board, row: Row) -> list[str]:
    """The tests of a row, in words."""
    found = [f"{name}: {value}" for name, value in row.factors.items()]
    made = row.against
    if made:
        counts = f" ({made.gains} {board.samples} gained, {made.losses} lost)" if made.video_p is not None else ""
        holm = f"after Holm's correction over the rows p = {p_value(row.p)}: " if row.p is not None else ""
        found += [
            f"against {board.baseline}: {difference(row)} points over {made.pairs} pairs of the same seed and fold",
            f"corrected resampled t-test: {p_told(made.t_p)}",
            f"McNemar's test over {board.samples}: {p_told(made.video_p)}{counts}",
            f"{holm}{row.verdict}",
        ]
    for metric, value in row.paper.items():
        deviation = row.deviation(metric)
        found.append(f"{metric} in the paper: {value:g}" + ("" if deviation is None else f" (here {deviation:+.3g})"))
    return found


def _data(board: Board, confusions: dict[str, list[list[int]]]) -> dict[str, Any]:
    """What the page's script draws."""
    measures = dict.fromkeys(key for run in board.runs for epoch in run.history for key in epoch)
    return {
        "samples": board.samples,
        "baseline": board.baseline,
        "chance": 1 / len(board.classes),
        "classes": board.classes,
        "costs": {key: {"head": COSTS[key].head, "unit": COSTS[key].unit} for key in board.known},
        "measures": [key for key in measures if key.endswith(("loss", "accuracy"))],
        "rows": [_row(row, confusions[row.label]) for row in board.rows],
        "ablations": [_ablation(board, made) for made in ablations(board)],
    }


def _row(row: Row, counts: list[list[int]]) -> dict[str, Any]:
    preparation, lines = commands(row)
    return {
        "label": row.label,
        "mean": row.mean,
        "ci": row.ci,
        "told": f"{spread(row)} % ({row.n} {'run' if row.n == 1 else 'runs'}; 95 % CI {interval(row)}); {row.verdict}",
        "costs": {key: value / COSTS[key].scale for key, value in row.costs.items()},
        "confusion": counts,
        "curves": _curves(row.runs),
        "preparation": preparation,
        "commands": lines,
    }


def _curves(runs: Sequence[Run]) -> dict[str, list[tuple[float, float]]]:
    """Each measure of the histories by epoch, mean over the runs; a loss that is no number is left out."""
    values: dict[str, dict[float, list[float]]] = {}
    for epoch in (epoch for run in runs for epoch in run.history):
        for key, value in epoch.items():
            if key.endswith(("loss", "accuracy")) and math.isfinite(value):
                values.setdefault(key, {}).setdefault(epoch["epoch"], []).append(value)
    return {key: [(e, statistics.fmean(found[e])) for e in sorted(found)] for key, found in values.items()}


def _ablation(board: Board, made: Ablation) -> dict[str, Any]:
    indices = {row.label: i for i, row in enumerate(board.rows)}
    return {
        "factor": made.factor,
        "ticks": made.ticks,
        "level": None if made.level is None else indices[made.level.label],
        "lines": [
            {
                "name": name,
                "points": [
                    {"x": place, "row": indices[row.label], "paper": row.paper.get("accuracy", math.nan) / 100}
                    if "accuracy" in row.paper
                    else {"x": place, "row": indices[row.label]}
                    for place, row in line
                ],
            }
            for name, line in made.lines.items()
        ],
    }
