"""The command line: thin, no logic of its own, heavy imports inside the commands."""

import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
import yaml
from rich.console import Console
from rich.measure import Measurement, measure_renderables
from rich.progress import Progress
from rich.table import Table

T = TypeVar("T")
console = Console()


class Greedy(typer.core.TyperCommand):
    """A command whose repeatable options take several values at once: --attn se cbam ca."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        options: list[Any] = [param for param in self.params if param.param_type_name == "option"]
        repeatable = {opt for param in options if param.multiple for opt in param.opts}
        valued = {opt for param in options if not param.is_flag for opt in param.opts}
        spread: list[tuple[str, ...]] = []
        current, free = "", 0  # the option that takes the next value; how many values belong to none
        for arg in args:
            name, sign, value = arg.partition("=")
            if arg.startswith("--"):
                current = name if name in repeatable or (name in valued and not sign) else ""
                if name not in repeatable:
                    spread.append((arg,))
                elif sign:
                    spread.append((name, value))
            elif current in repeatable:
                spread.append((current, arg))
            else:
                free += not current
                spread.append((arg,))
                current = ""
        # An argument behind the values of an option was taken for one of them: profile --attn se cbam timm/resnet18.
        missing = sum(param.param_type_name == "argument" and param.required for param in self.params) - free
        for i in range(len(spread) - 1, 0, -1):
            if missing > 0 and len(spread[i]) == 2 and spread[i][0] == spread[i - 1][0]:
                spread[i] = spread[i][1:]
                missing -= 1
        return super().parse_args(ctx, [arg for args in spread for arg in args])


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Attention modules for 2D and 3D networks, their cost, and the video-emotion task they are measured on.",
)
data_app = typer.Typer(no_args_is_help=True, help="Folders of videos: look through one, make a synthetic one.")
board_app = typer.Typer(no_args_is_help=True, help="Train a grid of attentions and seeds, and compare.")
app.add_typer(data_app, name="data")
app.add_typer(board_app, name="leaderboard")

Attn = Annotated[
    str | None, typer.Option(help="module, with options if need be: mpe, none, mpe:groups=4,depthwise=true")
]
Attns = Annotated[list[str] | None, typer.Option(help="modules, with options if need be: se cbam mpe:groups=16")]
DataDir = Annotated[Path | None, typer.Option(help="folder with one sub-folder of videos per class")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="change fields of the recipe: training.epochs=3")]
StoreOption = Annotated[str, typer.Option(help="file (SQLite) or database URL of the finished runs")]
RecipeArgument = Annotated[str, typer.Argument(help="a YAML file, or the name of one that comes with attnzoo")]
CheckpointArgument = Annotated[Path, typer.Argument(help="a model.pt that `attnzoo train` wrote")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="rich, markdown, csv, json, latex or html; by default that of --output's suffix"),
]
UnitsOption = Annotated[str, typer.Option("--units", help="decimal (10^6, 10^9) or binary (2^20, 2^30)")]
Output = Annotated[Path | None, typer.Option("--output", help="file to write instead of printing, or a folder for it")]
STORE = "runs/leaderboard.sqlite"


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    pass  # main() has read it already


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="name with wildcards")] = "*",
    channels: Annotated[int, typer.Option(min=1, help="for which the parameters are counted")] = 256,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table for a README")] = False,
) -> None:
    """List the attention modules."""
    from attnzoo.registry import catalogue

    rows = catalogue(pattern, channels)
    if not rows:
        raise ValueError(f"no module's name matches {pattern!r}; see attnzoo list")
    columns = [column for column in rows[0] if column not in ("idea", "paper")]
    if markdown:
        right = [column.startswith("parameters") for column in columns]
        print("| " + " | ".join([*columns, "idea and paper"]) + " |")
        print("| " + " | ".join([*("---:" if r else "---" for r in right), "---"]) + " |")
        for row in rows:
            cells = [f"`{row['name']}`", *(row[column] for column in columns[1:]), f"[{row['idea']}]({row['paper']})"]
            print("| " + " | ".join(cells) + " |")
        return
    table = Table(*columns, "idea")
    for row in rows:
        table.add_row(*(row[column] for column in columns), row["idea"])
    _show(table)


@app.command("contract", cls=Greedy)
def contract_command(
    names: Annotated[list[str] | None, typer.Argument(help="modules; all by default")] = None,
    channels: Annotated[int | None, typer.Option(help="the first of 32, 64, 128, 256 that fits, by default")] = None,
    dims: Annotated[
        int | None, typer.Option(help="spatial axes: 2 or 3; all that it is defined for by default")
    ] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="options of the module: groups=4")] = None,
) -> None:
    """Check what every attention module promises, yours too; exit status 2 if one does not keep it."""
    from attnzoo.contract import check
    from attnzoo.registry import list_modules, spec

    options = dict(_assignment(c) for c in change or ())
    found = [spec(name) for name in names or list_modules()]
    broken = False
    for each in found:
        try:
            results = list(check(each.name, channels=channels, spatial_dims=dims, **options))
        except Exception as error:
            if len(found) == 1:
                raise
            broken = True  # the others are checked all the same
            _print(f"{each.name} cannot be checked: {' '.join(str(error).split())}")
            continue
        broken = broken or any(r.status == "failed" for r in results)
        columns = sorted({r.spatial_dims for r in results})
        table = Table(f"{each.name} promises", *(f"{d}D" for d in columns))
        for title in dict.fromkeys(r.title for r in results):
            status = {r.spatial_dims: r.status for r in results if r.title == title}
            table.add_row(title, *(status.get(d, "-") for d in columns))
        _show(table)
        for r in results:
            if r.reason:
                _print(f"{each.name} {r.spatial_dims}D {r.status}: {r.title}: {r.reason}")
        _print(f"{each.name}: {'compared' if each.golden else 'not compared'} with its authors' code")
    if not names:
        _print(f"not compared with their authors' code: {', '.join(m.name for m in found if not m.golden) or 'none'}")
    if broken:
        raise typer.Exit(2)


@app.command("profile", cls=Greedy)
def profile_command(
    backbone: Annotated[
        list[str],
        typer.Argument(
            metavar="backbone",
            help="one or more of: timm/NAME, torchvision/NAME, resnet3d/DEPTH, a released file, an attention module, "
            "an emotion recipe, a model.pt of `attnzoo train`",
        ),
    ],
    attn: Attns = None,
    site: Annotated[str | None, typer.Option(help="out, mid, conv or stage; by default each module's own")] = None,
    stages: Annotated[list[int] | None, typer.Option(help="stages that get attention: 3 4")] = None,
    num_classes: Annotated[int | None, typer.Option(help="classes of the head: 1000, or those of the file")] = None,
    input_size: Annotated[list[int] | None, typer.Option(help="N C [T] H W")] = None,
    channels: Annotated[int, typer.Option(min=1, help="C of the input of an attention module")] = 256,
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
    from attnzoo.profiling.report import check
    from attnzoo.profiling.table import Attention, compare, counters_of, parts, sheet

    form = _format(form, output)
    check(form, units)
    counters = counters_of(counter)
    # Who names several compares them: fvcore and thop are then also run themselves, which takes seconds.
    tools = [name for name in counters if name in TOOLS and len(counters) > 1]
    attns = [
        Attention(name, options, site, stages)
        for name, options in map(parse_attention, attn or ())
        if name != "none"  # which is there already
    ]
    sheets = []
    for given in backbone:
        for each in _subjects(given, num_classes, channels, size):
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
                costs = beside(costs, rows, models, tools)
            sheets.append(costs)
            for row in rows if depth else ():
                sheets.append(parts(each.name, row, depth))
    _report(sheets, form, units, output, f"profile-{sheets[0].name}-{counters[0]}")


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
    from attnzoo.profiling.recipe import read
    from attnzoo.profiling.report import check
    from attnzoo.profiling.table import compare_all, sheet

    form = _format(form, output)
    unit = check(form, units)
    if chart is not None:
        from attnzoo.profiling import chart as charts

        charts.check(chart)
    full = read(recipe, _on_meta, dict(_assignment(c) for c in change or ()))
    sheets, costs = [], []
    if full.paper:
        sheets.append(paper.sheet(full.paper, list(paper.measure(full.paper, _on_meta))))
    if full.protocol:
        networks = full.protocol.networks
        make = _network if latency else _on_meta
        builds = [(partial(make, n.backbone, n.num_classes), n.input_size) for n in networks]
        with _progress("counting") as progress:
            placed = list(full.protocol.placed())
            compared = compare_all(builds, placed, counter=full.counter, latency=latency, workers=workers)
            for network, rows in zip(networks, compared, strict=True):
                costs.append(sheet(network.backbone, network.title, rows, [full.counter]))
                progress(len(costs), len(networks))
    if chart is not None:
        charts.draw(costs, chart, unit)
    _report([*sheets, *costs], form, units, output, f"table-{full.name}-{full.counter}")
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
    from attnzoo.recipes import find, load
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
        yield _Subject(given, _on_meta(given, num_classes))
        return
    from attnzoo.emotion.cost import streams
    from attnzoo.emotion.recipe import GridRecipe

    settings = load(recipe, GridRecipe) if recipe else _checkpoint_recipe(path)
    for stream in streams(settings):
        title = f"{given}, {stream.name} stream, one segment"
        yield _Subject(title, stream.network, stream.attns, stream.input_size)


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of `attnzoo train`, and not a released one."""
    import torch

    if not path.is_file():
        return False
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # another format, which whoever reads it explains
        return False
    return isinstance(content, dict) and "attnzoo" in content


