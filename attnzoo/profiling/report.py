"""Tables of costs in the formats of terminals, papers, spreadsheets and programs."""

import csv
import html
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnzoo.profiling.sheets import UNITS, Sheet, Units

SCHEMA = 1
SUFFIXES = {"rich": "txt", "markdown": "md", "csv": "csv", "json": "json", "latex": "tex", "html": "html"}
FORMATS = tuple(SUFFIXES)


def check(format: str, units: str) -> Units:
    """Refuse a format or units that do not exist; gives the units.

    Args:
        format: of the report.
        units: "decimal" or "binary".

    Raises:
        ValueError: they do not exist.

    >>> check("latex", "decimal")
    'decimal'
    """
    for what, given, allowed in (("format", format, FORMATS), ("units", units, UNITS)):
        if given not in allowed:
            raise ValueError(f"{what} {given!r} must be one of {', '.join(allowed)}")
    return cast(Units, units)


def render(sheets: Sequence[Sheet], format: str = "markdown", units: Units = "decimal") -> str:
    """A report as text.

    JSON has the schema {"schema": "attnzoo.cost", "version": 1, "tables": [{"name", "title", "rows", "notes"}]}; its
    rows hold plain integers: param_count and *_added, flops_COUNTER, macs, bytes_moved, kernels, saved (bytes kept for
    the backward pass), whatever the units; what a paper prints (paper_*) is a string, in the units of the table's key
    "units". Keys may be added within a version, never renamed or taken away.

    CSV is one table, with the columns of all, after timm's results: table, model, attn, site, img_size, then
    `param_count (M)`, `macs (G)` and so on, with all digits. A quantity has one column, for modules as for networks;
    but what a paper prints stays in its own units.

    Args:
        sheets: the tables.
        format: "rich" (as plain text), "markdown", "csv", "json", "latex" (booktabs) or "html" (needs no other file).
        units: "decimal" (10^6, 10^9) or "binary" (2^20, 2^30).

    Raises:
        ValueError: an unknown format or units.

    >>> from attnzoo.profiling.sheets import Column
    >>> mine = Sheet("mine", "Mine", [Column("attn", "attention"), Column("macs", "MACs", "M")],
    ...              [{"attn": "se", "macs": 1_500_000}])
    >>> print(render([mine], "csv"), end="")
    table,attn,macs (M)
    mine,se,1.5
    """
    check(format, units)
    writers: dict[str, Callable[[Sequence[Sheet], Units], str]] = {
        "rich": _plain_text,
        "markdown": _markdown,
        "csv": _csv,
        "json": _json,
        "latex": _latex,
        "html": _html,
    }
    return writers[format](sheets, units)


def check_place(path: Path) -> None:
    """Refuse a file that `write` cannot write, before the work of counting.

    Args:
        path: the file; folders on the way need not be there.

    Raises:
        ValueError: there is something else on the way than folders that can be written to.

    >>> check_place(Path("new/folder/cost.csv"))
    """
    place = next(folder for folder in path.parents if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ValueError(f"cannot write {path}: {place} is no folder that can be written to")


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file; folders on the way are made.
        content: of it.

    Raises:
        ValueError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a.txt", "text")
    ...     (Path(folder) / "a.txt").read_text()
    'text'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror}; give a file in a folder that can be written"
        ) from None


def notes(sheet: Sheet, units: Units = "decimal") -> list[str]:
    """What stands below a table, paragraph by paragraph.

    Args:
        sheet: the table.
        units: "decimal" or "binary".

    >>> from attnzoo.profiling.sheets import Column
    >>> notes(Sheet("mine", "Mine", [Column("macs", "MACs", "G")], [], ["MACs of convolutions alone."]))
    ['M = 10^6, G = 10^9.', 'MACs of convolutions alone.']
    """
    if not any(column.unit.startswith(("M", "G")) for column in sheet.shown()):
        return [*sheet.notes]
    return [f"{'M = 10^6, G = 10^9' if (sheet.units or units) == 'decimal' else 'Mi = 2^20, Gi = 2^30'}.", *sheet.notes]


def table(sheet: Sheet, units: Units = "decimal") -> Table:
    """A table for the terminal: what attention adds stands in one cell.

    Args:
        sheet: the table.
        units: "decimal" or "binary".

    >>> from attnzoo.profiling.sheets import Column
    >>> table(Sheet("mine", "Mine", [Column("macs", "MACs", "G")], [{"macs": 1_000}])).row_count
    1
    """
    units = sheet.units or units
    columns = [column for column in sheet.shown() if not column.adds]
    headed = any(column.head for column in columns)
    made = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, collapse_padding=True, show_header=headed)
    added = [column for column in sheet.shown() if column.adds not in ("", "-")]
    for column in columns:
        unit = f"({column.unit_name(units)})" if column.unit else ""
        # Where it is narrow it is words that wrap, never a number.
        made.add_column(
            escape("\n".join(filter(None, (column.head, column.of, unit)))),
            justify="right" if column.numeric else "left",
            no_wrap=not column.wraps,
            overflow="fold",
            min_width=min(14, max((len(w) for r in sheet.records for w in str(r[column.key]).split()), default=1))
            if column.wraps
            else None,
        )
    if added:
        made.add_column("attention adds", min_width=15)
    for record in sheet.records:
        cells = [column.text(record.get(column.key), units) for column in columns]
        if added:
            parts = [(column, record.get(column.key)) for column in added]
            texts = (f"{c.text(v, units)} {c.unit_name(units)}{c.adds}" for c, v in parts if v is not None)
            cells.append(", ".join(text.rstrip() for text in texts))
        made.add_row(*map(escape, cells))
    return made


