"""What the registry adds to the constructors, and what `inject` costs beside building the network."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import attnzoo

ROUNDS = 30


def compare(benchmark: Any, ours: Callable[[], object], theirs: Callable[[], object], text: str) -> None:
    """Time `ours`, with `theirs` before each round; the figure of record is the ratio of medians in one run."""
    ours(), theirs()
    seconds = []

    def alternate() -> tuple[tuple[()], dict[str, Any]]:
        start = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - start)
        return (), {}

    benchmark.pedantic(ours, setup=alternate, rounds=ROUNDS)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    ratio = benchmark.stats.stats.median / statistics.median(seconds)
    benchmark.extra_info.update(their_median=statistics.median(seconds), ratio=ratio)
    print(f"\n{text} = {ratio:.3f}")


@pytest.mark.parametrize("name", attnzoo.list_modules())
def test_create(benchmark: Any, name: str) -> None:
    cls, dims = attnzoo.spec(name).cls, min(attnzoo.spec(name).dims)
    # On the meta device no weights are drawn: what is left is what the registry can slow down.
    with torch.device("meta"):
        compare(
            benchmark,
            lambda: attnzoo.create(name, 256, spatial_dims=dims),
            lambda: cls(256, spatial_dims=dims),
            f"create({name!r}, 256) / {cls.__name__}(256)",
        )


@pytest.mark.parametrize("name", attnzoo.list_modules(spatial_dims=2))
def test_inject(benchmark: Any, name: str) -> None:
    # Deeper stages are wide enough for all modules' defaults.
    stages = (3, 4)

    def build() -> nn.Module:
        with torch.device("meta"):
            return torchvision.models.resnet50(weights=None)

    def build_and_inject() -> nn.Module:
        with torch.device("meta"):
            return attnzoo.inject(torchvision.models.resnet50(weights=None), name, stages=stages)

    compare(benchmark, build_and_inject, build, f"resnet50 with {name} in stages 3 and 4 / resnet50")
