"""The leaderboard as a table for the terminal and as one HTML page that needs nothing but itself."""

import html
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from plotly.offline import get_plotlyjs
from rich import box
from rich.markup import escape
from rich.table import Table

from attnzoo.leaderboard.stats import Row, comparable, summarise
from attnzoo.leaderboard.store import Run

# Okabe and Ito's colours, told apart by the colour-blind too, without the black and the yellow that one theme swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
COLUMNS = ("Attention", "Accuracy, %", "n", "95 % CI", "Δ", "p", "Verdict", "Params, M", "MACs, G", "Train, s")


def table(rows: Sequence[Row], runs: Sequence[Run]) -> Table:
    """The leaderboard for the terminal.

    Args:
        rows: of `summarise(runs)`.
        runs: of one board.

    Raises:
        ValueError: no runs, or those of several boards.

    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy",), ({},), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> table(summarise([run]), [run]).row_count
    1
    """
    facts = _facts(runs)
    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=escape(runs[0].board), caption_justify="left"
    )
    made.caption = escape(
        "\n".join(f"{name}: {facts[name]}" for name in ("protocol", "data", "runs", "commit"))
        + f"\naccuracy in %, mean ± sd over n runs; chance {facts['chance']}"
    )
    # On 80 columns it is the verdict and the names that wrap, never a number.
    made.add_column("attention", overflow="fold", min_width=8)
    for name in ("accuracy", "n", "95 % CI", f"Δ {_baseline(rows)}"):
        made.add_column(escape(name), justify="right", no_wrap=True)
    made.add_column("verdict", min_width=10)
    for name in ("params\nM", "MACs\nG", "train\ns"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (row.attn, _spread(row), str(row.n), _interval(row), _signed(row.difference), row.verdict)
        costs = (f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.3f}", f"{row.seconds:.0f}")
        made.add_row(*map(escape, cells + costs))
    return made


def write_page(runs: Sequence[Run], path: str | Path, *, baseline: str = "none") -> Path:
    """The leaderboard as one HTML file that works offline and asks the network for nothing.

    Args:
        runs: of one board; those that are not comparable with the newest are listed, but not counted.
        path: where to write it, at once or not at all.
        baseline: label of the attention to compare with.

    Returns:
        The path.

    Raises:
        ValueError: no runs, those of several boards, or a path that cannot be written.

    >>> import tempfile
    >>> run = Run("1f", "demo", "se", 0, 0.9, ("joy",), ({},), 9, 99, 1.5, (), {}, "70/30", "d", "c", {}, "m", "t")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_page([run], f"{folder}/demo.html").name
    'demo.html'
    """
    rows, used = summarise(runs, baseline), comparable(runs)
    counted = {run.id for run in used}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("attnzoo.leaderboard").joinpath("page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        board=runs[0].board,
        facts=_facts(runs),
        columns=[f"Δ {_baseline(rows)}" if name == "Δ" else name for name in COLUMNS],
        rows=[_cells(row) for row in rows],
        caveats=_caveats(rows, used),
        figures=_figures(rows, used),
        confusions={row.attn: _confusion([run for run in used if run.attn == row.attn]) for row in rows},
        classes=used[0].classes,
        runs=[(run, run.id in counted) for run in sorted(runs, key=lambda run: (run.attn, run.seed, run.finished))],
        percent=_percent,
        plotly=get_plotlyjs(),
    )
    return _write(Path(path), page)


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; give a file, as in report.html") from error
    return path


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """What the figures rest on, in words."""
    used = comparable(runs)
    seeds = _distinct(str(run.seed) for run in sorted(used, key=lambda run: run.seed))
    packages = sorted({(package, number) for run in used for package, number in run.versions.items()})
    older = f"; {len(runs) - len(used)} older or of other data left out" if len(runs) > len(used) else ""
    videos = _distinct(str(len(run.predictions)) for run in used)
    return {
        "protocol": used[0].protocol,
        "data": used[0].data,
        "runs": f"{len(used)} (seeds {seeds}; {videos} test videos each){older}",
        "chance": f"{_percent(1 / len(used[0].classes))} % ({len(used[0].classes)} classes)",
        "commit": _distinct(run.commit for run in used),
        "versions": ", ".join(f"{package} {number}" for package, number in packages),
        "machine": _distinct(run.machine for run in used),
        "finished": max(run.finished for run in used),
    }


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _caveats(rows: Sequence[Row], used: Sequence[Run]) -> list[str]:
    """What the figures do not show."""
    videos = min(len(run.predictions) for run in used)
    error = _percent(max(row.test_se for row in rows))
    found = [
        f"One split, {videos} test videos: they alone leave a standard error of up to {error} points on each accuracy, "
        "and more seeds do not lessen it. The ± is the spread over seeds, not over videos.",
    ]
    noises = [row.noise for row in rows if row.noise is not None]
    if noises:
        limits = " to ".join(dict.fromkeys((_percent(min(noises)), _percent(max(noises)))))
        found.append(
            f"A difference from {_baseline(rows)} of less than {limits} points, depending on the row "
            "(twice its standard error, test set and seeds together) is inside the noise; so is one that the paired "
            "t-test over seeds does not confirm (p < 0.05, not corrected for the number of rows)."
        )
    if any(row.n == 1 for row in rows):
        found.append("Some attentions ran once: their spread over seeds is not known, and nothing is claimed of them.")
    found.append("The training time is of this machine and whatever else it did; MACs and parameters are counted.")
    return found


def _cells(row: Row) -> list[tuple[str, str | float]]:
    """A row of COLUMNS: what is shown and what is sorted by."""
    unknown = "-Infinity"  # as JavaScript writes it
    return [
        (row.attn, row.attn),
        (_spread(row), row.mean),
        (str(row.n), row.n),
        (_interval(row), row.ci[0] if row.ci else unknown),
        (_signed(row.difference), unknown if row.difference is None else row.difference),
        ("–" if row.p is None else f"{row.p:.3f}", unknown if row.p is None else row.p),
        (row.verdict, row.verdict),
        (f"{row.params / 1e6:.3f}", row.params),
        (f"{row.macs / 1e9:.3f}", row.macs),
        (f"{row.seconds:.0f}", row.seconds),
    ]


def _baseline(rows: Sequence[Row]) -> str:
    return next((row.attn for row in rows if row.verdict == "baseline"), "baseline")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _spread(row: Row) -> str:
    return _percent(row.mean) + (f" ± {_percent(row.sd)}" if row.sd is not None else "")


def _interval(row: Row) -> str:
    return f"{_percent(row.ci[0])}–{_percent(row.ci[1])}" if row.ci else "–"


def _signed(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}"


def _confusion(runs: Sequence[Run]) -> list[list[tuple[int, float | None]]]:
    """Videos over all seeds and their share of the row: a row per true class, a column per predicted one."""
    classes = runs[0].classes
    pairs = [(p.get("label"), p.get("predicted")) for run in runs for p in run.predictions]
    counts = [[pairs.count((label, predicted)) for predicted in classes] for label in classes]
    return [[(count, count / sum(row) if sum(row) else None) for count in row] for row in counts]


def _figures(rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Title -> plotly figure."""
    looks = {
        attn: {"colour": COLOURS[i % 6], "symbol": SYMBOLS[i // 6 % 6], "dash": DASHES[i // 6 % 6]}
        for i, attn in enumerate(dict.fromkeys(run.attn for run in runs))
    }
    chance = 1 / len(runs[0].classes)
    figures = {
        "Accuracy against computation": _cost(rows, looks, chance, "macs", 1e9, "MACs of one video, G"),
        "Accuracy against size": _cost(rows, looks, chance, "params", 1e6, "parameters, M"),
    }
    measures = dict.fromkeys(key for run in runs for epoch in run.history for key in epoch)
    for key in measures:
        if key.endswith(("loss", "accuracy")):
            figures[f"{key.replace('_', ' ').capitalize()} by epoch, mean over seeds"] = _curves(runs, looks, key)
    return figures


def _cost(
    rows: Sequence[Row], looks: dict[str, dict[str, str]], chance: float, cost: str, unit: float, title: str
) -> dict[str, Any]:
    """Accuracy with its spread over seeds against a cost, a point per attention."""
    costs = [getattr(row, cost) / unit for row in rows]
    width, middle = (max(costs) - min(costs)) or max(costs) or 1.0, (max(costs) + min(costs)) / 2
    low = min([chance, *(row.mean - (row.sd or 0) for row in rows)]) - 0.05
    high = max([chance, *(row.mean + (row.sd or 0) for row in rows)]) + 0.05
    labelled = len(rows) <= 6  # names beside more points lie on each other; a legend tells them apart
    points = []
    for i, (row, x) in enumerate(zip(rows, costs, strict=True)):
        look, name = looks[row.attn], _plain(row.attn)
        crowd = sum(
            abs(x - costs[j]) < 0.2 * width and rows[j].mean - row.mean < 0.05 * (high - low) for j in range(i)
        )  # points above this one whose names would lie on its own
        points.append(
            {
                "type": "scatter",
                "name": name,
                "mode": "markers+text" if labelled else "markers",
                "x": [x],
                "y": [row.mean],
                "error_y": {"type": "data", "array": [row.sd or 0.0], "color": look["colour"], "thickness": 1.5},
                "marker": {"size": 10, "color": look["colour"], "symbol": look["symbol"]},
                "text": [f" {name} "],
                "textposition": f"{('middle', 'bottom', 'top')[crowd % 3]} {'left' if x > middle else 'right'}",
                "hovertext": [f"{name}: {_spread(row)} %, {x:.4g} {title[-1]}"],
                "hoverinfo": "text",
            }
        )
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance}
    note = {"xref": "paper", "x": 1, "xanchor": "right", "y": chance, "yanchor": "bottom", "showarrow": False}
    layout = _layout(title, "test accuracy")
    layout["xaxis"]["range"] = [min(costs) - 0.1 * width, max(costs) + 0.1 * width]
    layout["yaxis"] |= {"range": [low, high], "tickformat": ".0%"}
    layout["showlegend"] = not labelled
    layout["shapes"] = [line | {"line": {"color": "#888888", "dash": "dot", "width": 1.5}}]
    layout["annotations"] = [note | {"text": f"chance {_percent(chance)} %"}]
    return {"data": points, "layout": layout}


def _curves(runs: Sequence[Run], looks: dict[str, dict[str, str]], key: str) -> dict[str, Any]:
    """A measure of the history, mean over seeds, against epochs."""
    lines = []
    for attn, look in looks.items():
        values: dict[float, list[float]] = {}
        for run in runs:
            for epoch in run.history:
                if run.attn == attn and math.isfinite(epoch.get(key, math.nan)):
                    values.setdefault(epoch["epoch"], []).append(epoch[key])
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _plain(attn),
                "x": sorted(values),
                "y": [statistics.fmean(values[epoch]) for epoch in sorted(values)],
                "line": {"color": look["colour"], "dash": look["dash"], "width": 2},
                "marker": {"size": 5, "color": look["colour"], "symbol": look["symbol"]},
            }
        )
    layout = _layout("epoch", key.replace("_", " "))
    layout["yaxis"]["tickformat"] = ".0%" if key.endswith("accuracy") else ""
    layout["xaxis"]["dtick"] = math.ceil(max((len(line["x"]) for line in lines), default=1) / 10) or 1
    return {"data": lines, "layout": layout}


def _layout(x: str, y: str) -> dict[str, Any]:
    """What all figures share; the colours of text and grid are the page's, so that they follow its theme."""
    return {
        "xaxis": {"title": {"text": _plain(x), "standoff": 8}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": _plain(y)}, "automargin": True, "zeroline": False},
        "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": -0.25},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "hovermode": "closest",
    }


def _plain(name: str) -> str:
    """A name that plotly, which reads tags but no quotes in its texts, shows as it is."""
    return html.escape(name, quote=False)
