"""Each format of a cost report, read back by a parser that is none of ours, against the numbers that were counted."""

import csv
import html
import io
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import attnzoo
from attnzoo import cli
from attnzoo.emotion.checkpoints import save, save_model
from attnzoo.profiling import chart
from attnzoo.profiling.layout import sheet
from attnzoo.profiling.report import render, write
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.profiling.table import Attention, Row, compare

# What every format has to escape, in a label and in the notes.
NASTY = r"a|b & <i>c</i> 50%_#$ {d} ~^\ [e]"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with torch.device("meta"):
        network = attnzoo.create_backbone("timm/resnet18")
    attns = [
        Attention("se", label=NASTY),
        Attention("mpe", {"groups": 16}),
        Attention("sa"),  # which does not fit 64 channels
    ]
    return list(compare(network, attns, skip_misfits=True))


@pytest.fixture(scope="module")
def report_sheet(rows: list[Row]) -> Sheet:
    return sheet("timm/resnet18", f"ResNet {NASTY}", rows, ["fvcore", "torch"])


def moved(row: Row) -> int:
    assert row.cost
    return row.cost.bytes_read + row.cost.bytes_written


def expected(row: Row, units: str) -> list[str]:
    """params, FLOPs by fvcore and torch, MACs and bytes as people read them."""
    if row.cost is None:
        return [""] * 5
    m, g = (1e6, 1e9) if units == "decimal" else (2**20, 2**30)
    cost = row.cost
    return [
        f"{cost.params / m:.3f}",
        f"{cost.by_counter['fvcore'] / g:.4f}",
        f"{cost.by_counter['torch'] / g:.4f}",
        f"{cost.macs / g:.4f}",
        f"{moved(row) / m:.1f}",
    ]


HEADS = {
    "decimal": ["params (M)", "FLOPs (G, fvcore)", "FLOPs (G, torch)", "MACs (G)", "moved (MB)"],
    "binary": ["params (Mi)", "FLOPs (Gi, fvcore)", "FLOPs (Gi, torch)", "MACs (Gi)", "moved (MiB)"],
}


def test_csv_holds_every_digit(rows: list[Row], report_sheet: Sheet) -> None:
    for units, m, g, mi in (("decimal", 10**6, 10**9, ""), ("binary", 2**20, 2**30, "i")):
        read = list(csv.DictReader(io.StringIO(render([report_sheet], "csv", units))))  # type: ignore[arg-type]
        assert list(read[0])[:7] == ["table", "model", "attn", "site", "places", "options", "img_size"]
        assert [r["attn"] for r in read] == ["none", NASTY, "mpe:groups=16", "sa"]
        for row, line in zip(rows, read, strict=True):
            if row.cost is None:
                assert line[f"param_count (M{mi})"] == line["kernels"] == ""
                continue
            assert line["img_size"] == "224x224"
            assert round(float(line[f"param_count (M{mi})"]) * m) == row.cost.params
            assert round(float(line[f"macs (G{mi})"]) * g) == row.cost.macs
            assert round(float(line[f"flops_fvcore (G{mi})"]) * g) == row.cost.flops
            assert round(float(line[f"bytes_moved (M{mi}B)"]) * m) == moved(row)
            assert round(float(line[f"saved (M{mi}B)"]) * m) == row.cost.saved
            assert int(line["kernels"]) == row.cost.kernels


def test_csv_of_different_tables_has_the_columns_of_all(report_sheet: Sheet) -> None:
    other = Sheet("other", "", [Column("attn", "attention"), Column("verdict", "")], [{"attn": "x", "verdict": "a, b"}])
    read = list(csv.DictReader(io.StringIO(render([other, report_sheet], "csv"))))
    assert [r["table"] for r in read] == ["other"] + ["timm/resnet18"] * 4
    assert read[0]["verdict"] == "a, b"
    assert read[0]["macs (G)"] == read[1]["verdict"] == ""


def test_a_quantity_has_one_column_in_csv(report_sheet: Sheet) -> None:
    """People read a module alone in millions and a network in billions; programs read one unit."""
    module = sheet("eca", "", list(compare(attnzoo.create("eca", 64), [], input_size=(1, 64, 7, 7))), ["fvcore"])
    alone, *networks = csv.DictReader(io.StringIO(render([module, report_sheet], "csv")))
    assert (alone["macs (G)"], alone["flops_fvcore (G)"]) == ("1.92e-07", "1.92e-07")  # 3 weights at 64 channels
    assert networks[0]["macs (G)"] == "1.814073344"
    assert not any("(M)" in head for head in alone if head.startswith(("macs", "flops")))
    assert "| 0.000003 | 0.000192 |" in render([module])


