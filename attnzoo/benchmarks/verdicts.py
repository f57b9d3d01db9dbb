"""Whether what was measured is as fast as it should be."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from attnzoo.benchmarks.rows import AUTHORS, CONVS, COPY, OURS, SKIPPED, ModuleRow, NetworkRow

NOISE = 0.95  # of a peer's time that counts as not slower
LIGHT = ("triplet", "ema", "sa", "simam", "ca", "mpe")  # keep at most half as much as others for the backward pass
WRITTEN = {"triplet": 2.5, "sa": 1.5, "ca": 1.5, "simam": 1.5}  # how much faster than their authors' formulation
CONVOLUTIONS = ("mpe", "ema", "epsa", "sk")
OVER_CONVOLUTIONS = 1.2
AT_MID = ("se", "eca", "ca", "sa")
STEP = 0.08  # of a training step of ResNet-50
SPARE = 0.01  # of the bytes of x: pooled vectors, of which one more does not count


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what became of it.

    Attributes:
        goal: what was wanted.
        figure: what was measured.
        met: whether that is enough; None if nothing was measured.
    """

    goal: str
    figure: str
    met: bool | None


def is_peer(row: ModuleRow) -> bool:
    """Whether a row is of another library's module that computes what ours does.

    Args:
        row: any.
    """
    return row.provider not in (OURS, COPY, AUTHORS, CONVS) and row.relation == "equal" and row.to_ours is not None


def mean_ratio(rows: Iterable[ModuleRow]) -> float | None:
    """Geometric mean of others' time over ours; None without any.

    Args:
        rows: of other providers.
    """
    ratios = [row.to_ours for row in rows if row.to_ours is not None]
    return geometric_mean(ratios) if ratios else None


def kept(rows: Sequence[ModuleRow]) -> list[tuple[ModuleRow, int, int]]:
    """Rows of others with the bytes kept for the backward pass, theirs and ours.

    Args:
        rows: all that were measured.
    """
    ours = {row.case: row.saved_bytes for row in rows if row.provider == OURS}
    pairs = []
    for row in rows:
        mine = ours.get(row.case)
        if (is_peer(row) or row.provider == AUTHORS) and row.saved_bytes is not None and mine is not None:
            pairs.append((row, row.saved_bytes, mine))
    return pairs


def verdicts(modules: Sequence[ModuleRow], networks: Sequence[NetworkRow] = ()) -> list[Verdict]:
    """Hold what was measured against the goals.

    Args:
        modules: rows of modules alone.
        networks: rows of whole networks.
    """
    eager, compiled = ([row for row in modules if row.compiled is value] for value in (False, True))
    found = [_never_slower(eager, "eager"), _never_slower(compiled, "compiled")]
    found += [_geometric(eager, "forward", 2.0), _geometric(eager, "train", 1.5)]
    found += [_memory(eager, "never more than others keep", lambda row: True, 1.0)]
    found += [_memory(eager, f"at most half of it for {', '.join(LIGHT)}", lambda row: row.module in LIGHT, 0.5)]
    found += [_as_written(eager, name, least) for name, least in WRITTEN.items()]
    found += [_convolutions(eager, name) for name in CONVOLUTIONS]
    found += [_graph(compiled)]
    found += [_at_mid(networks, name) for name in AT_MID]
    return found


def _never_slower(rows: Sequence[ModuleRow], how: str) -> Verdict:
    goal = f"never slower than a peer's same module, {how} (at least {NOISE} of its time)"
    ratios = [(row.to_ours, row) for row in rows if is_peer(row) and row.to_ours is not None]
    if not ratios:
        return Verdict(goal, "not measured", None)
    least, worst = min(ratios, key=lambda pair: pair[0])
    below = [row for ratio, row in ratios if ratio < NOISE]
    where = f"{worst.module} beside {worst.provider}, {worst.shape}, {worst.mode}, {worst.layout}"
    names = ", ".join(dict.fromkeys(row.module for row in below))
    slow = f"; {len(below)} of {len(ratios)} below ({names})" if below else f"; all {len(ratios)}"
    return Verdict(goal, f"least {least:.2f} ({where}){slow}", least >= NOISE)


