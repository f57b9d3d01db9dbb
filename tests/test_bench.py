"""attnzoo bench: what is measured beside what, what is kept, and what the tables say. No wall time is asserted."""

import dataclasses
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attnzoo
from attnzoo.benchmarks.authors import FORMULATIONS, AsWritten
from attnzoo.benchmarks.convolutions import Convolutions
from attnzoo.benchmarks.modules import CONVOLUTIONAL, Case, Copy, cases, measure_modules
from attnzoo.benchmarks.networks import NetworkCase, measure_networks, network_cases
from attnzoo.benchmarks.peers import PEERS
from attnzoo.benchmarks.rows import AUTHORS, CONVS, COPY, OURS, Kept, ModuleRow, NetworkRow, read
from attnzoo.benchmarks.tables import markdown
from attnzoo.benchmarks.timing import Effort, alternate, saved_bytes
from attnzoo.cli import main

ONCE = Effort(rounds=1, sample=0)
TINY = {2: (2, 256, 4, 5), 3: (2, 256, 2, 4, 3)}
MAPS = {"halo": (8, 16), "bot": (14, 14)}  # which timm's take; all take any other
# Packages that the tests have; that of the third is an extra of the benchmarks, whose suite checks it.
HERE = ("timm", "monai")


def away(module: nn.Module) -> nn.Module:
    """In float64, away from its neutral start."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        parameter.data += torch.randn_like(parameter) / 4
    return module


def same(theirs: nn.Module, ours: nn.Module, x: torch.Tensor) -> None:
    """Equal outputs and gradients with respect to the input, in both modes."""
    for training in (False, True):
        x.requires_grad_()
        y, expected = theirs.train(training)(x), ours.train(training)(x)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        weights = torch.randn_like(y)
        grads = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected)]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", FORMULATIONS)
def test_the_authors_formulation_equals_ours(name: str, dims: int) -> None:
    ours = away(attnzoo.create(name, 256, spatial_dims=dims))
    same(AsWritten(name, ours), ours, torch.randn(TINY[dims], dtype=torch.float64))


@pytest.mark.parametrize(
    ("peer", "dims"),
    [(peer, dims) for peer in PEERS for dims in peer.dims if peer.provider in HERE and not peer.similar],
    ids=lambda p: f"{p.provider} {p.module}" if hasattr(p, "module") else str(p),
)
def test_a_peer_that_is_called_equal_equals_ours(peer: Any, dims: int) -> None:
    ours = away(attnzoo.create(peer.module, 256, spatial_dims=dims, **peer.options))
    theirs = peer.make(ours, 256, dims).double()
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    shape = (*TINY[dims][:2], *MAPS.get(peer.module, TINY[dims][2:]))
    same(theirs, ours, torch.randn(shape, dtype=torch.float64))


def test_every_peer_is_of_a_module_that_there_is() -> None:
    for peer in PEERS:
        attnzoo.registry.check_options(attnzoo.spec(peer.module), peer.options)
        assert set(peer.dims) <= attnzoo.spec(peer.module).dims


@pytest.mark.parametrize("dims", [2, 3])
def test_bytes_kept_for_the_backward_pass(dims: int) -> None:
    n, c = TINY[dims][:2]
    x = torch.randn(TINY[dims], requires_grad=True)
    copy = Copy(c, dims)
    assert torch.equal(copy(x), x * copy.c)
    assert saved_bytes(copy, x) == 0, "the constant is the module's own, and x is not needed"
    # Squeezed features (N, C), the hidden ones (N, C / 16) after the ReLU, and the gate (N, C).
    assert saved_bytes(attnzoo.create("se", c, spatial_dims=dims), x) == 4 * n * (c + c // 16 + c)
    # Each storage once, however often it is kept and through whatever view.
    squares = nn.Sequential(nn.Sigmoid(), nn.Identity())
    squares[1].forward = lambda y: y * y + y.transpose(0, 1).square().transpose(0, 1)
    assert saved_bytes(squares, x) == 4 * x.numel()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_convolutions_alone_are_those_of_the_module(name: str, dims: int) -> None:
    module = attnzoo.create(name, 256, spatial_dims=dims).eval()
    x = torch.randn(TINY[dims])
    alone = Convolutions(AsWritten(name, module) if name in FORMULATIONS else module, x)
    outputs = alone(*alone.inputs)
    assert sum(p.numel() for p in alone.parameters()) == sum(
        p.numel() for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) for p in m.parameters()
    ) * (len(module.convs) if name == "epsa" else 1) - extra(name, module)
    assert all(y.isfinite().all() for y in outputs)


def extra(name: str, module: Any) -> int:
    """EPSA squeezes each branch by the same two convolutions, which are run, and so counted, once a branch."""
    branches = sum(p.numel() for p in module.convs.parameters()) if name == "epsa" else 0
    return (len(module.convs) - 1) * branches if name == "epsa" else 0


def test_what_has_no_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="SimpleAttention runs no convolution"):
        Convolutions(attnzoo.create("simam", 8), torch.zeros(1, 8, 3, 3))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("dims", [2, 3])
def test_rows_of_a_case(dims: int, mode: str, layout: str) -> None:
    found = list(cases(["ema", "se"], [TINY[dims]], [mode], layouts=[layout]))
    assert [(case.module, case.options) for case in found] == [("ema", ""), ("se", ""), ("se", '{"bias": true}')]
    ema, se, biased = measure_modules(found, ("timm", "monai", AUTHORS, CONVS), ONCE)
    assert [row.provider for row in ema] == [COPY, OURS, AUTHORS, CONVS]
    assert [row.provider for row in se] == [COPY, OURS, *(["timm"] if dims == 2 else [])]
    assert [row.provider for row in biased] == [COPY, OURS, "monai"]
    for rows in (ema, se, biased):
        copy, ours, *others = rows
        assert copy.to_copy == ours.to_ours == 1
        assert copy.saved_bytes == (0 if mode == "train" else None)
        for row in rows:
            assert row.wall_ms is not None
            assert row.note == ""
            assert row.to_ours == row.wall_ms / ours.wall_ms
            assert row.to_copy == row.wall_ms / copy.wall_ms
        assert {row.relation for row in others if row.provider != CONVS} <= {"equal"}


def test_a_width_that_does_not_fit_is_skipped_with_the_reason() -> None:
    (case,) = cases(["sa"], [(1, 64, 4, 4)], ["train"], layouts=["contiguous"], providers=())
    (rows,) = measure_modules([case], (), ONCE)
    assert [row.note[:51] for row in rows] == ["skipped: channels=64 is not divisible by 2 * groups"]


def test_a_peer_that_fails_or_differs_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("cannot\nview")

    found = {"fails": Fails(), "differs": nn.Identity()}
    peers = [
        dataclasses.replace(PEERS[0], provider=name, module="simam", build=lambda *_, made=made: made)
        for name, made in found.items()
    ]
    monkeypatch.setattr("attnzoo.benchmarks.modules.PEERS", peers)
    monkeypatch.setattr("attnzoo.benchmarks.peers.PACKAGES", dict.fromkeys(found, "torch"))
    (case,) = cases(["simam"], [TINY[2]], ["forward"], layouts=["contiguous"], providers=list(found))
    (rows,) = measure_modules([case], list(found), ONCE)
    _, ours, fails, differs = rows
    assert ours.wall_ms is not None
    assert (fails.wall_ms, fails.note) == (None, "failed: RuntimeError: cannot view")
    assert re.fullmatch(r"differs by 0\.\d+ of the largest value", differs.relation)


def test_a_library_that_is_not_there_is_measured_when_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (case,) = (c for c in cases(["se"], [TINY[2]], ["forward"], layouts=["contiguous"]) if not c.options)
    monkeypatch.setitem(attnzoo.benchmarks.peers.PACKAGES, "timm", "no_such_package")
    kept = Kept(tmp_path / "rows.csv", ModuleRow)
    kept.add(next(measure_modules([case], ["timm"], ONCE)))
    assert 'pip install "attnzoo[bench]"' in kept.rows[-1].note
    assert case.missing(kept, ["timm"])
    monkeypatch.undo()
    kept.add(next(measure_modules([case], ["timm"], ONCE)))
    assert not case.missing(kept, ["timm"])
    assert [row.provider for row in read(tmp_path / "rows.csv", ModuleRow)] == [COPY, OURS, "timm"]


def test_all_take_turns_and_none_is_always_first_or_after_the_same_one() -> None:
    order: list[str] = []
    times = alternate({name: lambda name=name: order.append(name) for name in "abc"}, Effort(rounds=6, sample=0))
    rounds = ["".join(order[len(order) - 18 :][i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert [each[0] for each in sorted(rounds)] == ["a", "a", "b", "b", "c", "c"]
    assert {pair for each in rounds for pair in pairwise(each)} == set(permutations("abc", 2))
    assert {timing.rounds for timing in times.values()} == {6}
    assert all(timing.wall > 0 for timing in times.values())


def test_no_round_beyond_the_third_begins_after_the_budget() -> None:
    times = alternate({"a": lambda: None}, Effort(rounds=50, sample=0, budget=0))
    assert times["a"].rounds == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_memory_that_is_kept_is_not_fetched_again() -> None:
    script = """
