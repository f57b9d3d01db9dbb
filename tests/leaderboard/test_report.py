"""Tables, figures and commands: they fit, take names for names, and say what they rest on."""

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from attnzoo.emotion.grid import GridRecipe
from attnzoo.leaderboard.board import COSTS, summarise
from attnzoo.leaderboard.commands import commands
from attnzoo.leaderboard.figure import draw, front
from attnzoo.leaderboard.report import sheet, table, write
from attnzoo.leaderboard.store import Run
from attnzoo.leaderboard.wording import interval

Simulate = Callable[..., list[Run]]
SVG = "{http://www.w3.org/2000/svg}"


def test_table_fits_a_terminal(simulated: Simulate) -> None:
    runs = [replace(run, row=run.row.replace("sa", "[red]mpe")) for run in simulated()]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(summarise(runs)))
    text = captured.get()
    for row in summarise(runs).rows:
        for shown in (row.label, f"{100 * row.mean:.1f} ± {100 * row.sd:.1f}", interval(row), *row.verdict.split()):
            assert shown in text
    for shown in ("Δ none", "43.660", "9.300"):
        assert shown in text
    for fact in ("kfold(2) fold 1", "160 for training", "synth", "seeds 0, 1, 2", "c0ffee", "chance 16.7 %"):
        assert fact in text
    assert "…" not in text


def test_markdown_and_latex_are_of_the_same_table(simulated: Simulate, tmp_path: Path) -> None:
    runs = simulated(seeds=2, paper={"rows": {"se": {"accuracy": "54.20"}}, "source": "Table_2", "dataset": "VE-8"})
    runs = [replace(run, row=run.row.replace("sa", "<b>s|a*_$")) for run in runs]
    markdown = write(runs, tmp_path / "new" / "board.md").read_text()
    latex = write(runs, tmp_path / "board.tex").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert r"| &lt;b&gt;s\|a\*\_$ |" in markdown
    assert r"\textless{}b\textgreater{}s|a*\_\$ & " in latex
    for row in summarise(runs).rows:
        assert f"{100 * row.mean:.1f} ± {100 * row.sd:.1f}" in markdown
        assert f"{100 * row.mean:.1f} ± {100 * row.sd:.1f}" in latex
    assert "54.2 |" in markdown
    for told in ("inside the noise", "deviation", "M = 10", "No test video chose", "c0ffee123456"):
        assert told in markdown
        assert told in latex
    assert [p.name for p in tmp_path.iterdir()] == ["new", "board.tex"] or len(list(tmp_path.iterdir())) == 2
    # Every letter is one that LaTeX knows in UTF-8 without further packages.
    assert set(latex) - {chr(i) for i in range(128)} <= set("±–é")
    assert sheet(summarise(runs)).records[0]["verdict"]


def test_figures(simulated: Simulate, tmp_path: Path) -> None:
    runs = simulated(seeds=2, paper={"rows": {"se": {"accuracy": 54.2}, "mpe": {"accuracy": 57.6}}})
    runs = [replace(run, row="<b>$sa_1$</b>" if run.row == "sa" else run.row) for run in runs]
    path = write(runs, tmp_path / "board.svg")
    assert path.read_bytes() == draw(summarise(runs), "svg")
    root = ET.parse(path).getroot()
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    for cost in ("params", "macs", "bytes", "latency"):
        assert f"{COSTS[cost].head} ({COSTS[cost].unit})" in texts
    for row in ("none", "mpe", "<b>$sa_1$</b>", "epsa"):
        assert texts.count(row) == 4 + 1  # at the points of four costs, and below the paper's
    with Image.open(write(runs, tmp_path / "board.png")) as image:
        assert min(image.size) > 1000
        assert len(image.convert("L").getcolors()) > 20


def test_names_in_figures_do_not_touch(simulated: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))
    rows = {f"row number {i}": (0, 10_000_000, 10**9) for i in range(12)}  # one place for all of them but for luck
    draw(summarise(simulated(rows, seeds=1, folds=1)))
    (figure,) = kept
    boxes = [text.get_window_extent() for text in figure.texts]
    assert len(boxes) > 30
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_front_is_what_no_row_beats(simulated: Simulate) -> None:
    board = summarise(simulated(seeds=1))
    best = [row.label for row in front(board.rows, "macs")]
    others = {row.label: (row.costs["macs"], -row.mean) for row in board.rows}
    for label, (macs, loss) in others.items():
        beaten = any(a <= macs and b <= loss and other != label for other, (a, b) in others.items())
        assert (label in best) is not beaten
    assert best[0] == "epsa"
    assert best[-1] == "mpe"


