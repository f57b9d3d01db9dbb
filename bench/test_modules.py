"""Each module beside a copy of its input, its peers and its authors' formulation; see `attnzoo bench --help`.

The figure of record is a ratio of medians in one alternating run. Here one shape in 2D and one in 3D, eager and
contiguous; `attnzoo bench --out FILE` measures the rest.
"""

import json
from typing import Any

import pytest

import attnzoo
from attnzoo.benchmarks.modules import QUICK, Case, cases, measure_modules
from attnzoo.benchmarks.peers import PEERS, Peer
from attnzoo.benchmarks.rows import COPY, OURS
from attnzoo.benchmarks.timing import Effort

MAPS = {"halo": (8, 16), "bot": (14, 14)}  # which timm's take; all take any other
CASES = [case for name in attnzoo.list_modules() for case in cases([name], QUICK, layouts=["contiguous"])]


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(map(str, (c.module, c.options, c.shape, c.mode))))
def test_module(benchmark: Any, case: Case) -> None:
    effort = Effort(rounds=5) if benchmark.enabled else Effort(rounds=1, sample=0)
    rows = benchmark.pedantic(lambda: next(measure_modules([case], effort=effort)), rounds=1)
    (ours,) = (row for row in rows if row.provider == OURS)
    if ours.note:
        assert ours.note.startswith("skipped: "), ours.note
        return
    ratios = {row.provider: row.to_ours for row in rows if row.provider not in (COPY, OURS)}
    benchmark.extra_info.update(milliseconds=ours.wall_ms, to_copy=ours.to_copy, saved=ours.saved_bytes, ratios=ratios)
    others = "".join(f", {name} / ours = {ratio:.2f}" for name, ratio in ratios.items() if ratio)
    print(f"\n{case.module} {ours.shape} {case.mode}: ours / copy = {ours.to_copy:.2f}{others}")


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: f"{p.provider} {p.module}")
def test_what_is_called_equal_is(peer: Peer) -> None:
    shape = (2, 256, *MAPS.get(peer.module, (6, 5)))
    case = Case(peer.module, json.dumps(peer.options) if peer.options else "", shape, "train", False, "contiguous")
    *_, row = next(measure_modules([case], [peer.provider], Effort(1, 0)))
    assert row.note == ""
    assert row.relation == (f"similar ({peer.similar})" if peer.similar else "equal")
