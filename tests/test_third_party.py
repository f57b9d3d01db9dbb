"""A package outside of attnzoo adds a module with one class and one entry point, installed as its users would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).parent / "third_party"
FILES = ("pyproject.toml", "my_attention.py")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python, by default in a folder of its own, where the package is installed beside attnzoo."""
    source, site, empty = (tmp_path_factory.mktemp(name) for name in ("source", "site", "empty"))
    for name in FILES:  # a copy, since building leaves files beside them
        shutil.copy(SOURCE / name, source)

    def python(
        *arguments: str | Path, cwd: Path = empty, extra: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        search = os.pathsep.join(map(str, filter(None, (site, extra))))
        env = {**os.environ, "PYTHONPATH": search, "COLUMNS": "120"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)

    done = python("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site, source)
    assert done.returncode == 0, done.stderr
    return python


def test_the_command_line_knows_it(run: Run) -> None:
    for arguments, shown in (
        ("list", "mine"),
        ("list m*", "Channel gate from a linear map of the pooled features."),
        ("profile timm/resnet18 --attn mine", "mine"),
    ):
        done = run("-m", "attnzoo", *arguments.split())
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout


def test_it_keeps_the_contract(run: Run) -> None:
    done = run("-m", "attnzoo", "contract", "mine")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "mine promises" in done.stdout
    assert "ONNX" in done.stdout
    assert "failed" not in done.stdout
    assert "mine: not compared with its authors' code" in done.stdout


def test_it_is_created_and_injected(run: Run) -> None:
    code = """
import attnzoo, timm, torch
print(attnzoo.create("mine", 16, spatial_dims=3, bias=False)(torch.ones(2, 16, 2, 5, 5)).shape)
model = attnzoo.inject(timm.create_model("resnet18"), "mine", stages=(4,), identity=True)
print(model.eval()(torch.ones(1, 3, 32, 32)).shape, type(model.layer4[1].bn2.attn).__name__, attnzoo.spec("mine").year)
try:
    attnzoo.create("mine", 16, bias=3)
except TypeError as error:
    print(error)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "torch.Size([2, 16, 2, 5, 5])",
        "torch.Size([1, 1000]) Blend 2026",
        "bias=3 of mine must be True or False",
    ]


def test_it_is_timed_and_tested_like_ours(run: Run) -> None:
    for files, cases in (("bench/test_create.py", 2), ("tests/test_contract.py", 40)):
        options = ("--benchmark-disable", "-q", "-p", "no:cacheprovider", "-k", "mine", "--collect-only")
        done = run("-m", "pytest", files, *options, cwd=ROOT)
        assert done.returncode == 0, done.stdout
        assert sum("mine" in line for line in done.stdout.splitlines()) >= cases, done.stdout
    done = run(
        "-m",
        "pytest",
        "bench/test_create.py",
        "--benchmark-disable",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "mine",
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_broken_one_warns_in_one_line_and_takes_nothing_down(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('disk\\non fire')\n")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attnzoo.modules]\nbroken = broken\n")
    done = run("-m", "attnzoo", "list", extra=tmp_path)
    assert done.returncode == 0
    assert "mine" in done.stdout
    assert "mpe" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "attnzoo modules of broken (broken) were not loaded: disk on fire" in line


def test_the_readme_shows_this_package() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Add your own module\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", section, re.DOTALL)
    assert blocks == [(SOURCE / name).read_text() for name in reversed(FILES)]
    assert all(f"`{name}`" in section for name in FILES)
