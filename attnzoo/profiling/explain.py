"""The real fvcore and thop beside our own count, and why they differ, found by comparing them module by module."""

import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from attnzoo.profiling.cost import Cost
from attnzoo.profiling.external import PARAMS, External, measure_all, pack
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.profiling.table import Row

TOLERANCE = 0.01


def beside(sheet: Sheet, rows: Sequence[Row], models: Sequence[nn.Module], tools: Sequence[str]) -> Sheet:
    """A table with a column of what each tool itself says, its deviation from the MACs, and notes that explain it.

    Args:
        sheet: of the rows.
        rows: of `compare`.
        models: the network of each row; where attention does not fit, any.
        tools: "fvcore", "thop" or both.

    Raises:
        ValueError: an unknown tool.

    >>> from attnzoo.profiling.layout import sheet
    >>> from attnzoo.profiling.table import compare
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 1))
    >>> rows = list(compare(network, [], input_size=(1, 3, 4, 4)))
    >>> beside(sheet("tiny", "", rows, ["macs"]), rows, [network], ["thop"]).records[0]["flops_thop_run"]
    384
    """
    counted = [(model, record, row.cost) for model, record, row in zip(models, sheet.records, rows, strict=True)]
    fitting = [(model, record, cost) for model, record, cost in counted if cost]
    found = measure_all(tools, [model for model, _, _ in fitting], [cost.input_size for _, _, cost in fitting])
    columns = list(sheet.columns)
    macs = next(column for column in columns if column.key == "macs")
    for tool, said in found[0].items():
        head = f"{tool} {re.split('[.-]post|-', said.version)[0]}"
        columns.append(replace(macs, key=f"flops_{tool}_run", head=head, of="run"))
        columns.append(Column(f"flops_{tool}_off", "off MACs", "%", digits=2, signed=True))
    records = {id(record): dict(record) for record in sheet.records}
    notes: dict[str, list[str]] = defaultdict(list)
    for (model, record, cost), by_tool in zip(fitting, found, strict=True):
        for tool, said in by_tool.items():
            flops = None if said.error else said.flops
            records[id(record)] |= {
                f"params_{tool}_run": None if said.error else said.params,
                f"flops_{tool}_run": flops,
                f"flops_{tool}_off": 100 * (flops / cost.macs - 1) if flops is not None and cost.macs else None,
            }
            for note in explain(model, cost, said):
                notes[note].append(str(record["attn"]))
    remarks = [f"{note} ({', '.join(dict.fromkeys(names))})." for note, names in notes.items()]
    return replace(sheet, columns=columns, records=list(records.values()), notes=[*sheet.notes, *remarks])


def explain(model: nn.Module, cost: Cost, said: External) -> list[str]:
    """What makes a tool's numbers differ from the multiply-accumulates and parameters, a line each, the largest first.

    FLOPs may be 1 % off, from the MACs and from our own count in the tool's convention; parameters not at all.

    Args:
        model: what was counted.
        cost: our own count of it.
        said: what the tool said of it.

    >>> import attnzoo
    >>> from attnzoo.profiling.external import measure
    >>> layer = nn.Sequential(nn.Conv2d(3, 8, 1))
    >>> explain(layer, attnzoo.profile(layer, (1, 3, 4, 4)), measure("fvcore", layer, (1, 3, 4, 4)))
    []
    """
    if said.error:
        return [f"{said.tool} failed: {said.error}"]
    types = {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}
    notes = []
    allowed = TOLERANCE * cost.macs
    if max(abs(said.flops - cost.macs), abs(said.flops - cost.by_counter[said.tool])) > allowed:
        notes += _largest(allowed, _about_flops(said, _products(model, cost), types))
    if said.params != cost.params:
        notes += _largest(0, _about_params(said, model, types))
    return [f"{said.tool} {note}" for note in notes]


def _largest(allowed: float, causes: Iterable[tuple[int, str]]) -> list[str]:
    """Those above what is allowed, or else the one nearest to it."""
    ranked = sorted(causes, reverse=True)
    return [text for n, text in ranked if n > allowed] or [text for _, text in ranked[:1]]


