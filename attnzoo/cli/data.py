"""attnzoo data."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from attnzoo.cli.shared import (
    AnnotationsOption,
    Greedy,
    Layout,
    app,
    console,
    echo,
    known_layout,
    progress_bar,
    read_videos,
    resumable,
    show,
)

data_app = typer.Typer(no_args_is_help=True, help="Data sets: look through one, make a small copy or a synthetic one.")
app.add_typer(data_app, name="data")
Fps = Annotated[
    float | None, typer.Option(help="of folders of frames; by default what the length of the sound tells, or 30")
]


@data_app.command("synth", cls=Greedy)
def data_synth(
    directory: Annotated[Path, typer.Argument(help="folder to write, new or empty")],
    classes: Annotated[
        list[str] | None, typer.Option(help="names of 3 to 16 classes; the six of Ekman by default")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="videos of each class, 30; or images, 60")] = None,
    seconds: Annotated[float, typer.Option(help="length of a video")] = 3.0,
    without: Annotated[list[str] | None, typer.Option(help="cues that shall not tell the class: micro pitch")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn")] = 0,
    workers: Annotated[int, typer.Option(help="processes")] = 2,
    images: Annotated[
        bool,
        typer.Option("--images", help="PNG images instead: 2 to 9 classes that show in shape and texture together"),
    ] = False,
    size: Annotated[int, typer.Option(help="edge of the images, px")] = 96,
) -> None:
    """Make a data set of real mp4 videos whose class shows in motion and sound of several scales together."""
    from attnzoo.emotion.synth import CUES, EKMAN, synthesise
    from attnzoo.images.synth import NAMES, synthesise_images

    if images:
        names, count = classes or NAMES, 60 if per_class is None else per_class
        with resumable(f"finished images are in {directory}"), progress_bar("writing images") as progress:
            synthesise_images(directory, classes=names, per_class=count, size=size, seed=seed, progress=progress)
        echo(f"{directory}: {count} images of each of {', '.join(names)}")
        return
    per_class = 30 if per_class is None else per_class

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
    directory: Annotated[Path, typer.Argument(help="folder with one sub-folder of videos per class, or a list")],
    layout: Layout = None,
    annotations: AnnotationsOption = None,
    fps: Fps = None,
    frames: Annotated[int, typer.Option(help="frames of a window; shorter videos are reported")] = 16,
    decode: Annotated[bool, typer.Option("--decode", help="decode every frame, to find damage in the middle")] = False,
    images: Annotated[
        bool, typer.Option("--images", help="a folder of images, by class or by train, val, test")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look through a data set before training; exit status 2 if a file is not as it should be."""
    from attnzoo.emotion.defects import KINDS
    from attnzoo.images.folder import KINDS as IMAGE_KINDS
    from attnzoo.images.folder import read_images

    if images:
        with progress_bar("looking through images") as progress:
            folder: Any = read_images(directory, decode=decode, progress=progress)
        if not as_json:
            echo(folder.summary())
    else:
        folder = read_videos(_data(directory, layout, annotations, fps), frames, quiet=as_json, decode=decode)
    if as_json:
        print(json.dumps(folder.as_dict(), indent=2))
    else:
        for finding in folder.findings:
            echo(f"{finding.kind}: {finding.key}: {finding.detail}")
        if folder.findings:
            table = Table("what", "files", "what becomes of them", box=box.SIMPLE)
            for kind, count in folder.counts().items():
                table.add_row(kind, str(count), (IMAGE_KINDS if images else KINDS)[kind])
            show(table)
    if folder.findings:
        raise typer.Exit(2)


@data_app.command("prepare")
def data_prepare(
    directory: Annotated[Path, typer.Argument(help="the data set")],
    out: Annotated[Path, typer.Argument(help="folder for the small videos; what is finished there stays")],
    layout: Layout = None,
    annotations: AnnotationsOption = None,
    fps: Fps = None,
    short_side: Annotated[int, typer.Option(help="of the frames, px")] = 144,
    gop: Annotated[int, typer.Option(help="frames from one key frame to the next")] = 16,
    workers: Annotated[int, typer.Option(help="processes")] = 2,
    engine: Annotated[str, typer.Option(help="local, or ray for a Ray cluster (RAY_ADDRESS, or one started here)")] = (
        "local"
    ),
) -> None:
    """Copy a data set into small videos that decode several times faster; the same command goes on."""
    from attnzoo.emotion.prepare import prepare

    folder = read_videos(_data(directory, layout, annotations, fps), 1)
    with resumable(f"finished videos are in {out}"), progress_bar("writing videos") as progress:
        done = prepare(folder, out, short_side=short_side, gop=gop, workers=workers, engine=engine, progress=progress)
    for key, reason in done.failed:
        echo(f"failed: {key}: {reason}")
    echo(f"{out}: {done.written} videos written, {done.before} finished before, {len(done.failed)} failed")
    if done.failed:
        raise typer.Exit(2)


@data_app.command("protocols")
def data_protocols() -> None:
    """List the ways to divide a data set: data.protocol and data.fold in a recipe."""
    from attnzoo.emotion.protocols import list_protocols

    table = Table("data.protocol", "data.fold", "what it is", box=box.SIMPLE)
    for protocol in list_protocols():
        folds = {None: "one a split", 1: "0"}.get(protocol.folds, f"0 to {(protocol.folds or 1) - 1}")
        table.add_row(protocol.name, folds, protocol.about)
    show(table)


def _data(root: Path, layout: str | None, annotations: Path | None, fps: float | None) -> Any:
    from attnzoo.emotion.recipe import Data

    if fps is not None and fps <= 0:
        raise ValueError(f"--fps {fps}: must be a positive number")
    return Data.model_validate({"root": root, "layout": known_layout(layout), "annotations": annotations, "fps": fps})
