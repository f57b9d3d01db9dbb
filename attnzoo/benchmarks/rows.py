"""What was measured, row by row, and the CSV files that keep it."""

import csv
import datetime
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import torch

from attnzoo.profiling.latency import machine
from attnzoo.profiling.report import check_place
from attnzoo.profiling.report import write as write_file

OURS, COPY, AUTHORS, CONVS = "attnzoo", "copy", "authors", "convolutions"
SKIPPED, FAILED = "skipped: ", "failed: "


def skipped(error: ValueError) -> str:
    """The note of a row whose module does not fit.

    >>> skipped(ValueError("channels=64 is not\\n  divisible by 128"))
    'skipped: channels=64 is not divisible by 128'
    """
    return f"{SKIPPED}{_line(error)}"


def failed(error: Exception) -> str:
    """The note of a row that could not be measured.

    >>> failed(RuntimeError("can't allocate memory"))
    "failed: RuntimeError: can't allocate memory"
    """
    return f"{FAILED}{type(error).__name__}: {_line(error)}".removesuffix(": ")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """On what a row was measured, and when."""

    threads: int
    torch: str
    machine: str
    date: str

    @property
    def place(self) -> str:
        """The machine in words."""
        return f"{self.machine}, {self.threads} thread{'s' * (self.threads > 1)}, torch {self.torch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow(Measured):
    """One provider's time for one module in one case.

    Attributes:
        module: ours.
        options: of ours, as JSON; empty for the defaults.
        provider: "attnzoo", a peer, "authors" for their formulation, "convolutions" for those alone, "copy".
        relation: to ours: "equal", or "similar" or "differs" with why.
        dims: spatial axes.
        shape: of the features, as 8x256x56x56.
        mode: "forward", in eval mode without gradients, or "train": forward and backward.
        compiled: whether by torch.compile; the convolutions alone never are.
        layout: "contiguous" or "channels_last".
        wall_ms: median time.
        cpu_ms: of all threads.
        thread_ms: CPU time of the calling thread.
        to_copy: wall_ms over that of the copy in the same run.
        to_ours: wall_ms over ours in the same run.
        saved_bytes: that autograd keeps beyond x and the parameters; in "train" only.
        saved_to_x: the same over the bytes of x.
        compile_s: of the first call, in which torch.compile compiles.
        rounds: in each of which all providers had their turn.
        repeats: in each turn.
        note: why there are no figures, or what was odd.
    """

    module: str
    options: str
    provider: str
    relation: str
    dims: int
    shape: str
    mode: str
    compiled: bool
    layout: str
    wall_ms: float | None = None
    cpu_ms: float | None = None
    thread_ms: float | None = None
    to_copy: float | None = None
    to_ours: float | None = None
    saved_bytes: int | None = None
    saved_to_x: float | None = None
    compile_s: float | None = None
    rounds: int | None = None
    repeats: int | None = None
    note: str = ""

    @property
    def case(self) -> tuple[object, ...]:
        """What all rows of one run have in common."""
        return self.module, self.options, self.shape, self.mode, self.compiled, self.layout


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRow(Measured):
    """One network with one module at one site, beside the plain network in the same run.

    Attributes:
        network: as for `create_backbone`.
        module: ours.
        options: of it, as JSON; empty for the defaults.
        site: where it is.
        dims: spatial axes.
        shape: of the batch, as 4x3x224x224.
        mode: "inference" or "training": forward, backward and an SGD step.
        wall_ms: median time of a batch.
        cpu_ms: of all threads.
        plain_ms: wall_ms of the plain network.
        plain_cpu_ms: cpu_ms of it.
        per_second: images or clips per second.
        plain_per_second: of the plain network.
        ratio: per_second over plain_per_second.
        create_ms: to make the plain network.
        inject_ms: to put the attention into it.
        rounds: in each of which both had their turn.
        note: why there are no figures.
    """

    network: str
    module: str
    options: str
    site: str
    dims: int
    shape: str
    mode: str
    wall_ms: float | None = None
    cpu_ms: float | None = None
    plain_ms: float | None = None
    plain_cpu_ms: float | None = None
    per_second: float | None = None
    plain_per_second: float | None = None
    ratio: float | None = None
    create_ms: float | None = None
    inject_ms: float | None = None
    rounds: int | None = None
    note: str = ""

    @property
    def case(self) -> tuple[object, ...]:
        """What tells one run from the others."""
        return self.network, self.module, self.options, self.site, self.shape, self.mode


