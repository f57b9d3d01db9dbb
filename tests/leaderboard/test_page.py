"""The page in a browser without a network: it works by mouse, by keyboard and on a phone, and takes names for names."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from attnzoo.leaderboard.board import summarise
from attnzoo.leaderboard.report import write
from attnzoo.leaderboard.store import Run
from attnzoo.leaderboard.wording import interval, spread

Simulate = Callable[..., list[Run]]
EVIL = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "\"' onmouseover=window.hacked=1",
)
PAPER = {
    "rows": {"se": {"accuracy": 54.2}, "mpe": {"accuracy": 57.6}},
    "source": "Table 2",
    "dataset": "VideoEmotion-8",
}


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


@dataclass
class Opened:
    """A page in the browser, and what it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        return self.page.locator(".ranking > tbody:visible > tr > th").all_inner_texts()


@pytest.fixture(scope="session")
def board(simulated: Simulate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = simulated(paper=PAPER)
    runs.append(Run(**{f: getattr(runs[0], f) for f in runs[0].__slots__} | {"id": "older", "finished": "2025"}))
    return write(runs, tmp_path_factory.mktemp("page") / "new" / "board.html")


@pytest.fixture
def see(browser: Browser) -> Iterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def see(path: Path, width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(10_000)
        made = Opened(context.new_page())
        made.page.on("console", lambda message: made.said.append(message.text))
        made.page.on("pageerror", lambda error: made.said.append(str(error)))
        made.page.on("request", lambda request: made.asked.append(request.url))
        made.page.goto(path.as_uri())
        opened.append(made)
        return made

    yield see
    for made in opened:
        assert made.said == []
        assert set(made.asked) == {made.page.url}
        made.page.context.close()


def _tip(page: Page) -> Locator:
    return page.locator("#tip")


def test_page_stands_alone(board: Path) -> None:
    text = board.read_text(encoding="utf-8")
    parsed = _Page(text)
    assert [other.name for other in board.parent.iterdir()] == ["board.html"]
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset", "action", "data", "poster"}
    assert not re.search(r"(url\(|@import)", text)
    # The browser is told to refuse any request that a name might make.
    assert any(
        name == "content" and (value or "").startswith("default-src 'none'") for name, value in parsed.attributes
    )
    assert len(text) < 500_000


def test_page_says_what_it_rests_on_and_shows_every_run(board: Path, simulated: Simulate) -> None:
    words = _Page(board.read_text(encoding="utf-8")).words
    told = " ".join(words)
    for fact in (
        "kfold(2) fold 0 of 0 to 1",
        "160 for training, 20 for validation, 180 for test",
        "seeds 0, 1, 2; folds 0, 1",
        "± is the standard deviation over the runs",
        "16.7 % (6 classes)",
        "synth, 360 videos",
        "c0ffee123456",
        "torch 2.15.0",
        "x86_64, Linux",
    ):
        assert fact in told
    for caveat in ("No test video chose anything", "leave a standard error of up to", "Table 2, on VideoEmotion-8"):
        assert caveat in told
    for run in simulated():
        assert run.id in words
    assert "older" in words
    assert "a newer run of the same row, seed and fold counts" in words
    assert words.count("inside the noise") == 6
    row = next(row for row in summarise(simulated(paper=PAPER)).rows if row.label == "se")
    assert f"{row.deviation('accuracy'):+.1f}" in words


def test_sorting(see: Callable[..., Opened], board: Path) -> None:
    made = see(board)
    by_accuracy = made.rows()
    assert (by_accuracy[0], by_accuracy[1], len(by_accuracy)) == ("mpe", "epsa", 8)
    header = made.page.locator("thead th", has_text="Params")
    button = header.get_by_role("button")
    button.click()
    assert made.rows()[0] == "epsa"
    assert (header.get_attribute("aria-sort"), made.page.locator("[aria-sort]").count()) == ("ascending", 1)
    button.press("Enter")  # by keyboard, since it is a button
    assert header.get_attribute("aria-sort") == "descending"
    assert made.rows()[-1] == "epsa"
    made.page.get_by_role("columnheader", name="Row").get_by_role("button").press("Space")
    assert made.rows() == sorted(by_accuracy)
    # What is not known comes last either way.
    for _ in range(2):
        made.page.locator("thead th", has_text="Paper, %").get_by_role("button").click()
        assert set(made.rows()[:2]) == {"se", "mpe"}


def test_filter(see: Callable[..., Opened], board: Path) -> None:
    made = see(board)
    count = made.page.locator("#count")
    assert (count.inner_text(), count.get_attribute("aria-live")) == ("8 of 8 rows", "polite")
    made.page.get_by_label("Filter").fill("NOISE ca")
    assert made.rows() == ["ca"]
    assert count.inner_text() == "1 of 8 rows"
    assert made.page.locator("#costs .point").count() == 1
    made.page.get_by_label("Filter").fill("nothing of that name")
    assert (made.rows(), count.inner_text()) == ([], "0 of 8 rows")
    made.page.get_by_label("Filter").fill("")
    assert count.inner_text() == "8 of 8 rows"
    assert made.page.locator("#costs .point").count() == 8


def test_charts_tell_by_mouse_and_by_keyboard(see: Callable[..., Opened], board: Path, simulated: Simulate) -> None:
    page = see(board).page
    mpe = summarise(simulated(paper=PAPER)).rows[0]
    assert page.get_by_label("Cost").locator("option").all_inner_texts() == [
        "Params, M",
        "MACs, G",
        "Moved, MB",
        "Latency, ms",
        "Train, s",
    ]
    expect(_tip(page)).to_be_hidden()
    page.locator("#costs g", has=page.locator(".point")).last.scroll_into_view_if_needed()
    page.locator("#costs [data-tip^='mpe:'] .hit").hover()
    expect(_tip(page)).to_contain_text(f"mpe: {spread(mpe)} % (6 runs; 95 % CI {interval(mpe)}); better; MACs 9.3 G")
    page.mouse.move(2, 2)
    expect(_tip(page)).to_be_hidden()
    page.get_by_label("Cost").focus()
    page.keyboard.press("Tab")
    expect(_tip(page)).to_contain_text("MACs")
    page.keyboard.press("Escape")
    expect(_tip(page)).to_be_hidden()
    page.get_by_label("Cost").select_option("latency")
    page.locator("#costs [data-tip^='mpe:'] .hit").hover()
    expect(_tip(page)).to_contain_text("Latency")
    assert page.locator("#costs .bar").count() == 8
    # The front of the means, by what no other row beats.
    full = page.locator("#costs g", has=page.locator(".full")).evaluate_all(
        "all => all.map(g => g.dataset.tip.split(':')[0])"
    )
    assert {"epsa", "mpe"} <= set(full)
    assert "triplet" not in full
    page.locator(".heat").first.locator("td[data-tip^='mpe']").first.hover()
    expect(_tip(page)).to_contain_text(re.compile(r"mpe: \d+ of \d+ videos of anger"))


def _touching(page: Page) -> list[str]:
    """Pairs of names on the chart of costs that lie on each other, or on a point."""
    return page.evaluate(
        """() => {
        const all = [...document.querySelectorAll("#costs .name, #costs .point")];
        const boxes = all.map(e => [e, e.getBoundingClientRect()]);
        const found = [];
        boxes.forEach(([e, a], i) => boxes.slice(0, i).forEach(([f, b]) => {
          const over = a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
          if (over && (e.matches(".name") || f.matches(".name"))) found.push(`${e.textContent} ${f.textContent}`);
        }));
        return found;
        }"""
    )


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_names_on_charts_do_not_touch(see: Callable[..., Opened], board: Path, simulated: Simulate, width: int) -> None:
    page = see(board, width).page
    for cost in ("macs", "params", "latency"):
        page.get_by_label("Cost").select_option(cost)
        assert page.locator("#costs .name").count() == 8
        assert _touching(page) == []
    many = {f"row {i}": (0, 10_000_000, 10**9) for i in range(20)}  # in one place but for luck
    page = see(write(simulated(many, seeds=1, folds=1), board.parent.parent / "many.html"), width).page
    assert page.locator("#costs .name").count() > 10
    assert _touching(page) == []
    page.locator("#costs .hit").last.hover()
    expect(_tip(page)).to_contain_text("row ")


def test_themes(see: Callable[..., Opened], board: Path) -> None:
    def brightness(page: Page, of: str, what: str) -> float:
        found = page.locator(of).first.evaluate(f"e => getComputedStyle(e).{what}")
        return sum(map(float, re.findall(r"[\d.]+", found)[:3])) / 3

    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = see(board, scheme=scheme).page
        is_dark = brightness(page, "body", "backgroundColor") < 128
        assert is_dark == (scheme == "dark")
        assert (brightness(page, "#costs .name", "fill") > 128) == is_dark
        toggle = page.get_by_role("button", name="Theme")
        while toggle.inner_text() != f"Theme: {other}":
            toggle.press("Enter")
        assert (brightness(page, "body", "backgroundColor") < 128) != is_dark
        assert (brightness(page, "#costs .name", "fill") > 128) != is_dark
        page.reload()
        assert page.get_by_role("button", name="Theme").inner_text() == f"Theme: {other}"
        assert (brightness(page, "body", "backgroundColor") < 128) != is_dark


def test_a_phone_shows_all_without_scrolling_sideways(see: Callable[..., Opened], board: Path) -> None:
    made = see(board, width=390)
    page = made.page
    page.locator(".open").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cells = page.locator(".ranking > tbody > tr:first-child > td")
    assert cells.count() == 8 * 14
    boxes = cells.evaluate_all(
        "all => all.map(e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.width]; })"
    )
    assert all(left >= 0 and right <= 390 and width > 50 for left, right, width in boxes)
    assert page.get_by_role("cell", name="inside the noise").count() == 6  # a table still, for who cannot see it
    page.get_by_label("Sort by").select_option(label="Params, M")
    assert made.rows()[0] == "epsa"
    page.get_by_role("button", name="Turn the order round").click()
    assert made.rows()[-1] == "epsa"
    page.set_viewport_size({"width": 844, "height": 390})  # turned
    expect(page.locator("#costs svg")).to_have_attribute("viewBox", re.compile(r"^0 0 8\d\d "))
    assert page.evaluate("document.documentElement.scrollWidth") == 844


def test_rows_open_and_give_their_commands(see: Callable[..., Opened], board: Path) -> None:
    page = see(board).page
    opener = page.get_by_role("button", name="epsa", exact=True)
    more = page.locator(f"#{opener.get_attribute('aria-controls')}")
    expect(more).to_be_hidden()
    opener.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    expect(more).to_contain_text("corrected resampled t-test: p = ")
    expect(more).to_contain_text("videos gained")
    more.get_by_text("Recipe", exact=True).click()
    expect(more.locator("pre")).to_contain_text("name: epsa")
    more.get_by_role("button", name="Copy the commands of all 6 runs").click()
    expect(more.get_by_role("button", name="Copied")).to_be_focused()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("# attnzoo at commit c0ffee123456; in DATA the folder of: synth")
    assert copied.count("attnzoo leaderboard run epsa.yaml") == 6
    more.get_by_role("button", name="Copy", exact=True).nth(3).click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.split('leaderboard run').length == 2)")
    assert page.evaluate("navigator.clipboard.readText()").endswith("--set data.fold=1\n")
    opener.click()
    expect(more).to_be_hidden()
    # An open row stays with its row.
    page.get_by_role("button", name="mpe", exact=True).click()
    page.locator("thead th", has_text="Accuracy").first.get_by_role("button").click()
    assert page.locator(".ranking > tbody").last.locator("tr.more").is_visible()


def test_confusion_matrices(see: Callable[..., Opened], board: Path, simulated: Simulate) -> None:
    page = see(board).page
    page.locator("#confused").select_option(label="ca")
    shown = [row.split() for row in page.locator("#confusion tbody tr").all_inner_texts()]
    guesses = [p for run in simulated() if run.row == "ca" for p in run.predictions if p["label"] == "fear"]
    classes = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
    shares = [100 * sum(p["predicted"] == name for p in guesses) / len(guesses) for name in classes]
    assert shown[2][0] == "fear"
    assert [float(cell) for cell in shown[2][1:]] == pytest.approx(shares, abs=0.51)
    recall = page.locator(".heat").first.locator("tr", has_text="ca").first.locator("td").nth(2)
    assert float(recall.inner_text()) == pytest.approx(shares[2], abs=0.51)


def test_curves(see: Callable[..., Opened], board: Path) -> None:
    page = see(board).page
    assert page.locator("#curves .curve").count() == 2 * 8  # and the legend
    page.get_by_label("Measure").select_option("val_accuracy")
    page.locator("#curves [data-tip^='mpe, epoch 0:'] .hit").last.hover()  # of eight in one place
    expect(_tip(page)).to_contain_text("mpe, epoch 0: 16.7 %")
    assert page.locator("#ablations .paper path").count() == 2 + 1  # and the legend


def test_ablation(see: Callable[..., Opened], simulated: Simulate, tmp_path: Path) -> None:
    rows = {"none": (0, 1, 1)} | {f"mpe-{g}": (0.02 * g, 1, 1) for g in (2, 4, 8)}
    paper = {"rows": {f"mpe-{g}": {"accuracy": 50 + g} for g in (2, 4, 8)}, "source": "Figure 5", "dataset": "Ekman-6"}
    runs = simulated(
        rows,
        seeds=2,
        paper=paper,
        factors=lambda row: dict(zip(("attn", "groups"), row.split("-"), strict=False)),
    )
    page = see(write(runs, tmp_path / "board.html")).page
    assert page.locator("#ablations h2").inner_text() == "Accuracy by groups"
    assert page.locator("#ablations .point").count() == 3
    assert page.locator("#ablations .bar").count() == 3
    page.locator("#ablations [data-tip^='mpe-8'] .hit").hover()
    expect(_tip(page)).to_contain_text("paper 58.0 %")
    assert page.locator("#ablations text", has_text="none").count() == 1  # as a line, for it has no groups


def test_names_are_names(see: Callable[..., Opened], simulated: Simulate, tmp_path: Path) -> None:
    rows = {name: (0.1 * i, 10**6 + i, 10**9 + i) for i, name in enumerate(EVIL)}
    runs = simulated(rows, seeds=2, videos=60, classes=EVIL, paper={"rows": {name: {"accuracy": 1} for name in EVIL}})
    evil = {"board": EVIL[1], "commit": EVIL[0], "machine": EVIL[1], "data": EVIL[2], "protocol": EVIL[1]}
    runs = [Run(**{f: getattr(run, f) for f in run.__slots__} | evil) for run in runs]
    path = write(runs, tmp_path / "board.html")
    assert "<script>window" not in path.read_text()
    made = see(path)
    made.page.locator(".open").first.click()
    made.page.locator(".more pre").first.dispatch_event("mouseover")
    for target in ("#costs .hit", "#confusion td", ".heat td[data-tip]", "#ablations .hit"):
        made.page.locator(target).first.hover()
        expect(_tip(made.page)).to_contain_text("window.hacked")
    assert made.page.evaluate("window.hacked") is None
    assert set(made.rows()) == set(EVIL)
    assert made.page.title() == f"{EVIL[1]} · attnzoo leaderboard"
    assert made.page.locator("h1").inner_text() == EVIL[1]
    assert made.page.locator("#confusion thead th").all_inner_texts() == list(EVIL)
    assert made.page.locator("#confused").locator("option").all_inner_texts() == made.rows()
    see(path, width=390)
    assert json.loads(made.page.locator("#board").inner_text())["classes"] == list(EVIL)


def test_single_runs_and_losses_that_are_no_numbers(
    see: Callable[..., Opened], simulated: Simulate, tmp_path: Path
) -> None:
    run = simulated({"se": (0, 10, 10)}, seeds=1, folds=1)[0]
    nothing = {"history": ({"epoch": 1, "loss": float("nan")},), "predictions": (), "split": {}, "latency": None}
    bare = Run(**{f: getattr(run, f) for f in run.__slots__} | nothing)
    page = see(write([bare], tmp_path / "page.html")).page
    assert page.locator("td", has_text="no baseline").count() == 1
    assert "ran once" in page.locator(".caveats").inner_text()
    assert page.locator("#costs .point").count() == 1
