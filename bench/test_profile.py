"""What profiling costs: beside fvcore on the same networks, for one network, and for a whole table.

The figure of record is a ratio of medians in one run; the seconds are of one machine.
"""

import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import attnzoo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore scripts a function on import, which torch calls deprecated
    from fvcore.nn import FlopCountAnalysis

MODULES = ("se", "cbam", "ca", "eca", "mpe")
SIZE = (1, 3, 224, 224)
ROUNDS = 3

# In a process of its own, so that the memory is that of the table alone.
TABLE = """
import resource, time
import torch
start = time.perf_counter()
import attnzoo
from attnzoo import create_backbone
from attnzoo.profiling.table import Attention, compare
with torch.device("meta"):
    network = create_backbone("timm/resnet101")
attns = [
    Attention(name, site=None if attnzoo.spec(name).site == "conv" else site)
    for name in attnzoo.list_modules(spatial_dims=2)
    for site in ("mid", "out")
]
rows = list(compare(network, attns, skip_misfits=True))
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(rows), sum(row.cost is not None for row in rows), time.perf_counter() - start, kib / 2**20)
"""


def build(name: str) -> nn.Module:
    return attnzoo.inject(torchvision.models.resnet101(), name)


def ours() -> list[int]:
    """The same rows on the meta device, the networks built there too."""
    flops = []
    for name in MODULES:
        with torch.device("meta"):
            model = build(name)
        flops.append(attnzoo.profile(model, SIZE, memory=False).flops)  # as fvcore, which measures none
    return flops


def fvcore() -> list[int]:
    """The rows as one would get them from fvcore: networks with weights, tensors with values."""
    flops = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.jit.trace, on which fvcore builds
        for name in MODULES:
            analysis = FlopCountAnalysis(build(name).eval(), torch.randn(SIZE))
            flops.append(int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()))
    return flops


def test_five_rows_beside_fvcore(benchmark: Any) -> None:
    assert ours() == fvcore()
    seconds = []

    def alternate() -> tuple[tuple[()], dict[str, Any]]:
        start = time.perf_counter()
        fvcore()
        seconds.append(time.perf_counter() - start)
        return (), {}

    benchmark.pedantic(ours, setup=alternate, rounds=ROUNDS)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    ratio = statistics.median(seconds) / benchmark.stats.stats.median
    benchmark.extra_info.update(their_median=statistics.median(seconds), ratio=ratio)
    print(f"\nfvcore / attnzoo, ResNet-101 with {', '.join(MODULES)} = {ratio:.2f} (goal: at least 5)")


@pytest.mark.parametrize("part", ["build and profile", "profile"])
def test_one_row(benchmark: Any, part: str) -> None:
    with torch.device("meta"):
        model = build("mpe")

    def row() -> None:
        with torch.device("meta"):
            attnzoo.profile(build("mpe") if part == "build and profile" else model, SIZE)

    benchmark.pedantic(row, rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:
        print(f"\n{part}, ResNet-101 with mpe: {benchmark.stats.stats.median:.2f} s (goal: below 1.5)")


def test_whole_table(benchmark: Any) -> None:
    def table() -> str:
        return subprocess.run([sys.executable, "-c", TABLE], check=True, capture_output=True, text=True).stdout

    rows, fit, seconds, gib = benchmark.pedantic(table, rounds=1).split()
    benchmark.extra_info.update(rows=int(rows), fit=int(fit), seconds=float(seconds), gib=float(gib))
    print(f"\n{rows} rows ({fit} fit) of ResNet-101: {float(seconds):.1f} s (goal: below 60), ", end="")
    print(f"peak {float(gib):.2f} GiB (goal: below 2)")