def test_what_is_small_does_not_read_as_zero() -> None:
    added = Column("macs_added", "added", "G", digits=4, signed=True)
    texts = {5_760: "+0.0000058", -24: "-0.000000024", 0: "+0.0000", 49_999: "+0.000050", 50_001: "+0.0001"}
    assert {value: added.text(value, "decimal") for value in texts} == texts
    assert Column("params", "", "M").text(3, "binary") == "0.0000029"


def test_json_holds_integers_and_a_version(rows: list[Row], report_sheet: Sheet) -> None:
    for units in ("decimal", "binary"):
        read = json.loads(render([report_sheet], "json", units))  # type: ignore[arg-type]
        assert (read["schema"], read["version"]) == ("attnzoo.cost", 1)
        (table,) = read["tables"]
        assert set(table) == {"name", "title", "rows", "notes"}
        for row, line in zip(rows, table["rows"], strict=True):
            if row.cost is None:
                assert "64 channels" in line["misfit"]
                continue
            assert line["param_count"] == row.cost.params
            assert (line["macs"], line["flops_fvcore"], line["flops_torch"]) == (
                row.cost.macs,
                row.cost.by_counter["fvcore"],
                row.cost.by_counter["torch"],
            )
            assert (line["bytes_moved"], line["saved"], line["kernels"]) == (
                moved(row),
                row.cost.saved,
                row.cost.kernels,
            )
            assert line["zeros"] == dict(row.cost.zeros)
            assert "where" not in line
        base, se = table["rows"][:2]
        assert se["param_count_added"] == se["param_count"] - base["param_count"]
        assert "param_count_added" not in base


def test_json_says_what_units_a_paper_prints_in() -> None:
    paper = Sheet("paper", "", [Column("paper_param_count", "", "M")], [{"paper_param_count": "42.49"}], units="binary")
    (table,) = json.loads(render([paper], "json", "decimal"))["tables"]
    assert (table["rows"], table["units"]) == ([{"paper_param_count": "42.49"}], "binary")


