"""What leaves a store comes back as it was, spreadsheets get true numbers, and merging loses and doubles nothing."""

import csv
import json
import math
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from attnzoo import cli
from attnzoo.leaderboard.exchange import export, read
from attnzoo.leaderboard.store import Merged, Run, Store

RUN = Run(
    id="1f",
    board="demo",
    row="mpe, wide",
    factors={"attn": "mpe", "seed": "own"},
    seed=3,
    fold=1,
    accuracy=2 / 3,
    classes=("joy", "NaN"),
    predictions=tuple(
        {"video": f"NaN/\udc80{i}", "label": None, "predicted": "NaN", "probabilities": [0, 0.1 + 0.2, math.nan]}
        for i in range(3)
    ),
    split={"train": ["joy/b.mp4"], "val": [], "test": ["joy/ä.mp4"]},
    params=42_500_000,
    macs=7_801_405_440,
    bytes=2_500_000,
    latency=0.0125,
    seconds=1.5,
    history=({"epoch": 0, "loss": math.inf}, {"epoch": 1, "loss": -math.inf, "val": math.nan}),
    recipe={"model": {"visual": {"backbone": "resnet3d/10"}, "width": 8, "audio": {"backbone": "timm/resnet18"}}},
    protocol="70/30",
    data="synth",
    commit="c0ffee",
    versions={"torch": "2.9"},
    machine="x86_64",
    finished="2026-01-02T03:04:05+00:00",
)
OLDER = replace(
    RUN,
    id="2f",
    board="other",
    factors={"fusion": "gmu"},
    task="image",
    bytes=None,
    latency=None,
    predictions=(),
    recipe={"model": {"backbone": "timm/resnet18"}},
)


@pytest.fixture
def attnzoo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run `attnzoo leaderboard ...` in this process: (exit status, what it said)."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", "leaderboard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    return run


def _same(runs: list[Run], others: list[Run]) -> bool:
    """NaN and all; an int is no float."""
    return repr(sorted(map(repr, runs))) == repr(sorted(map(repr, others)))


def test_json_gives_back_what_it_was_given_and_is_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.json"
    export([RUN, OLDER], path)
    assert _same(read(path), [RUN, OLDER])
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (content["schema"], content["version"]) == ("attnzoo.runs", 2)
    assert [set(run) for run in content["runs"]] == [set(asdict(RUN))] * 2
    assert content["runs"][0]["history"][1] == {"epoch": 1, "loss": "-Infinity", "val": "NaN"}
    assert [other.name for other in path.parent.iterdir()] == ["runs.json"]
    export([], path)
    assert read(path) == []


def test_stores_merge_without_loss_and_again_without_harm(url: str, tmp_path: Path) -> None:
    runs = [replace(RUN, id=f"{i}", predictions=()) for i in range(5)]
    again = replace(runs[2], accuracy=1.0)
    with Store(tmp_path / "mine.sqlite") as mine, Store(url) as team:
        for run in (*runs[:2], again):
            mine.add(run)
        for run in runs[2:]:
            team.add(run)
        assert team.merge(read(tmp_path / "mine.sqlite")) == Merged(2, 1, ("2",))
        assert team.merge(read(tmp_path / "mine.sqlite")) == Merged(0, 3, ("2",))
        assert _same(team.runs(), runs)  # the run that was there first stays
        assert team.merge(read(url)) == Merged(0, 5, ())
        assert mine.merge([OLDER, *read(url)]) == Merged(3, 3, ("2",))
        assert _same(mine.runs(), [*runs[:2], again, *runs[3:], OLDER])
        assert mine.merge([again, again]) == Merged(0, 2, ())


