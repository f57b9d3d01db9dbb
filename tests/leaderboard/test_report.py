"""The page stands alone, hides no run and takes names for names."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest
from rich.console import Console

from attnzoo.leaderboard.report import table, write_page
from attnzoo.leaderboard.stats import summarise
from attnzoo.leaderboard.store import Run

EVIL = '<script>alert("1")</script>'
CLASSES = ("joy", "fear", EVIL)


def _run(attn: str, seed: int, accuracy: float) -> Run:
    guesses = [("joy", "joy"), ("joy", "fear"), ("fear", "fear"), (EVIL, EVIL)]
    return Run(
        id=f"{attn}-{seed}",
        board="demo",
        attn=attn,
        seed=seed,
        accuracy=accuracy,
        classes=CLASSES,
        predictions=tuple({"video": "v", "label": a, "predicted": b, "probabilities": []} for a, b in guesses),
        params=42_500_000,
        macs=7_800_000_000,
        seconds=60.0,
        history=tuple({"epoch": e, "loss": 1.0 / (e + seed), "train_accuracy": 0.5} for e in (1, 2)),
        recipe={},
        protocol="stratified 70/30",
        data="synth",
        commit="c0ffee",
        versions={"torch": "2.9"},
        machine="x86_64",
        finished="2026-01-01",
    )


RUNS = [_run(attn, seed, 0.5 + seed / 10) for attn in ("none", "se", EVIL) for seed in (1, 2)]


class _Page(HTMLParser):
    """Tags, attributes and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"]:
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    older = replace(RUNS[2], id="older", accuracy=0.99, finished="2025-01-01")
    path = write_page([*RUNS, older], tmp_path_factory.mktemp("page") / "new" / "page.html")
    assert [other.name for other in path.parent.iterdir()] == ["page.html"]
    return path.read_text(encoding="utf-8")


def _figures(page: str) -> list[dict[str, object]]:
    return json.loads(re.search(r"^const figures = (.*);$", page, re.MULTILINE)[1])


def test_page_stands_alone(page: str) -> None:
    parsed = _Page(page)
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset", "action", "data", "poster"}
    assert not re.search(r"(url\(|@import)", page[: page.index("</style>")])
    # The browser is told to refuse any request that plotly or a name might make.
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in parsed.attributes)
    assert "plotly.js v" in page
    assert parsed.tags.count("script") == 2


def test_page_shows_every_run(page: str) -> None:
    words = _Page(page).words
    for fact in ("demo", "stratified 70/30", "synth", "c0ffee", "torch 2.9", "x86_64", "33.3 % (3 classes)"):
        assert fact in words
    for run in RUNS:
        assert run.id in words
    assert "older" in words
    assert "6 (seeds 1, 2; 4 test videos each); 1 older or of other data left out" in words
    assert any("they alone leave a standard error of up to" in word for word in words)
    assert words.count("65.0 ± 7.1") == 3
    # Of each two videos of joy (one a seed) half was taken for fear.
    assert '<td style="--share: 0.5" title="2 videos">50</td>' in page


def test_names_are_escaped(page: str) -> None:
    assert "alert(" in page
    assert EVIL not in page
    assert "<script>alert" not in page
    assert EVIL in _Page(page).words
    texts = json.dumps([figure["data"] for figure in _figures(page)])
    assert "<script" not in texts
    assert "&lt;script" in texts


def test_figures(page: str) -> None:
    figures = _figures(page)
    assert len(figures) == 4
    for figure in figures:
        go.Figure(figure)  # raises on what plotly does not know
        assert len(figure["data"]) == 3
    macs, params, loss, _ = figures
    assert [trace["x"] for trace in macs["data"]] == [[7.8]] * 3
    assert [trace["x"] for trace in params["data"]] == [[42.5]] * 3
    assert macs["data"][0]["y"] == pytest.approx([0.65])
    assert macs["data"][0]["error_y"]["array"] == pytest.approx([0.0707107])
    assert macs["layout"]["shapes"][0]["y0"] == pytest.approx(1 / 3)
    assert loss["data"][0]["y"] == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 3 + 1 / 4) / 2])


def test_single_runs_and_losses_that_are_no_numbers(tmp_path: Path) -> None:
    run = replace(RUNS[0], attn="se", history=({"epoch": 1, "loss": float("nan")},))
    text = write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert _figures(text)[2]["data"][0]["y"] == []
    assert "no baseline" in text
    assert "ran once" in text
    with pytest.raises(ValueError, match=r"cannot write .*: Is a directory; give a file, as in report.html"):
        write_page([run], tmp_path)
    with pytest.raises(ValueError, match="cannot write"):
        write_page([run], tmp_path / "page.html" / "page.html")


def test_table_fits_a_terminal() -> None:
    runs = [replace(run, attn=run.attn.replace(EVIL, "[red]mpe")) for run in RUNS]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(summarise(runs), runs))
    text = captured.get()
    for shown in ("65.0 ± 7.1", "60.0–70.0", "Δ none", "baseline", "[red]mpe", "42.500", "7.800", "60"):
        assert shown in text
    for fact in ("stratified 70/30", "synth", "seeds 1, 2", "c0ffee", "chance 33.3 %"):
        assert fact in text
    assert "…" not in text
