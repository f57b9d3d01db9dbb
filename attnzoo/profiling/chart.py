"""The cost of attention drawn: added parameters against added MACs, and bytes moved as the area of the point."""

import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnzoo.extras import need
from attnzoo.profiling.report import check_place, write
from attnzoo.profiling.sheets import Column, Sheet, Units

# Okabe and Ito's colours, told apart by the colour-blind too.
COLOURS = {"mid": "#0072B2", "out": "#D55E00", "conv": "#009E73", "stage": "#CC79A7"}
LINEAR = 1e3  # up to here the scale is linear, from there logarithmic, to both sides of zero
TICKS = [sign * 10.0**e for sign in (-1, 1) for e in (4, 5, 6, 7, 8, 9, 10, 11)] + [0.0]
AREA = 1200.0  # of the largest point, in square points


def check(path: Path) -> None:
    """Refuse a file that no chart can be written to, before the work of counting.

    Args:
        path: the file.

    Raises:
        ValueError: neither .png nor .html, or a place that cannot be written to.
        ImportError: what draws it is not installed.

    >>> check(Path("cost.gif"))
    Traceback (most recent call last):
    ValueError: chart cost.gif must be a .png or an .html file
    """
    if path.suffix == ".png":
        need("emotion", "matplotlib")
    elif path.suffix == ".html":
        need("leaderboard", "plotly")
    else:
        raise ValueError(f"chart {path} must be a .png or an .html file")
    check_place(path)


def draw(sheets: Sequence[Sheet], path: Path, units: Units = "decimal") -> None:
    """Draw what attention adds, a panel for each network and site; what replaces convolutions is in all of them.

    Args:
        sheets: of `attnzoo.profiling.table.sheet`.
        path: a .png file, or an .html one that works offline.
        units: "decimal" or "binary".

    Raises:
        ValueError: nothing to draw, or a file that cannot be written.
        ImportError: what draws it is not installed.

    >>> draw([], Path("cost.png"))
    Traceback (most recent call last):
    ValueError: no network with attention to draw; give the recipe a protocol
    """
    check(path)
    panels = [panel for sheet in sheets for panel in _panels(sheet)]
    if not panels:
        raise ValueError("no network with attention to draw; give the recipe a protocol")
    write(path, _png(panels, units) if path.suffix == ".png" else _page(panels, units))


Panel = tuple[str, Sequence[Mapping[str, Any]]]


def _panels(sheet: Sheet) -> Iterator[Panel]:
    """Title and records of each."""
    records = [r for r in sheet.records if r.get("bytes_moved_added") is not None]
    sites = list(dict.fromkeys(r["site"] for r in records))
    for site in [s for s in sites if s != "conv"] or sites:
        yield f"{sheet.name}, site {site}", [r for r in records if r["site"] in (site, "conv")]


def _at(value: float) -> float:
    """Where a value lies on the scale."""
    return math.copysign(math.log10(1 + abs(value) / LINEAR), value)


def _axis(values: Sequence[float], what: str, units: Units) -> tuple[list[float], list[str], str]:
    """Ticks around some values, their names, and the title."""
    low, high = min(0.0, *values), max(values)
    ticks = sorted(t for t in TICKS if low <= t <= high or t == 0)
    unit = Column("", "", "M")
    names = [f"{unit.scaled(t, units):+g}" if t else "0" for t in ticks]
    return [_at(t) for t in ticks], names, f"{what} added ({unit.unit_name(units)})"


