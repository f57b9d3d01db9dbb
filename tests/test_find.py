"""attnzoo list, show and compare against the registry, real modules and attnzoo.profile."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnzoo
from attnzoo import cli, nd, registry
from attnzoo.backbones import create_backbone
from attnzoo.benchmarks.rows import ModuleRow, write
from attnzoo.catalogue import Wanted, card, listing, measured, readme_table, side_by_side
from attnzoo.catalogue.card import measured_sheet, sheets
from attnzoo.profiling import profile

from .snippets import parse

Command = Callable[..., tuple[int, str, str]]
OURS = [n for n in attnzoo.list_modules() if attnzoo.spec(n).cls.__module__.startswith("attnzoo.modules.")]


class Scale(nd.Gate):
    """Scales each channel.

    Args:
        channels: C.
        spatial_dims: 2 or 3.
        start: of the factors.
    """

    def __init__(self, channels: int, *, spatial_dims: int = 2, start: float = 1.0) -> None:
        super().__init__(channels, spatial_dims)
        self.factors = nn.Parameter(torch.full((1, channels, *(1,) * spatial_dims), start))

    def gate(self, x: Tensor) -> Tensor:
        return self.factors


@pytest.fixture
def others() -> Iterator[None]:
    """Modules of somebody else: 2D alone, 3D alone, neither with a year nor compared with anything."""
    attnzoo.list_modules()
    for name, dims in (("zz_flat", (2,)), ("zz_solid", (3,))):
        attnzoo.register(name, dims=dims)(Scale)
    yield
    for name in ("zz_flat", "zz_solid"):
        registry.unregister(name)


def rows(attnzoo: Command, *arguments: object) -> list[dict[str, Any]]:
    status, out, err = attnzoo(*arguments, "--format", "json")
    assert (status, err) == (0, "")
    return [row for table in json.loads(out)["tables"] for row in table["rows"]]


def made(name: str, channels: int, dims: int = 2, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return attnzoo.create(name, channels, spatial_dims=dims, **options)


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ("", lambda s: True),
        ("s?", lambda s: len(s.name) == 2 and s.name[0] == "s"),
        ("--dims 2", lambda s: 2 in s.dims),
        ("--dims 3", lambda s: 3 in s.dims),
        ("--site mid", lambda s: s.site == "mid"),
        ("--year 2021", lambda s: s.year == 2021),
        ("--year 2020..2022", lambda s: s.year in (2020, 2021, 2022)),
        ("--year ..2018", lambda s: s.year is not None and s.year <= 2018),
        ("--year 2024..", lambda s: s.year is not None and s.year >= 2024),
        ("--golden", lambda s: s.golden),
        ("--no-golden", lambda s: not s.golden),
        ("--golden --site stage --year 2018", lambda s: s.golden and s.site == "stage" and s.year == 2018),
    ],
)
@pytest.mark.usefixtures("others")
def test_lists_those_that_fit(attnzoo: Command, arguments: str, fits: Callable[[Any], bool]) -> None:
    listed = [row["name"] for row in rows(attnzoo, "list", *arguments.split())]
    expected = [name for name in registry.list_modules() if fits(registry.spec(name))]
    assert listed == expected
    assert expected


def test_a_bound_on_the_cost_is_one_at_the_width_that_was_told(attnzoo: Command) -> None:
    few = rows(attnzoo, "list", "--max-params", "20k", "--channels", 64, "--size", 14)
    small, large = {}, {}
    for name in registry.list_modules():
        try:
            small[name] = sum(p.numel() for p in made(name, 64).parameters())
            large[name] = sum(p.numel() for p in made(name, 512).parameters())
        except ValueError:  # what does not fit has no cost, and is not listed
            small.pop(name, None)
    assert {row["name"] for row in few} == {name for name, params in small.items() if params <= 20_000}
    wide = rows(attnzoo, "list", "--max-params", "20k", "--channels", 512, "--size", 14)
    assert {row["name"] for row in wide} & large.keys() == {n for n, params in large.items() if params <= 20_000}
    cheap = rows(attnzoo, "list", "--max-macs", "0.1M", "--size", 4, 14, 14)
    assert cheap
    for row in cheap:
        assert row["macs"] == profile(made(row["name"], 256, 3), (1, 256, 4, 14, 14)).macs <= 100_000


@pytest.mark.parametrize(("width", "terminal", "whole"), [(80, True, False), (120, True, True), (80, False, True)])
def test_a_list_fits_a_terminal_of_80_columns(
    attnzoo: Command, monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool, whole: bool
) -> None:
    monkeypatch.setattr(cli.console, "width", width)
    monkeypatch.setattr(cli.console, "_force_terminal", terminal)
    status, out, _ = attnzoo("list")
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert status == 0
    assert ("compared" in " ".join(lines[:3])) is whole
    if terminal:
        assert max(map(len, lines)) <= width
    assert {name for line in lines for name in line.split()[:1]} >= set(registry.list_modules())


def test_a_card_claims_equality_with_the_code_that_was_run() -> None:
    for name in OURS:
        known, said = registry.spec(name), card(name, widths=(), sites=False).fidelity
        assert said.startswith("equal to ") is known.golden
        assert (known.checked or "its authors' code") in said
        assert ("equal to its authors' code" in said) is (known.golden and not known.checked)


@pytest.mark.usefixtures("others")
def test_a_bar_in_an_idea_ends_no_cell_of_a_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scale, "__doc__", "Scales by |x|.")
    *_, row = readme_table(listing(Wanted("zz_flat"))).splitlines()
    assert row.count("|") == 8
    assert "Scales by &#124;x&#124;." in row


@pytest.mark.usefixtures("others")
def test_sorts_and_leaves_what_has_no_cost_to_the_end() -> None:
    def names(**options: Any) -> list[str]:
        return [row["name"] for row in listing(channels=64, **options).records]

    assert names() == registry.list_modules()
    assert names(reverse=True) == registry.list_modules()[::-1]
    years = [registry.spec(name).year or 0 for name in names(sort="year", reverse=True)]
    assert years == sorted(years, reverse=True)
    for key, column in (("params", "param_count"), ("macs", "macs")):
        for reverse in (False, True):
            counts = [row.get(column) for row in listing(channels=64, sort=key, reverse=reverse).records]
            known = [count for count in counts if count is not None]
            assert known == sorted(known, reverse=reverse)
            assert None in counts, "sa's 64 groups do not fit 64 channels"
            assert counts[: len(known)] == known


@pytest.mark.parametrize("name", OURS)
def test_every_module_of_ours_says_all_there_is_to_say(name: str) -> None:
    found = card(name, widths=(64, 512), size=(8, 8), sites=False)
    assert found.spec.formula, 'register(..., formula="y = x * ...")'
    assert found.spec.compared_with, 'register(..., golden=True), or checked="what it was compared with"'
    assert found.doc.rule_3d, 'a sentence "3D: ..." in the docstring'
    assert found.spec.options.keys() <= found.doc.arguments.keys()
    for count in found.counts:
        size = (1, count.channels, *count.size)
        if count.cost is None:
            with pytest.raises(ValueError) as error:  # noqa: PT011
                made(name, count.channels)(torch.zeros(size, device="meta"))
            assert count.misfit == " ".join(str(error.value).split())
        else:
            real = attnzoo.create(name, count.channels)
            assert count.cost.params == sum(p.numel() for p in real.parameters())
            assert count.cost.macs == profile(real, size).macs


@pytest.mark.parametrize("name", OURS)
def test_a_module_is_called_as_its_card_says(name: str) -> None:
    found = card(name, sites=False)
    with torch.device("meta"):
        model = create_backbone("torchvision/resnet50")
        exec(compile(found.python, "card", "exec"), {"attnzoo": attnzoo, "model": model})
    assert len(attnzoo.inject.__globals__["attentions"](model)) >= 4
    for line in found.shell.splitlines():
        program, *arguments = line.split()
        assert program == "attnzoo"
        parse(arguments)


@pytest.mark.usefixtures("others")
def test_what_a_module_adds_to_a_resnet50_at_each_site(attnzoo: Command) -> None:
    planes, blocks = (64, 128, 256, 512), (3, 4, 6, 3)
    edges = (56, 28, 14, 7)

    def moved(width: int, edge: int) -> int:  # x and the factors in, x out
        return 4 * (2 * width * edge * edge + width)

    added = {row["site"]: row for row in rows(attnzoo, "show", "zz_flat") if "param_count_added" in row}
    for site, widths, places in (
        ("out", [4 * p for p in planes], blocks),
        ("mid", planes, blocks),
        ("stage", [4 * p for p in planes], (1, 1, 1, 1)),
    ):
        assert added[site]["places"] == sum(places)
        assert added[site]["param_count_added"] == sum(w * n for w, n in zip(widths, places, strict=True))
        assert added[site]["macs_added"] == 0
        assert added[site]["bytes_moved"] == sum(n * moved(w, e) for w, n, e in zip(widths, places, edges, strict=True))
    (replaced,) = [row for row in rows(attnzoo, "show", "res2net") if "param_count_added" in row]
    assert replaced["site"] == "conv"
    assert replaced["param_count_added"] < 0, "four 3x3 convolutions of a quarter each in place of one"


@pytest.mark.usefixtures("others")
def test_shows_modules_of_others_and_in_3d(attnzoo: Command) -> None:
    facts = {row["fact"]: row["value"] for row in rows(attnzoo, "show", "zz_solid") if "fact" in row}
    assert "spatial_dims=3" in facts["Python"]
    assert facts["fidelity"] == "not compared with other code"
    assert "formula" not in facts
    facts = {row["fact"]: row["value"] for row in rows(attnzoo, "show", "zz_flat:start=2.0") if "fact" in row}
    assert facts["in 3D"] == "none: it is defined for 2D features alone"
    assert "start=2.0" in facts["Python"]
    (option,) = [row for row in rows(attnzoo, "show", "zz_flat") if "option" in row]
    assert option == {"option": "start", "type": "float", "default": "1.0", "meaning": "of the factors."}
    widths = {row["channels"]: row for row in rows(attnzoo, "show", "sa", "--channels", 64, 128) if "channels" in row}
    assert "channels=64 is not divisible by 2 * groups=128" in widths[64]["misfit"]
    assert widths[128]["param_count"] == sum(p.numel() for p in made("sa", 128).parameters())


def test_compares_with_profile_and_with_a_copy(attnzoo: Command) -> None:
    compared = rows(attnzoo, "compare", "se", "eca:kernel_size=5", "coord", "--channels", 512, "--size", 28)
    assert [row["module"] for row in compared] == ["copy", "se", "eca:kernel_size=5", "ca"]
    for row, (name, options) in zip(compared[1:], (("se", {}), ("eca", {"kernel_size": 5}), ("ca", {})), strict=True):
        cost = profile(made(name, 512, **options), (1, 512, 28, 28))
        assert (row["param_count"], row["macs"], row["kernels"]) == (cost.params, cost.macs, cost.kernels)
        assert (row["bytes_read"], row["bytes_written"], row["saved"]) == (
            cost.bytes_read,
            cost.bytes_written,
            cost.saved,
        )
    x = 4 * 512 * 28 * 28
    assert (compared[0]["bytes_read"], compared[0]["bytes_written"]) == (x + 4 * 512, x)


def test_times_all_in_turns() -> None:
    sheet = side_by_side([("se", {}), ("sa", {})], channels=64, size=(7,), batch=2, time=True)
    copy, se, sa = sheet.records
    assert copy["to_copy"] == 1
    assert se["to_copy"] == se["latency_ms"] / copy["latency_ms"] > 0
    assert "latency_ms" not in sa, "it does not fit 64 channels"
    assert any("n/a for sa: channels=64" in note for note in sheet.notes)
    assert any("in turns" in note for note in sheet.notes)


@pytest.mark.parametrize("command", ["list", "show se", "compare se eca"])
def test_every_format(attnzoo: Command, command: str, tmp_path: Path) -> None:
    said = {}
    for form in ("rich", "markdown", "csv", "json", "latex", "html"):
        status, said[form], err = attnzoo(*command.split(), "--format", form)
        assert (status, err) == (0, "")
        assert "se" in said[form]
    (parameters,) = [
        row["param_count"]
        for table in json.loads(said["json"])["tables"]
        for row in table["rows"]
        if row.get("param_count")
        and (row.get("channels", 256), row.get("name", row.get("module", "se"))) == (256, "se")
    ]
    in_csv = [row for row in csv.DictReader(io.StringIO(said["csv"])) if row["param_count (M)"]]
    assert parameters in [round(1e6 * float(row["param_count (M)"])) for row in in_csv]
    for form in ("rich", "markdown", "html"):
        assert f"{parameters:,}" in said[form]
    assert attnzoo(*command.split(), "--output", tmp_path / "a.html")[0] == 0
    assert (tmp_path / "a.html").read_text() == said["html"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("list zz*", ["no module's name matches 'zz*'"]),
        ("list --golden --year 1999", ["no module fits all of this"]),
        ("list --site inside", ["site 'inside' must be one of out, mid, conv, stage"]),
        ("list --year 20x", ["year '20x' must be a year or a range", "2020..2022"]),
        ("list --year 2022..2020", ["ends before it begins", "2020..2022"]),
        ("list --max-params many", ["'many' must be a number such as 8192, 10k"]),
        ("list --max-macs=-3", ["'-3' must be a number"]),
        ("list --sort size", ["sort 'size' must be one of name, year, site, params, macs"]),
        ("list --dims 2 --size 4 14 14", ["size 4 14 14 is not that of 2D features; give H W"]),
        ("list --dims 3 --size 14", ["size 14 is not that of 3D features; give T H W"]),
        ("list --format word", ["format 'word' must be one of rich"]),
        ("list --output here.docx", ["here.docx has no suffix that tells its format"]),
        ("show see", ["no attention module is called 'see'", "did you mean se"]),
        ("show", ["missing argument 'module'", "attnzoo show --help"]),
        ("show se:reducton=4", ["se has no option 'reducton'", "reduction"]),
        ("compare se cbma", ["no attention module is called 'cbma'", "cbam"]),
        ("compare se eca:kernel=3", ["eca has no option 'kernel'"]),
        ("compare se --size 2 2 2 2", ["se is defined for spatial_dims=2 or 3, not for 4"]),
        ("compare se --channels 0", ["'--channels'"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(attnzoo: Command, arguments: str, parts: list[str]) -> None:
    status, _, err = attnzoo(*arguments.split())
    assert status == 2
    assert err.startswith("attnzoo: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


def row(**changes: Any) -> ModuleRow:
    common: dict[str, Any] = {
        "module": "se",
        "options": "",
        "provider": "attnzoo",
        "relation": "ours",
        "dims": 2,
        "shape": "8x256x56x56",
        "mode": "forward",
        "compiled": False,
        "layout": "contiguous",
        "to_copy": 1.25,
        "threads": 2,
        "torch": "2.15",
        "machine": "a machine",
        "date": "2026-01-02",
    }
    return ModuleRow(**{**common, **changes})


def test_the_ratio_to_the_copy_is_that_of_ours_with_its_defaults(tmp_path: Path) -> None:
    wanted = [row(), row(mode="train", to_copy=2.5)]
    others = [
        row(provider="timm"),
        row(options='{"bias": true}'),
        row(compiled=True),
        row(module="eca"),
        row(shape="1x1x1x1", to_copy=None, note="failed"),
    ]
    write(tmp_path / "mine.csv", [*others, *wanted])
    (tmp_path / "networks.csv").write_text("network,module\n")
    assert measured.ratios("se", (tmp_path, tmp_path / "nothing here")) == wanted
    assert measured.ratios("ca", (tmp_path,)) == []
    sheet = measured.sheet("se", wanted)
    (record,) = sheet.records
    assert (record["to_copy_forward"], record["to_copy_train"]) == (1.25, 2.5)
    assert "a machine" in sheet.notes[0]
    assert "2026-01-02" in sheet.notes[0]


def test_what_was_measured_is_of_modules_that_there_are() -> None:
    for name in attnzoo.list_modules():
        found = card(name, widths=(), sites=False)
        assert bool(found.measured) == (measured_sheet(found).name in [sheet.name for sheet in sheets(found)])
