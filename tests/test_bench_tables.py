"""Files, tables and verdicts of attnzoo bench, from rows made by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attnzoo.benchmarks.rows import AUTHORS, CONVS, COPY, OURS, Kept, ModuleRow, NetworkRow, here, read, write
from attnzoo.benchmarks.tables import markdown
from attnzoo.benchmarks.verdicts import verdicts


def row(provider: str = OURS, to_ours: float = 1.0, **change: Any) -> ModuleRow:
    """A row of a case in which ours takes 10 ms and a copy 2 ms; a time of 0 is one that could not be taken."""
    relation = {OURS: "ours", COPY: "floor", CONVS: "its convolutions alone"}.get(provider, "equal")
    values: dict[str, Any] = {
        "module": "ca", "options": "", "provider": provider, "relation": relation, "dims": 2, "shape": "1x8x4x4",
        "mode": "train", "compiled": False, "layout": "contiguous", "saved_bytes": 256, "saved_to_x": 0.5,
        "wall_ms": 10 * to_ours or None, "to_copy": 5 * to_ours or None, "to_ours": to_ours or None,
        **here(), "threads": 2, "date": "2026-01-02",
    }  # fmt: skip
    return ModuleRow(**{**values, **change})


def every(**change: Any) -> Iterator[ModuleRow]:
    """Two shapes in which the peer needs 2 and 8 times our time, the authors 3 and 3, and the convolutions 0.5."""
    for shape, peer in (("1x8x4x4", 2.0), ("1x8x2x2", 8.0)):
        yield row(COPY, 0.2, shape=shape, saved_bytes=0, **change)
        yield row(shape=shape, **change)
        yield row("timm", peer, shape=shape, saved_bytes=1024, **change)
        yield row(AUTHORS, 3.0, shape=shape, saved_bytes=512, **change)


def test_tables_of_rows_made_by_hand(tmp_path: Path) -> None:
    slower = row("fightingcv", 0.5, relation="similar (adds x)")  # not the same: counts in no goal
    failed = row("fightingcv", 0, layout="channels_last", note="failed: RuntimeError: view")
    rows = [*every(), *every(mode="forward"), slower, failed]
    write(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv", ModuleRow) == rows
    text = markdown([tmp_path / "rows.csv"])
    assert f"{here()['machine']}, 2 threads, torch {torch.__version__}, 2026-01-02; medians" in text
    assert "| ours / copy of x | forward, 2D | train, 2D | kept beyond x |\n| --- | ---: | ---: | ---: |" in text
    assert "| `ca` | 5.00 | 5.00 | 0.50 |" in text
    assert "| `ca` | timm | 4.00 (2.00) | 4.00 (2.00) | - | - | 0.25 |  |" in text
    assert "| `ca` | authors | 3.00 (3.00) | 3.00 (3.00) | - | - | 0.50 | as written by its authors |" in text
    assert "| similar (adds x); fails in channels_last |" in text
    assert "| ca, forward and backward: authors' formulation / ours at least 1.5 | 3.00 | yes |" in text


def told(rows: list[ModuleRow], networks: list[NetworkRow] | None = None) -> dict[str, tuple[str, bool | None]]:
    return {v.goal: (v.figure, v.met) for v in verdicts(rows, networks or [])}


def test_verdicts_on_time() -> None:
    found = told([*every(), row("timm", 0.9, layout="channels_last"), row("timm", 0.96, compiled=True)])
    eager, compiled = (v for goal, v in found.items() if goal.startswith("never slower"))
    assert eager == ("least 0.90 (ca beside timm, 1x8x4x4, train, channels_last); 1 of 3 below (ca)", False)
    assert compiled == ("least 0.96 (ca beside timm, 1x8x4x4, train, contiguous); all 1", True)
    mean = (0.9 * 2 * 8) ** (1 / 3)
    goal = "peers / ours, forward and backward, geometric mean over the modules at least 1.5"
    assert found[goal] == (f"{mean:.2f} over 1 modules", True)
    # The mean is over modules, each of which counts once.
    second = [row("timm", 0.5, module="se", shape=shape) for shape in ("1x8x4x4", "1x8x2x2", "1x8x1x1")]
    assert told([*every(), *second])[goal] == (f"{(4 * 0.5) ** 0.5:.2f} over 2 modules", False)
    assert found["peers / ours, forward, geometric mean over the modules at least 2.0"] == ("not measured", None)
    goal = "mpe, forward and backward: ours / its convolutions alone at most 1.2"
    for to_ours, said in ((0.8, ("1.25", False)), (0.9, ("1.11", True))):
        assert told([row(module="mpe"), row(CONVS, to_ours, module="mpe")])[goal] == said


def test_verdicts_on_memory() -> None:
    never, half = (goal for goal in told([]) if goal.startswith("kept for the backward pass"))
    assert told(list(every()))[half] == ("at most 0.50 of it (ca beside authors, 1x8x2x2)", True)
    # 1 % of x = 512 bytes is nothing: 5 bytes.
    for mine, met in ((261, True), (262, False)):
        rows = [row(saved_bytes=mine), row("timm", saved_bytes=256), row(AUTHORS, saved_bytes=512)]
        assert told(rows)[never][1] is met
    assert told([row(module="se"), row("timm", module="se", saved_bytes=256)])[half] == ("not measured", None)


def test_verdicts_on_the_graph_and_on_networks() -> None:
    graph = "no module breaks the graph of torch.compile"
    fine, broken = row(compiled=True), row(OURS, 0, compiled=True, module="se", note="failed: Unsupported")
    assert told([fine])[graph] == ("1 modules in one graph each", True)
    assert told([fine, broken])[graph] == ("se do", False)
    for ratio, said in ((0.93, ("7.5%", True)), (0.92, ("8.7%", False))):
        network = NetworkRow(
            network="timm/resnet50", module="se", options="", site="mid", dims=2, shape="4x3x224x224",
            mode="training", ratio=ratio, **here(),
        )  # fmt: skip
        assert told([], [network])["se at mid of ResNet-50 costs at most 8% of a training step"] == said


def test_a_file_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, [row(threads=96)])
    with pytest.raises(ValueError, match=rf"threads=96, this would be {here()['threads']}; .* another --out"):
        Kept(path, ModuleRow)


@pytest.mark.parametrize(("cell", "wrong"), [("yes", "perhaps"), ("train", "train\x00x"), ("8", "eight")])
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, cell: str, wrong: str) -> None:
    path = tmp_path / "rows.csv"
    write(path, [row(), row(compiled=True, dims=8)])
    path.write_text(path.read_text().replace(f",{cell},", f",{wrong},"))
    if cell == "train":  # text is text
        assert [r.mode for r in read(path, ModuleRow)] == [wrong, wrong]
        return
    with pytest.raises(ValueError, match=rf"line 3: .*{wrong}"):
        read(path, ModuleRow)
