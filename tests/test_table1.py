"""Table 1 of the paper against ours: verdicts that follow from rounding; the protocol against audited numbers."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attnzoo
from attnzoo import cli
from attnzoo.backbones import create_backbone
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.profiling import paper
from attnzoo.profiling.latency import time_forward
from attnzoo.profiling.layout import sheet
from attnzoo.profiling.paper import Result, judge
from attnzoo.profiling.recipe import Paper, TableRecipe, read
from attnzoo.profiling.report import render
from attnzoo.profiling.table import Attention, compare, compare_all
from attnzoo.registry import Spec, spec, unregister

M, G = 10**6, 10**9


def build(name: str, num_classes: int | None = None) -> nn.Module:
    with torch.device("meta"):
        return attnzoo.create_backbone(name, num_classes=num_classes)


@pytest.mark.parametrize(
    ("printed", "ours", "unit", "equal"),
    [
        ("49.30", 49_295_000, M, "as printed"),  # a half goes up
        ("49.30", 49_304_999, M, "as printed"),
        ("49.30", 49_294_999, M, "as 49.3"),
        ("49.30", 49_250_000, M, "as 49.3"),
        ("49.30", 49_249_999, M, ""),
        ("49.30", 49_305_000, M, "truncated"),
        ("49.30", 49_309_999, M, "truncated"),
        ("49.30", 49_310_000, M, "as 49.3"),
        ("49.30", 49_350_000, M, ""),
        ("7.84", 7_849_999_999, G, "truncated"),
        ("7.84", 7_834_999_999, G, ""),  # no zero that could be padding
        ("7.84", 7_850_000_000, G, ""),
        ("50.0", 49_960_000, M, "as printed"),
        ("50.0", 50_400_000, M, "as 50"),
        ("45", 45_400_000, M, "as printed"),
        ("40", 43_000_000, M, ""),  # the zero of a whole number is none of its decimals
        ("42.49", 44_549_160, 2**20, "as printed"),
    ],
)
def test_what_is_equal_to_a_printed_number(printed: str, ours: int, unit: int, equal: str) -> None:
    judged = judge(printed, ours, unit)
    assert judged.equal == equal
    assert judged.deviation == pytest.approx(100 * (ours / unit - float(printed)) / float(printed), abs=1e-9)


@pytest.mark.parametrize(
    ("params", "flops", "convention", "verdict"),
    [
        (49_300_000, 7_840_000_000, False, "equal as printed"),
        (49_292_000, 7_840_000_000, False, "equal with params as 49.3"),
        (49_300_000, 7_846_000_000, False, "equal with FLOPs truncated"),
        (49_292_000, 7_846_000_000, False, "equal with params as 49.3 and FLOPs truncated"),
        (49_300_000, 7_840_000_000, True, "equal with FLOPs by macs+2bn"),
        (49_292_000, 7_846_000_000, True, "equal with params as 49.3 and FLOPs by macs+2bn, truncated"),
        (49_100_000, 7_840_000_000, False, "params not reproducible"),
        (49_300_000, 7_800_000_000, False, "FLOPs not reproducible"),
        (49_100_000, 7_800_000_000, True, "not reproducible"),
    ],
)
def test_the_verdict_of_a_row_names_every_convention(params: int, flops: int, convention: bool, verdict: str) -> None:
    nothing: Any = None
    judged = judge("49.30", params, M), judge("7.84", flops, G)
    assert Result(nothing, "macs+2bn", convention, nothing, 0, nothing, *judged).verdict == verdict


@pytest.fixture(scope="module")
def table1() -> TableRecipe:
    return read("table1", build)


def test_the_verdicts_on_the_paper_s_table(table1: TableRecipe) -> None:
    assert table1.paper
    results = {r.row.label: r for r in paper.measure(table1.paper, build)}
    assert {label: (r.cost.params, r.verdict) for label, r in results.items()} == {
        "SE": (49_292_328, "equal with params as 49.3"),
        "CBAM": (49_295_562 + 66, "equal with FLOPs truncated"),
        "CA": (44_798_216, "equal as printed"),
        "SA": (43_321_284, "equal with FLOPs by macs+2bn"),
        "MPE": (44_478_755, "not reproducible"),
    }
    assert {label: f"{r.flops.ours / G:.4f}" for label, r in results.items() if label in ("SE", "SA")} == {
        "SE": "7.8387",  # what the audit has for a module that pools with a mean
        "SA": "7.8326",
    }
    why = results["MPE"].why("decimal")
    plain = build("timm/resnet101", 400)
    params = sum(p.numel() for p in plain.parameters())
    for number in (params / M, params / M - 43.26, (44_478_755 - params) / M):
        assert f"{number:.3f} M" in why
    assert not any(r.why("decimal") for label, r in results.items() if label != "MPE")
    shown = paper.sheet(table1.paper, list(results.values()))
    assert [(r["paper_param_count"], r["paper_flops"]) for r in shown.records] == [
        (row.params, row.flops) for row in table1.paper.rows
    ]


# The audit's single protocol, K = 1000: parameters, and 10^9 multiply-accumulates with four decimals.
AUDIT = {
    ("se", "mid"): (44_845_608, 7.8017),
    ("cbam", "mid"): (44_848_842 + 66, 7.8037),  # + the spatial gate's norm, 2 in each of 33
    ("ca", "mid"): (44_798_216, 7.8055),
    ("sa", "mid"): (44_549_922, 7.8014),
    ("ema", "mid"): (44_923_784, 8.2900),
    ("mpe", "mid"): (45_708_155, 9.4028),
    ("se", "out"): (49_292_328, 7.8061),
    ("ema", "out"): (44_923_784, 9.7559),
    ("mpe", "out"): (45_708_155, 14.2068),
    ("epsa", "conv"): (38_900_279, 6.7881),
}


def test_the_protocol_gives_the_numbers_of_the_audit(table1: TableRecipe) -> None:
    assert table1.protocol
    network = next(n for n in table1.protocol.networks if n.backbone == "timm/resnet101")
    chosen = [a for a in table1.protocol.placed() if (a.name, a.site) in AUDIT]
    plain, *rows = compare(build(network.backbone, network.num_classes), chosen, counter="macs")
    assert plain.cost
    assert plain.cost.params == 44_549_160
    found = {(row.attn, row.site): (row.cost.params, round(row.cost.macs / G, 4)) for row in rows if row.cost}
    assert found == AUDIT


def test_every_module_is_in_the_protocol_a_new_one_too(table1: TableRecipe) -> None:
    @attnzoo.register("do_nothing_yet", paper="here")
    class DoNothing(nn.Identity):
        def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
            super().__init__()

    try:
        protocol = read("table1", build).protocol
        assert protocol
        placed = [(a.name, a.site) for a in protocol.placed()]
        modules: list[Spec] = [spec(name) for name in attnzoo.list_modules()]
    finally:
        unregister("do_nothing_yet")
    expected = [(m.name, site) for m in modules for site in (["conv"] if m.site == "conv" else ["mid", "out"])]
    assert sorted(placed) == sorted(expected)
    assert ("do_nothing_yet", "mid") in placed


def test_what_does_not_fit_is_a_row_that_says_so() -> None:
    rows = list(compare(build("timm/resnet18"), [Attention("sa"), Attention("se")], skip_misfits=True))
    assert [row.cost is None for row in rows] == [False, True, False]
    shown = sheet("resnet18", "", rows, ["fvcore"])
    assert shown.records[1]["where"] == "out: no"
    assert any("64 channels" in note and "groups may be one of" in note for note in shown.notes)
    with pytest.raises(ValueError, match="groups may be one of"):
        list(compare(build("timm/resnet18"), [Attention("sa")]))


def test_several_processes_count_the_same_in_the_same_order() -> None:
    attns = [Attention(name, {}, site) for site in ("mid", "out") for name in ("se", "eca", "sa")]
    jobs = [(partial(resnet3d, 10, widen_factor=0.25), (1, 3, 4, 32, 32))]
    told: list[tuple[int, int]] = []
    alone, together = (
        list(compare_all(jobs, attns, workers=n, progress=lambda *counts: told.append(counts))) for n in (1, 2)
    )
    assert alone == together
    assert told == [(n, 7) for n in range(1, 8)] * 2
    assert [row.attn for row in alone[0]] == ["none", "se", "eca", "sa", "se", "eca", "sa"]


def test_what_no_network_can_take_is_told_once() -> None:
    """A ViT has no stages; every row says no, and one note says why."""
    rows = list(compare(build("timm/vit_tiny_patch16_224"), [Attention("se"), Attention("eca")], skip_misfits=True))
    shown = sheet("vit", "", rows, ["fvcore"])
    assert [row.cost is None for row in rows] == [False, True, True]
    (note,) = (note for note in shown.notes if "has no stages" in note)
    assert note.startswith("se at site out, eca at site out: VisionTransformer has no stages")
    _, *lines = csv.DictReader(io.StringIO(render([shown], "csv")))
    assert all("has no stages" in line["misfit"] for line in lines)


class Slow(nn.Module):
    """A forward that takes a second of a clock that only it moves."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.trained = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock[0] += 1 if len(self.clock) == 1 else self.clock.pop()
        assert not self.trained.training
        return x


