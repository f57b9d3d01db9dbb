"""Whole networks with attention beside the plain ones: a step of training of ResNet-50 with each cheap gate at `mid`.

The goal is at most 8 % more time; the figure of record is a ratio of medians in one alternating run. The other
networks, modules and sites: `attnzoo bench --networks --out FILE`.
"""

from typing import Any

import pytest

from attnzoo.benchmarks.networks import measure_networks, network_cases
from attnzoo.benchmarks.timing import Effort
from attnzoo.benchmarks.verdicts import AT_MID, STEP


@pytest.mark.parametrize("name", AT_MID)
def test_step_of_training(benchmark: Any, name: str) -> None:
    found = network_cases([name], ["timm/resnet50"], ["training"], small=not benchmark.enabled)
    (case,) = (case for case in found if case.site == "mid")
    effort = Effort(rounds=7, budget=30) if benchmark.enabled else Effort(rounds=1, sample=0)
    row = benchmark.pedantic(lambda: next(measure_networks([case], effort)), rounds=1)
    assert row.ratio is not None, row.note
    cost = 1 / row.ratio - 1
    benchmark.extra_info.update(cost=cost, per_second=row.per_second, plain_per_second=row.plain_per_second)
    print(f"\n{name} at mid of ResNet-50: a step of training takes {cost:+.1%} of time (goal: at most {STEP:+.0%})")