def _area(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> float:
    largest = max(abs(r["bytes_moved_added"]) for r in records) or 1
    return float(max(AREA / 100, AREA * abs(record["bytes_moved_added"]) / largest))


def _point(record: Mapping[str, Any]) -> tuple[float, float]:
    return _at(record["param_count_added"]), _at(record["macs_added"])


def _names(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where the name of each point begins: right of it, as near as it lies on no other name or point."""
    (left, right), (low, top) = ((min(*v, 0.0), max(*v, 0.0)) for v in zip(*points, strict=True))
    wide, high = right - left or 1.0, top - low or 1.0
    length, height, gap = 0.12 * wide, 0.044 * high, 0.02 * wide
    names: list[tuple[float, float]] = []
    for x, y in points:
        steps = (y + height * step * sign for step in range(len(points)) for sign in (1, -1))
        beside = next(
            (
                at
                for at in steps
                if low - 0.1 * high < at < top + 0.1 * high
                and all(abs(x + gap - a) >= length or abs(at - b) >= 0.99 * height for a, b in names)
                and not any(0 < a - x < length + gap and abs(at - b) < 0.6 * height for a, b in points)
            ),
            y,
        )
        names.append((x + gap, beside))
    return names


def _png(panels: Sequence[Panel], units: Units) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(7 * across, 5.5 * down), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, records) in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        points = [_point(r) for r in records]
        for (x, y), place, record in zip(points, _names(points), records, strict=True):
            colour = COLOURS[record["site"]]
            axes.scatter(x, y, s=_area(record, records), color=colour, alpha=0.35, linewidth=0)
            axes.scatter(x, y, s=6, color=colour)
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5} if place[1] != y else None
            axes.annotate(record["attn"], (x, y), place, fontsize=9, va="center", arrowprops=line)
        for column, axis, set_label in (
            ("param_count", axes.xaxis, axes.set_xlabel),
            ("macs", axes.yaxis, axes.set_ylabel),
        ):
            what = {"param_count": "parameters", "macs": "MACs"}[column]
            ticks, names, label = _axis([r[f"{column}_added"] for r in records], what, units)
            axis.set_ticks(ticks, names)
            set_label(label)
        axes.grid(alpha=0.3)
        axes.margins(0.12)
        axes.set_title(title, fontsize=11)
        for site in dict.fromkeys(record["site"] for record in records):
            axes.scatter([], [], s=60, color=COLOURS[site], label=f"site {site}")
        axes.legend(title="area: bytes moved in addition", loc="best", fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _page(panels: Sequence[Panel], units: Units) -> str:
    from plotly.offline import get_plotlyjs

    body, calls = [], []
    for i, (panel, records) in enumerate(panels):
        traces = []
        for site in dict.fromkeys(record["site"] for record in records):
            some = [record for record in records if record["site"] == site]
            across, up = zip(*map(_point, some), strict=True)
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"site {site}",
                    "x": across,
                    "y": up,
                    "hovertext": [_told(r, units) for r in some],
                    "hoverinfo": "text",
                    "marker": {
                        "color": COLOURS[site],
                        "opacity": 0.6,
                        "size": [math.sqrt(_area(r, records)) for r in some],
                    },
                }
            )
        points = [_point(r) for r in records]
        layout: dict[str, Any] = {
            "height": 560,
            "margin": {"t": 30},
            "hovermode": "closest",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "#888888"},
            "annotations": [
                {
                    "text": html.escape(record["attn"], quote=False),
                    "x": x,
                    "y": y,
                    "ax": beside,
                    "ay": level,
                    "axref": "x",
                    "ayref": "y",
                    "xanchor": "left",
                    "arrowhead": 0,
                    "arrowwidth": 0.5,
                    "arrowcolor": COLOURS[record["site"]],
                }
                for record, (x, y), (beside, level) in zip(records, points, _names(points), strict=True)
            ],
        }
        for axis, column, what in (("xaxis", "param_count", "parameters"), ("yaxis", "macs", "MACs")):
            ticks, names, title = _axis([r[f"{column}_added"] for r in records], what, units)
            layout[axis] = {"tickvals": ticks, "ticktext": names, "title": {"text": title}, "gridcolor": "#8884"}
        body.append(f'<h2>{html.escape(panel)}</h2><div id="chart{i}"></div>')
        data = json.dumps([traces, layout]).replace("</", "<\\/")
        calls.append(f"Plotly.newPlot('chart{i}', ...{data}, {{displaylogo: false, responsive: true}});")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Cost of attention</title>',
            "<style>:root { color-scheme: light dark; } body { font: 15px system-ui; margin: 2rem; }</style>",
            f"<script>{get_plotlyjs()}</script></head><body>",
            "<p>What attention adds to each network; the area of a point is the bytes moved in addition.</p>",
            *body,
            f"<script>{' '.join(calls)}</script></body></html>\n",
        ]
    )


def _told(record: Mapping[str, Any], units: Units) -> str:
    parts = []
    for key, what, unit in (
        ("param_count_added", "parameters", "M"),
        ("macs_added", "MACs", "M"),
        ("bytes_moved_added", "moved", "MB"),
    ):
        column = Column(key, what, unit, signed=True)
        parts.append(f"{column.text(record[key], units)} {column.unit_name(units)} {what}")
    return html.escape(f"{record['attn']} at {record['where']}: {', '.join(parts)}", quote=False)
