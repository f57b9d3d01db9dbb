"""Several modules side by side, on the same features."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from attnzoo.benchmarks.modules import Copy
from attnzoo.benchmarks.timing import Effort, alternate
from attnzoo.catalogue.counts import Count, columns, count, misfits, size_for
from attnzoo.profiling import profile
from attnzoo.profiling.latency import machine
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.profiling.table import Attention
from attnzoo.registry import check_dims, check_options, create, spec

SECONDS = 3.0  # a round of timing that begins later is left out, beyond the third


def side_by_side(
    modules: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    channels: int = 256,
    size: Sequence[int] | None = None,
    batch: int = 1,
    time: bool = False,
) -> Sheet:
    """Modules beside each other and beside a copy of their input, the floor of what attention to it moves and takes.

    Args:
        modules: names and options.
        channels: C.
        size: of the features, (H, W) or (T, H, W), one number for a square; 28 x 28 if None.
        batch: N.
        time: whether to time forward passes in eval mode on this machine, all in turns.

    Raises:
        ValueError: an unknown name, or features of axes that a module is not defined for.
        TypeError: an unknown option.

    >>> sheet = side_by_side([("se", {}), ("eca", {"kernel_size": 5})], channels=512)
    >>> [(row["module"], row["param_count"]) for row in sheet.records]
    [('copy', 0), ('se', 32768), ('eca:kernel_size=5', 5)]
    """
    wanted = {each.title: each for each in (Attention(spec(name).name, dict(options)) for name, options in modules)}
    spatial = size_for(spec(next(iter(wanted.values())).name), size)
    for each in wanted.values():
        check_options(spec(each.name), each.options)
        check_dims(spec(each.name), len(spatial))
    shape = (batch, channels, *spatial)
    counts = {"copy": Count(channels, spatial, profile(Copy(channels, len(spatial)), shape))}
    for title, each in wanted.items():
        counts[title] = count(each.name, channels, spatial, batch=batch, memory=True, **each.options)
    records = [{"module": title, **each.record} for title, each in counts.items()]
    notes = [
        "copy: x times a constant of each channel, the least that attention reads and writes. Saved: activations kept "
        "for the backward pass, the input included."
    ]
    if time:
        fitting = [each for title, each in wanted.items() if counts[title].cost]
        times = _times(fitting, shape)
        for record in records:
            if record["module"] in times:
                record["latency_ms"] = times[record["module"]]
                record["to_copy"] = times[record["module"]] / times["copy"]
        notes.append(f"Time: median forward pass in eval mode, in turns with the others; on {machine()}.")
    timed = (Column("latency_ms", "time", "ms", digits=2), Column("to_copy", "time / copy", "x", digits=1))
    return Sheet(
        "modules",
        f"Modules side by side, features {' x '.join(map(str, shape))}",
        [
            Column("module", "module", wraps=True),
            *columns(),
            Column("bytes_moved", "read and written", "MB"),
            Column("bytes_read", "read", "MB", reader="programs"),
            Column("bytes_written", "written", "MB", reader="programs"),
            Column("kernel_count", "kernels", digits=0, reader="people"),
            Column("kernels", "kernels", reader="programs"),
            Column("saved", "saved", "MB"),
            *(timed if time else ()),
            Column("misfit", "misfit", reader="programs"),
        ],
        records,
        [*notes, *misfits(counts)],
    )


def _times(modules: Iterable[Attention], shape: tuple[int, ...]) -> dict[str, float]:
    """Median forward passes, ms, of modules and of a copy, all in turns."""
    channels, dims = shape[1], len(shape) - 2
    built: dict[str, nn.Module] = {"copy": Copy(channels, dims)}
    for each in modules:
        built[each.title] = create(each.name, channels, spatial_dims=dims, **each.options)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], object]] = {title: partial(module.eval(), x) for title, module in built.items()}
    with torch.inference_mode():
        timings = alternate(calls, Effort(budget=SECONDS))
    return {title: timing.wall for title, timing in timings.items()}
