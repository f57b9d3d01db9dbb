"""A board as a figure for a paper: accuracy against each cost, with the Pareto front, and the ablation curves."""

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from attnzoo.leaderboard.ablation import Ablation, ablations
from attnzoo.leaderboard.board import COSTS, Board, Row
from attnzoo.leaderboard.wording import percent

ACCENT, PAPER = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart by the colour-blind too
COLOURS = (ACCENT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", PAPER)
LOGARITHMIC = 30.0  # times between the least and the largest cost, from where on the axis is


def draw(board: Board, format: str = "png") -> bytes:
    """A panel for each cost that is known of the rows, and one for each ablation.

    Bars are 95 % intervals; filled points are on the Pareto front of the means.

    Args:
        board: of `summarise`.
        format: "png" or "svg", in which text is text; the same board gives the same bytes.

    >>> from attnzoo.leaderboard.board import summarise
    >>> from attnzoo.leaderboard.store import Run
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> draw(summarise([run]))[1:4]
    b'PNG'
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    costs = [key for key in board.known if key != "seconds"]
    panels = len(costs) + len(ablations(board))
    across = min(2, panels)
    down = math.ceil(panels / across)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "attnzoo", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.8 * across, 3.7 * down), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(down, across, i + 1) for i in range(panels)]
        for panel, key in zip(axes, costs, strict=False):
            _cost(panel, board, key)
        for panel, made in zip(axes[len(costs) :], ablations(board), strict=True):
            _ablation(panel, board, made)
        figure.draw_without_rendering()  # fixes the layout, in which names find their places
        figure.set_layout_engine("none")
        for panel, key in zip(axes, costs, strict=False):
            _name(panel, [row for row in board.rows if key in row.costs], key)
        out = io.BytesIO()
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else None)
    return out.getvalue()


def front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows that no other one beats in both accuracy and cost, the cheapest first.

    Args:
        rows: of a board.
        cost: of COSTS.
    """

    def beats(other: Row, row: Row) -> bool:
        a, b = (other.costs[cost], -other.mean), (row.costs[cost], -row.mean)
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    known = [row for row in rows if cost in row.costs]
    return sorted((r for r in known if not any(beats(other, r) for other in known)), key=lambda row: row.costs[cost])


def _cost(axes: Any, board: Board, key: str) -> None:
    cost, rows = COSTS[key], [row for row in board.rows if key in row.costs]
    best = front(rows, key)
    values = [row.costs[key] for row in rows]
    if min(values) > 0 and max(values) > LOGARITHMIC * min(values):
        axes.set_xscale("log")
    corners = [_corner(row, key) for row in best]
    axes.step(*zip(*corners, strict=True), where="post", color=ACCENT, lw=0.7, alpha=0.6)
    for row in rows:
        _point(axes, _corner(row, key)[0], row, ACCENT, full=any(row is other for other in best))
    _level(axes, board)
    _finish(axes, f"{cost.head} ({cost.unit})")


def _ablation(axes: Any, board: Board, made: Ablation) -> None:
    for i, (name, line) in enumerate(made.lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        if not made.ticks:
            axes.plot(
                [place for place, _ in line], [100 * row.mean for _, row in line], color=colour, lw=1.5, label=name
            )
        for place, row in line:
            _point(axes, place, row, colour)
        printed = [(place, row.paper["accuracy"]) for place, row in line if "accuracy" in row.paper]
        style = "none" if made.ticks else ":"
        if printed:
            axes.plot(
                *zip(*printed, strict=True), color=PAPER, ls=style, lw=1, marker="D", ms=5, mfc="none", label="paper"
            )
    if made.ticks:
        axes.set_xticks(range(len(made.ticks)), made.ticks, rotation=35, ha="right", rotation_mode="anchor")
    _level(axes, board, made.level)
    handles, names = axes.get_legend_handles_labels()
    named = {name: handle for handle, name in zip(handles, names, strict=True) if name}
    if named:
        axes.legend(named.values(), named.keys(), fontsize=8, frameon=False)
    _finish(axes, "" if made.ticks else made.factor)


def _point(axes: Any, x: float, row: Row, colour: str, full: bool = True) -> None:
    if row.ci:
        axes.plot([x, x], [100 * row.ci[0], 100 * row.ci[1]], color=colour, lw=1, zorder=2)
    axes.plot([x], [100 * row.mean], color=colour, marker="o", ms=5, mfc=colour if full else "white", zorder=3)


def _level(axes: Any, board: Board, row: Row | None = None) -> None:
    """A row, or chance, as a line; far below the points it would press them together, and is told in words."""
    share, name = (row.mean, row.label) if row else (1 / len(board.classes), "chance")
    low, high = axes.dataLim.y0, axes.dataLim.y1
    near = 100 * share >= low - (high - low) / 2
    if near:
        axes.axhline(100 * share, color="#888888", ls=(0, (1, 2)), lw=1)
    axes.annotate(
        f"{name} {percent(share)} %" + ("" if near else ", far below"),
        (1, 100 * share if near else 0),
        (-3, 2),
        xycoords=("axes fraction", "data" if near else "axes fraction"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )


def _finish(axes: Any, title: str) -> None:
    axes.set_xlabel(title)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3, lw=0.5)
    axes.margins(0.1)
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Any, rows: Sequence[Row], key: str) -> None:
    """Write each name as near to its point as it touches no other name, no point and no bar; else nowhere."""
    figure, to_pixels = axes.figure, axes.transData.transform
    room = axes.get_window_extent()
    places = [to_pixels(_corner(row, key)) for row in rows]
    taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in places]
    for row, (x, _) in zip(rows, places, strict=True):
        if row.ci:
            low, high = (to_pixels((0, 100 * end))[1] for end in row.ci)
            taken.append((x - 3, low, x + 3, high))
    for (x, y), (to, up) in itertools.pairwise(to_pixels(_corner(row, key)) for row in front(rows, key)):
        taken += [(x, y - 1, to, y + 1), (to - 1, y, to + 1, up)]
    for text in axes.texts:
        extent = text.get_window_extent()
        taken.append((extent.x0, extent.y0, extent.x1, extent.y1))
    for row, (x, y) in sorted(zip(rows, places, strict=True), key=lambda found: -found[1][1]):
        name = row.label if len(row.label) <= 24 else f"{row.label[:23]}…"
        text = figure.text(0, 0, name, fontsize=8, va="bottom", ha="left")
        extent = text.get_window_extent()
        spot = next((s for s in _spots(x, y, extent.width + 4, extent.height + 2) if _free(s, taken, room)), None)
        if spot is None:
            text.remove()
            continue
        taken.append(spot)
        text.set_position(figure.transFigure.inverted().transform((spot[0] + 2, spot[1] + 1)))
        end = min(max(x, spot[0]), spot[2]), min(max(y, spot[1]), spot[3])
        if math.dist(end, (x, y)) > 20:
            (a, b), (c, d) = figure.transFigure.inverted().transform([(x, y), end])
            from matplotlib.lines import Line2D

            figure.add_artist(Line2D([a, c], [b, d], color="#888888", lw=0.5))


def _corner(row: Row, key: str) -> tuple[float, float]:
    return row.costs[key] / COSTS[key].scale, 100 * row.mean


Box = tuple[float, float, float, float]


def _spots(x: float, y: float, w: float, h: float) -> Iterator[Box]:
    for r in range(12, 300, 10):
        s = 0.7 * r
        for dx, dy in (
            (r, -h / 2),
            (-r - w, -h / 2),
            (-w / 2, r),
            (-w / 2, -r - h),
            (s, s),
            (s, -s - h),
            (-s - w, s),
            (-s - w, -s - h),
        ):
            yield x + dx, y + dy, x + dx + w, y + dy + h


def _free(spot: Box, taken: Sequence[Box], room: Any) -> bool:
    x0, y0, x1, y1 = spot
    inside = room.x0 <= x0 and x1 <= room.x1 and room.y0 <= y0 and y1 <= room.y1
    return inside and all(x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0 for a0, b0, a1, b1 in taken)