def _format(form: str | None, output: Path | None) -> str:
    """The format asked for, or that of the output file, which must have a place: nothing is counted in vain."""
    from attnzoo.profiling.report import SUFFIXES

    folder = output if output is None or output.is_dir() else output.parent
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"cannot write {output}: {folder} is no folder that can be written to")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if form is None and output is not None and not output.is_dir() and output.suffix[1:] not in by_suffix:
        suffixes = ", ".join(f".{suffix}" for suffix in by_suffix)
        raise ValueError(f"{output} has no suffix that tells its format ({suffixes}); give it one, or --format")
    return form or by_suffix.get(output.suffix[1:] if output else "", "rich")


def _report(sheets: list[Any], form: str, units: Any, output: Path | None, name: str) -> None:
    """Print a report, or write it; into a folder as NAME.SUFFIX."""
    from attnzoo.profiling.report import SUFFIXES, notes, render, table, write

    if output is not None:
        if output.is_dir():
            output = output / f"{re.sub('[^A-Za-z0-9.-]+', '_', name)}.{SUFFIXES[form]}"
        write(output, render(sheets, form, units))
        Console(stderr=True).print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
    elif form == "rich":
        for each in sheets:
            _print(each.title)
            _show(table(each, units))
            console.print("", *notes(each, units), "", sep="\n", highlight=False, markup=False)
    else:
        sys.stdout.write(render(sheets, form, units))