def _about_flops(
    said: External, products: Mapping[type, Counter[str]], types: Mapping[str, type]
) -> Iterator[tuple[int, str]]:
    theirs: dict[type, Counter[str]] = defaultdict(Counter)
    for path, flops in said.shares.items():
        theirs[types[path]].update({op: n for op, n in flops.items() if op != PARAMS})
    for owner in {**products, **theirs}:
        macs, counted = products.get(owner, Counter()), theirs[owner]
        missing = macs.total() - counted.total()
        if not macs:
            for op, n in counted.items():
                yield n, f"also counts {_place(owner, op)}: {_short(n)}"
        elif missing < 0:
            yield -missing, f"counts {_short(-missing)} too much for {_place(owner, macs.most_common(1)[0][0])}"
        else:
            # What a tool does not know are the operations that add up to what it misses.
            for op, n in macs.most_common():
                if n <= missing:
                    missing -= n
                    yield n, f"counts 0 for {_place(owner, op)}: {_short(n)}"
            if missing:
                yield missing, f"counts {_short(missing)} too little for {_place(owner, macs.most_common(1)[0][0])}"


def _about_params(said: External, model: nn.Module, types: Mapping[str, type]) -> Iterator[tuple[int, str]]:
    ours, theirs = Counter[type](), Counter[type]()
    for module in model.modules():
        ours[type(module)] += sum(p.numel() for p in module.parameters(recurse=False))
    for path, share in said.shares.items():
        theirs[types[path]] += share.get(PARAMS, 0)
    for owner in ours:
        missing = ours[owner] - theirs[owner]
        if missing > 0 and theirs[owner]:
            yield missing, f"does not count parameters of {_place(owner, '')} used without being called: {missing:,}"
        elif missing > 0 and (_base(owner) or owner.__module__.startswith("torch.nn.")):
            yield missing, f"does not count parameters of {_place(owner, '')}: {missing:,}"
        elif missing > 0:
            yield missing, f"does not count parameters that {owner.__name__} holds outside its layers: {missing:,}"
        elif missing < 0:
            yield -missing, f"counts too many parameters of {_place(owner, '')}: {-missing:,}"


def _base(owner: type) -> str:
    """The layer of torch that a class of somebody else's is derived from, "" if none."""
    if owner.__module__.startswith("torch.nn."):
        return ""
    names = (b.__name__ for b in owner.__mro__ if b.__module__.startswith("torch.nn.modules.") and b is not nn.Module)
    return next(names, "")


def _place(owner: type, op: str) -> str:
    if base := _base(owner):
        return f"{owner.__name__} (a subclass of nn.{base})"
    return owner.__name__ if owner.__module__.startswith("torch.nn.") else f"{op} in {owner.__name__}"


def _short(n: int) -> str:
    unit, letter = next(((u, s) for u, s in ((10**9, " G"), (10**6, " M")) if n >= u), (1, ""))
    return f"{n / unit:.3g}{letter}" if letter else f"{n:,}"


def _products(model: nn.Module, cost: Cost) -> dict[type, Counter[str]]:
    """Multiply-accumulates by the type of module that asks for them, and the function of torch that it calls."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device(cost.device):
        ghost = pickle.loads(pack(model)).to(cost.device).eval()  # noqa: S301
        inputs = [torch.zeros(size) for size in cost.input_size]
    callers = [type(ghost)]

    def enter(module: nn.Module, _: object) -> None:
        callers.append(type(module))

    def leave(*_: object) -> None:
        callers.pop()

    for module in ghost.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    counted: dict[type, Counter[str]] = defaultdict(Counter)
    flops = FlopCounterMode(display=False)

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = flops.get_total_flops()
            out = func(*args, **kwargs or {})
            if macs := (flops.get_total_flops() - before) // 2:
                counted[callers[-1]][func.__name__.strip("_")] += macs
            return out

    with torch.random.fork_rng(devices=[]), torch.no_grad(), Functions(), flops:
        ghost(*inputs)
    return counted
