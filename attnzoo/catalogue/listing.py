"""The modules that fit what a user wants, as a table."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attnzoo.catalogue.counts import Count, columns, count, misfits, size_for
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.registry import Spec, list_modules, spec

Entry = tuple[Spec, Count]


SORTS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: 0,  # they are in that order already
    "year": lambda entry: entry[0].year or 0,
    "site": lambda entry: entry[0].site,
    "params": lambda entry: entry[1].cost.params if entry[1].cost else 0,
    "macs": lambda entry: entry[1].cost.macs if entry[1].cost else 0,
}
_AXES = {1: "L", 2: "H W", 3: "T H W"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a module must be to be listed.

    Attributes:
        pattern: its name, with wildcards.
        dims: it is defined for so many spatial axes.
        site: it goes there by default.
        years: of its paper, the first and the last; None for no bound.
        golden: whether it was compared with its authors' code, or with a port of it; None for both.
        max_params: it has no more parameters.
        max_macs: it has no more MACs.

    >>> Wanted("s*", golden=True).site is None
    True
    """

    pattern: str = "*"
    dims: int | None = None
    site: str | None = None
    years: tuple[int | None, int | None] = (None, None)
    golden: bool | None = None
    max_params: int | None = None
    max_macs: int | None = None

    def describes(self, found: Spec) -> bool:
        """Whether what the registry knows of a module fits.

        Args:
            found: the module.
        """
        first, last = self.years
        if (first is not None or last is not None) and found.year is None:
            return False
        return (
            (self.golden is None or self.golden == found.golden)
            and (first is None or (found.year or 0) >= first)
            and (last is None or (found.year or 0) <= last)
        )

    def affords(self, counted: Count) -> bool:
        """Whether a cost fits; one that is not known fits no bound.

        Args:
            counted: the module at some width.
        """
        bounds = ((self.max_params, "params"), (self.max_macs, "macs"))
        return all(
            bound is None or (counted.cost is not None and getattr(counted.cost, name) <= bound)
            for bound, name in bounds
        )


def years_of(text: str) -> tuple[int | None, int | None]:
    """A range of years as written on the command line.

    Args:
        text: "2021", "2020..2022", "2020.." or "..2019".

    Raises:
        ValueError: it is none, or ends before it begins.

    >>> years_of("2021"), years_of("2020.."), years_of("2020..2022")
    ((2021, 2021), (2020, None), (2020, 2022))
    """
    found = re.fullmatch(r"(\d{4})?(\.\.)?(\d{4})?", text.strip())
    if found is None or not text.strip(". ") or (found[1] and found[3] and not found[2]):
        raise ValueError(f"year {text!r} must be a year or a range of them: 2021, 2020..2022, 2020.. or ..2019")
    first, last = (int(year) if year else None for year in (found[1], found[3]))
    if not found[2]:
        first = last = first or last
    if first and last and first > last:
        raise ValueError(f"year {text!r} ends before it begins; write {last}..{first}")
    return first, last