def _cells(sheet: Sheet, units: Units) -> tuple[list[str], list[list[str]]]:
    """Heads and rows as people read them."""
    columns, units = sheet.shown(), sheet.units or units
    return (
        [column.title(units) for column in columns],
        [[column.text(record.get(column.key), units) for column in columns] for record in sheet.records],
    )


def _right(sheet: Sheet) -> list[bool]:
    return [column.numeric for column in sheet.shown()]


def _plain_text(sheets: Sequence[Sheet], units: Units) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120)
    for sheet in sheets:
        console.print(sheet.title, highlight=False, markup=False)
        console.print(table(sheet, units), crop=False)
        console.print("", *notes(sheet, units), "", sep="\n", highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _markdown(sheets: Sequence[Sheet], units: Units) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"

    blocks = []
    for sheet in sheets:
        heads, rows = _cells(sheet, units)
        rule = ["---:" if right else "---" for right in _right(sheet)]
        below = [f"- {note}" for note in notes(sheet, units)]
        blocks.append("\n".join([f"### {sheet.title}", "", *map(line, [heads, rule, *rows]), "", *below]))
    return "\n\n".join(blocks) + "\n"


def _csv(sheets: Sequence[Sheet], units: Units) -> str:
    # A column that several tables have stands there once.
    own = [
        {c.name(c.units or units): c for c in (c.for_csv() for c in sheet.columns) if c.reader != "people"}
        for sheet in sheets
    ]
    heads = list(dict.fromkeys(name for columns in own for name in columns))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", *heads])
    for sheet, columns in zip(sheets, own, strict=True):
        for record in sheet.records:
            cells = {n: c.scaled(record.get(c.key), c.units or units) for n, c in columns.items()}
            writer.writerow([sheet.name, *(cells.get(name) for name in heads)])
    return out.getvalue()


def _json(sheets: Sequence[Sheet], units: Units) -> str:
    tables = []
    for sheet in sheets:
        hidden = {column.key for column in sheet.columns if column.reader == "people"}
        rows = [{k: v for k, v in record.items() if k not in hidden} for record in sheet.records]
        told = {"name": sheet.name, "title": sheet.title, "rows": rows, "notes": list(sheet.notes)}
        tables.append(told | ({"units": sheet.units} if sheet.units else {}))
    return json.dumps({"schema": "attnzoo.cost", "version": SCHEMA, "tables": tables}, indent=2) + "\n"


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _latex(sheets: Sequence[Sheet], units: Units) -> str:
    def safe(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(safe, cells)) + r" \\"

    blocks = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        heads, rows = _cells(sheet, units)
        below = [f"\\par {safe(note)}" for note in notes(sheet, units)]
        align = "".join("r" if right else "l" for right in _right(sheet))
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    f"\\caption{{{safe(sheet.title)}}}",
                    f"\\begin{{tabular}}{{{align}}}",
                    r"\toprule",
                    line(heads),
                    r"\midrule",
                    *map(line, rows),
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"{\footnotesize",
                    *below,
                    "}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .2rem .5rem; text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }
td { white-space: nowrap; }
td.w { white-space: normal; min-width: 9rem; }
.n { text-align: right; }
.notes { font-size: .85rem; color: #777; }
"""


def _html(sheets: Sequence[Sheet], units: Units) -> str:
    def line(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
        inside = (f'<{tag} class="{k}">{html.escape(c)}</{tag}>' for c, k in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = []
    for sheet in sheets:
        heads, rows = _cells(sheet, units)
        kinds = ["n" if c.numeric else "w" if c.wraps else "" for c in sheet.shown()]
        below = "".join(f"<p>{html.escape(note)}</p>" for note in notes(sheet, units))
        body += [
            f"<div><table><caption>{html.escape(sheet.title)}</caption>",
            f"<thead>{line('th', heads, kinds)}</thead><tbody>",
            *(line("td", row, kinds) for row in rows),
            f'</tbody></table></div><div class="notes">{below}</div>',
        ]
    head = f'<meta charset="utf-8"><title>{html.escape(sheets[0].title if sheets else "cost")}</title>'
    style = f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    return (
        "\n".join(['<!doctype html><html lang="en"><head>', head, style, "</head><body>", *body, "</body></html>"])
        + "\n"
    )
