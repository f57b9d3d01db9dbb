"""The cost of networks with each attention, beside the plain one."""

import copy
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from attnzoo.inject import attentions, inject
from attnzoo.profiling.cost import COUNTERS, Cost, Counter
from attnzoo.profiling.counter import profile
from attnzoo.profiling.report import Column, Sheet
from attnzoo.registry import spec

PASSES = 5  # that are timed, after one to warm up


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention to put into a network.

    Attributes:
        name: of the module.
        options: its own.
        site: where in the blocks; the module's own if None.
        stages: which stages; all if None.
        label: what it is called; its name and options if None.
        identity: whether it starts as an exact identity, which takes a parameter of its own.

    >>> Attention("mpe", {"groups": 4}).title
    'mpe:groups=4'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    site: str | None = None
    stages: Sequence[int] | None = None
    label: str | None = None
    identity: bool = False

    @property
    def written(self) -> str:
        """The options as on the command line."""
        return ",".join(f"{k}={_written(v)}" for k, v in self.options.items())

    @property
    def title(self) -> str:
        """What it is called."""
        return self.label or self.name + (f":{self.written}" if self.options else "")

    def put_into(self, network: nn.Module) -> nn.Module:
        """A copy of a network with it.

        Args:
            network: left as it is.

        Raises:
            ValueError: an unknown module, site or stage, or a width that does not fit the options.
            TypeError: an unknown option.
        """
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        with device:  # on the meta device attention costs neither memory nor the time to draw its weights
            return inject(
                copy.deepcopy(network),
                self.name,
                site=self.site,
                stages=self.stages,
                identity=self.identity,
                **self.options,
            )


def _written(value: object) -> str:
    """A value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One network of a table.

    Attributes:
        attn: label of the attention, "none" for the plain network.
        site: where it goes, "-" for the plain network.
        places: how many attention modules the network has.
        cost: of the whole network; None where the attention does not fit.
        options: of the attention, as on the command line.
        misfit: why it does not fit.
        latency: median time of a forward pass, s, if it was measured.
    """

    attn: str
    site: str
    places: int
    cost: Cost | None
    options: str = ""
    misfit: str = ""
    latency: float | None = None


def compare(
    network: nn.Module,
    attns: Iterable[Attention],
    *,
    input_size: Sequence[int] | None = None,
    counter: Counter = "fvcore",
    skip_misfits: bool = False,
    latency: bool = False,
    label: str | None = None,
) -> Iterator[Row]:
    """Cost of a network, plain and then with each attention, one at a time.

    Args:
        network: the plain one; on the meta device it costs no memory. It is left as it is.
        attns: what goes into it.
        input_size: (N, C, *spatial); that of `default_size` if None.
        counter: the convention of the FLOPs.
        skip_misfits: whether attention that does not fit is a row that says so, instead of an error.
        latency: measure it; the network must then be a real one.
        label: what the plain network is called; "none" if None, or "its own" where it comes with attention.

    Raises:
        ValueError: what `Attention.put_into` and `profile` raise.
        TypeError: an unknown option.

    >>> from attnzoo import create_backbone
    >>> with torch.device("meta"):
    ...     network = create_backbone("timm/resnet18")
    >>> [row.cost.params for row in compare(network, [Attention("se", {"reduction": 8})])]
    [11689512, 11863592]
    """
    size = tuple(input_size or default_size(network))
    own = len(attentions(network))

    def row(label: str, site: str, model: nn.Module, options: str) -> Row:
        seconds = time_forward(model, size) if latency else None
        cost = profile(model, size, counter=counter)
        return Row(label, site, len(attentions(model)), cost, options, latency=seconds)

    yield row(label or ("its own" if own else "none"), "-", network, "")
    for each in attns:
        site = each.site or spec(each.name).site
        try:
            yield row(each.title, site, each.put_into(network), each.written)
        except ValueError as error:
            if not skip_misfits:
                raise
            yield Row(each.title, site, 0, None, each.written, misfit=str(error))


def compare_all(
    networks: Sequence[tuple[Callable[[], nn.Module], Sequence[int] | None]],
    attns: Sequence[Attention],
    *,
    counter: Counter = "fvcore",
    latency: bool = False,
    workers: int = 1,
) -> Iterator[list[Row]]:
    """`compare` for several networks; attention that does not fit is a row that says so.

    Args:
        networks: what makes each, and its input size. With several workers it must be importable.
        attns: what goes into each.
        counter: the convention of the FLOPs.
        latency: measure it, in this process alone.
        workers: processes.

    Raises:
        ValueError: a network that does not take its input.

    >>> from torchvision.models import resnet18
    >>> [[row.attn for row in rows] for rows in compare_all([(resnet18, None)], [Attention("sa")])]
    [['none', 'sa']]
    """
    if workers == 1 or latency:
        for build, size in networks:
            yield _share(build, attns, size, counter, latency)
        return
    # Each process takes every n-th attention, so that no one waits long for the others.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [
            [pool.submit(_share, build, attns[i::workers], size, counter, False) for i in range(workers)]
            for build, size in networks
        ]
        for shares in futures:
            rows: list[Any] = [None] * len(attns)
            for i, share in enumerate(shares):
                plain, *rows[i::workers] = share.result()
            yield [plain, *rows]


