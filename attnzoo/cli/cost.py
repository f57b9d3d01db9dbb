"""attnzoo profile, attnzoo table."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from attnzoo.cli.shared import (
    Attns,
    Format,
    Greedy,
    Output,
    RecipeArgument,
    Sets,
    UnitsOption,
    app,
    assignment,
    checkpoint_recipe,
    parse_attention,
    progress_bar,
    read_recipe,
)
from attnzoo.cli.sheets import format_of, print_sheets


@app.command("profile", cls=Greedy)
def profile_command(
    backbone: Annotated[
        list[str],
        typer.Argument(
            metavar="backbone",
            help="one or more of: timm/NAME, torchvision/NAME, resnet3d/DEPTH, a released file, an attention module, "
            "an emotion recipe, a model.safetensors of `attnzoo train`",
        ),
    ],
    attn: Attns = None,
    site: Annotated[str | None, typer.Option(help="out, mid, conv or stage; by default each module's own")] = None,
    stages: Annotated[list[int] | None, typer.Option(help="stages that get attention: 3 4")] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="classes of the head: 1000, or those of the file")
    ] = None,
    input_size: Annotated[list[int] | None, typer.Option(help="N C [T] H W")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="C of the input of an attention module; 256")] = None,
    size: Annotated[list[int] | None, typer.Option(help="[T] H W of its input; 28 is 28 x 28")] = None,
    counter: Annotated[
        str,
        typer.Option(
            help="conventions of the FLOPs, a column each: fvcore,thop,torch,all or macs; of several, fvcore and thop "
            "are also run themselves"
        ),
    ] = "fvcore",
    depth: Annotated[int, typer.Option(min=0, help="also print the parts: 1 for stages, 2 for blocks")] = 0,
    form: Format = None,
    units: UnitsOption = "decimal",
    output: Output = None,
) -> None:
    """Print parameters, FLOPs and bytes moved of networks, plain and with each attention."""
    from attnzoo.profiling.explain import beside
    from attnzoo.profiling.external import TOOLS
    from attnzoo.profiling.layout import parts, sheet
    from attnzoo.profiling.report import check
    from attnzoo.profiling.table import Attention, compare, counters_of
    from attnzoo.registry import list_modules

    form = format_of(form, output)
    check(form, units)
    counters = counters_of(counter)
    # Who names several compares them: fvcore and thop are then also run themselves, which takes seconds.
    tools = [name for name in counters if name in TOOLS and len(counters) > 1]
    attns = [
        Attention(name, options, site, stages)
        for name, options in map(parse_attention, attn or ())
        if name != "none"  # which is there already
    ]
    if (site or stages) and not attns:
        raise ValueError("--site and --stages say where attention goes; name some with --attn")
    if (channels or size) and not any(parse_attention(given)[0] in list_modules() for given in backbone):
        raise ValueError("--channels and --size are of the input of an attention module; for others give --input-size")
    sheets = []
    for given in backbone:
        for each in _subjects(given, num_classes, channels or 256, size):
            if attns and each.label:
                raise ValueError(f"{given} is an attention module itself; leave --attn out, or name a network for it")
            rows = list(
                compare(
                    each.network,
                    attns or each.attns,
                    input_size=input_size or each.input_size,
                    counter=counters[0],
                    label=each.label,
                )
            )
            costs = sheet(each.name, each.name, rows, counters)
            if tools:
                models = [each.network, *(a.put_into(each.network) for a in attns or each.attns)]
                with progress_bar(f"running {' and '.join(tools)}"):
                    costs = beside(costs, rows, models, tools)
            sheets.append(costs)
            for row in rows if depth else ():
                sheets.append(parts(each.name, row, depth))
    print_sheets(sheets, form, units, output, f"profile-{'-'.join(backbone)}-{counters[0]}")


@app.command("table", cls=Greedy)
def table_command(
    recipe: RecipeArgument,
    change: Sets = None,
    latency: Annotated[bool, typer.Option("--latency", help="time forward passes on this machine's CPU")] = False,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    chart: Annotated[Path | None, typer.Option(help="also draw the costs into a .png or .html file")] = None,
    form: Format = None,
    units: UnitsOption = "decimal",
    output: Output = None,
) -> None:
    """Hold a paper's table of costs against ours, and compare every module under one protocol."""
    from attnzoo.profiling import paper
    from attnzoo.profiling.layout import sheet
    from attnzoo.profiling.recipe import read
    from attnzoo.profiling.report import check
    from attnzoo.profiling.table import compare_all

    form = format_of(form, output)
    unit = check(form, units)
    if chart is not None:
        from attnzoo.profiling import chart as charts

        charts.check(chart)
    build = cache(_on_meta)
    full = read(recipe, build, dict(assignment(c) for c in change or ()))
    sheets, costs = [], []
    if full.paper:
        results: list[paper.Result] = []
        with progress_bar("the paper's rows") as progress:
            for result in paper.measure(full.paper, build):
                results.append(result)
                progress(len(results), len(full.paper.rows))
        sheets.append(paper.sheet(full.paper, results))
    if full.protocol:
        networks = full.protocol.networks
        make = _network if latency else build if workers == 1 else _on_meta
        builds = [(partial(make, n.backbone, n.num_classes), n.input_size) for n in networks]
        placed = list(full.protocol.placed())
        with progress_bar("timing" if latency else "counting") as progress:
            compared = compare_all(
                builds, placed, counter=full.counter, latency=latency, workers=workers, progress=progress
            )
            for network, rows in zip(networks, compared, strict=True):
                costs.append(sheet(network.backbone, network.title, rows, [full.counter]))
    if chart is not None:
        charts.draw(costs, chart, unit)
    print_sheets([*sheets, *costs], form, units, output, f"table-{full.name}-{full.counter}")
    if chart is not None:
        Console(stderr=True).print(f"wrote {chart}", highlight=False, markup=False, soft_wrap=True)