import resource, torch
from attnzoo.benchmarks.timing import keep_memory
kept = []
for keep in (lambda: False, keep_memory):
    kept.append(keep())
    for i in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 * 2**20)  # 64 MiB
    kept.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*kept)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert answer[0::2] == ["False", "True"]
    assert int(answer[3]) < 10 < int(answer[1])


def test_compiled_modules_equal_eager_ones_and_their_memory_is_counted() -> None:
    (case,) = cases(["simam"], [(1, 8, 4, 4)], ["train"], [True], ["contiguous"], [AUTHORS])
    (rows,) = measure_modules([case], [AUTHORS], ONCE)
    assert [(row.provider, row.relation, row.note) for row in rows] == [
        (COPY, "floor", ""), (OURS, "ours", ""), (AUTHORS, "equal", "")
    ]  # fmt: skip
    assert all(row.compile_s and row.saved_bytes is not None for row in rows)


def test_networks(tmp_path: Path) -> None:
    found = list(network_cases(["ca", "sa"], ["resnet3d/10"], ["training", "inference"]))
    assert [(case.module, case.site, case.options) for case in found[::2]] == [
        ("ca", "mid", ""), ("sa", "out", ""), ("sa", "mid", '{"groups": 32}')
    ]  # fmt: skip
    kept = Kept(tmp_path / "networks.csv", NetworkRow)
    tiny = [dataclasses.replace(case, shape=(2, 3, 4, 32, 32)) for case in found[2:]]
    for case, row in zip(tiny, measure_networks(tiny, ONCE), strict=True):
        kept.add([row])
        if case.site == "out":  # 64 wide, which the defaults do not allow
            assert row.note.startswith("skipped: sa does not fit layer1.0.bn2")
            continue
        assert row.ratio == pytest.approx(row.per_second / row.plain_per_second)
        assert row.per_second == pytest.approx(2e3 / row.wall_ms)
        assert min(row.create_ms, row.inject_ms) > 0
    assert not any(case.missing(Kept(kept.path, NetworkRow)) for case in tiny)
    assert found[0].missing(kept)
    text = markdown([kept.path])
    assert "| module | site | resnet3d/10, inference | resnet3d/10, training | injected in, ms |" in text
    assert re.search(r"^\| `sa` \| mid \| [+-]\d+% \| [+-]\d+% \| \d+ \|$", text, re.M)
    assert "| `sa` | out | misfit | misfit | - |" in text