class Reader(HTMLParser):
    """The cells of all tables, the caption, and whatever would be asked of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption = ""
        self.asked: list[str] = []
        self.tags: set[str] = set()
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in = tag
        self.asked += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in ("td", "th"):
            self.rows[-1][-1] += data
        if self._in == "caption":
            self.caption += data


def check_cells(cells: list[list[str]], rows: list[Row], units: str) -> None:
    heads, *lines = cells
    wanted = [heads.index(head) for head in HEADS[units]]
    assert [line[0] for line in lines] == ["none", NASTY, "mpe:groups=16", "sa"]
    for row, line in zip(rows, lines, strict=True):
        assert [line[i] for i in wanted] == expected(row, units)
    base, se = rows[:2]
    assert base.cost
    assert se.cost
    m = 1e6 if units == "decimal" else 2**20
    assert lines[1][wanted[0] + 1] == f"{(se.cost.params - base.cost.params) / m:+.3f}"
    assert lines[3][1] == "out: no"


@pytest.mark.parametrize("units", ["decimal", "binary"])
def test_html_is_escaped_and_needs_nothing_else(rows: list[Row], report_sheet: Sheet, units: Any) -> None:
    reader = Reader()
    reader.feed(render([report_sheet], "html", units))
    check_cells(reader.rows, rows, units)
    assert reader.caption.startswith(f"ResNet {NASTY}")
    assert not reader.asked
    assert not reader.tags & {"i", "script", "link", "img"}


@pytest.mark.parametrize("units", ["decimal", "binary"])
def test_markdown_is_a_table(rows: list[Row], report_sheet: Sheet, units: Any) -> None:
    lines = [line for line in render([report_sheet], "markdown", units).splitlines() if line.startswith("|")]
    cells = [[c.strip().replace(r"\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set("".join(cells[1])) == set("-:")
    assert {len(line) for line in cells} == {len(cells[0])}
    check_cells([cells[0], *cells[2:]], rows, units)


@pytest.mark.parametrize("units", ["decimal", "binary"])
def test_latex_is_escaped(rows: list[Row], report_sheet: Sheet, units: Any) -> None:
    text = render([report_sheet], "latex", units)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    words = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
    }

    def plain(cell: str) -> str:
        return re.sub(r"\\text\w+\{\}|\\([&%$#_{}])", lambda m: m[1] or words[m[0]], cell).strip()

    inside = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line.removesuffix(r" \\") for line in inside.splitlines() if line.endswith(r"\\")]
    check_cells([[plain(c) for c in re.split(r"(?<!\\)&", line)] for line in lines], rows, units)
    for special in "&%$#_":  # bare in no text; & stands between cells alone
        bare = re.findall(rf"(?<!\\)\{special}", "\n".join(text.splitlines()[1:]))
        assert len(bare) == (sum(line.count(" & ") for line in lines) if special == "&" else 0)
    assert text.replace(r"\{", "").replace(r"\}", "").count("{") == text.replace(r"\{", "").replace(r"\}", "").count(
        "}"
    )


def test_the_terminal_has_one_cell_for_what_attention_adds(rows: list[Row], report_sheet: Sheet) -> None:
    text = render([report_sheet], "rich")
    assert text.startswith(f"ResNet {NASTY}")
    base, _, mpe = rows[:3]
    assert base.cost
    assert mpe.cost
    added = (
        f"{(mpe.cost.params - base.cost.params) / 1e6:+.3f} M, {(mpe.cost.flops - base.cost.flops) / 1e9:+.4f} G, "
        f"{(moved(mpe) - moved(base)) / 1e6:+.1f} MB moved"
    )
    (line,) = [line for line in text.splitlines() if line.startswith("mpe:groups=16")]
    assert line.endswith(added)
    assert line.split()[:8] == ["mpe:groups=16", "mid", "x8", *expected(mpe, "decimal")]


def test_unknown_operations_and_those_counted_as_nothing_are_told() -> None:
    class Fourier(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x).abs() + 1

    (row,) = compare(Fourier(), [], input_size=(1, 2, 8, 8))
    notes = sheet("fourier", "", [row], ["fvcore"]).notes
    assert row.cost
    assert row.cost.unknown
    assert any("No counter knows the cost of " + ", ".join(sorted(row.cost.unknown)) in note for note in notes)
    assert any("fvcore counts nothing for" in note and "abs" in note for note in notes)


def test_a_network_that_ran_on_a_real_copy_is_told() -> None:
    class Choosing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    rows = list(compare(Choosing(), [], input_size=(1, 2, 8, 8)))
    assert any("run on a real copy, on the CPU: none." in note for note in sheet("", "", rows, ["fvcore"]).notes)
    assert not any("real copy" in note for note in sheet("", "", list(compare(torch.nn.ReLU(), [])), ["macs"]).notes)


def test_unknown_formats_and_units_are_named() -> None:
    with pytest.raises(ValueError, match=r"format 'pdf' must be one of rich, markdown, csv, json, latex, html"):
        render([], "pdf")
    with pytest.raises(ValueError, match=r"units 'mixed' must be one of decimal, binary"):
        render([], "csv", "mixed")  # type: ignore[arg-type]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.txt"
    write(path, "first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"^cannot write .*a\.txt: No space left on device; "):
        write(path, "second")
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "first"


def test_charts_are_a_png_and_a_page_that_works_offline(report_sheet: Sheet, tmp_path: Path) -> None:
    chart.draw([report_sheet], tmp_path / "cost.png")
    png = (tmp_path / "cost.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png.endswith(b"IEND\xaeB`\x82")
    chart.draw([report_sheet], tmp_path / "cost.html", "binary")
    page = (tmp_path / "cost.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert not reader.asked
    assert "link" not in reader.tags
    (data,) = re.findall(r"Plotly\.newPlot\('chart0', \.\.\.(.*?), \{displaylogo", page)
    points, layout = json.loads(data)
    assert [len(site["x"]) for site in points] == [1]
    (name,) = layout["annotations"]
    assert (name["text"], [name["x"]], [name["y"]]) == (html.escape(NASTY), points[0]["x"], points[0]["y"])
    assert layout["xaxis"]["title"]["text"] == "parameters added (Mi)"
    assert "<i>" not in data


@pytest.mark.parametrize(
    ("package", "file", "extra"), [("matplotlib", "c.png", "emotion"), ("plotly", "c.html", "leaderboard")]
)
def test_a_missing_extra_names_the_command(
    monkeypatch: pytest.MonkeyPatch, package: str, file: str, extra: str
) -> None:
    monkeypatch.setattr("attnzoo.extras.find_spec", lambda name: None if name == package else True)
    with pytest.raises(ImportError, match=rf'this needs {package}; .*pip install "attnzoo\[{extra}\]"'):
        chart.draw([], Path(file))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(cli.console, "width", 120)

    def command(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["attnzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert not stop.value.code, said.err
        return said.out

    return command


def test_profile_takes_modules_networks_recipes_and_checkpoints(run: Callable[..., str], tmp_path: Path) -> None:
    recipe = {"name": "mine", "model": {"visual": {"backbone": "resnet3d/10"}, "audio": {"backbone": "timm/resnet10t"}}}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe | {"grid": {"attn": ["none", "eca"]}}))
    recipe["model"]["attn"] = "se"  # type: ignore[index]
    told = {"recipe": recipe, "classes": ["calm", "joy"], "data": "4f1c", "history": []}
    save_model({}, told, tmp_path / "run" / "model.safetensors")
    save({"attnzoo": told, "state_dict": {}}, tmp_path / "last.ckpt")
    trained = [tmp_path / "run", tmp_path / "run" / "model.safetensors", tmp_path / "last.ckpt"]
    given = ["mpe:groups=4", "timm/resnet18", tmp_path / "mine.yaml", *trained]
    read = json.loads(run("profile", *given, "--channels", "64", "--size", "7", "--format", "json"))["tables"]
    assert [[row["attn"] for row in table["rows"]] for table in read] == [
        ["mpe:groups=4"],
        ["none"],
        *[["none", "eca"]] * 2,
        *[["none", "se"]] * 6,
    ]
    module = attnzoo.profile(attnzoo.create("mpe", 64, groups=4), (1, 64, 7, 7))
    assert (read[0]["rows"][0]["param_count"], read[0]["rows"][0]["macs"]) == (module.params, module.macs)
    assert read[0]["rows"][0]["img_size"] == "7x7"
    assert [table["rows"][0]["img_size"] for table in read[2:]] == ["16x112x112", "32x128"] * 4
    whole = attnzoo.profile(attnzoo.create("se", 64, spatial_dims=3), (1, 64, 4, 7, 8))
    (table,) = json.loads(run("profile", "se", "--channels", "64", "--size", "4", "7", "8", "--format", "json"))[
        "tables"
    ]
    assert table["rows"][0]["bytes_moved"] == whole.bytes_read + whole.bytes_written


def test_profile_takes_a_released_file(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("seresnet50").state_dict(), tmp_path / "se.pth")
    out = run("profile", "se.pth", "--attn", "eca:kernel_size=5", "--site", "mid", "--format", "json")
    (table,) = json.loads(out)["tables"]
    assert [(row["attn"], row["places"]) for row in table["rows"]] == [("its own", 16), ("eca:kernel_size=5", 32)]
    assert table["rows"][0]["param_count"] == 28_088_024  # what timm says of it


def test_profile_breaks_a_network_down(run: Callable[..., str]) -> None:
    out = run("profile", "timm/resnet18", "--attn", "se", "--depth", "1", "--format", "csv")
    read = list(csv.DictReader(io.StringIO(out)))
    parts = {r["module"]: r for r in read if r["table"] == "timm/resnet18 parts" and r["attn"] == "se"}
    assert {"conv1", "layer1", "layer4", "fc", "all attention", "whole"} <= parts.keys()
    assert not any("." in path for path in parts)
    (net,) = [r for r in read if r["table"] == "timm/resnet18" and r["attn"] == "se"]
    for key in ("param_count (M)", "macs (G)", "flops_fvcore (G)", "bytes_moved (MB)"):
        assert parts["whole"][key] == net[key]
        inside = sum(float(part[key]) for path, part in parts.items() if path not in ("whole", "all attention"))
        assert inside == pytest.approx(float(net[key]), rel=0.05 if "bytes" in key else 1e-9)
    added = sum(float(r["param_count_added (M)"] or 0) for r in read if r["table"] == "timm/resnet18")
    assert float(parts["all attention"]["param_count (M)"]) == pytest.approx(added)


def test_the_format_follows_the_file_and_a_folder_gets_a_name(run: Callable[..., str], tmp_path: Path) -> None:
    for name, start in (
        ("a.csv", "table,model"),
        ("a.json", "{"),
        ("a.md", "###"),
        ("a.tex", "%"),
        ("a.html", "<!doct"),
    ):
        assert run("profile", "se", "--output", tmp_path / name) == ""
        assert (tmp_path / name).read_text().startswith(start)
    run("profile", "timm/resnet18", "se", "--output", tmp_path, "--format", "csv")
    assert (tmp_path / "profile-timm_resnet18-se-fvcore.csv").exists()
    run("profile", "se", "--output", f"{tmp_path}/new/folder/")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["profile-se-fvcore.txt"]
    run("profile", "se", "--output", tmp_path / "other" / "a.csv")
    assert (tmp_path / "other" / "a.csv").is_file()
