"""Tables of a report, before they have a format."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Units = Literal["decimal", "binary"]
UNITS: tuple[str, ...] = get_args(Units)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: of the records; the name in CSV and JSON.
        head: the name for people.
        unit: of what people and CSV see: "M", "G", "MB", "%", "ms" or none; records hold plain counts and bytes.
        csv: the unit in CSV, where people may see another; a column of CSV has the same one in every report.
        units: "decimal" or "binary" for what a paper prints in one of them; None for those of the report.
        of: what else its head says, such as the counter.
        digits: after the decimal point, for people; more where a value would else read as zero.
        reader: who sees it: "all", "people", or "programs" (CSV and JSON).
        signed: whether a plus is written.
        adds: for what attention adds, what follows its unit in the one cell that the terminal has for all that is
            added; " " for nothing, "-" if it is left out there, "" if the column is no such one.
        wraps: whether it may wrap where the terminal is narrow.
        spare: whether it is left out where the terminal is narrower than 100 columns.

    >>> [Column("macs", "MACs", "G", digits=4).text(n, "decimal") for n in (7_801_405_440, 5_760)]
    ['7.8014', '0.0000058']
    """

    key: str
    head: str
    unit: str = ""
    of: str = ""
    csv: str = ""
    units: Units | None = None
    digits: int = 3
    reader: Literal["all", "people", "programs"] = "all"
    signed: bool = False
    adds: str = ""
    wraps: bool = False
    spare: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it stands on the right."""
        return bool(self.unit) or self.digits == 0

    def unit_name(self, units: Units) -> str:
        """The unit with its prefix: "M" or "Mi".

        Args:
            units: "decimal" or "binary".
        """
        binary = units == "binary" and self.unit[:1] in ("M", "G")
        return f"{self.unit[0]}i{self.unit[1:]}" if binary else self.unit

    def title(self, units: Units) -> str:
        """The head with the unit, for people.

        Args:
            units: "decimal" or "binary".
        """
        within = ", ".join(filter(None, (self.unit_name(units), self.of)))
        return self.head + (f" ({within})" if within else "")

    def name(self, units: Units) -> str:
        """The head in CSV.

        Args:
            units: "decimal" or "binary".
        """
        return self.key + (f" ({self.unit_name(units)})" if self.unit else "")

    def for_csv(self) -> "Column":
        """The same with the unit that it has there."""
        return replace(self, unit=self.csv or self.unit)

    def scaled(self, value: Any, units: Units) -> Any:
        """A value in the column's unit.

        Args:
            value: of a record.
            units: "decimal" or "binary".
        """
        if self.unit[:1] not in ("M", "G") or value is None or isinstance(value, str):
            return value
        return value / scale(self.unit[0], units)

    def text(self, value: Any, units: Units) -> str:
        """A value as people read it.

        Args:
            value: of a record.
            units: "decimal" or "binary".
        """
        if value is None:
            return ""
        if isinstance(value, str) or not self.unit:  # what a paper prints stays as it is
            return str(value)
        number, digits = self.scaled(value, units), self.digits
        if number and not round(number, digits):
            digits = 1 - math.floor(math.log10(abs(number)))
        return f"{number:{'+' if self.signed else ''}.{digits}f}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table of a report.

    Attributes:
        name: short, for CSV and JSON.
        title: for people.
        columns: what is shown.
        records: a mapping per row, with the columns' keys and maybe more, which JSON has too.
        notes: below the table, a paragraph each.
        units: that people see in this table, whatever those of the report are: a paper's are the paper's.

    >>> Sheet("mine", "Mine", [Column("macs", "MACs", "G")], [{"macs": 1_000}]).notes
    ()
    """

    name: str
    title: str
    columns: Sequence[Column]
    records: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    units: Units | None = None

    def shown(self) -> list[Column]:
        """The columns for people."""
        return [column for column in self.columns if column.reader != "programs"]


def scale(prefix: str, units: Units) -> int:
    """What M or G stands for.

    Args:
        prefix: "M" or "G".
        units: "decimal" or "binary".

    >>> scale("M", "binary") == 2**20
    True
    """
    return {"M": 10**6, "G": 10**9}[prefix] if units == "decimal" else {"M": 2**20, "G": 2**30}[prefix]
