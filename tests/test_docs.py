"""The documentation: snippets run, commands and recipes are valid, pages link right and ask for no network."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser

import attnzoo
from attnzoo import registry
from attnzoo.emotion.grid import GridRecipe
from attnzoo.recipes import load

from .snippets import PAGES, ROOT, blocks, commands, parse

WRITTEN = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in WRITTEN if blocks(page, "python")], ids=title)
def test_python_snippets_run_one_after_the_other(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, module = set(attnzoo.list_modules()), ModuleType(page.stem.replace("-", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pickle looks for classes
    try:
        for block in blocks(page, "python"):
            # The tests download nothing; what is said of trained weights holds for drawn ones.
            exec(compile(block.replace("pretrained=True", "pretrained=False"), title(page), "exec"), module.__dict__)
    finally:
        for name in set(attnzoo.list_modules()) - before:
            registry.unregister(name)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_commands_are_those_that_there_are(page: Path) -> None:
    for arguments in commands(page, "attnzoo"):
        parse(arguments)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target, *_ in commands(page, "make"):
        assert target in targets


def test_a_command_that_there_is_not_would_be_found() -> None:
    for wrong in ("list --nosuch", "nosuch", "profile", "leaderboard fly", "list --channels x"):
        with pytest.raises(Exception, match=r"No such|Missing|valid integer"):
            parse(wrong.split())


@pytest.mark.parametrize("page", [page for page in WRITTEN if blocks(page, "yaml")], ids=title)
def test_recipes_are_valid(page: Path, tmp_path: Path) -> None:
    for i, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{i}.yaml"
        path.write_text(block)
        assert load(path, GridRecipe).name == "mine"


class Page(HTMLParser):
    """What a page links to and loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {key: value or "" for key, value in attrs}
        self.anchors |= {of[key] for key in ("id", "name") if key in of}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        elif tag == "link" and of.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(of["href"])
        elif "src" in of:
            self.loads.append(of["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; a warning of mkdocs, such as a dead link, is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_module_has_a_page_with_its_picture(site: Path) -> None:
    for name in attnzoo.list_modules():
        text = (site / "modules" / f"{name}.html").read_text(encoding="utf-8")
        assert attnzoo.spec(name).paper in text
        assert f'src="{name}.png"' in text
        for option in attnzoo.spec(name).options:
            assert f"<code>{option}</code>" in text
        assert (site / "modules" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "not reproducible" in (site / "paper.html").read_text(encoding="utf-8"), (
        "the table of `attnzoo table table1`"
    )


def test_stars_in_docstrings_are_no_emphasis(site: Path) -> None:
    text = (site / "api" / "modules.html").read_text(encoding="utf-8")
    assert "layer*.*.conv2" in text
    assert "**options" in text
    for page in (site / "api").glob("*.html"):
        assert "<em>" not in page.read_text(encoding="utf-8").replace("<em>required</em>", "")


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for page in pages.values()))
    for name in attnzoo.__all__:
        found = getattr(attnzoo, name)
        if isinstance(found, type) or callable(found):
            assert f"{found.__module__}.{found.__qualname__}" in anchors or f"attnzoo.profiling.{name}" in anchors


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # has absolute links, for a server
            continue
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme:
                assert link in page.links, f"{path} loads {link}"
                assert parts.scheme == "https", f"{path} links to {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path} names {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path} names {link}"
    for style in site.rglob("*.css"):
        elsewhere = re.findall(r"url\(['\"]?(https?:[^)]*)|@import", style.read_text(encoding="utf-8"))
        assert not elsewhere, style


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_in_a_browser_it_asks_its_own_server_alone_and_can_be_searched(browser: Browser, address: str) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/index.html")
    page.locator(".md-search__input").click()  # which loads the index
    page.locator(".md-search__input").press_sequentially("criss")
    page.locator(".md-search-result__link", has_text="cca").first.click()
    page.wait_for_url("**/modules/cca.html*")
    picture = page.locator("img[src='cca.png']")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    page.goto(f"{address}/paper.html")
    page.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere
    assert len(asked) > 5