def test_files_that_cannot_be_written(simulated: Simulate, tmp_path: Path) -> None:
    runs = simulated(seeds=1, folds=1)
    (tmp_path / "file").write_text("")
    for path, words in (
        ("board.pdf", r"board.pdf must be a .html, .png, .svg, .md or .tex file"),
        ("file/board.md", "cannot write"),
    ):
        with pytest.raises(ValueError, match=words):
            write(runs, tmp_path / path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=r"cannot write .*folder.html"):
        write(runs, tmp_path / "folder.html")
    with pytest.raises(ValueError, match="baseline 'x' is none of the rows"):
        write(runs, tmp_path / "board.md", baseline="x")


def _as_the_shell_has_them(text: str, folder: Path) -> list[list[str]]:
    """The arguments of each call of attnzoo, by a program of that name that writes them down."""
    fake = folder / "bin" / "attnzoo"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$OLDPWD/calls"; printf "\\n" >> "$OLDPWD/calls"\n')
    fake.chmod(0o755)
    script = f'cd "{folder}"; OLDPWD="{folder}"; export OLDPWD\n{text}'
    path = f"{fake.parent}:{Path(shutil.which('cat')).parent}"
    done = subprocess.run(
        [shutil.which("sh"), "-eu", "-c", script],
        env={"PATH": path, "DATA": "my videos"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    return [line.split("\0")[:-1] for line in (folder / "calls").read_text().splitlines()]


def test_commands_train_the_same_runs_again(tmp_path: Path) -> None:
    def run(seed: int, fold: int, **change: object) -> Run:
        recipe = GridRecipe.model_validate(
            {
                "name": "mine",
                "data": {"root": "/home/me/videos", "protocol": "kfold(3)", "fold": fold},
                "model": {"attn": {"name": "mpe", "options": {"groups": 4}}, "visual": {"backbone": "resnet3d/10"}},
                "training": {"seed": seed, "workers": seed + 1},
            }
        )
        found = {"id": f"{seed}{fold}", "board": "mine", "row": "mpe", "seed": seed, "accuracy": 0.5, "fold": fold}
        found |= {"classes": ("a", "b"), "predictions": (), "params": 1, "macs": 1, "seconds": 1.0, "history": ()}
        found |= {"recipe": json.loads(recipe.single().model_dump_json()), "protocol": f"{fold}", "data": "synth"}
        return Run(**found | {"commit": "c", "versions": {}, "machine": "m", "finished": "t"} | change)

    runs = [run(seed, fold) for fold in (0, 2) for seed in (0, 1)]
    preparation, lines = commands(summarise(runs).rows[0])
    calls = _as_the_shell_has_them(preparation + "\n".join(lines), tmp_path)
    assert [call[:5] for call in calls] == [["leaderboard", "run", "mpe.yaml", "--data", "my videos"]] * 4
    written = yaml.safe_load((tmp_path / "mpe.yaml").read_text())
    assert "/home/me" not in preparation
    for made, call in zip(runs, calls, strict=True):
        recipe = json.loads(json.dumps(written))
        for change in call[6:]:
            name, _, value = change.partition("=")
            part, _, field = name.rpartition(".")
            recipe[part][field] = yaml.safe_load(value)
        again = GridRecipe.model_validate(recipe).single()
        wanted = GridRecipe.model_validate(made.recipe).single()
        assert again.model_dump(exclude={"data": {"root"}}) == wanted.model_dump(exclude={"data": {"root"}})


def test_commands_run_nothing_that_a_name_says(tmp_path: Path) -> None:
    evil = "x'; touch hacked; echo $(touch hacked)\n`touch hacked`\nRECIPE\ntouch hacked #"
    recipe = {"name": evil, "training": {"seed": 0, "note": evil}}
    found = (evil, evil, evil, 0, 0.5, ("a",), (), 1, 1, 1.0, (), recipe, "", evil, evil, {}, "", "")
    other = replace(Run(*found), id="other", seed=1, recipe={"name": evil, "training": {"seed": 1, "note": evil + "2"}})
    used = summarise([Run(*found)]).rows[0]
    preparation, lines = commands(replace(used, runs=(Run(*found), other)))
    calls = _as_the_shell_has_them(preparation + "\n".join(lines), tmp_path)
    assert not list(tmp_path.rglob("hacked"))
    assert yaml.safe_load((tmp_path / calls[0][2]).read_text()) == recipe
    assert json.loads(calls[1][-1].partition("=")[2]) == evil + "2"
