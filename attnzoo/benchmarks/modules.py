"""Every module beside a copy of its input, its peers, its authors' formulation and its convolutions alone."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.benchmarks.authors import FORMULATIONS, AsWritten
from attnzoo.benchmarks.convolutions import Convolutions
from attnzoo.benchmarks.peers import PEERS
from attnzoo.benchmarks.rows import AUTHORS, CONVS, COPY, OURS, SKIPPED, Kept, ModuleRow, failed, here, skipped
from attnzoo.benchmarks.timing import Effort, alternate, saved_bytes
from attnzoo.registry import create, list_modules, spec

SHAPES = ((8, 256, 56, 56), (8, 1024, 14, 14), (32, 512, 7, 7), (2, 256, 8, 28, 28), (2, 1024, 2, 7, 7))
QUICK = ((8, 1024, 14, 14), (2, 1024, 2, 7, 7))
MODES = ("forward", "train")
LAYOUTS = ("contiguous", "channels_last")
CONVOLUTIONAL = ("ema", "epsa", "mpe", "sk")  # whose floor is their convolutions
PROVIDERS = (*sorted({peer.provider for peer in PEERS}), AUTHORS, CONVS)
NOT_INSTALLED = "ImportError"
TOLERANCE = 1e-3  # of the largest value, in float32 with sums in another order


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured in one run.

    Attributes:
        module: ours.
        options: of ours, as JSON; empty for the defaults.
        shape: of the features.
        mode: "forward" or "train".
        compiled: whether by torch.compile.
        layout: "contiguous" or "channels_last".
    """

    module: str
    options: str
    shape: tuple[int, ...]
    mode: str
    compiled: bool
    layout: str

    @property
    def dims(self) -> int:
        """Spatial axes."""
        return len(self.shape) - 2

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a row that say what was measured."""
        return {
            "module": self.module,
            "options": self.options,
            "shape": "x".join(map(str, self.shape)),
            "mode": self.mode,
            "compiled": self.compiled,
            "layout": self.layout,
        }

    def missing(self, kept: Kept[ModuleRow], wanted: Sequence[str] = PROVIDERS) -> bool:
        """Whether it is still to be measured.

        Args:
            kept: what was measured.
            wanted: beside whom.
        """
        rows = kept.of(tuple(self.columns.values()))
        if any(row.note.startswith(SKIPPED) for row in rows):
            return False
        # What can be different next time: a library is installed, a module of ours is mended.
        again = [row for row in rows if NOT_INSTALLED in row.note or (row.provider == OURS and row.wall_ms is None)]
        there = {row.provider for row in rows if row not in again}
        return not there.issuperset(self.providers(wanted))

    def providers(self, wanted: Sequence[str] = PROVIDERS) -> list[str]:
        """Who is measured beside ours.

        Args:
            wanted: of PROVIDERS.
        """
        options = json.loads(self.options or "{}")
        there = [p.provider for p in PEERS if p.module == self.module and p.options == options and self.dims in p.dims]
        if not options and self.module in FORMULATIONS:
            there.append(AUTHORS)
        if not options and self.module in CONVOLUTIONAL:
            there.append(CONVS)
        return [COPY, OURS, *(name for name in there if name in wanted)]


def cases(
    modules: Sequence[str] = (),
    shapes: Iterable[tuple[int, ...]] = SHAPES,
    modes: Sequence[str] = MODES,
    compiled: Sequence[bool] = (False,),
    layouts: Sequence[str] = LAYOUTS,
    providers: Sequence[str] = PROVIDERS,
) -> Iterator[Case]:
    """What there is to measure: each module with its defaults, and with the options that make it a peer's.

    Args:
        modules: names; all if there are none.
        shapes: (N, C, *spatial).
        modes: of MODES.
        compiled: without and with torch.compile.
        layouts: of LAYOUTS.
        providers: beside whom; options that only others have are left out.

    Raises:
        ValueError: an unknown module.

    >>> [case.options for case in cases(["se"], [(1, 64, 7, 7)], ["train"], layouts=["contiguous"])]
    ['', '{"bias": true}']
    """
    names = [spec(name).name for name in modules] or list_modules()
    for shape in shapes:
        for name in names:
            if len(shape) - 2 not in spec(name).dims:
                continue
            peers = [p for p in PEERS if p.module == name and p.provider in providers and len(shape) - 2 in p.dims]
            for options in dict.fromkeys(["", *(json.dumps(p.options) if p.options else "" for p in peers)]):
                for by_compiler in compiled:
                    for mode in modes:
                        for layout in layouts:
                            yield Case(name, options, tuple(shape), mode, by_compiler, layout)


def measure_modules(
    wanted: Iterable[Case],
    providers: Sequence[str] = PROVIDERS,
    effort: Effort = Effort(),  # noqa: B008
) -> Iterator[list[ModuleRow]]:
    """Measure cases, one after the other.

    Args:
        wanted: the cases.
        providers: beside whom.
        effort: how long each is timed.

    Yields:
        The rows of one case.

    >>> case = Case("se", "", (1, 16, 4, 4), "forward", False, "contiguous")
    >>> (rows,) = measure_modules([case], (), Effort(3, 0.001))
    >>> [(row.provider, row.relation) for row in rows]
    [('copy', 'floor'), ('attnzoo', 'ours')]
    """
    for case in wanted:
        yield _measure(case, case.providers(providers), effort)


class Copy(nn.Module):
    """The floor: x times a constant of each channel, which reads x once and writes as much.

    Args:
        channels: C.
        spatial_dims: the number of spatial axes.
    """

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.c: Tensor
        self.register_buffer("c", torch.rand(1, channels, *(1,) * spatial_dims) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Scale features x (N, C, *spatial)."""
        return x * self.c