def test_a_network_that_the_memory_does_not_hold_is_a_row_that_says_so(tmp_path: Path) -> None:
    (case,) = network_cases(["ca"], ["resnet3d/10"], ["training"])
    case = dataclasses.replace(case, shape=(2**40, 3, 4, 32, 32))
    kept = Kept(tmp_path / "networks.csv", NetworkRow)
    kept.add(list(measure_networks([case], ONCE)))
    assert not case.missing(Kept(kept.path, NetworkRow))
    assert "| `ca` | mid | - | fails | - |" in markdown([kept.path])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs `attnzoo bench`: exit status, standard output and error."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", "bench", *map(str, args)])
        monkeypatch.setattr("attnzoo.benchmarks.timing.keep_memory", lambda: False)  # of a process of its own
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_what_was_measured_is_not_measured_again(bench: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.csv"
    simam = ("simam", "--shape", "1x8x4x4", "1x8x2x3x3", "--peers", "authors", "--rounds", "1", "--out", out)
    status, said, error = bench(*simam, "--mode", "forward")
    assert (status, error) == (0, "")
    assert len(re.findall(r"^\[\d/4, \d+ min left\] simam .* others / ours: authors ", said, re.M)) == 4
    rows = read(out, ModuleRow)
    assert len(rows) == 4 * 3
    _, said, _ = bench(*simam)
    assert said.startswith("4 of 8 cases were measured before\n")
    again = read(out, ModuleRow)
    assert again[: len(rows)] == rows
    assert len(again) == len({(row.case, row.provider) for row in again}) == 8 * 3
    assert [p.name for p in out.parent.iterdir()] == ["rows.csv"], "nothing temporary is left"


def test_ctrl_c_keeps_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "attnzoo", "bench", "--threads", "1", "--rounds", "1", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("[1/")
        process.send_signal(signal.SIGINT)
        assert "rows kept in" in process.stderr.read()
    assert process.returncode == 130
    assert read(out, ModuleRow)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["seee"], "'seee'; did you mean se"),
        (["se", "--shape", "8x256"], "--shape 8x256 is not NxCxHxW or NxCxTxHxW, as in 8x256x56x56"),
        (["se", "--mode", "backward"], "--mode backward must be one of forward, train"),
        (["se", "--peers", "keras"], "--peers keras must be one of fightingcv, monai, timm, authors, convolutions"),
        (["se", "--networks", "--layout", "channels_last"], "--layout is for modules alone"),
        (["--table", __file__], "test_bench.py is not a file of ModuleRows of this version"),
        (["--table", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(bench: Callable[..., Any], args: list[str], said: str) -> None:
    status, _, error = bench(*args)
    assert status == 2
    assert said in error
    assert error.count("\n") == 1


def test_cases_of_all_modules_are_told_apart() -> None:
    every = list(cases(compiled=(False, True)))
    assert {case.module for case in every} == set(attnzoo.list_modules())
    assert len(every) == len({tuple(case.columns.values()) for case in every})
    networks = list(network_cases())
    assert len(networks) == len({tuple(case.columns.values()) for case in networks})
    assert {type(case) for case in (*every, *networks)} == {Case, NetworkCase}
    assert all(json.loads(case.options or "{}") == {} or case.options for case in every)
