"""The cost of a backbone with each attention, beside the plain one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn

from attnzoo.inject import attentions
from attnzoo.profiling.counter import Cost, Counter, profile
from attnzoo.registry import spec


@dataclass(frozen=True, slots=True)
class Row:
    """One network of the table.

    Attributes:
        attn: label of the attention, "none" for the plain network.
        site: where it goes, "-" for the plain network.
        places: how many attention modules the network has.
        cost: of the whole network.
    """

    attn: str
    site: str
    places: int
    cost: Cost


def compare(
    build: Callable[..., nn.Module],
    attns: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    site: str | None = None,
    input_size: Sequence[int] | None = None,
    counter: Counter = "fvcore",
) -> list[Row]:
    """Cost of a backbone, plain and with each attention.

    Args:
        build: makes the network from attn, site and attn_options, as `attnzoo.create_backbone` does.
        attns: names of modules, each with its options.
        site: where in the blocks; each module's own if None.
        input_size: (N, C, *spatial); by default 1 x 3 x 224 x 224, and 1 x 3 x 16 x 112 x 112 for a 3D network.
        counter: the convention of the FLOPs.

    Raises:
        ValueError: what `build` and `profile` raise.

    >>> from functools import partial
    >>> from attnzoo import create_backbone
    >>> build = partial(create_backbone, "timm/resnet18")
    >>> [row.cost.params for row in compare(build, [("se", {"reduction": 8})])]
    [11689512, 11863592]
    """
    rows = []
    for name, options in [("none", {}), *attns]:
        # On the meta device a network costs neither memory nor the time to draw its weights.
        with torch.device("meta"):
            model = build() if name == "none" else build(attn=name, site=site, attn_options=dict(options))
        size = input_size or ((1, 3, 16, 112, 112) if _is_3d(model) else (1, 3, 224, 224))
        label = name + (f":{','.join(f'{k}={v}' for k, v in options.items())}" if options else "")
        where = "-" if name == "none" else site or spec(name).site
        places = len(attentions(model))
        if name == "none" and places:
            label = "its own"
        rows.append(Row(label, where, places, profile(model, size, counter=counter)))
    return rows


def _is_3d(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv3d) for m in model.modules())


def render(backbone: str, rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal, the first one being the plain network.

    Args:
        backbone: its name.
        rows: of `compare`.
    """
    plain = rows[0].cost
    size = " x ".join(map(str, plain.input_size[0]))
    table = Table(
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        title=f"{backbone}, input {size}, eval mode",
        caption=f"M = 10^6, G = 10^9. FLOPs as {plain.counter} counts them; MACs are multiply-accumulates of "
        "convolutions, matrix products and attention, nothing else.",
        caption_justify="left",
    )
    # Where it is narrow a long list of options wraps, never a number.
    table.add_column("attention", overflow="fold")
    table.add_column("site", no_wrap=True)
    for column in (
        "params\n(M)",
        "added\n(M)",
        f"FLOPs\n(G, {plain.counter})",
        "added\n(G)",
        "MACs\n(G)",
        "added\n(G)",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.attn, f"{row.site} x{row.places}" if row.places else row.site]
        for attribute, unit, digits in (("params", 1e6, 3), ("flops", 1e9, 4), ("macs", 1e9, 4)):
            value, base = getattr(row.cost, attribute), getattr(plain, attribute)
            cells += [f"{value / unit:.{digits}f}", "" if row is rows[0] else f"{(value - base) / unit:+.{digits}f}"]
        table.add_row(*cells)
    return table
