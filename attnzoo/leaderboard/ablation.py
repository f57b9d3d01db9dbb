"""How accuracy goes with what the rows vary, beside the points that a paper prints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attnzoo.leaderboard.board import Board, Row


@dataclass(frozen=True, slots=True)
class Ablation:
    """One figure: accuracy against one factor.

    Attributes:
        factor: what is varied, or "row".
        ticks: names of the places 0, 1, ... on the axis; empty if the factor is a number, which then is the place.
        lines: name of what else the rows vary -> place and row, in order of the places.
        level: the baseline, where it has no value of the factor.

    >>> Ablation("groups", (), {}, None).ticks
    ()
    """

    factor: str
    ticks: tuple[str, ...]
    lines: dict[str, list[tuple[float, Row]]]
    level: Row | None


def ablations(board: Board) -> list[Ablation]:
    """A figure for each factor whose values are numbers; without one, all rows side by side if the paper has several.

    Args:
        board: of `summarise`.

    >>> from attnzoo.leaderboard.board import summarise
    >>> from attnzoo.leaderboard.store import Run
    >>> runs = [
    ...     Run(g, "b", g, 0, 0.5, ("a",), (), 1, 1, 1.0, (), {}, "", "", "", {}, "", "", {"attn": "mpe", "groups": g})
    ...     for g in ("8", "4")
    ... ]
    >>> [(made.factor, [place for place, _ in made.lines["mpe"]]) for made in ablations(summarise(runs))]
    [('groups', [4.0, 8.0])]
    """
    factors = dict.fromkeys(name for row in board.rows for name in row.factors)
    found = [made for factor in factors if (made := _numeric(board, factor))]
    printed = [row for row in board.rows if "accuracy" in row.paper]
    if found or len(printed) < 2:
        return found
    order = [str(label) for label in board.paper["rows"]]
    rows = sorted(board.rows, key=lambda row: order.index(row.label) if row.label in order else -1)
    return [Ablation("row", tuple(row.label for row in rows), {"": [*map(_place, range(len(rows)), rows)]}, None)]


def _place(i: int, row: Row) -> tuple[float, Row]:
    return float(i), row


def _numeric(board: Board, factor: str) -> Ablation | None:
    places = [(place, row) for row in board.rows if (place := _number(row.factors.get(factor))) is not None]
    lines: dict[str, list[tuple[float, Row]]] = {}
    for place, row in sorted(places, key=lambda found: found[0]):
        others = ", ".join(value for name, value in row.factors.items() if name != factor)
        lines.setdefault(others, []).append((place, row))
    if not any(len({place for place, _ in line}) > 1 for line in lines.values()):
        return None
    level = next((row for row in board.rows if row.label == board.baseline and not _has(places, row)), None)
    return Ablation(factor, (), lines, level)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _has(places: Sequence[tuple[float, Row]], row: Row) -> bool:
    return any(other is row for _, other in places)
