"""attnzoo leaderboard."""

from pathlib import Path
from typing import Annotated

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
    data_root,
    echo,
    read_recipe,
    read_videos,
    resumable,
    show,
)

board_app = typer.Typer(no_args_is_help=True, help="Train a grid of attentions and seeds, and compare.")
app.add_typer(board_app, name="leaderboard")


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

    full = read_recipe(recipe, data, change)
    folder = read_videos(data_root(full), full.clip.frames)
    with Store(store) as runs, resumable(f"finished runs are in {store}"):
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
            echo(f"no runs yet in {store}; make some with: attnzoo leaderboard run RECIPE --store {store}")
        for name in boards:
            runs = opened.runs(name)
            show(table(summarise(runs), runs))


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
