"""attnzoo bench."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from attnzoo.cli.shared import Greedy, app, echo, progress_bar, resumable


@app.command("bench", cls=Greedy)
def bench_command(
    modules: Annotated[list[str] | None, typer.Argument(help="all by default")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="of the features: 8x256x56x56 2x256x8x28x28")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="forward, train (forward and backward)")] = None,
    eager: Annotated[bool, typer.Option("--eager", help="without torch.compile; the default")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="with it, which takes its time to compile")] = False,
    layout: Annotated[list[str] | None, typer.Option(help="contiguous, channels_last")] = None,
    peers: Annotated[
        list[str] | None, typer.Option(help="timm, fightingcv, monai, authors, convolutions; none for ours alone")
    ] = None,
    networks: Annotated[bool, typer.Option("--networks", help="whole networks instead, beside the plain ones")] = False,
    network: Annotated[list[str] | None, typer.Option(help="which networks: timm/resnet50")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="in each of which everyone has a turn")] = 9,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="after which no round beyond the third begins: 2, of networks 15")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="of torch; those it takes by itself")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few and small cases, three rounds")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV file of the rows; what it has is not measured again")] = None,
    table: Annotated[list[Path] | None, typer.Option(help="measure nothing, print such files as Markdown")] = None,
) -> None:
    """Time the modules beside a copy of their input and their peers, or networks with them beside the plain ones."""
    import torch

    from attnzoo.benchmarks.timing import LEAST, Effort, keep_memory

    if table:
        from attnzoo.benchmarks.tables import markdown

        print(markdown(table), end="")
        return
    keep_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    whole = bool(networks or network)
    budget = (15.0 if whole else 2.0) if seconds is None else seconds
    effort = Effort(LEAST if quick else rounds, 0.01 if quick else 0.02, budget)
    if whole:
        for option, value in (("shape", shape), ("layout", layout), ("peers", peers)):
            if value:
                raise ValueError(f"--{option} is for modules alone, not for networks; leave it out")
        _networks(modules or [], network or [], _one_of("mode", mode, ("inference", "training")), effort, quick, out)
    else:
        _modules(modules or [], shape, mode, (eager or not compiled, compiled), layout, peers, effort, quick, out)


def _modules(
    names: Sequence[str],
    shape: Sequence[str] | None,
    mode: Sequence[str] | None,
    by_compiler: tuple[bool, bool],
    layout: Sequence[str] | None,
    peers: Sequence[str] | None,
    effort: Any,
    quick: bool,
    out: Path | None,
) -> None:
    from attnzoo.benchmarks.modules import LAYOUTS, MODES, PROVIDERS, QUICK, SHAPES, cases, measure_modules
    from attnzoo.benchmarks.rows import Kept, ModuleRow

    providers = () if peers == ["none"] else _one_of("peers", peers, PROVIDERS)
    every = list(
        cases(
            names,
            [_shape(text) for text in shape] if shape else QUICK if quick else SHAPES,
            _one_of("mode", mode, MODES),
            [value for value, wanted in zip((False, True), by_compiler, strict=True) if wanted],
            _one_of("layout", layout, LAYOUTS[:1] if quick else LAYOUTS, LAYOUTS),
            providers,
        )
    )
    kept = Kept(out, ModuleRow)
    todo = [case for case in every if case.missing(kept, providers)]
    _each(todo, len(every), lambda case: next(measure_modules([case], providers, effort)), kept, _module_line)


def _networks(
    names: Sequence[str], networks: Sequence[str], modes: Sequence[str], effort: Any, quick: bool, out: Path | None
) -> None:
    from attnzoo.benchmarks.networks import QUICK, measure_networks, network_cases
    from attnzoo.benchmarks.rows import Kept, NetworkRow

    every = list(network_cases(names, networks or (QUICK if quick else ()), modes, small=quick))
    kept = Kept(out, NetworkRow)
    todo = [case for case in every if case.missing(kept)]
    _each(todo, len(every), lambda case: [next(measure_networks([case], effort))], kept, _network_line)


def _each(
    todo: Sequence[Any], total: int, measure: Callable[[Any], Sequence[Any]], kept: Any, line: Callable[[Any], str]
) -> None:
    """Measure case after case, with the time that is left."""
    if len(todo) < total:
        echo(f"{total - len(todo)} of {total} cases were measured before")
    start = time.monotonic()
    where = f"rows kept in {kept.path}" if kept.path else "nothing kept, since no --out was given"
    with resumable(where), progress_bar("measuring") as progress:
        for i, case in enumerate(todo, 1):
            rows = measure(case)
            kept.add(rows)
            progress(i, len(todo))
            left = math.ceil((time.monotonic() - start) / i * (len(todo) - i) / 60)
            echo(f"[{i}/{len(todo)}, {left} min left] {line(rows)}")
    if kept.path is not None:
        echo(f"written: {kept.path}")


def _module_line(rows: Iterable[Any]) -> str:
    from attnzoo.benchmarks.rows import COPY, OURS

    ours = next(row for row in rows if row.provider == OURS)
    where = f"{ours.module}{ours.options and ' ' + ours.options} {ours.shape} {ours.mode} {ours.layout}"
    where += " compiled" if ours.compiled else ""
    if ours.wall_ms is None:
        return f"{where}: {ours.note}"
    text = f"{where}: {ours.wall_ms:.3g} ms = {ours.to_copy:.2f} x copy"
    if ours.saved_to_x is not None:
        text += f", keeps {ours.saved_to_x:.2f} x"
    if ours.compile_s is not None:
        text += f", compiled in {ours.compile_s:.0f} s"
    others = [row for row in rows if row.provider not in (COPY, OURS)]
    told = []
    for row in others:
        if row.wall_ms is None:
            told.append(f"{row.provider} {row.note}")
            continue
        kept = "" if row.saved_to_x is None else f", keeps {row.saved_to_x:.2f} x"
        differs = "" if row.relation in ("equal", "its convolutions alone") else f", {row.relation}"
        told.append(f"{row.provider} {row.to_ours:.2f} (CPU {row.cpu_ms / ours.cpu_ms:.2f}{kept}{differs})")
    return f"{text}; others / ours: {'; '.join(told)}" if told else text


def _network_line(rows: Sequence[Any]) -> str:
    (row,) = rows
    where = f"{row.network} {row.module} at {row.site} {row.shape} {row.mode}"
    if row.ratio is None:
        return f"{where}: {row.note}"
    return (
        f"{where}: {row.per_second:.2f} / s, plain {row.plain_per_second:.2f}, time + {100 / row.ratio - 100:.1f} % "
        f"(CPU + {100 * row.cpu_ms / row.plain_cpu_ms - 100:.1f} %); injected in {row.inject_ms:.0f} ms"
    )


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.lower().split("x")
    if len(sizes) not in (4, 5) or not all(s.isdigit() and int(s) > 0 for s in sizes):
        raise ValueError(f"--shape {text} is not NxCxHxW or NxCxTxHxW, as in 8x256x56x56")
    return tuple(map(int, sizes))


def _one_of(
    option: str, given: Sequence[str] | None, default: Sequence[str], valid: Sequence[str] | None = None
) -> Sequence[str]:
    for value in given or ():
        if value not in (valid or default):
            raise ValueError(f"--{option} {value} must be one of {', '.join(valid or default)}")
    return given or default
