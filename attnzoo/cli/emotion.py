"""attnzoo data, train, evaluate, predict."""

import json
from pathlib import Path
from typing import Annotated

import typer

from attnzoo.cli.shared import (
    Attn,
    CheckpointArgument,
    DataDir,
    Greedy,
    RecipeArgument,
    Sets,
    app,
    checkpoint_recipe,
    console,
    data_root,
    parse_attention,
    progress_bar,
    read_recipe,
    read_videos,
    resumable,
    show,
)

data_app = typer.Typer(no_args_is_help=True, help="Folders of videos: look through one, make a synthetic one.")
app.add_typer(data_app, name="data")


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
    with resumable(f"finished videos are in {directory}"), progress_bar("writing videos") as progress:
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
    folder = read_videos(directory, frames)
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

    full = read_recipe(recipe, data, change)
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
    root = data_root(single)
    with resumable(f"whole epochs are kept in {out}"), claim(out) as mine:
        if not mine:
            raise ValueError(f"another process trains in {out}; wait for it or choose another folder with --out")
        outcome = train(single, read_videos(root, single.clip.frames), out, console=console, title=entry.title)
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

    root = data or data_root(checkpoint_recipe(checkpoint))
    report = evaluate(checkpoint, read_videos(root, 1, quiet=as_json), every=every)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        show(report.render())


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
        show(prediction.render())