def amount_of(text: str) -> int:
    """A number as written on the command line.

    Args:
        text: "8192", "10k", "2.5M", "1G" or "1e6".

    Raises:
        ValueError: it is none, or negative.

    >>> amount_of("10k"), amount_of("2.5M"), amount_of("1e6")
    (10000, 2500000, 1000000)
    """
    factors = {"k": 10**3, "M": 10**6, "G": 10**9}
    factor = factors.get(text[-1:], 1)
    try:
        value = round(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        value = -1
    if value < 0:
        raise ValueError(f"{text!r} must be a number such as 8192, 10k, 2.5M, 1G or 1e6")
    return value


def listing(
    wanted: Wanted = Wanted(),
    *,
    channels: int = 256,
    size: Sequence[int] | None = None,
    sort: str = "name",
    reverse: bool = False,
) -> Sheet:
    """The modules that fit, a row each, with their cost at one width.

    Args:
        wanted: what they must be.
        channels: C for which they are counted.
        size: of the features, (H, W) or (T, H, W), one number for a square; 28 x 28 if None, and 8 x 28 x 28 where
            `wanted.dims` is 3 or a module is for 3D alone.
        sort: "name", "year", "site", "params" or "macs".
        reverse: whether the largest comes first.

    Raises:
        ValueError: an unknown site or key to sort by, a size of other axes than `wanted.dims`, or no module fits.

    >>> [row["name"] for row in listing(Wanted("s?", years=(2019, None)), sort="macs").records]
    ['sa', 'sk']
    """
    if sort not in SORTS:
        raise ValueError(f"sort {sort!r} must be one of {', '.join(SORTS)}")
    dims = wanted.dims
    if size and dims and dims != len(size) and (len(size), dims) != (1, 2):
        raise ValueError(f"size {' '.join(map(str, size))} is not that of {dims}D features; give {_AXES.get(dims, '')}")
    if size is None and dims == 3:
        size = (8, 28, 28)
    axes = dims or (max(2, len(size)) if size else None)
    found = [spec(name) for name in list_modules(wanted.pattern, spatial_dims=axes, site=wanted.site)]
    if not found and wanted == Wanted(wanted.pattern):
        raise ValueError(f"no module's name matches {wanted.pattern!r}; see attnzoo list")
    counted = [(each, count(each.name, channels, size_for(each, size))) for each in found if wanted.describes(each)]
    entries = [entry for entry in counted if wanted.affords(entry[1])]
    if not entries:
        raise ValueError("no module fits all of this; leave a condition out, or see attnzoo list")
    entries.sort(key=SORTS[sort])
    if reverse:
        entries.reverse()
    if sort in ("params", "macs"):
        entries.sort(key=lambda entry: entry[1].cost is None)  # what is not known comes last
    sizes, everything = {each.size for _, each in entries}, len(list_modules())
    shares = f"{len(entries)} of {everything}" if len(entries) < everything else f"All {everything}"
    common = f"{' x '.join(map(str, sizes.pop()))} positions" if len(sizes) == 1 else "their usual features"
    return Sheet(
        "modules",
        f"{shares} modules, counted on {common}",
        [
            Column("name", "name"),
            Column("year", "year", digits=0),
            Column("site", "site"),
            Column("dims", "dims"),
            *columns(f"parameters\nat C={channels}", "MACs"),
            Column("compared_with", "compared with", wraps=True, spare=True),
            Column("idea", "idea", wraps=True),
            Column("paper", "paper", reader="programs"),
            Column("formula", "formula", reader="programs"),
            Column("misfit", "misfit", reader="programs"),
        ],
        [
            {
                "name": each.name,
                "year": each.year,
                "site": each.site,
                "dims": ", ".join(f"{d}D" for d in sorted(each.dims)),
                **found_count.record,
                "compared_with": each.compared_with or "-",
                "idea": each.idea,
                "paper": each.paper,
                "formula": each.formula,
            }
            for each, found_count in entries
        ],
        misfits({each.name: found_count for each, found_count in entries}),
    )


def readme_table(sheet: Sheet) -> str:
    """A listing as the table of a README, whose ideas are links to the papers.

    Args:
        sheet: of `listing`.

    >>> readme_table(listing(Wanted("se"))).splitlines()[1]
    '| --- | ---: | --- | --- | ---: | --- | --- |'
    """
    shown = [column for column in sheet.shown() if column.key not in ("idea", "multiply_adds")]
    lines = [
        [*(" ".join(column.head.split()) for column in shown), "idea and paper"],
        [*("---:" if column.numeric else "---" for column in shown), "---"],
    ]
    for record in sheet.records:
        cells = [column.text(record[column.key], "decimal") for column in shown[1:]]
        lines.append([f"`{record['name']}`", *cells, f"[{record['idea']}]({record['paper']})"])
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n" for cells in lines)
