"""A board as a table for the terminal, and as a file: a page, a figure, or a table for a paper."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from attnzoo.extras import need
from attnzoo.leaderboard.board import COSTS, Board, summarise
from attnzoo.leaderboard.figure import draw
from attnzoo.leaderboard.page import page
from attnzoo.leaderboard.remarks import caveats, facts, verdict_rule
from attnzoo.leaderboard.store import Run
from attnzoo.leaderboard.wording import difference, interval, p_value, ranking, spread
from attnzoo.profiling.report import check_place, render
from attnzoo.profiling.report import write as write_file
from attnzoo.profiling.sheets import Column, Sheet

SUFFIXES = (".html", ".png", ".svg", ".md", ".tex")


def table(board: Board) -> Table:
    """The leaderboard for the terminal.

    Args:
        board: of `summarise`.

    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy",), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> table(summarise([run])).row_count
    1
    """
    told = facts(board)
    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=escape(board.name), caption_justify="left"
    )
    made.caption = escape(
        "\n".join(f"{name}: {told[name]}" for name in ("protocol", "split", "data", "runs", "commit"))
        + f"\naccuracy in %, mean ± sd over n runs; chance {told['chance']}"
    )
    printed = any("accuracy" in row.paper for row in board.rows)
    costs = [key for key in ("params", "macs") if key in board.known]
    # On 80 columns it is the verdict and the names that wrap, never a number.
    made.add_column("row", overflow="fold", min_width=8)
    for name in ("rank", "accuracy", "n", "95 % CI", f"Δ {board.baseline or 'baseline'}"):
        made.add_column(escape(name), justify="right", no_wrap=True)
    made.add_column("verdict", min_width=10)
    for name in (*(("paper", "Δ paper") if printed else ()), *(f"{COSTS[k].head}\n{COSTS[k].unit}" for k in costs)):
        made.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        change = f"{100 * row.against.difference:+.1f}" if row.against else "–"
        cells = [row.label, ranking(row), spread(row), str(row.n), interval(row), change, row.verdict]
        if printed:
            paper, deviation = row.paper.get("accuracy"), row.deviation("accuracy")
            cells += ["–" if paper is None else f"{paper:g}", "–" if deviation is None else f"{deviation:+.1f}"]
        made.add_row(*map(escape, [*cells, *(COSTS[key].text(row.costs.get(key)) for key in costs)]))
    return made


def check(path: Path) -> None:
    """Refuse a file that no board can be written to, before the statistics are worked out.

    Args:
        path: the file.

    Raises:
        ValueError: another suffix than those of SUFFIXES, or a place that cannot be written to.
        ImportError: what draws it is not installed.

    >>> check(Path("board.pdf"))
    Traceback (most recent call last):
    ValueError: board.pdf must be a .html, .png, .svg, .md or .tex file
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if path.suffix in (".png", ".svg"):
        need("leaderboard", "matplotlib")
    check_place(path)


def write(runs: Sequence[Run], path: str | Path, *, baseline: str | None = None) -> Path:
    """A board as a file, whole or not at all, of the kind that its suffix says.

    Args:
        runs: of one board; those that are not comparable with the newest are listed, but do not count.
        path: .html for a page that works offline, .png or .svg for a figure, .md or .tex for a table.
        baseline: label of the row to compare with, see `summarise`.

    Returns:
        The path.

    Raises:
        ValueError: no runs, those of several boards, no such baseline, another suffix, or a file that cannot be
            written.
        ImportError: what draws a figure is not installed.

    >>> import tempfile
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy", "fear"), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write([run], f"{folder}/demo.md").read_text().splitlines()[2]
    '| row | rank | accuracy (%) | runs | 95 % CI | verdict | Params (M) | MACs (G) | Train (s) |'
    """
    path = Path(path)
    check(path)
    board = summarise(runs, baseline)
    if path.suffix == ".html":
        write_file(path, page(board))
    elif path.suffix in (".png", ".svg"):
        write_file(path, draw(board, path.suffix[1:]))
    else:
        format = {".md": "markdown", ".tex": "latex"}[path.suffix]
        write_file(path, render([sheet(board, markdown=format == "markdown")], format))
    return path


def sheet(board: Board, *, markdown: bool = False) -> Sheet:
    """The ranking as a table for a paper; what stands below it says what it rests on and does not show.

    Args:
        board: of `summarise`.
        markdown: whether what Markdown or HTML would read in a name is escaped.

    >>> run = Run("1f", "demo", "s_e", 0, 0.9, ("joy",), (), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> sheet(summarise([run]), markdown=True).records[0]["row"]
    's\\\\_e'
    """

    def safe(text: str) -> str:
        return re.sub(r"([\\`*_\[\]#~])", r"\\\1", html.escape(text, quote=False)) if markdown else text

    base = safe(board.baseline or "")
    shown = [
        Column("row", "row"),
        Column("rank", "rank", digits=0),
        Column("accuracy", "accuracy (%)", digits=0),
        Column("n", "runs", digits=0),
        Column("ci", "95 % CI", digits=0),
        *([Column("difference", f"difference from {base}", digits=0), Column("p", "p", digits=0)] if base else ()),
        Column("verdict", "verdict"),
    ]
    if any("accuracy" in row.paper for row in board.rows):
        shown += [Column("paper", "paper (%)", digits=0), Column("deviation", "deviation", digits=0)]
    shown += [Column(key, f"{COSTS[key].head} ({COSTS[key].unit})", digits=0) for key in board.known]
    records = []
    for row in board.rows:
        paper, deviation = row.paper.get("accuracy"), row.deviation("accuracy")
        records.append(
            {
                "row": safe(row.label),
                "rank": ranking(row),
                "accuracy": spread(row),
                "n": str(row.n),
                "ci": interval(row),
                "difference": difference(row),
                "p": p_value(row.p),
                "verdict": row.verdict,
                "paper": "–" if paper is None else f"{paper:g}",
                "deviation": "–" if deviation is None else f"{deviation:+.1f}",
                **{key: COSTS[key].text(row.costs.get(key)) for key in board.known},
            }
        )
    scaled = ["M = 10^6, G = 10^9."] if any(COSTS[key].unit[:1] in ("M", "G") for key in board.known) else []
    notes = [
        *scaled,
        *(f"{name}: {value}" for name, value in facts(board).items()),
        verdict_rule(board),
        *caveats(board),
    ]
    return Sheet(board.name, safe(board.name), shown, records, [safe(note) for note in notes])
