"""Tables of costs as a command prints them, or writes them into a file."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from attnzoo.cli.shared import console, echo, show


def format_of(form: str | None, output: str | None) -> str:
    """The format asked for, or that of the output file, which must have a place: nothing is counted in vain."""
    from attnzoo.profiling.report import SUFFIXES, check_place

    if output is None:
        return form or "rich"
    path = Path(output, "*") if _is_folder(output) else Path(output)
    check_place(path)
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if form is None and not _is_folder(output) and path.suffix[1:] not in by_suffix:
        suffixes = ", ".join(f".{suffix}" for suffix in by_suffix)
        raise ValueError(f"{output} has no suffix that tells its format ({suffixes}); give it one, or --format")
    return form or by_suffix.get(path.suffix[1:], "rich")


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def print_sheets(sheets: list[Any], form: str, units: Any, output: str | None, name: str) -> None:
    """Print a report, or write it; into a folder as NAME.SUFFIX."""
    from attnzoo.profiling.report import SUFFIXES, notes, render, table, write

    if output is not None:
        path = Path(output)
        if _is_folder(output):
            path /= f"{re.sub('[^A-Za-z0-9.-]+', '_', name)[:200]}.{SUFFIXES[form]}"
        write(path, render(sheets, form, units))
        Console(stderr=True).print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    elif form == "rich":
        narrow = console.is_terminal and console.width < 100
        for each in sheets:
            each = replace(each, columns=[column for column in each.columns if not (narrow and column.spare)])
            echo(each.title)
            show(table(each, units))
            console.print("", *notes(each, units), "", sep="\n", highlight=False, markup=False)
    else:
        sys.stdout.write(render(sheets, form, units))
