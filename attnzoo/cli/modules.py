"""attnzoo list, attnzoo contract."""

from typing import Annotated

import typer
from rich.table import Table

from attnzoo.cli.shared import Greedy, app, assignment, echo, show


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
    show(table)


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
