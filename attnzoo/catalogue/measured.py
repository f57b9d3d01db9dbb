"""How long a module takes beside a copy of its input, as `attnzoo bench` measured it once."""

from pathlib import Path
from typing import Any

from attnzoo.benchmarks.rows import OURS, ModuleRow, read
from attnzoo.profiling.sheets import Column, Sheet

# An installed package carries the results inside it; in a checkout they stand beside it.
_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "bench_results", _PACKAGE.parent / "bench" / "results")


def ratios(name: str, folders: tuple[Path, ...] = FOLDERS) -> list[ModuleRow]:
    """What was measured of a module with its default options.

    Args:
        name: of the module.
        folders: where files of `attnzoo bench --out` are looked for; those of networks are left aside.
    """
    files = [file for folder in folders for file in sorted(folder.glob("*.csv")) if _of_modules(file)]
    rows = [row for file in files for row in read(file, ModuleRow)]
    return [
        row
        for row in rows
        if (row.module, row.provider, row.options, row.compiled) == (name, OURS, "", False) and row.to_copy
    ]


def _of_modules(file: Path) -> bool:
    with file.open(encoding="utf-8") as text:
        return text.readline().startswith("module,")


def sheet(name: str, rows: list[ModuleRow]) -> Sheet:
    """The ratios to the copy, a row for each shape and layout of the features.

    Args:
        name: of the module.
        rows: of `ratios`.
    """
    records: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        place = (row.shape, row.layout, row.machine)
        record = records.setdefault(place, {"shape": row.shape, "layout": row.layout, "machine": row.machine})
        record |= {f"to_copy_{row.mode}": row.to_copy, f"times_{row.mode}": f"{row.to_copy:.2f}"}
    where = dict.fromkeys(f"{row.place}, {row.date}" for row in rows)
    return Sheet(
        "measured",
        f"{name}: its time in multiples of that of a copy x * c",
        [
            Column("shape", "features"),
            Column("layout", "layout"),
            Column("times_forward", "forward", digits=0, reader="people"),
            Column("to_copy_forward", "forward", reader="programs"),
            Column("times_train", "forward and backward", digits=0, reader="people"),
            Column("to_copy_train", "forward and backward", reader="programs"),
            Column("machine", "machine", reader="programs"),
        ],
        list(records.values()),
        [f"Measured on {'; '.join(where)}."],
    )
