"""attnzoo leaderboard."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from attnzoo.cli.shared import (
    STORE,
    DataDir,
    Greedy,
    RecipeArgument,
    Sets,
    StoreOption,
    app,
    console,
    echo,
    read_data,
    read_recipe,
    resumable,
    say,
    show,
)

board_app = typer.Typer(no_args_is_help=True, help="Train a grid of attentions and seeds, and compare.")
app.add_typer(board_app, name="leaderboard")
Trials = Annotated[
    int | None, typer.Option(min=1, help="repetitions of each row: the folds of the recipe, then further seeds")
]
Tiny = Annotated[bool, typer.Option("--tiny", help="small networks and clips, two epochs: to see that it runs")]
BaselineOption = Annotated[str | None, typer.Option(help="row to compare with; by default the one without attention")]


@board_app.command("run", cls=Greedy)
def board_run(
    recipe: RecipeArgument,
    data: DataDir = None,
    out: Annotated[Path, typer.Option(help="folder for the checkpoints")] = Path("runs"),
    store: StoreOption = STORE,
    change: Sets = None,
    trials: Trials = None,
    small: Tiny = False,
    engine: Annotated[str, typer.Option(help="local: one run at a time, here; ray: on a Ray cluster")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="ray: HOST:PORT of the cluster; without it, or RAY_ADDRESS, one is started on this machine"),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option("--cpus-per-run", min=1, help="ray: 1 + training.workers if there are")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-run", min=0, help="ray: 1 where the cluster has any; 0.5 shares one")
    ] = None,
) -> None:
    """Train the grid of a recipe; finished runs are not repeated, an interrupted one goes on."""
    from attnzoo.leaderboard.run import Here, run_grid
    from attnzoo.leaderboard.store import Store

    if engine not in ("local", "ray"):
        raise ValueError(f"engine {engine!r} must be one of local, ray")
    if engine == "local" and (address, cpus, gpus) != (None, None, None):
        raise ValueError("--address, --cpus-per-run and --gpus-per-run are for --engine ray")
    full = _grid(recipe, data, change, trials, small)
    folder = read_data(full)
    with ExitStack() as opened:
        runs = opened.enter_context(Store(store))
        opened.enter_context(resumable(f"finished runs are in {runs.name}"))
        trains: Any = Here(runs, console)
        if engine == "ray":
            from attnzoo.leaderboard.ray_engine import ray_engine

            trains = opened.enter_context(ray_engine(console, address, cpus, gpus, full.training.workers))
        end = run_grid(full, folder, runs, out / full.name, console, trains)
    for title, reason in end.failed:
        say(f"{title} failed: {reason}")
    echo(f"see them with: attnzoo leaderboard show --store {runs.name}")
    if end.failed:
        say(f"{_runs(len(end.failed))} failed; the same command tries again")
        raise typer.Exit(1)


@board_app.command("plan", cls=Greedy)
def board_plan(
    recipe: RecipeArgument,
    data: DataDir = None,
    store: StoreOption = STORE,
    change: Sets = None,
    trials: Trials = None,
    small: Tiny = False,
) -> None:
    """List the runs of a grid with parameters, MACs and an estimate of the time, without training any."""
    from attnzoo.leaderboard.plan import plan, render
    from attnzoo.leaderboard.store import Store

    full = _grid(recipe, data, change, trials, small)
    folder = read_data(full) if full.data.root else None
    finished: list[str] = []
    if "://" in store or Path(store).is_file():
        with Store(store, create=False) as runs:
            finished = list(runs.ids())
    show(render(plan(full, folder, finished), full))


def _grid(recipe: str, data: Path | None, change: list[str] | None, trials: int | None, small: bool) -> Any:
    from attnzoo.emotion.grid import tiny

    full = read_recipe(recipe, data, change)
    full = tiny(full) if small else full
    return full.repeated(trials) if trials else full


@board_app.command("show")
def board_show(
    board: Annotated[str | None, typer.Argument(help="name of the recipe; all by default")] = None,
    store: StoreOption = STORE,
    baseline: BaselineOption = None,
) -> None:
    """Print the leaderboard."""
    from attnzoo.leaderboard.board import summarise
    from attnzoo.leaderboard.report import table
    from attnzoo.leaderboard.store import Store

    with Store(store, create=False) as opened:
        boards = [board] if board else opened.boards()
        if not boards:
            echo(f"no runs yet in {opened.name}; make some with: attnzoo leaderboard run RECIPE --store {opened.name}")
        for name in boards:
            show(table(summarise(opened.runs(name), baseline)))


@board_app.command("report")
def board_report(
    board: Annotated[str | None, typer.Argument(help="name of the recipe, where the store holds several")] = None,
    store: StoreOption = STORE,
    output: Annotated[
        Path, typer.Option(help="the file to write: .html (works offline), .png or .svg, .md or .tex")
    ] = Path("leaderboard.html"),
    baseline: BaselineOption = None,
) -> None:
    """Write the leaderboard as a page, a figure or a table for a paper."""
    from attnzoo.leaderboard.report import check, write
    from attnzoo.leaderboard.store import Store

    check(output)
    with Store(store, create=False) as opened:
        write(opened.runs(board), output, baseline=baseline)
    console.print(f"wrote {output.resolve().as_uri()}", highlight=False, soft_wrap=True)


@board_app.command("export")
def board_export(
    output: Annotated[Path, typer.Argument(help="the file to write")],
    store: StoreOption = STORE,
    board: Annotated[str | None, typer.Option(help="name of the recipe; all by default")] = None,
    format: Annotated[str | None, typer.Option(help="csv or json; by default that of the file's suffix")] = None,
) -> None:
    """Write runs into a file: CSV, a line for each in timm's columns, or JSON, which says all and can be imported."""
    from attnzoo.leaderboard.exchange import export
    from attnzoo.leaderboard.store import Store

    with Store(store, create=False) as opened:
        runs = opened.runs(board)
        if not runs:
            raise ValueError(f"there are no runs in {opened.name}; make some with: attnzoo leaderboard run RECIPE")
        export(runs, output, format)
    echo(f"wrote {_runs(len(runs))} to {output}")


@board_app.command("import")
def board_import(
    other: Annotated[str, typer.Argument(help="a store (file or URL), or a JSON file that `export` wrote")],
    store: StoreOption = STORE,
) -> None:
    """Take over the runs of another store; a run that both have is kept once, as it is here."""
    from attnzoo.leaderboard.exchange import read
    from attnzoo.leaderboard.store import Store

    runs = read(other)
    with Store(store) as opened:
        added, known, different = opened.merge(runs)
    echo(f"{opened.name}: {_runs(added)} added, {known} there already")
    if different:
        ids = ", ".join(different[:5]) + (" ..." if len(different) > 5 else "")
        echo(f"{_runs(len(different))} that both have differ: trained twice; kept as they are here: {ids}")


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"
