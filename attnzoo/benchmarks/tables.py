"""What was measured as Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean

from attnzoo.benchmarks.rows import AUTHORS, CONVS, COPY, FAILED, OURS, Measured, ModuleRow, NetworkRow, read
from attnzoo.benchmarks.verdicts import kept, mean_ratio, verdicts

# The columns of the first two tables: mode, layout, spatial axes.
CASES = {
    "forward, 2D": ("forward", "contiguous", 2),
    "train, 2D": ("train", "contiguous", 2),
    "forward, 2D, NHWC": ("forward", "channels_last", 2),
    "train, 2D, NHWC": ("train", "channels_last", 2),
    "forward, 3D": ("forward", "contiguous", 3),
    "train, 3D": ("train", "contiguous", 3),
    "forward, 3D, NHWC": ("forward", "channels_last", 3),
    "train, 3D, NHWC": ("train", "channels_last", 3),
}


def markdown(paths: Sequence[Path]) -> str:
    """Tables of CSV files, and the verdict on the goals.

    Args:
        paths: files of `attnzoo bench`, with and without --networks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of something else.
    """
    modules: list[ModuleRow] = []
    networks: list[NetworkRow] = []
    for path in paths:
        with path.open(encoding="utf-8") as file:
            of_networks = file.readline().startswith("network,")
        if of_networks:
            networks += read(path, NetworkRow)
        else:
            modules += read(path, ModuleRow)
    parts = []
    if modules:
        parts.append(_measured(modules, "geometric means over the shapes"))
        eager, compiled = ([row for row in modules if row.compiled is value] for value in (False, True))
        parts += [_to_copy(eager, "ours / copy of x")] if eager else []
        parts += [_to_copy(compiled, "ours, compiled / copy of x")] if compiled else []
        parts.append(_to_ours(modules))
    if networks:
        parts += [_measured(networks, "time of a batch over that of the plain network"), _networks(networks)]
    lines = [
        [v.goal, v.figure, {True: "yes", False: "no", None: "-"}[v.met]]
        for v in verdicts(modules, networks)
        if v.met is not None
    ]
    parts.append(_table(["goal", "measured", "met"], lines))
    return "\n".join(parts)


def _measured(rows: Sequence[Measured], what: str) -> str:
    machines = "; ".join(sorted({row.place for row in rows}))
    dates = sorted({row.date for row in rows})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{machines}, {when}; medians of one alternating run, {what}.\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    rule = ["---"] * names + ["---:"] * (len(header) - names) if header[0] != "goal" else ["---"] * len(header)
    return "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *rows))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def _to_copy(rows: Sequence[ModuleRow], what: str) -> str:
    """Ours over a copy of x, and what is kept for the backward pass over x."""
    ours = [row for row in rows if row.provider == OURS and not row.options]
    columns = {said: case for said, case in CASES.items() if any(_case(row) == case for row in ours)}
    lines = []
    for name in dict.fromkeys(row.module for row in ours):
        mine = [row for row in ours if row.module == name]
        cells = []
        for case in columns.values():
            ratios = [row.to_copy for row in mine if _case(row) == case and row.to_copy is not None]
            cells.append(_number(geometric_mean(ratios) if ratios else None))
        saved = [row.saved_to_x for row in mine if row.saved_to_x is not None]
        lines.append([f"`{name}`", *cells, _number(max(saved, default=None))])
    return _table([what, *columns, "kept beyond x"], lines)


def _case(row: ModuleRow) -> tuple[str, str, int]:
    return row.mode, row.layout, row.dims


def _to_ours(rows: Sequence[ModuleRow]) -> str:
    """Others over ours, eager; the bytes kept over ours are sums over the shapes."""
    others = [row for row in rows if row.provider not in (OURS, COPY)]
    bytes_kept = kept([row for row in rows if not row.compiled])
    lines = []
    for name, provider, options in dict.fromkeys((r.module, r.provider, r.options) for r in others):
        theirs = [r for r in others if (r.module, r.provider, r.options) == (name, provider, options)]
        cells = []
        for compiled in (False, True):
            for mode in ("forward", "train"):
                timed = [r for r in theirs if (r.mode, r.compiled) == (mode, compiled) and r.to_ours is not None]
                mean = mean_ratio(timed)
                least = min((r.to_ours for r in timed if r.to_ours is not None), default=0.0)
                cells.append("-" if mean is None else f"{_number(mean)} ({_number(least)})")
        pairs = [(t, m) for r, t, m in bytes_kept if (r.module, r.provider, r.options) == (name, provider, options)]
        # Nothing on both sides is not a ratio.
        share = sum(m for _, m in pairs) / sum(t for t, _ in pairs) if any(t for t, _ in pairs) else None
        relation = {AUTHORS: "as written by its authors", CONVS: "its convolutions alone"}.get(provider, "")
        relations = {r.relation for r in theirs if r.wall_ms is not None} - {"equal", "-"}
        notes = [relation] if relation else sorted(relations)
        failed = [r for r in theirs if r.note.startswith(FAILED)]
        by_layout = all(r.layout == "channels_last" for r in failed)
        notes += sorted({f"fails {'in channels_last' if by_layout else f'at {r.shape}'}" for r in failed})
        label = ", ".join([f"`{name}`", *(f"{k}={v}" for k, v in json.loads(options or "{}").items())])
        lines.append([label, provider, *cells, _number(share), "; ".join(notes)])
    header = [
        "module",
        "other",
        "forward",
        "train",
        "compiled, forward",
        "compiled, train",
        "kept, ours / theirs",
        "note",
    ]
    return "Others / ours, and the least of it:\n\n" + _table(header, lines, names=2)


def _networks(rows: Sequence[NetworkRow]) -> str:
    names = dict.fromkeys(row.network for row in rows)
    columns = [(network, mode) for network in names for mode in ("inference", "training")]
    found = {(row.module, row.site, row.network, row.mode): row for row in rows}
    lines = []
    for module, site in dict.fromkeys((row.module, row.site) for row in rows):
        each = [found.get((module, site, *column)) for column in columns]
        cells = ["-" if row is None else _cost(row) for row in each]
        injected = [row.inject_ms for row in each if row is not None and row.inject_ms is not None]
        lines.append([f"`{module}`", site, *cells, f"{max(injected):.0f}" if injected else "-"])
    header = ["module", "site", *(f"{network}, {mode}" for network, mode in columns), "injected in, ms"]
    return _table(header, lines, names=2)


def _cost(row: NetworkRow) -> str:
    """By how much longer a network takes."""
    if row.ratio is None:
        return "fails" if row.note.startswith(FAILED) else "misfit"
    return f"{1 / row.ratio - 1:+.0%}"