@data_app.command("synth", cls=Greedy)
def data_synth(
    directory: Annotated[Path, typer.Argument(help="folder to write, new or empty")],
    classes: Annotated[
        list[str] | None, typer.Option(help="names of 3 to 16 classes; the six of Ekman by default")
    ] = None,
    per_class: Annotated[int, typer.Option(help="videos of each class")] = 30,
    seconds: Annotated[float, typer.Option(help="length of a video")] = 3.0,
    without: Annotated[list[str] | None, typer.Option(help="cues that shall not tell the class: micro pitch")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn")] = 0,
    workers: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Make a data set of real mp4 videos whose class shows in motion and sound of several scales together."""
    from attnzoo.emotion.synth import CUES, EKMAN, synthesise

    for cue in without or ():
        if cue not in CUES:
            raise ValueError(f"there is no cue {cue!r}; cues are {', '.join(CUES)}")
    with _resumable(f"finished videos are in {directory}"), _progress("writing videos") as progress:
        synthesise(
            directory,
            classes=classes or EKMAN,
            per_class=per_class,
            seconds=seconds,
            cues=[cue for cue in CUES if cue not in (without or ())],
            seed=seed,
            workers=workers,
            progress=progress,
        )
    console.print(f"{directory}: {per_class} videos of each of {', '.join(classes or EKMAN)}", highlight=False)


@data_app.command("check")
def data_check(
    directory: Annotated[Path, typer.Argument(help="folder with one sub-folder of videos per class")],
    frames: Annotated[int, typer.Option(help="frames of a window; shorter videos are reported")] = 16,
) -> None:
    """Look through a folder of videos before training; exit status 2 if a file is not as it should be."""
    folder = _folder(directory, frames)
    for finding in folder.findings:
        console.print(f"{finding.kind}: {finding.key}: {finding.detail}", highlight=False, markup=False, soft_wrap=True)
    if folder.findings:
        raise typer.Exit(2)


@app.command("train", cls=Greedy)
def train_command(
    recipe: RecipeArgument,
    attn: Attn = None,
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="folder for checkpoints; by default runs/RECIPE/ATTN-seedN")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of weights, order and windows")] = None,
    change: Sets = None,
) -> None:
    """Train the audio-visual model of a recipe; the same command goes on with an interrupted training."""
    from attnzoo.emotion.recipe import Attention, Grid
    from attnzoo.emotion.run_folder import claim, run_name
    from attnzoo.emotion.training import train
    from attnzoo.registry import check_options, spec

    full = _recipe(recipe, data, change)
    entry = full.model.attn
    if attn is not None:
        name, options = parse_attention(attn)
        rows = {row.title: row for row in (full.grid or Grid(attn=(entry,))).attn}
        # A bare name means the recipe's own entry of that name, if there is one.
        if name != "none":
            check_options(spec(name), options)
        entry = rows[name] if name in rows and not options else Attention(name=name, options=options)
    single = full.single(entry, seed)
    out = out or Path("runs") / single.name / run_name(entry.title, single.training.seed)
    root = _root(single)
    with _resumable(f"whole epochs are kept in {out}"), claim(out) as mine:
        if not mine:
            raise ValueError(f"another process trains in {out}; wait for it or choose another folder with --out")
        outcome = train(single, _folder(root, single.clip.frames), out, console=console, title=entry.title)
    console.print(
        f"test accuracy {outcome.accuracy:.1%} of {len(outcome.predictions)} videos "
        f"(chance {1 / len(outcome.classes):.1%})\nprotocol: {outcome.protocol}\ncheckpoint: {outcome.checkpoint}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("evaluate")
def evaluate_command(
    checkpoint: CheckpointArgument,
    data: DataDir = None,
    every: Annotated[bool, typer.Option("--all", help="every video of the folder, not the test videos alone")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Classify the test videos of a training again, or every video of a folder."""
    from attnzoo.emotion.evaluation import evaluate

    root = data or _root(_checkpoint_recipe(checkpoint))
    report = evaluate(checkpoint, _folder(root, 1, quiet=as_json), every=every)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        _show(report.render())


@app.command("predict")
def predict_command(
    checkpoint: CheckpointArgument,
    videos: Annotated[list[Path], typer.Argument(help="video files")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say which emotion videos show: label, probabilities, and the timeline over the segments."""
    from attnzoo.emotion.evaluation import predict

    predictions = predict(checkpoint, videos)
    if as_json:
        print(json.dumps([p.as_dict() for p in predictions], indent=2))
        return
    for prediction in predictions:
        _show(prediction.render())


@board_app.command("run", cls=Greedy)
def board_run(
    recipe: RecipeArgument,
    data: DataDir = None,
    out: Annotated[Path, typer.Option(help="folder for the checkpoints")] = Path("runs"),
    store: StoreOption = STORE,
    change: Sets = None,
) -> None:
    """Train the grid of a recipe; finished runs are not repeated, an interrupted one goes on."""
    from attnzoo.leaderboard.run import run_grid
    from attnzoo.leaderboard.store import Store

    full = _recipe(recipe, data, change)
    folder = _folder(_root(full), full.clip.frames)
    with Store(store) as runs, _resumable(f"finished runs are in {store}"):
        run_grid(full, folder, runs, out / full.name, console)
    console.print(f"see them with: attnzoo leaderboard show --store {store}", highlight=False, soft_wrap=True)


@board_app.command("show")
def board_show(
    board: Annotated[str | None, typer.Argument(help="name of the recipe; all by default")] = None,
    store: StoreOption = STORE,
) -> None:
    """Print the leaderboard."""
    from attnzoo.leaderboard.report import table
    from attnzoo.leaderboard.stats import summarise
    from attnzoo.leaderboard.store import Store

    with Store(store, create=False) as opened:
        boards = [board] if board else opened.boards()
        if not boards:
            _print(f"no runs yet in {store}; make some with: attnzoo leaderboard run RECIPE --store {store}")
        for name in boards:
            runs = opened.runs(name)
            _show(table(summarise(runs), runs))


@board_app.command("report")
def board_report(
    board: Annotated[str | None, typer.Argument(help="name of the recipe, where the store holds several")] = None,
    store: StoreOption = STORE,
    output: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("leaderboard.html"),
) -> None:
    """Write the leaderboard as one HTML page that works offline."""
    from attnzoo.leaderboard.report import write_page
    from attnzoo.leaderboard.store import Store

    with Store(store, create=False) as opened:
        write_page(opened.runs(board), output)
    console.print(f"wrote {output.resolve().as_uri()}", highlight=False, soft_wrap=True)


def parse_attention(text: str) -> tuple[str, dict[str, Any]]:
    """A module and its options as written on the command line.

    Args:
        text: NAME or NAME:key=value,key=value with values as in YAML.

    Raises:
        ValueError: an option without a value.

    >>> parse_attention("mpe:groups=4,dilations=[1,2]")
    ('mpe', {'groups': 4, 'dilations': [1, 2]})
    """
    name, _, rest = text.partition(":")
    return name, dict(_assignment(pair) for pair in re.split(r",(?=\w+=)", rest) if pair)


def _assignment(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise ValueError(f"{text!r} is not KEY=VALUE, as in groups=4")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{text!r}: {value!r} is not a YAML value") from None


def _recipe(path: str, data: Path | None, change: list[str] | None) -> Any:
    from attnzoo.emotion.recipe import GridRecipe
    from attnzoo.recipes import load

    changes = dict(_assignment(c) for c in change or ())
    if data is not None:
        changes["data.root"] = str(data)
    return load(path, GridRecipe, changes)


def _checkpoint_recipe(checkpoint: Path) -> Any:
    from attnzoo.emotion.checkpoints import read_checkpoint

    return read_checkpoint(checkpoint)[0]["recipe"]


def _root(recipe: Any) -> Path:
    root: Path | None = recipe.data.root
    if root is None:
        raise ValueError(f"recipe {recipe.name} names no data; give a folder of videos with --data DIR")
    return root


def _folder(root: Path, frames: int, quiet: bool = False) -> Any:
    from attnzoo.emotion.datasets import read_folder

    with _progress("looking through videos") as progress:
        folder = read_folder(root, frames, progress=progress)
    if not quiet:
        console.print(folder.summary(), highlight=False, markup=False, soft_wrap=True)
    return folder


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, fed with (done, all); nothing where there is no terminal."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _resumable(kept: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"interrupted; {kept}, the same command goes on from there", highlight=False, soft_wrap=True
        )
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; an error is one line and exit status 2, unless --debug asks for its traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [arg for arg in sys.argv if arg != "--debug"]
    logging.getLogger("attnzoo").handlers = [_Log(logging.INFO)]
    logging.getLogger("attnzoo").setLevel(logging.INFO)
    try:
        sys.exit(app(prog_name="attnzoo", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(130)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        _say(_line(error))
        sys.exit(2)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's, or click's with an older typer
            _misused(error)
            sys.exit(2)
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {_line(error)}; --debug shows where")
        sys.exit(1)


def _line(error: Exception) -> str:
    """What an error says, in one line; of one in a process that loads videos, what it said there."""
    said = str(error).strip()
    if "DataLoader worker process" in said and "Traceback" in said:
        said = said.splitlines()[-1].partition(": ")[2]
    return " ".join(said.split())


def _misused(error: Any) -> None:
    """Say what is wrong with a command, in one line; a command without any arguments prints its help."""
    context, message = getattr(error, "ctx", None), error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return
    command = context.command_path if context else "attnzoo"
    if context and type(error).__name__ == "NoSuchOption":
        valid = [opt for param in context.command.params for opt in param.opts if opt.startswith("--")]
        near = difflib.get_close_matches(error.option_name, valid, n=3, cutoff=0.5)
        message = f"unknown option {error.option_name} of {command}"
        message += f", did you mean {' or '.join(near)}?" if near else ""
    message = " ".join(message.split()).rstrip(".")
    _say(f"{message[0].lower()}{message[1:]}; see {command} --help")


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """To standard error, as it is now."""
        _say(record.getMessage())


def _show(table: Any) -> None:
    """Print a table whole: where the terminal is too narrow its lines run over the edge, and a file has no edge."""
    wide = console.options.update(width=10_000)
    least, most = Measurement.get(console, wide, table)
    if isinstance(table, Table):  # rich would fold the columns that may wrap to nothing before it cuts the others
        wrapping = [[column.header, *column.cells] for column in table.columns if not column.no_wrap]
        least = most - sum(measure_renderables(console, wide, cells).span for cells in wrapping)
    Console(width=max(console.width, least) if console.is_terminal else most).print(table, crop=False)


def _print(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _say(message: str) -> None:
    print(f"attnzoo: {message}", file=sys.stderr)