def _network(name: str, num_classes: int | None = None) -> Any:
    from attnzoo.backbones import create_backbone

    return create_backbone(name, num_classes=num_classes)


def _on_meta(name: str, num_classes: int | None = None) -> Any:
    """The same without memory, in no time."""
    import torch

    with torch.device("meta"):
        return _network(name, num_classes)


class _Subject(NamedTuple):
    """What is to be profiled; `label` is the first row's, for a module alone."""

    name: str
    network: Any
    attns: Sequence[Any] = ()
    input_size: Sequence[int] | None = None
    label: str | None = None


def _subjects(given: str, num_classes: int | None, channels: int, size: list[int] | None) -> Iterator[_Subject]:
    from attnzoo.recipes import find
    from attnzoo.registry import create, list_modules

    name, options = parse_attention(given)
    path = Path(given)
    if name in list_modules():
        spatial = size * 2 if size and len(size) == 1 else size or [28, 28]
        module = create(name, channels, spatial_dims=len(spatial), **options)
        yield _Subject(f"{given}, {channels} channels", module, (), (1, channels, *spatial), given)
        return
    recipe = None
    if path.suffix in (".yaml", ".yml"):
        recipe = find(given)
    elif not path.is_file():
        with suppress(FileNotFoundError):  # then it is no recipe
            recipe = find(given)
    if recipe is None and not _is_checkpoint(path):
        try:
            network = _on_meta(given, num_classes)
        except ValueError as error:
            near = difflib.get_close_matches(name, list_modules(), n=1)
            raise ValueError(f"{error}; or the module {near[0]}" if near else str(error)) from error
        yield _Subject(given, network)
        return
    from attnzoo.emotion.tasks import spec

    settings = read_recipe(str(recipe), None, None) if recipe else checkpoint_recipe(path)
    for stream in spec(settings.task).networks(settings):
        title = f"{given}, one image" if stream.name == "image" else f"{given}, {stream.name} stream, one segment"
        yield _Subject(title, stream.network, stream.attns, stream.input_size)


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of `attnzoo train` or a checkpoint in it, and not a released file."""
    import torch

    if path.suffix == ".safetensors" or not path.is_file():
        return path.is_dir() or (path.is_file() and path.with_suffix(".json").is_file())
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # another format, which whoever reads it explains
        return False
    return isinstance(content, dict) and "attnzoo" in content
