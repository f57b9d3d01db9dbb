"""Whole networks with each module, beside the plain network in the same run."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.backbones import create_backbone
from attnzoo.benchmarks.rows import Kept, NetworkRow, failed, here, skipped
from attnzoo.benchmarks.timing import Effort, alternate
from attnzoo.inject import inject
from attnzoo.registry import list_modules, spec

# The batch of each by its number of axes: the channel branch of BAM has no norm of a single clip.
NETWORKS = ("timm/resnet50", "timm/resnet101", "resnet3d/101")
QUICK = ("timm/resnet50",)
BATCHES = {2: (4, 3, 224, 224), 3: (2, 3, 16, 112, 112)}
SMALL = {2: (2, 3, 64, 64), 3: (2, 3, 8, 32, 32)}
MODES = ("inference", "training")
# At `mid` the first stage is 64 wide, which their defaults do not allow.
FITTING: dict[tuple[str, str], dict[str, Any]] = {("sa", "mid"): {"groups": 32}}


@dataclass(frozen=True, slots=True)
class NetworkCase:
    """One network with one module at one site.

    Attributes:
        network: as for `create_backbone`.
        module: ours.
        options: of it, as JSON; empty for the defaults.
        site: where it goes.
        shape: of the batch.
        mode: "inference" or "training".
    """

    network: str
    module: str
    options: str
    site: str
    shape: tuple[int, ...]
    mode: str

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a row that say what was measured."""
        return {
            "network": self.network,
            "module": self.module,
            "options": self.options,
            "site": self.site,
            "shape": "x".join(map(str, self.shape)),
            "mode": self.mode,
        }

    def row(self, **found: Any) -> NetworkRow:
        """Its row.

        Args:
            **found: the columns that say what was found.
        """
        return NetworkRow(**self.columns, dims=len(self.shape) - 2, **here(), **found)

    def missing(self, kept: Kept[NetworkRow]) -> bool:
        """Whether it is still to be measured.

        Args:
            kept: what was measured.
        """
        return not kept.of(tuple(self.columns.values()))


def network_cases(
    modules: Sequence[str] = (),
    networks: Sequence[str] = (),
    modes: Sequence[str] = MODES,
    small: bool = False,
) -> Iterator[NetworkCase]:
    """What there is to measure: each module at its own site, and all gates at `mid` too.

    Args:
        modules: names; all if there are none.
        networks: names for `create_backbone`; NETWORKS if there are none.
        modes: of MODES.
        small: whether the batches are, to see that it runs.

    Raises:
        ValueError: an unknown module.

    >>> [(case.module, case.site) for case in network_cases(["se", "epsa"], ["timm/resnet18"], ["training"])]
    [('se', 'out'), ('se', 'mid'), ('epsa', 'conv')]
    """
    for network in networks or NETWORKS:
        dims = 3 if network.startswith("resnet3d/") else 2
        for name in modules or list_modules(spatial_dims=dims):
            found = spec(name)
            gates = issubclass(found.cls, nd.Attention) and found.site in ("out", "mid")
            for site in dict.fromkeys([found.site, *(["mid"] if gates else [])]):
                options = FITTING.get((found.name, site))
                for mode in modes:
                    shape = (SMALL if small else BATCHES)[dims]
                    yield NetworkCase(network, found.name, json.dumps(options) if options else "", site, shape, mode)


def measure_networks(
    wanted: Iterable[NetworkCase],
    effort: Effort = Effort(rounds=7, budget=20.0),  # noqa: B008
) -> Iterator[NetworkRow]:
    """Measure cases, one after the other.

    Args:
        wanted: the cases.
        effort: how long each is timed.

    Raises:
        ValueError: an unknown network.
    """
    for case in wanted:
        try:
            yield _measure(case, effort)
        except RuntimeError as error:  # as a rule of memory
            yield case.row(note=failed(error))


def _measure(case: NetworkCase, effort: Effort) -> NetworkRow:
    torch.manual_seed(0)
    start = time.perf_counter()
    plain = create_backbone(case.network)
    created = time.perf_counter() - start
    attended = create_backbone(case.network)
    attended.load_state_dict(plain.state_dict())
    start = time.perf_counter()
    try:
        inject(attended, case.module, site=case.site, **json.loads(case.options or "{}"))
    except ValueError as error:  # the defaults do not fit the width
        return case.row(note=skipped(error))
    injected = time.perf_counter() - start
    x = torch.randn(case.shape)
    calls = {name: _call(model, x, case.mode) for name, model in (("plain", plain), ("attended", attended))}
    for call in calls.values():
        call()
    times = alternate(calls, effort, calls)
    with_, without = times["attended"], times["plain"]
    return case.row(
        wall_ms=with_.wall,
        cpu_ms=with_.cpu,
        plain_ms=without.wall,
        plain_cpu_ms=without.cpu,
        per_second=1e3 * case.shape[0] / with_.wall,
        plain_per_second=1e3 * case.shape[0] / without.wall,
        ratio=without.wall / with_.wall,
        create_ms=1e3 * created,
        inject_ms=1e3 * injected,
        rounds=with_.rounds,
    )


def _call(model: nn.Module, x: Tensor, mode: str) -> Callable[[], object]:
    """One pass of inference, or one step of training."""
    model.train(mode == "training")
    if mode == "inference":

        def infer() -> object:
            with torch.inference_mode():
                return model(x)

        return infer
    sgd = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    labels = torch.arange(len(x))

    def step() -> None:
        sgd.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        sgd.step()

    return step
