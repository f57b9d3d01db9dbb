"""What the commands have in common: options, how a list is given, what is read, how something is said."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
Attn = Annotated[
    str | None, typer.Option(help="module, with options if need be: mpe, none, mpe:groups=4,depthwise=true")
]
Attns = Annotated[list[str] | None, typer.Option(help="modules, with options if need be: se cbam mpe:groups=16")]
DataDir = Annotated[Path | None, typer.Option(help="folder with one sub-folder of videos (or images) per class")]
Layout = Annotated[str | None, typer.Option(help="how the videos lie: auto, folders, frames, ravdess, cremad or list")]
AnnotationsOption = Annotated[
    Path | None, typer.Option("--annotations", help="published splits (txt, JSON) or a list of files (CSV, JSON)")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="change fields of the recipe: training.epochs=3")]
StoreOption = Annotated[str, typer.Option(help="file (SQLite) or database URL of the finished runs")]
RecipeArgument = Annotated[str, typer.Argument(help="a YAML file, or the name of one that comes with attnzoo")]
CheckpointArgument = Annotated[
    Path, typer.Argument(help="what `attnzoo train` wrote: its folder, or model.safetensors in it")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="rich, markdown, csv, json, latex or html; by default that of --output's suffix"),
]
UnitsOption = Annotated[str, typer.Option("--units", help="decimal (10^6, 10^9) or binary (2^20, 2^30)")]
Output = Annotated[
    str | None, typer.Option("--output", help="file to write instead of printing, or a folder/ for it, made if need be")
]
STORE = "runs/leaderboard.sqlite"


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    pass  # main() has read it already


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
    return name, dict(assignment(pair) for pair in re.split(r",(?=\w+=)", rest) if pair)


def assignment(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise ValueError(f"{text!r} is not KEY=VALUE, as in groups=4")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{text!r}: {value!r} is not a YAML value") from None


def read_recipe(path: str, data: Path | None, change: list[str] | None) -> Any:
    """The recipe of a training or a grid of them, of the task that it names."""
    from attnzoo.emotion.tasks import grid_of
    from attnzoo.recipes import load

    changes = dict(assignment(c) for c in change or ())
    if data is not None:
        changes["data.root"] = str(data)
    return load(path, grid_of, changes)


def checkpoint_recipe(checkpoint: Path) -> Any:
    from attnzoo.emotion.checkpoints import read_about

    return read_about(checkpoint)["recipe"]


def folder_of(checkpoint: Path) -> Path:
    """Where a checkpoint lies, which may be told by its folder."""
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def data_of(recipe: Any, root: Path | None = None, layout: str | None = None, annotations: Path | None = None) -> Any:
    """The data of a recipe; from another folder, or read in another way, where that is told."""
    data = recipe.data
    if root is not None:
        data = data.model_copy(update={"root": root})
    if layout is not None or annotations is not None:
        if recipe.task != "video":
            raise ValueError(f"--layout and --annotations are for videos; {recipe.name} classifies {recipe.task}s")
        data = data.model_copy(update={"layout": known_layout(layout), "annotations": annotations})
    if data.root is None:
        raise ValueError(f"recipe {recipe.name} names no data; give a folder of {recipe.task}s with --data DIR")
    return data


def read_data(recipe: Any, data: Any = None, quiet: bool = False) -> Any:
    """The data set of a recipe, or another one for its model."""
    from attnzoo.emotion.tasks import spec

    data = data or data_of(recipe)
    with progress_bar(f"looking through {recipe.task}s") as progress:
        folder = spec(recipe.task).read(data, recipe, progress)
    if not quiet:
        echo(folder.summary())
    return folder


def known_layout(layout: str | None) -> str:
    from attnzoo.emotion.readers import LAYOUTS

    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} must be one of {', '.join(LAYOUTS)}")
    return layout or "auto"


def read_videos(data: Any, frames: int, quiet: bool = False, decode: bool = False) -> Any:
    from attnzoo.emotion.datasets import read_folder

    with progress_bar("looking through videos") as progress:
        folder = read_folder(
            data.root,
            frames,
            layout=data.layout,
            annotations=data.annotations,
            fps=data.fps,
            damaged=data.damaged,
            decode=decode,
            progress=progress,
        )
    if not quiet:
        console.print(folder.summary(), highlight=False, markup=False, soft_wrap=True)
    return folder


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, fed with (done, all); nothing where there is no terminal."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True, quiet=console.quiet).print(
            f"interrupted; {kept}, the same command goes on from there", highlight=False, soft_wrap=True
        )
        raise typer.Exit(130) from None


def show(table: Any) -> None:
    """Print a table whole: where the terminal is too narrow its lines run over the edge, and a file has no edge."""
    wide = console.options.update(width=10_000)
    least, most = Measurement.get(console, wide, table)
    if isinstance(table, Table):  # rich would fold the columns that may wrap to nothing before it cuts the others
        wrapping = [[column.header, *column.cells] for column in table.columns if not column.no_wrap]
        least = most - sum(measure_renderables(console, wide, cells).span for cells in wrapping)
    Console(width=max(console.width, least) if console.is_terminal else most).print(table, crop=False)


def report(content: Any, *rendered: Any, as_json: bool, written: Iterable[Path] = ()) -> None:
    """Print a result as JSON, or for the terminal with the files that hold it."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    for each in rendered:
        show(each)
    for path in written:
        echo(f"written: {path}")


def echo(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def say(message: str) -> None:
    print(f"attnzoo: {message}", file=sys.stderr)