class _Entry:
    """One provider in one case: what is called, again and again."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor], case: Case, provider: str) -> None:
        self.training = case.mode == "train"
        self.module = module.train(self.training)
        for parameter in module.parameters():
            if parameter.ndim == case.dims + 2:  # a peer may have kernels of another dimension
                parameter.data = parameter.data.contiguous(memory_format=memory_format(case.layout, case.dims))
        self.run: Any = self.module
        if case.compiled and provider != CONVS:
            self.run = torch.compile(self.module, dynamic=False, fullgraph=provider == OURS)
        self.inputs = [x.detach().requires_grad_(self.training) for x in inputs]
        self.leaves = [*self.inputs, *(p for p in module.parameters() if p.requires_grad)]
        self.gradients: list[Tensor] = []

    def __call__(self) -> list[Tensor]:
        """Outputs of forward, after which in training the gradients are worked out."""
        if not self.training:
            with torch.no_grad():
                return _as_list(self.run(*self.inputs))
        outputs = _as_list(self.run(*self.inputs))
        if not self.gradients:
            self.gradients = [torch.randn_like(y) for y in outputs]
        torch.autograd.grad(outputs, self.leaves, self.gradients, allow_unused=True)
        return [y.detach() for y in outputs]

    def saved(self) -> int | None:
        return saved_bytes(self.run, *self.inputs) if self.training else None


def _as_list(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def memory_format(layout: str, dims: int) -> torch.memory_format:
    """That of a layout's name.

    Args:
        layout: "contiguous" or "channels_last".
        dims: spatial axes.
    """
    if layout == "contiguous":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def _away(module: nn.Module) -> nn.Module:
    """With weights away from their neutral start, at which modules that differ could agree."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def _made(case: Case, provider: str, ours: nn.Module, x: Tensor) -> tuple[nn.Module, Sequence[Tensor], str]:
    """The module of a provider, its inputs and its relation to ours."""
    channels, options = case.shape[1], json.loads(case.options or "{}")
    if provider == COPY:
        return Copy(channels, case.dims), [x], "floor"
    if provider == OURS:
        return ours, [x], "ours"
    if provider == AUTHORS:
        return AsWritten(case.module, ours), [x], "equal"
    if provider == CONVS:
        # Those of the definition, of which a fast form may have fewer.
        alone = Convolutions(AsWritten(case.module, ours) if case.module in FORMULATIONS else ours, x)
        return alone, alone.inputs, "its convolutions alone"
    (peer,) = (p for p in PEERS if (p.provider, p.module, p.options) == (provider, case.module, options))
    relation = f"similar ({peer.similar})" if peer.similar else "equal"
    return peer.make(ours, channels, case.dims), [x], relation


def _measure(case: Case, providers: Sequence[str], effort: Effort) -> list[ModuleRow]:
    torch.manual_seed(0)
    torch.compiler.reset()  # of too many shapes the compiler would make one graph for all, or none
    common = {**case.columns, "dims": case.dims, **here()}
    try:
        ours = _away(create(case.module, case.shape[1], spatial_dims=case.dims, **json.loads(case.options or "{}")))
    except ValueError as error:  # the defaults do not fit the width
        return [ModuleRow(**common, provider=OURS, relation="ours", note=skipped(error))]
    x = torch.randn(case.shape).to(memory_format=memory_format(case.layout, case.dims))
    entries: dict[str, _Entry] = {}
    found: dict[str, dict[str, Any]] = {}
    expected: list[Tensor] = []
    slow: set[str] = set()
    for provider in sorted(providers, key=lambda name: name != OURS):  # ours first: the others are held against it
        about: dict[str, Any] = {"relation": "ours" if provider == OURS else "-"}
        found[provider] = about
        try:
            module, inputs, about["relation"] = _made(case, provider, ours, x)
            entry = _Entry(module, inputs, case, provider)
            start = time.perf_counter()
            outputs = entry()
            first = time.perf_counter() - start
            about["compile_s"] = first if entry.run is not entry.module else None
            if about["compile_s"] is None and first > 10 * effort.sample:
                slow.add(provider)
            about["saved_bytes"] = entry.saved()
        except Exception as error:  # a peer that fails is a row that says so
            about["note"] = failed(error)
            continue
        entries[provider] = entry
        if provider == OURS:
            expected = outputs
        elif about["relation"] == "equal" and expected:
            deviation = float((outputs[0] - expected[0]).abs().max() / expected[0].abs().max())
            if not deviation < TOLERANCE:
                about["relation"] = f"differs by {deviation:.1g} of the largest value"
    times = alternate(entries, effort, slow)
    rows = []
    for provider in providers:
        about = found[provider]
        if provider in times:
            timing = times[provider]
            about |= {"wall_ms": timing.wall, "cpu_ms": timing.cpu, "thread_ms": timing.thread}
            about |= {"rounds": timing.rounds, "repeats": timing.repeats}
            for name, other in (("to_copy", COPY), ("to_ours", OURS)):
                about[name] = timing.wall / times[other].wall if other in times else None
            if about["saved_bytes"] is not None:
                about["saved_to_x"] = about["saved_bytes"] / (x.numel() * x.element_size())
        rows.append(ModuleRow(**common, provider=provider, **about))
    return rows