def _geometric(rows: Sequence[ModuleRow], mode: str, least: float) -> Verdict:
    said = {"forward": "forward", "train": "forward and backward"}[mode]
    goal = f"peers / ours, {said}, geometric mean over the modules at least {least}"
    peers = [row for row in rows if is_peer(row) and row.mode == mode]
    means = [mean_ratio(row for row in peers if row.module == name) for name in {row.module for row in peers}]
    ratios = [mean for mean in means if mean is not None]
    if not ratios:
        return Verdict(goal, "not measured", None)
    ratio = geometric_mean(ratios)
    return Verdict(goal, f"{ratio:.2f} over {len(ratios)} modules", ratio >= least)


def _memory(rows: Sequence[ModuleRow], what: str, wanted: Callable[[ModuleRow], bool], most: float) -> Verdict:
    goal = f"kept for the backward pass beyond x: {what}"
    pairs = [(row, theirs, max(0, mine - _spare(row))) for row, theirs, mine in kept(rows) if wanted(row)]
    if not pairs:
        return Verdict(goal, "not measured", None)
    broken = [row for row, theirs, mine in pairs if mine > most * theirs]
    worst, theirs, mine = max(pairs, key=lambda pair: pair[2] / max(pair[1], 1))
    figure = f"at most {mine / max(theirs, 1):.2f} of it ({worst.module} beside {worst.provider}, {worst.shape})"
    names = ", ".join(dict.fromkeys(row.module for row in broken))
    return Verdict(goal, figure + (f"; not {names}" if broken else ""), not broken)


def _spare(row: ModuleRow) -> int:
    return int(SPARE * 4 * math.prod(map(int, row.shape.split("x"))))


def _as_written(rows: Sequence[ModuleRow], name: str, least: float) -> Verdict:
    goal = f"{name}, forward and backward: authors' formulation / ours at least {least}"
    ratio = mean_ratio(r for r in rows if (r.module, r.provider, r.mode) == (name, AUTHORS, "train"))
    return Verdict(goal, "not measured" if ratio is None else f"{ratio:.2f}", None if ratio is None else ratio >= least)


def _convolutions(rows: Sequence[ModuleRow], name: str) -> Verdict:
    goal = f"{name}, forward and backward: ours / its convolutions alone at most {OVER_CONVOLUTIONS}"
    ratio = mean_ratio(r for r in rows if (r.module, r.provider, r.mode) == (name, CONVS, "train"))
    if ratio is None:
        return Verdict(goal, "not measured", None)
    return Verdict(goal, f"{1 / ratio:.2f}", 1 / ratio <= OVER_CONVOLUTIONS)


def _graph(rows: Sequence[ModuleRow]) -> Verdict:
    goal = "no module breaks the graph of torch.compile"
    ours = [row for row in rows if row.provider == OURS and not row.note.startswith(SKIPPED)]
    broken = list(dict.fromkeys(row.module for row in ours if row.wall_ms is None))
    figure = f"{', '.join(broken)} do" if broken else f"{len({row.module for row in ours})} modules in one graph each"
    return Verdict(goal, figure if ours else "not measured", not broken if ours else None)


def _at_mid(rows: Sequence[NetworkRow], name: str) -> Verdict:
    goal = f"{name} at mid of ResNet-50 costs at most {STEP:.0%} of a training step"
    ratios = [
        row.ratio
        for row in rows
        if (row.network, row.module, row.site, row.mode) == ("timm/resnet50", name, "mid", "training") and row.ratio
    ]
    if not ratios:
        return Verdict(goal, "not measured", None)
    cost = 1 / ratios[0] - 1
    return Verdict(goal, f"{cost:.1%}", cost <= STEP)
