"""Costs laid out as tables of a report."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attnzoo.profiling.cost import Cost
from attnzoo.profiling.latency import PASSES, SECONDS, machine
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.profiling.table import Row


def sheet(name: str, title: str, rows: Sequence[Row], counters: Sequence[str]) -> Sheet:
    """The rows of `compare` as a table of a report; parameters, FLOPs, MACs and bytes beside those of the first row.

    Args:
        name: of the network.
        title: for people; the input is added to it.
        rows: the plain network first.
        counters: conventions of the FLOPs, a column each; that of the rows first.

    >>> from attnzoo import create_backbone
    >>> from attnzoo.profiling.table import compare
    >>> sheet("resnet18", "", list(compare(create_backbone("timm/resnet18"), [])), ["fvcore"]).records[0]["param_count"]
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
    quantities = _quantities([row.cost for row in rows if row.cost], counters)
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
    told = (("kernels", ""), ("saved", "MB"), ("misfit", ""))
    columns += [Column(key, key, unit, reader="programs") for key, unit in told]
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


def _quantities(costs: Sequence[Cost], counters: Sequence[str]) -> list[Column]:
    """Columns of parameters, FLOPs, MACs and bytes: with more digits for a module alone."""
    largest = max(max(cost.params, cost.macs) for cost in costs)
    prefix, few, many, moved = ("G", 3, 4, 1) if largest > 10**8 else ("M", 4, 4, 1)
    if largest < 10**6:
        few, many, moved = 6, 6, 3
    return [
        Column("param_count", "params", "M", digits=few),
        *(Column(f"flops_{c}", "FLOPs", prefix, c, csv="G", digits=many) for c in counters if c != "macs"),
        Column("macs", "MACs", prefix, csv="G", digits=many),
        Column("bytes_moved", "moved", "MB", digits=moved),
    ]


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
    if any(cost.device != "meta" for cost in costs):
        real = ", ".join(row.attn for row in rows if row.cost and row.cost.device != "meta")
        yield f"Needs the values of its tensors, and was therefore run on a real copy, on the CPU: {real}."
    misfits: dict[str, list[str]] = {}
    for row in rows:
        if row.misfit:
            misfits.setdefault(row.misfit, []).append(f"{row.attn} at site {row.site}")
    for why, places in misfits.items():
        yield f"{', '.join(places)}: {why}."
    if any(row.latency is not None for row in rows):
        yield (
            f"Latency: median of {PASSES} forward passes, or of as many as begin within {SECONDS:g} s, after one to "
            f"warm up; on this machine alone: {machine()}."
        )


def parts(name: str, row: Row, depth: int) -> Sheet:
    """The parts of one network as a table of a report.

    Args:
        name: of the network.
        row: of `compare`.
        depth: how many names the path of a part may have: 1 for stages, 2 for blocks.

    >>> from torch import nn
    >>> from attnzoo.profiling.table import compare
    >>> tiny = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    >>> (row,) = compare(tiny, [], input_size=(1, 3, 8, 8))
    >>> [record["module"] for record in parts("tiny", row, 1).records]
    ['0', '1', 'whole']
    """
    cost = row.cost
    assert cost is not None  # only attention can misfit
    columns = [
        Column("model", "model", reader="programs"),
        Column("attn", "attention", reader="programs"),
        Column("module", "module", wraps=True),
        *_quantities([cost], [cost.counter]),
        Column("kernels", "kernels", digits=0),
    ]
    named = {path: part for path, part in cost.modules.items() if path and path.count(".") < depth}
    if row.places:
        named["all attention"] = cost.attention
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
        for path, part in (named | {"whole": cost.modules[""]}).items()
    ]
    return Sheet(f"{name} parts", f"{name}, attention {row.attn}: its parts, {_input(cost)}", columns, records)
