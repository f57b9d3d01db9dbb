"""attnzoo train, evaluate, explain, predict, export."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from attnzoo.cli.shared import (
    AnnotationsOption,
    Attn,
    CheckpointArgument,
    DataDir,
    Greedy,
    Layout,
    RecipeArgument,
    Sets,
    app,
    checkpoint_recipe,
    console,
    data_of,
    echo,
    folder_of,
    parse_attention,
    progress_bar,
    read_data,
    read_recipe,
    report,
    resumable,
)


@app.command("train", cls=Greedy)
def train_command(
    recipe: RecipeArgument,
    attn: Attn = None,
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="folder for checkpoints; by default runs/RECIPE/ATTN-seedN")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of weights, order and windows")] = None,
    change: Sets = None,
) -> None:
    """Train the model of a recipe; the same command goes on with an interrupted training."""
    from attnzoo.emotion.grid import Row
    from attnzoo.emotion.processes import rank
    from attnzoo.emotion.run_folder import claim, run_name
    from attnzoo.emotion.training import train
    from attnzoo.registry import check_options, spec

    full = read_recipe(recipe, data, change)
    row = None
    if attn is not None:
        name, options = parse_attention(attn)
        # A bare name means the recipe's own row of that name, if there is one.
        row = next((row for row in full.table() if row.label == name and not options), None)
        if row is None:
            if name != "none":
                check_options(spec(name), options)
            row = Row(label=name, set={"model.attn": {"name": name, "options": options}})
    single = full.single(row, seed)
    title = row.label if row else single.model.attn.title
    out = out or Path("runs") / single.name / run_name(title, single.training.seed)
    data_of(single)  # before the folder of the run is made
    first = rank(single.training) == 0  # of the processes that train together; the others follow it in silence
    console.quiet |= not first
    with (
        resumable(f"all up to the last checkpoint is kept in {out}"),
        claim(out) if first else nullcontext(True) as mine,
    ):
        if not mine:
            raise ValueError(f"another process trains in {out}; wait for it or choose another folder with --out")
        outcome = train(single, read_data(single), out, console=console, title=title)
    console.print(
        f"test accuracy {outcome.accuracy:.1%} of {len(outcome.predictions)} {single.task}s "
        f"(chance {1 / len(outcome.classes):.1%})\nprotocol: {outcome.protocol}\ncheckpoint: {outcome.checkpoint}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("evaluate")
def evaluate_command(
    checkpoint: CheckpointArgument,
    data: DataDir = None,
    layout: Layout = None,
    annotations: AnnotationsOption = None,
    every: Annotated[bool, typer.Option("--all", help="every sample of the folder, not those for test alone")] = False,
    out: Annotated[
        Path | None, typer.Option(help="folder for evaluation.json and confusion.png; by default beside the checkpoint")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Classify the test samples of a training again, or every one of a folder: scores and the confusion matrix."""
    from attnzoo.emotion.evaluation import evaluate

    recipe = checkpoint_recipe(checkpoint)
    where = data_of(recipe, data, layout, annotations)
    out = out or folder_of(checkpoint) / (f"evaluation-{where.root.resolve().name}" if every else "evaluation")
    out.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost
    folder = read_data(recipe, where, quiet=as_json)
    with progress_bar("evaluating") as progress:
        found = evaluate(checkpoint, folder, every=every, progress=progress)
    report(found.as_dict(), found.render(), as_json=as_json, written=found.write(out))


@app.command("explain")
def explain_command(
    checkpoint: CheckpointArgument,
    video: Annotated[Path, typer.Argument(help="a video file")],
    target: Annotated[str | None, typer.Option(help="class to explain; by default the one that is predicted")] = None,
    layer: Annotated[
        str | None, typer.Option(help="of the class activation, as in visual.layer4; by default a deep and fine one")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for VIDEO.mp4, .png, .json; by default explain beside the checkpoint")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what the model goes by in a video: where it looks, how attention gates, when, how much is the sound."""
    from attnzoo.emotion.explain import explain, write

    with progress_bar("looking") as progress:
        found = explain(checkpoint, video, target, layer, progress)
    with progress_bar("drawing") as progress:
        written = write(found, out or folder_of(checkpoint) / "explain", progress)
    report(found.as_dict(), found.render(), as_json=as_json, written=written)


@app.command("predict")
def predict_command(
    checkpoint: CheckpointArgument,
    files: Annotated[list[Path], typer.Argument(help="video files, or images for a model of images")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say which class videos or images show: label, probabilities, and of videos the timeline over the segments."""
    from attnzoo.emotion.evaluation import predict as predict_videos
    from attnzoo.images.evaluation import predict as predict_images

    task = "video"
    with suppress(FileNotFoundError):  # which is told below, behind a file that is missing
        task = checkpoint_recipe(checkpoint).task
    classify: Any = predict_images if task == "image" else predict_videos
    predictions = classify(checkpoint, files)
    report([p.as_dict() for p in predictions], *(p.render() for p in predictions), as_json=as_json)


@app.command("export")
def export_command(
    checkpoint: CheckpointArgument,
    onnx: Annotated[Path, typer.Option(help="file to write")],
) -> None:
    """Write a trained model for other runtimes; the file says its inputs, classes and recipe."""
    from attnzoo.emotion.export import export_onnx

    export_onnx(checkpoint, onnx)
    echo(f"wrote {onnx}")
