"""What is installed: a wheel built from the tree carries its recipes and runs from an empty folder."""

import configparser
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import attnzoo

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    # Built from what git would check out, so that nothing left in the tree by an earlier build slips in.
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, out, cwd=source)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as who has that alone would."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, sdist, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_source_distribution_says_who_may_do_what_with_it_and_how_to_cite_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "setup.cfg", "pyproject.toml"} <= held


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
    package = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "attnzoo").rglob("*")
        if p.is_file() and p.suffix in (".py", ".typed", ".j2", ".css", ".js")
    }
    recipes = {f"attnzoo/zoo_configs/{p.name}" for p in (ROOT / "zoo_configs").glob("*.yaml")}
    assert recipes
    results = {f"attnzoo/bench_results/{p.name}" for p in (ROOT / "bench" / "results").glob("*.csv")}
    assert held == package | recipes | results


def test_an_installed_wheel_finds_its_recipes_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=empty)
    code = "import attnzoo; from attnzoo.recipes import find; print(attnzoo.__file__, find('zoo_configs/demo.yaml'))"
    module, recipe = run(sys.executable, "-c", code, cwd=empty, PYTHONPATH=str(site)).split()
    assert Path(module).is_relative_to(site)
    assert Path(recipe).is_relative_to(site)
    assert "mpe" in run(sys.executable, "-m", "attnzoo", "list", cwd=empty, PYTHONPATH=str(site))


def test_extras_are_those_of_the_readme_and_all_holds_them() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    everyone = ("emotion", "tensorboard", "torchcodec", "leaderboard", "cluster", "postgres", "onnx", "bench")
    assert set(extras) == {*everyone, "docs", "dev", "all"}
    (everything,) = extras["all"].split()
    assert everything == f"attnzoo[{','.join(everyone)}]"


def test_the_oldest_versions_are_the_lower_bounds_of_what_is_needed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = (setup["options"]["install_requires"], *(extras[e] for e in ("emotion", "leaderboard", "tensorboard")))
    bounds = "\n".join(needed).split()
    oldest = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in oldest if not line.startswith("#")]
    assert len(pins) == len(set(bounds))
    assert set(pins) == {bound.replace(">=", "==") for bound in bounds}


def test_a_missing_extra_names_the_command_that_brings_it(tmp_path: Path) -> None:
    for package, extra, command in (("av", "emotion", "data check ."), ("jinja2", "leaderboard", "leaderboard show")):
        code = (
            f"import sys; sys.modules['{package}'] = None; sys.argv[1:] = '{command}'.split(); "
            "from attnzoo.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == f'attnzoo: this needs {package}; install it with: pip install "attnzoo[{extra}]"\n'


def test_the_citation_holds_the_paper_of_every_module_once() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    urls = [reference["url"] for reference in citation["references"]]
    assert sorted(urls) == sorted({attnzoo.spec(name).paper for name in attnzoo.list_modules()})
    assert all(reference["title"] and reference["authors"] for reference in citation["references"])
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["version"] == setup["metadata"]["version"]