def test_latency_takes_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    model = Slow(clock)
    model.trained.eval()
    for seconds, passes, taken in ((2.0, 5, 2), (0.0, 5, 2), (100.0, 5, 6), (3.5, 5, 4)):
        clock[:] = [0.0]
        assert time_forward(model, (1, 3), passes, seconds) == 1
        assert clock[0] == taken  # one of them to warm up
    clock[:] = [0.0, 9.0]  # the first takes long
    assert time_forward(model, (1, 3)) == 1
    assert (model.training, model.trained.training) == (True, False)


def test_latency_is_measured_on_a_named_machine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    rows = list(compare(model, [], input_size=(1, 3, 16, 16), latency=True))
    assert model.training
    shown = sheet("tiny", "", rows, ["fvcore"])
    assert shown.records[0]["latency_ms"] > 0
    assert any("median of 5" in note and f"torch {torch.__version__}" in note for note in shown.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NETWORKS  attn:\n    - se\n    - mpee\n", r"t\.yaml:6: .*'mpee'; did you mean mpe"),
        ("NETWORKS  attn: [{attn: se, options: {reduktion: 4}}]\n", r"t\.yaml:4: .*did you mean reduction"),
        ("NETWORKS  sites: {middle: {}}\n", r"t\.yaml:4: .*sites\.middle"),
        ("NETWORKS  sites:\n    mid: {sa: {group: 4}}\n", r"t\.yaml:4: .*did you mean groups"),
        (
            "protocol:\n  networks:\n    - timm/resnet18\n    - timm/resnet10x\n",
            r"t\.yaml:5: .*no backbone timm",
        ),
        ("counter: flops\n", r"t\.yaml:2: counter = 'flops': input should be 'fvcore'"),
        ("paper: {ROW, attn: mpee}\n", r"t\.yaml:2: .*'mpee'; did you mean mpe"),
        ("paper: {ROW, attn: se, params: 49.30}\n", r"t\.yaml:2: .*params = 49\.3: put it in quotes"),
        ("paper: {ROW, attn: se, params: '49,3'}\n", r"t\.yaml:2: .*params = '49,3'"),
        ("paper: {ROW, attn: se, params: '1', reason: 'only {plane}'}\n", r"\{plane\} is not known; there are "),
        ("paper: {ROW, attn: se, params: '1', reason: 'only {}'}\n", r"\{\} is not known; there are "),
        ("paper: {ROW, attn: se, params: '1', reason: 'only {params_plain.x}'}\n", r"\{params_plain\.x\} is not known"),
        (
            "paper: {ROW, attn: se, params: '1', reason: '{params_plain:.2f}'}\n",
            r"params_plain is .* no format",
        ),
        (
            "paper: {ROW, attn: se, params: '1', reason: '{params_plain!r}'}\n",
            r"params_plain is .* no format",
        ),
        (
            "paper: {ROW, attn: se, params: '1', reason: 'a {set'}\n",
            r"a brace of the text itself is written \{\{",
        ),
        (
            "paper: {ROW, attn: se, params: '1', reason: 'a set}'}\n",
            r"a brace of the text itself is written \{\{",
        ),
        ("", r"t\.yaml:1: recipe: names nothing to count; give paper:, protocol: or both"),
        ("paper: {title: t, network: timm/resnet18, rows: []}\n", r"t\.yaml:2: paper\.rows = \[\]: names nothing"),
        ("NETWORKS  attn: []\n", r"t\.yaml:4: protocol\.attn = \[\]: names nothing"),
        ("protocol: {networks: []}\n", r"t\.yaml:2: protocol\.networks = \[\]: names nothing"),
        ("NETWORKS  attn: [se]\n  sites: {}\n", r"t\.yaml:2: protocol: there is no site for any module of attn"),
    ],
)
def test_errors_of_recipes_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    row = "title: t, network: timm/resnet18, rows: [{label: A, flops: '1'"
    if "ROW" in text:
        text = text.replace("ROW", row).replace("}\n", "}]}\n")
    text = text.replace("NETWORKS", "protocol:\n  networks: [timm/resnet18]\n")
    path = tmp_path / "t.yaml"
    path.write_text(f"name: t\n{text}")
    with pytest.raises(ValueError, match=message) as error:
        read(path, build)
    assert "\n" not in str(error.value)


