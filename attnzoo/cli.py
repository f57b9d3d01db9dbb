"""The command line: thin, no logic of its own, heavy imports inside the commands."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

T = TypeVar("T")
console = Console()


class Greedy(typer.core.TyperCommand):
    """A command whose repeatable options take several values at once: --attn se cbam ca."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        several = {opt for param in self.params if getattr(param, "multiple", False) for opt in param.opts}
        spread: list[str] = []
        current = None
        for arg in args:
            if arg.startswith("--"):
                current = arg if arg in several else None
                if current is None:
                    spread.append(arg)
            elif current is not None:
                spread += [current, arg]
            else:
                spread.append(arg)
        return super().parse_args(ctx, spread)


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
STORE = "runs/leaderboard.sqlite"


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    pass  # main() has read it already


@app.command("list")
def list_command(pattern: Annotated[str, typer.Argument(help="name with wildcards")] = "*") -> None:
    """List the attention modules."""
    from attnzoo.registry import list_modules, spec

    table = Table("name", "site", "dims", "idea")
    for name in list_modules(pattern):
        found = spec(name)
        table.add_row(name, found.site, ", ".join(f"{d}D" for d in sorted(found.dims)), found.idea)
    console.print(table)


@app.command("profile", cls=Greedy)
def profile_command(
    backbone: Annotated[str, typer.Argument(help="timm/NAME, torchvision/NAME or resnet3d/DEPTH")],
    attn: Attns = None,
    site: Annotated[str | None, typer.Option(help="out, mid, conv or stage; by default each module's own")] = None,
    stages: Annotated[list[int] | None, typer.Option(help="stages that get attention: 3 4")] = None,
    num_classes: Annotated[int, typer.Option(help="classes of the head")] = 1000,
    input_size: Annotated[list[int] | None, typer.Option(help="N C [T] H W")] = None,
    counter: Annotated[str, typer.Option(help="convention of the FLOPs: fvcore, macs or torch")] = "fvcore",
) -> None:
    """Print parameters and FLOPs of a network, plain and with each attention."""
    from attnzoo.backbones import create_backbone
    from attnzoo.profiling.table import compare, render

    rows = compare(
        partial(create_backbone, backbone, num_classes=num_classes, stages=stages or (1, 2, 3, 4)),
        [parse_attention(a) for a in attn or ()],
        site=site,
        input_size=input_size,
        counter=counter,  # type: ignore[arg-type]  # profile() checks it
    )
    console.print(render(backbone, rows))


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
    with _progress("writing videos") as progress:
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
    from attnzoo.emotion.recipe import Attention
    from attnzoo.emotion.training import train
    from attnzoo.leaderboard.recipe import Grid
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
    out = out or Path("runs") / single.name / f"{entry.title}-seed{single.training.seed}"
    with _resumable(f"whole epochs are kept in {out}"):
        outcome = train(single, _folder(_root(single), single.clip.frames), out, console=console, title=entry.title)
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
        console.print(report.render())


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
        console.print(prediction.render())


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
        for name in [board] if board else opened.boards():
            runs = opened.runs(name)
            console.print(table(summarise(runs), runs))


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
    from attnzoo.leaderboard.recipe import LeaderboardRecipe
    from attnzoo.recipes import load

    changes = dict(_assignment(c) for c in change or ())
    if data is not None:
        changes["data.root"] = str(data)
    return load(path, LeaderboardRecipe, changes)


def _checkpoint_recipe(checkpoint: Path) -> Any:
    from attnzoo.emotion.training import read_checkpoint

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
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        _say(" ".join(str(error).split()))
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where")
        sys.exit(1)


def _say(message: str) -> None:
    print(f"attnzoo: {message}", file=sys.stderr)
