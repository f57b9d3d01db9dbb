"""attnzoo list, attnzoo show, attnzoo compare."""

import sys
from typing import Annotated

import typer

from attnzoo.cli.shared import Format, Greedy, Output, app, parse_attention, progress_bar
from attnzoo.cli.sheets import format_of, print_sheets

Channels = Annotated[int, typer.Option(min=1, help="C of the features that are counted on")]
Size = Annotated[list[int] | None, typer.Option(min=1, help="[T] H W of the features; 28 is 28 x 28")]


@app.command("list", cls=Greedy)
def list_command(
    pattern: Annotated[str, typer.Argument(help="name with wildcards")] = "*",
    dims: Annotated[int | None, typer.Option(help="defined for so many spatial axes: 2 or 3")] = None,
    site: Annotated[str | None, typer.Option(help="goes there by default: out, mid, conv or stage")] = None,
    year: Annotated[str | None, typer.Option(help="of the paper: 2021, 2020..2022, 2020.. or ..2019")] = None,
    golden: Annotated[
        bool | None, typer.Option("--golden/--no-golden", help="equal to its authors' code, or to a port of it; or not")
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="at most so many parameters: 8192, 10k, 1M")] = None,
    max_macs: Annotated[str | None, typer.Option(help="at most so many multiply-accumulates: 500k, 2.5M, 1G")] = None,
    channels: Channels = 256,
    size: Size = None,
    sort: Annotated[str, typer.Option(help="name, year, site, params or macs")] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", help="the largest first")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table for a README")] = False,
    form: Format = None,
    output: Output = None,
) -> None:
    """List the attention modules: all, or those that fit; --channels and --size say on what they are counted."""
    from attnzoo.catalogue import Wanted, listing, readme_table
    from attnzoo.catalogue.listing import amount_of, years_of
    from attnzoo.profiling.report import check

    form = format_of(form, output)
    check(form, "decimal")
    wanted = Wanted(
        pattern,
        dims,
        site,
        years_of(year) if year is not None else (None, None),
        golden,
        None if max_params is None else amount_of(max_params),
        None if max_macs is None else amount_of(max_macs),
    )
    found = listing(wanted, channels=channels, size=size, sort=sort, reverse=reverse)
    if markdown:
        sys.stdout.write(readme_table(found))
        return
    print_sheets([found], form, "decimal", output, "modules")


@app.command("show", cls=Greedy)
def show_command(
    module: Annotated[str, typer.Argument(help="name, with options if need be: mpe, sa:groups=8")],
    channels: Annotated[list[int] | None, typer.Option(min=1, help="widths that are counted; 64 256 512 2048")] = None,
    size: Size = None,
    form: Format = None,
    output: Output = None,
) -> None:
    """Show one attention module: idea, formula, options, cost, fidelity, and how to call it."""
    from attnzoo.catalogue.card import WIDTHS, card, sheets
    from attnzoo.profiling.report import check

    form = format_of(form, output)
    check(form, "decimal")
    name, options = parse_attention(module)
    found = card(name, options, widths=channels or WIDTHS, size=size)
    print_sheets(sheets(found), form, "decimal", output, f"show-{module}")


@app.command("compare", cls=Greedy)
def compare_command(
    modules: Annotated[list[str], typer.Argument(help="names, with options if need be: se eca mpe:groups=16")],
    channels: Channels = 256,
    size: Size = None,
    batch: Annotated[int | None, typer.Option(min=1, help="N of the features; 1, or 8 with --time")] = None,
    time: Annotated[bool, typer.Option("--time", help="also time forward passes on this machine")] = False,
    form: Format = None,
    output: Output = None,
) -> None:
    """Put attention modules side by side: parameters, MACs, bytes, kernels, memory, and time beside a copy."""
    from attnzoo.catalogue import side_by_side
    from attnzoo.profiling.report import check

    form = format_of(form, output)
    check(form, "decimal")
    wanted = [parse_attention(module) for module in modules]
    with progress_bar("timing" if time else "counting"):
        found = side_by_side(wanted, channels=channels, size=size, batch=batch or (8 if time else 1), time=time)
    print_sheets([found], form, "decimal", output, f"compare-{'-'.join(modules)}")
