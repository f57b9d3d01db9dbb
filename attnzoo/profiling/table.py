"""The cost of networks with each attention, beside the plain one."""

import contextlib
import functools
import itertools
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from attnzoo.inject import attentions, inject
from attnzoo.profiling.cost import COUNTERS, Cost, Counter
from attnzoo.profiling.counter import profile
from attnzoo.profiling.inputs import Size
from attnzoo.profiling.latency import time_forward
from attnzoo.profiling.twin import twin, uncollected
from attnzoo.registry import spec

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention to put into a network.

    Attributes:
        name: of the module.
        options: its own.
        site: where in the blocks; the module's own if None.
        stages: which stages; all if None.
        label: what it is called; its name and options if None.
        identity: whether it starts as an exact identity, which takes a parameter of its own.
        spatial_dims: 2 for attention to each frame of a 3D network on its own; that of the network if None.

    >>> Attention("mpe", {"groups": 4}).title
    'mpe:groups=4'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    site: str | None = None
    stages: Sequence[int] | None = None
    label: str | None = None
    identity: bool = False
    spatial_dims: int | None = None

    @property
    def written(self) -> str:
        """The options as on the command line."""
        return ",".join(f"{k}={_written(v)}" for k, v in self.options.items())

    @property
    def title(self) -> str:
        """What it is called."""
        return self.label or self.name + (f":{self.written}" if self.options else "")

    def put_into(self, network: nn.Module) -> nn.Module:
        """A copy of a network with it.

        Args:
            network: left as it is.

        Raises:
            ValueError: an unknown module, site or stage, or a width that does not fit the options.
            TypeError: an unknown option.
        """
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        # On the meta device attention costs neither memory nor the time to draw its weights.
        with device, uncollected():
            return inject(
                twin(network, str(device)),
                self.name,
                site=self.site,
                stages=self.stages,
                identity=self.identity,
                spatial_dims=self.spatial_dims,
                **self.options,
            )


def _written(value: object) -> str:
    """A value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One network of a table.

    Attributes:
        attn: label of the attention, "none" for the plain network.
        site: where it goes, "-" for the plain network.
        places: how many attention modules the network has.
        cost: of the whole network; None where the attention does not fit.
        options: of the attention, as on the command line.
        misfit: why it does not fit.
        latency: median time of a forward pass on this machine, s, if it was measured.
    """

    attn: str
    site: str
    places: int
    cost: Cost | None
    options: str = ""
    misfit: str = ""
    latency: float | None = None


def compare(
    network: nn.Module,
    attns: Iterable[Attention],
    *,
    input_size: Size | None = None,
    counter: Counter = "fvcore",
    skip_misfits: bool = False,
    latency: bool = False,
    label: str | None = None,
) -> Iterator[Row]:
    """Cost of a network, plain and then with each attention, one at a time.

    Args:
        network: the plain one; on the meta device it costs no memory. It is left as it is.
        attns: what goes into it.
        input_size: (N, C, *spatial), or one such size for each input; that of `default_size` if None.
        counter: the convention of the FLOPs.
        skip_misfits: whether attention that does not fit is a row that says so, instead of an error.
        latency: measure it, on this machine; the network must then be a real one.
        label: what the plain network is called; "none" if None, or "its own" where it comes with attention.

    Raises:
        ValueError: what `Attention.put_into` and `profile` raise.
        TypeError: an unknown option.

    >>> from attnzoo import create_backbone
    >>> with torch.device("meta"):
    ...     network = create_backbone("timm/resnet18")
    >>> [row.cost.params for row in compare(network, [Attention("se", {"reduction": 8})])]
    [11689512, 11863592]
    """
    for attn in (None, *attns):
        row = _row(network, attn, input_size, counter, skip_misfits, latency)
        yield replace(row, attn=label) if label and attn is None else row


def _row(
    network: nn.Module,
    attn: Attention | None,
    input_size: Size | None,
    counter: Counter,
    skip_misfits: bool,
    latency: bool = False,
) -> Row:
    """Of a network with attention, or plain."""
    size = default_size(network) if input_size is None else input_size
    site = (attn.site or spec(attn.name).site) if attn else "-"
    try:
        model = attn.put_into(network) if attn else network
        cost = profile(model, size, counter=counter)
    except ValueError as error:
        if attn is None or not skip_misfits:
            raise
        return Row(attn.title, site, 0, None, attn.written, misfit=str(error))
    seconds = time_forward(model, size) if latency else None
    places = len(attentions(model))
    if attn is None:
        return Row("its own" if places else "none", site, places, cost, latency=seconds)
    return Row(attn.title, site, places, cost, attn.written, latency=seconds)


def compare_all(
    networks: Sequence[tuple[Callable[[], nn.Module], Size | None]],
    attns: Sequence[Attention],
    *,
    counter: Counter = "fvcore",
    latency: bool = False,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> Iterator[list[Row]]:
    """`compare` for several networks; attention that does not fit is a row that says so.

    Args:
        networks: what makes each, and its input size. With several workers it must be importable.
        attns: what goes into each.
        counter: the convention of the FLOPs.
        latency: measure it, in this process alone.
        workers: processes.
        progress: called with the number of rows that are done and of all.

    Raises:
        ValueError: a network that does not take its input.

    >>> from torchvision.models import resnet18
    >>> [[row.attn for row in rows] for rows in compare_all([(resnet18, None)], [Attention("sa")])]
    [['none', 'sa']]
    """
    total, done = len(networks) * (1 + len(attns)), itertools.count(1)

    def gathered(rows: Iterable[Row]) -> list[Row]:
        kept = []
        for row in rows:
            kept.append(row)
            progress(next(done), total)
        return kept

    if workers == 1 or latency:
        for build, size in networks:
            options: dict[str, Any] = {"input_size": size, "counter": counter, "latency": latency}
            yield gathered(compare(build(), attns, skip_misfits=True, **options))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        others = multiprocessing.active_children()
        with _deaf():
            futures = [
                [pool.submit(_alone, pickle.dumps(build), attn, size, counter) for attn in (None, *attns)]
                for build, size in networks
            ]
        try:
            for rows in futures:
                yield gathered(row.result() for row in rows)
        except BaseException:  # an error, or Ctrl-C: nobody waits for the rest
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started inside does not hear Ctrl-C: this process hears it, and ends the others without a word."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _alone(pickled: bytes, attn: Attention | None, size: Size | None, counter: Counter) -> Row:
    """A row in a process of its own, which builds each network once."""
    return _row(_built(pickled), attn, size, counter, skip_misfits=True)


@functools.cache
def _built(pickled: bytes) -> nn.Module:
    network: nn.Module = pickle.loads(pickled)()  # noqa: S301  # our own bytes
    return network


def counters_of(text: str) -> list[Counter]:
    """Counters as written on the command line, each once.

    Args:
        text: names with commas between them.

    Raises:
        ValueError: an unknown one.

    >>> counters_of("fvcore,thop")
    ['fvcore', 'thop']
    """
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in COUNTERS:
            raise ValueError(f"counter {name!r} must be one of {', '.join(COUNTERS)}, or several with commas between")
    return cast(list[Counter], names)


def default_size(network: nn.Module) -> tuple[int, ...]:
    """The usual input of a network: 1 x 3 x 224 x 224, or 1 x 3 x 16 x 112 x 112 for a 3D one.

    Args:
        network: any.

    >>> default_size(nn.Conv3d(3, 8, 3))
    (1, 3, 16, 112, 112)
    """
    return (1, 3, 16, 112, 112) if any(isinstance(m, nn.Conv3d) for m in network.modules()) else (1, 3, 224, 224)