def test_csv(tmp_path: Path) -> None:
    export([RUN, OLDER], tmp_path / "runs.txt", "csv")
    with (tmp_path / "runs.txt").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first)[:10] == [
        "board",
        "model",
        "row",
        "attn",
        "factor seed",
        "fusion",
        "task",
        "seed",
        "fold",
        "top1",
    ]
    shown = {"row": "mpe, wide", "attn": "mpe", "factor seed": "own", "fusion": "", "seed": "3", "fold": "1"}
    shown |= {"model": "resnet3d/10 + timm/resnet18", "task": "video", "top1": "66.6667", "top1_err": "33.3333"}
    shown |= {"test_size": "3", "param_count (M)": "42.5", "macs (G)": "7.80140544", "bytes_moved (MB)": "2.5"}
    shown |= {"latency (ms)": "12.5", "train_time (s)": "1.5", "epochs": "2", "id": "1f", "commit": "c0ffee"}
    assert {name: first[name] for name in shown} == shown
    shown = {"model": "timm/resnet18", "task": "image", "fusion": "gmu", "attn": "", "bytes_moved (MB)": ""}
    assert {name: second[name] for name in shown} == shown
    with pytest.raises(ValueError, match=r"format of runs.txt must be one of csv, json, not 'txt'"):
        export([RUN], Path("runs.txt"))
    with pytest.raises(ValueError, match="cannot write"):
        export([RUN], tmp_path / "runs.txt" / "runs.csv")


def test_commands(url: str, tmp_path: Path, attnzoo: Callable[..., tuple[int, str]]) -> None:
    with Store(url) as store:
        store.merge([RUN, OLDER])
    file, copy = tmp_path / "runs.json", tmp_path / "copy.sqlite"
    assert attnzoo("export", file, "--store", url) == (0, f"wrote 2 runs to {file}\n")
    assert attnzoo("import", file, "--store", copy) == (0, f"{copy}: 2 runs added, 0 there already\n")
    assert attnzoo("import", url, "--store", copy) == (0, f"{copy}: 0 runs added, 2 there already\n")
    with Store(copy) as store:
        assert _same(store.runs(), [RUN, OLDER])
        store.add(replace(RUN, id="3f"))
    file.write_text(file.read_text().replace("c0ffee", "beef"))
    status, said = attnzoo("import", file, "--store", copy)
    assert status == 0
    assert "2 runs that both have differ: trained twice; kept as they are here: 1f, 2f" in said
    assert attnzoo("export", tmp_path / "t.csv", "--board", "other", "--store", copy)[0] == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
    status, said = attnzoo("export", tmp_path / "t.csv", "--board", "none", "--store", copy)
    assert (status, said) == (2, f"attnzoo: store {copy} has no board 'none'; it has: demo, other\n")
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("DELETE FROM runs")
    assert attnzoo("export", tmp_path / "t.csv", "--store", copy)[0] == 2


def _with(change: Callable[[dict[str, Any]], object]) -> str:
    content = {"schema": "attnzoo.runs", "version": 2, "runs": [json.loads(json.dumps(asdict(OLDER)))]}
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither a SQLite store nor JSON"),
        ("no JSON", "neither a SQLite store nor JSON"),
        ("[1]", "holds no runs; give a file from: attnzoo leaderboard export --format json"),
        ('{"schema": "attnzoo.cost", "version": 1, "tables": []}', "holds no runs"),
        (_with(lambda content: content.update(version=3)), "has version 3, this attnzoo knows versions up to 2"),
        (_with(lambda content: content["runs"][0].update(seed="x")), "run 0.seed: .*valid integer.*, not 'x'"),
        (_with(lambda content: content["runs"][0].update(accuracy=1.5)), "run 0: .*accuracy 1.5"),
        (_with(lambda content: content["runs"][0].update(sead=1)), "run 0.sead: "),
        (_with(lambda content: content["runs"][0].pop("board")), "run 0.board: Field required"),
        (_with(lambda content: content["runs"].append(3)), "run 1: "),
        (
            _with(lambda content: content["runs"][0].update(predictions=[{"probabilities": "x"}])),
            "run 2f: .*'x' are not",
        ),
    ],
)
def test_files_without_runs_are_refused_and_no_store_is_made(
    tmp_path: Path, attnzoo: Callable[..., tuple[int, str]], text: str, reason: str
) -> None:
    path, store = tmp_path / "runs.json", tmp_path / "store.sqlite"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read(path)
    status, said = attnzoo("import", path, "--store", store)
    assert (status, said.count("\n")) == (2, 1)
    assert not store.exists()
    assert attnzoo("import", tmp_path / "no.json", "--store", store)[0] == 2
