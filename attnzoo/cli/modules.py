"""attnzoo contract."""

from typing import Annotated

import typer
from rich.table import Table

from attnzoo.cli.shared import Greedy, app, assignment, echo, show


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

    options = dict(assignment(c) for c in change or ())
    found = [spec(name) for name in names or list_modules()]
    broken = False
    for each in found:
        try:
            results = list(check(each.name, channels=channels, spatial_dims=dims, **options))
        except Exception as error:
            if len(found) == 1:
                raise
            broken = True  # the others are checked all the same
            echo(f"{each.name} cannot be checked: {' '.join(str(error).split())}")
            continue
        broken = broken or any(r.status == "failed" for r in results)
        columns = sorted({r.spatial_dims for r in results})
        table = Table(f"{each.name} promises", *(f"{d}D" for d in columns))
        for title in dict.fromkeys(r.title for r in results):
            status = {r.spatial_dims: r.status for r in results if r.title == title}
            table.add_row(title, *(status.get(d, "-") for d in columns))
        show(table)
        for r in results:
            if r.reason:
                echo(f"{each.name} {r.spatial_dims}D {r.status}: {r.title}: {r.reason}")
        echo(f"{each.name}: {'compared' if each.golden else 'not compared'} with its authors' code")
    if not names:
        echo(f"not compared with their authors' code: {', '.join(m.name for m in found if not m.golden) or 'none'}")
    if broken:
        raise typer.Exit(2)