# Ctrl-C as a terminal sends it, to the processes that count too.
INTERRUPTED = """
import os, signal
from functools import partial
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.profiling.table import Attention, compare_all

def interrupt(done, total):
    os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        network = partial(resnet3d, 10, widen_factor=0.25), (1, 3, 4, 32, 32)
        list(compare_all([network], [Attention("se")] * 9999, workers=2, progress=interrupt))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_ends_all_processes_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(cli.console, "width", 120)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return command


SMALL = """
name: small
paper:
  title: A table
  network: timm/resnet18
  rows: [{label: SE, attn: se, params: "11.78", flops: "1.82"}]
protocol:
  networks: [timm/resnet18]
  attn: [se, sa, {attn: mpe, options: {depthwise: true}, label: mpe-lite}]
"""


def test_the_command_prints_both_tables(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    status, out, err = run("table", tmp_path / "small.yaml", "--workers", "1", "--set", "protocol.sites={out: {}}")
    assert (status, err) == (0, "")
    assert "A table in timm/resnet18" in out
    assert "equal as printed" in out
    assert re.search(r"^se +out x8 .* \+0\.087 M, \+0\.0001 G, \+\d+\.\d MB moved *$", out, re.MULTILINE)
    assert re.search(r"^mpe-lite +out x8 ", out, re.MULTILINE)
    assert re.search(r"^sa +out: no *$", out, re.MULTILINE)
    assert "fvcore counts nothing for" in out
    once = (
        "table",
        tmp_path / "small.yaml",
        "--workers",
        "1",
        "--set",
        "protocol.attn=[se]",
        "protocol.sites={out: {}}",
    )
    status, out, err = run(*once, "--format", "csv", "--units", "binary")
    assert (status, err) == (0, "")
    printed, plain, se = csv.DictReader(io.StringIO(out))
    # A paper's numbers stay as printed, and in its own units; ours have one column.
    assert (printed["paper_param_count (M)"], printed["paper_flops (G)"]) == ("11.78", "1.82")
    assert printed["verdict"] == "equal as printed"
    assert printed["param_count (Mi)"] == se["param_count (Mi)"]
    assert float(se["param_count (Mi)"]) * 2**20 == 11_776_552
    assert plain["paper_param_count (M)"] == ""
    assert "param_count (M)" not in printed
    status, out, err = run(*once, "--output", tmp_path)
    assert (status, out) == (0, "")
    assert "wrote" in err
    assert (tmp_path / "table-small-fvcore.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("table nosuch", ["there is no recipe nosuch", "table1.yaml"]),
        ("table small.yaml --format pdf", ["format 'pdf' must be one of rich, markdown, csv"]),
        ("table small.yaml --units mixed", ["units 'mixed' must be one of decimal, binary"]),
        ("table small.yaml --chart cost.gif", ["chart cost.gif must be a .png or an .html file"]),
        ("table small.yaml --set counter=flops", ["counter", "'fvcore'"]),
        ("table wrong.yaml", ["row SE of A table", "input size (1, 3, 8, 8, 8)"]),
        ("table demo", ["demo.yaml:", "not a field"]),
        ("profile timm/resnet18 --format pdf", ["format 'pdf' must be one of"]),
        ("profile timm/resnet18 --output small.yaml/x.csv", ["cannot write small.yaml/x.csv"]),
        ("profile timm/resnet18 --counter fvcore,flops", ["'flops'", "fvcore"]),
        ("profile se --attn mpe", ["se is an attention module itself"]),
        ("profile mpee", ["backbone 'mpee' must be one of timm/NAME", "or the module mpe"]),
        ("profile timm/resnet18 --site mid", ["--site and --stages say where attention goes", "--attn"]),
        ("profile timm/resnet18 --channels 8", ["--channels and --size are of the input of an attention module"]),
        ("profile timm/resnet18 --num-classes -1", ["'--num-classes'", "greater than or equal to 1"]),
        (
            "profile timm/resnet18 --output small.yaml/",
            ["cannot write small.yaml/", "is no folder"],
        ),
        ("table small.yaml --chart small.yaml/cost.png", ["cannot write small.yaml/cost.png"]),
        ("table small.yaml --set paper=null protocol=null", ["names nothing to count"]),
        ("profile sa:groups=7", ["channels=256", "2 * groups=14"]),
        ("profile nowhere.yaml", ["there is no recipe nowhere.yaml"]),
        ("profile table1", ["table1.yaml:"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    parts: list[str],
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    wrong = SMALL.replace("network: timm/resnet18", "network: {backbone: timm/resnet18, input_size: [1, 3, 8, 8, 8]}")
    (tmp_path / "wrong.yaml").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments.split())
    assert (status, err.count("\n")) == (2, 1), err
    for part in parts:
        assert part in err


def test_a_row_is_equal_under_the_convention_that_prints_it() -> None:
    """ECA-ResNet-34 is printed with multiply-accumulates; by the table's own counter it is not what is printed."""
    rows = [{"label": "ECA", "attn": "eca", "params": "21.8", "flops": flops} for flops in ("3.66", "9.99")]
    table = Paper.model_validate({"title": "", "network": "torchvision/resnet34", "rows": rows})
    results = list(paper.measure(table, lambda name, classes: create_backbone(name, num_classes=classes)))
    assert [result.verdict for result in results] == ["equal with FLOPs by macs", "FLOPs not reproducible"]
    assert "whatever the counter" in results[1].why("decimal")