def _share(
    build: Callable[[], nn.Module],
    attns: Sequence[Attention],
    size: Sequence[int] | None,
    counter: Counter,
    latency: bool,
) -> list[Row]:
    return list(compare(build(), attns, input_size=size, counter=counter, skip_misfits=True, latency=latency))


def counters_of(text: str) -> list[Counter]:
    """Counters as written on the command line, each once.

    Args:
        text: names with commas between them.

    Raises:
        ValueError: an unknown one.

    >>> counters_of("fvcore,thop")
    ['fvcore', 'thop']
    """
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in COUNTERS:
            raise ValueError(f"counter {name!r} must be one of {', '.join(COUNTERS)}, or several with commas between")
    return cast(list[Counter], names)


def default_size(network: nn.Module) -> tuple[int, ...]:
    """The usual input of a network: 1 x 3 x 224 x 224, or 1 x 3 x 16 x 112 x 112 for a 3D one.

    Args:
        network: any.

    >>> default_size(nn.Conv3d(3, 8, 3))
    (1, 3, 16, 112, 112)
    """
    return (1, 3, 16, 112, 112) if any(isinstance(m, nn.Conv3d) for m in network.modules()) else (1, 3, 224, 224)


def time_forward(model: nn.Module, input_size: Sequence[int], passes: int = PASSES) -> float:
    """Median time of a forward pass in eval mode on the CPU, s, after one to warm up.

    Args:
        model: a real one, not on the meta device; it is set to eval mode.
        input_size: (N, C, *spatial).
        passes: that are timed.

    >>> time_forward(nn.Conv2d(3, 8, 1), (1, 3, 8, 8)) > 0
    True
    """
    model.eval()
    x = torch.randn(*input_size)
    times = []
    with torch.inference_mode():
        for _ in range(passes + 1):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def machine() -> str:
    """What the latency was measured on.

    >>> "torch" in machine()
    True
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def sheet(name: str, title: str, rows: Sequence[Row], counters: Sequence[str]) -> Sheet:
    """The rows of `compare` as a table of a report; parameters, FLOPs, MACs and bytes beside those of the first row.

    Args:
        name: of the network.
        title: for people; the input is added to it.
        rows: the plain network first.
        counters: conventions of the FLOPs, a column each; that of the rows first.

    >>> from attnzoo import create_backbone
    >>> with torch.device("meta"):
    ...     network = create_backbone("timm/resnet18")
    >>> sheet("resnet18", "", list(compare(network, [])), ["fvcore"]).records[0]["param_count"]
    11689512
    """
    columns = [
        Column("model", "model", reader="programs"),
        Column("attn", "attention", wraps=True),
        Column("where", "site", reader="people"),
        Column("site", "site", reader="programs"),
        Column("places", "places", reader="programs"),
        Column("options", "options", reader="programs"),
        Column("img_size", "input", reader="programs"),
    ]
    largest = max(max(row.cost.params, row.cost.macs) for row in rows if row.cost)
    prefix, digits = ("G", 3) if largest > 10**8 else ("M", 4)  # a module alone
    quantities = [Column("param_count", "params", "M", digits=digits)]
    quantities += [Column(f"flops_{c}", "FLOPs", prefix, c, 4) for c in counters if c != "macs"]
    quantities += [Column("macs", "MACs", prefix, digits=4), Column("bytes_moved", "moved", "MB", digits=1)]
    first = quantities[1].key
    for column in quantities:
        columns.append(column)
        if len(rows) > 1:
            # The one cell of the terminal names the FLOPs of one convention alone.
            adds = {"param_count": " ", first: " ", "bytes_moved": " moved"}.get(column.key, "-")
            key = f"{column.key}_added"
            columns.append(replace(column, key=key, head="added", of="", signed=True, adds=adds))
    if any(row.latency is not None for row in rows):
        columns.append(Column("latency_ms", "latency", "ms", digits=1))
    columns += [Column(key, key, unit, reader="programs") for key, unit in (("kernels", ""), ("saved", "MB"))]
    base = _counts(rows[0].cost, counters)
    records = [
        {
            "model": name,
            "attn": row.attn,
            "where": f"{row.site} x{row.places}" if row.places else f"{row.site}{': no' if row.misfit else ''}",
            "site": row.site,
            "places": row.places,
            "options": row.options,
            "img_size": "x".join(map(str, row.cost.input_size[0][2:])) if row.cost else "",
            **(counts := _counts(row.cost, counters)),
            **{f"{key}_added": counts[key] - base[key] for key in counts if row is not rows[0]},
            "saved": row.cost.saved if row.cost else None,
            "latency_ms": None if row.latency is None else 1e3 * row.latency,
            "misfit": row.misfit,
            "zeros": dict(row.cost.zeros) if row.cost else {},
            "unknown": list(row.cost.unknown) if row.cost else [],
        }
        for row in rows
    ]
    assert rows[0].cost is not None  # only attention can misfit
    return Sheet(name, f"{title}, {_input(rows[0].cost)}", columns, records, list(_notes(rows, counters)))


def _input(cost: Cost) -> str:
    return f"input {' and '.join(' x '.join(map(str, size)) for size in cost.input_size)}, eval mode"


def _counts(cost: Cost | None, counters: Sequence[str]) -> dict[str, int]:
    """What a record holds of a cost: plain integers."""
    if cost is None:
        return {}
    return {
        "param_count": cost.params,
        **{f"flops_{c}": cost.by_counter[c] for c in counters if c != "macs"},
        "macs": cost.macs,
        "bytes_moved": cost.bytes_read + cost.bytes_written,
        "kernels": cost.kernels,
    }


def _notes(rows: Sequence[Row], counters: Sequence[str]) -> Iterator[str]:
    yield (
        "MACs are multiply-accumulates of convolutions, matrix products and attention, nothing else; FLOPs are what "
        "the named counter makes of the same pass. Moved: bytes that all kernels read and write, without caches or "
        "fusion."
    )
    costs = [row.cost for row in rows if row.cost]
    nothing: dict[tuple[str, ...], list[str]] = {}
    for counter in counters:
        zeros = {op.strip("_") for cost in costs for op in cost.zeros_by_counter[counter]}
        nothing.setdefault(tuple(sorted(zeros)), []).append(counter)
    for ops, names in nothing.items():
        if ops:
            yield f"{' and '.join(names)} count{'s' if len(names) == 1 else ''} nothing for {', '.join(ops)}."
    unknown = sorted({op for cost in costs for op in cost.unknown})
    if unknown:
        yield f"No counter knows the cost of {', '.join(unknown)}: nothing is counted for them."
    placed = [row for row in rows if row.options and row.options not in row.attn]
    if placed:
        yield f"Options: {'; '.join(f'{row.attn} at {row.site}: {row.options}' for row in placed)}."
    for row in rows:
        if row.misfit:
            yield f"{row.attn} at site {row.site}: {row.misfit}."
    if any(row.latency is not None for row in rows):
        yield f"Latency: median of {PASSES} forward passes after one to warm up, on {machine()}."


def parts(name: str, row: Row, depth: int) -> Sheet:
    """The parts of one network as a table of a report.

    Args:
        name: of the network.
        row: of `compare`.
        depth: how many names the path of a part may have: 1 for stages, 2 for blocks.

    >>> tiny = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    >>> (row,) = compare(tiny, [], input_size=(1, 3, 8, 8))
    >>> [record["module"] for record in parts("tiny", row, 1).records]
    ['0', '1', 'all attention', 'whole']
    """
    cost = row.cost
    assert cost is not None  # only attention can misfit
    columns = [
        Column("model", "model", reader="programs"),
        Column("attn", "attention", reader="programs"),
        Column("module", "module", wraps=True),
        Column("param_count", "params", "M"),
        Column(f"flops_{cost.counter}", "FLOPs", "G", cost.counter, 4),
        Column("macs", "MACs", "G", digits=4),
        Column("bytes_moved", "moved", "MB", digits=1),
        Column("kernels", "kernels", digits=0),
    ]
    named = {path: part for path, part in cost.modules.items() if path and path.count(".") < depth}
    records = [
        {
            "model": name,
            "attn": row.attn,
            "module": path,
            "param_count": part.params,
            f"flops_{cost.counter}": part.flops,
            "macs": part.macs,
            "bytes_moved": part.bytes,
            "kernels": part.kernels,
        }
        for path, part in (named | {"all attention": cost.attention, "whole": cost.modules[""]}).items()
    ]
    return Sheet(f"{name} parts", f"{name}, attention {row.attn}: its parts, {_input(cost)}", columns, records)