R = TypeVar("R", ModuleRow, NetworkRow)


def here() -> dict[str, Any]:
    """The fields of `Measured`, now and on this machine.

    >>> here()["threads"] == torch.get_num_threads()
    True
    """
    name, _, version = machine().rsplit(", ", 2)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"threads": torch.get_num_threads(), "torch": version.removeprefix("torch "), "machine": name, "date": today}


def write(path: Path, rows: Sequence[R]) -> None:
    """Write rows as CSV, whole or not at all.

    Args:
        path: the file; folders on the way are made.
        rows: at least one.

    Raises:
        ValueError: it cannot be written.
    """
    text = io.StringIO()
    # What tells the rows apart comes first, on what they were measured last.
    common = [f.name for f in fields(Measured)]
    table = csv.DictWriter(text, [f.name for f in fields(rows[0]) if f.name not in common] + common)
    table.writeheader()
    for row in rows:
        table.writerow({name: _written(value) for name, value in asdict(row).items()})
    write_file(path, text.getvalue())


def _written(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else value


def read(path: Path, kind: type[R]) -> list[R]:
    """Read rows that `write` wrote.

    Args:
        path: the file.
        kind: of its rows.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has other columns, or a value that is not one of its column.
    """
    kinds = get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if set(table.fieldnames or ()) != kinds.keys():
            raise ValueError(f"{path} is not a file of {kind.__name__}s of this version; its columns are others")
        rows = []
        for number, cells in enumerate(table, 2):
            try:
                values: dict[str, Any] = {name: _parsed(cells[name], kinds[name]) for name in kinds}
                rows.append(kind(**values))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return rows


def _parsed(cell: str, kind: Any) -> object:
    if get_args(kind):  # a number or None
        return get_args(kind)[0](cell) if cell else None
    if kind is bool:
        if cell not in ("yes", "no"):
            raise ValueError(f"{cell!r} is neither yes nor no")
        return cell == "yes"
    return kind(cell)


class Kept(Generic[R]):
    """Rows that were measured, in a CSV file that is whole after each case, so that an interruption loses one case.

    Args:
        path: the file; None keeps them in memory alone.
        kind: of the rows.

    Raises:
        ValueError: the file is none of ours, or was measured on another machine, version of torch or number of threads.
    """

    def __init__(self, path: Path | None, kind: type[R]) -> None:
        self.path = path
        self.rows: list[R] = read(path, kind) if path is not None and path.is_file() else []
        if path is not None:
            check_place(path)
        now = here()
        for row in self.rows:
            for name in ("machine", "torch", "threads"):
                if getattr(row, name) != now[name]:
                    raise ValueError(
                        f"{path} was measured with {name}={getattr(row, name)}, this would be {now[name]}; "
                        "ratios of two machines do not belong in one file, give another --out"
                    )

    def of(self, case: tuple[object, ...]) -> list[R]:
        """The rows of one run, if there are any.

        Args:
            case: of a row.
        """
        return [row for row in self.rows if row.case == case]

    def add(self, rows: Sequence[R]) -> None:
        """Keep the rows of one run, in place of those of an earlier one.

        Args:
            rows: of one case.
        """
        self.rows = [row for row in self.rows if row.case != rows[0].case] + list(rows)
        if self.path is not None:
            write(self.path, self.rows)
