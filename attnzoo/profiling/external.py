"""The real fvcore and thop, run in a process of their own.

Both leave traces in a model and in the process: thop its buffers and, after an error, hooks; fvcore hooks and moved
batch-norm statistics. The other process gets the model without its weights, which no counter looks at, and can crash
or hang without harm.
"""

import faulthandler
import importlib.metadata
import io
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from attnzoo.profiling.inputs import Size, Sizes, reason, sizes_of

Tool = Literal["fvcore", "thop"]
TOOLS: tuple[str, ...] = get_args(Tool)

PARAMS = "parameters"  # among the shares of thop

Job = tuple[str, bytes, Sizes]  # tool, the pickled model, sizes of its inputs


@dataclass(frozen=True, slots=True)
class External:
    """What a tool said of a model.

    Attributes:
        tool: "fvcore" or "thop".
        version: of the tool, as installed.
        params: number of parameters.
        flops: in the tool's own convention.
        error: why there is no number, in one line; empty if there is.
        shares: the part of each submodule without its children, by its path and by what the tool names there.
    """

    tool: str
    version: str
    params: int = 0
    flops: int = 0
    error: str = ""
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict, repr=False)


def measure(tool: Tool, model: nn.Module, input_size: Size = (1, 3, 224, 224), *, timeout: float = 300.0) -> External:
    """Parameters and FLOPs of a model in eval mode, as a tool itself counts them; see `measure_all`.

    Args:
        tool: "fvcore" or "thop".
        model: any module that can be pickled.
        input_size: (N, C, *spatial), or one such size for each input.
        timeout: seconds.

    Raises:
        ValueError: an unknown tool.

    >>> measure("thop", nn.Sequential(nn.Conv2d(3, 8, 1)), (1, 3, 10, 10)).flops
    2400
    """
    return measure_all([tool], [model], [input_size], timeout=timeout)[0][tool]


def measure_all(
    tools: Sequence[str], models: Sequence[nn.Module], input_sizes: Sequence[Size], *, timeout: float = 300.0
) -> list[dict[str, External]]:
    """The same of several models, in one process that imports torch once.

    The models stay as they are, whatever happens: an error, a crash or a hang of a tool is its `External.error`.

    Args:
        tools: "fvcore", "thop" or both.
        models: modules that can be pickled, on any device, the meta device too.
        input_sizes: for each model (N, C, *spatial), or one such size for each of its inputs.
        timeout: seconds for one tool and one model.

    Returns:
        For each model what each tool said.

    Raises:
        ValueError: an unknown tool, an input size that is none, or another number of sizes than of models.

    >>> two = measure_all(["fvcore"], [nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 2)], [(1, 3, 4, 4), (1, 3, 5)])
    >>> two[0]["fvcore"].flops, bool(two[1]["fvcore"].error)
    (384, True)
    """
    for tool in tools:
        if tool not in TOOLS:
            raise ValueError(f"tool {tool!r} must be one of {', '.join(TOOLS)}")
    found: list[dict[str, External]] = [{} for _ in models]
    waiting: list[tuple[int, Job]] = []
    for i, (model, size) in enumerate(zip(models, input_sizes, strict=True)):
        try:
            packed = pack(model)
        except Exception as error:  # a model may raise anything while it is pickled
            found[i] = {tool: _failed(tool, reason(error)) for tool in tools}
        else:
            waiting += [(i, (tool, packed, sizes_of(size))) for tool in tools]
    while waiting:
        results = _run([job for _, job in waiting], timeout)
        for (i, (tool, _, _)), result in zip(waiting, results, strict=False):
            found[i][tool] = result
        waiting = waiting[len(results) :]
    return found


def _failed(tool: str, error: str) -> External:
    return External(tool, _version(tool), error=error)


def _version(tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class _Pickler(pickle.Pickler):
    """Leaves the weights out: 130 kB for a ResNet-101. Indices stay, a network may look something up by them."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            if obj.is_floating_point() or obj.is_complex() or obj.is_meta:
                return _zeros, (tuple(obj.shape), obj.dtype, isinstance(obj, nn.Parameter))
            return obj.detach().cpu().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if type(obj).__module__ == "__main__":
            raise pickle.PicklingError(f"{type(obj).__name__} must be in a module that another process can import")
        return NotImplemented


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, parameter: bool) -> Tensor:
    zeros = torch.zeros(shape, dtype=dtype)
    return nn.Parameter(zeros, requires_grad=False) if parameter else zeros


def pack(model: nn.Module) -> bytes:
    """A model without its weights, as bytes; unpickled it has zeros, on the default device.

    Args:
        model: any that can be pickled.

    >>> len(pack(nn.Linear(10_000, 10_000))) < 2_000
    True
    """
    packed = io.BytesIO()
    _Pickler(packed).dump(model)
    return packed.getvalue()


def _run(jobs: list[Job], timeout: float) -> list[External]:
    """The results of the first jobs, at least of one: if the process dies, the job that it was at has failed."""
    # Not multiprocessing, which would run the caller's script a second time.
    child = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", f"from {__name__} import _serve; _serve()"],
        input=pickle.dumps((timeout, jobs)),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    results = [External(**json.loads(line)) for line in child.stdout.splitlines()]
    if len(results) < len(jobs):
        said = child.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {child.returncode}"]
        if any(line.startswith("Timeout (") for line in said):  # of faulthandler
            why = f"no result in {timeout:g} s"
        else:
            why = f"it died of {signal.Signals(-child.returncode).name}" if child.returncode < 0 else said[-1]
        results.append(_failed(jobs[len(results)][0], why))
    return results


def _serve() -> None:
    """The other process: counts the models that come through its standard input, and answers in lines of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a tool may print
    logging.disable()
    timeout, jobs = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own bytes
    for tool, packed, sizes in jobs:
        faulthandler.dump_traceback_later(timeout, exit=True)
        try:
            model = pickle.loads(packed).eval()  # noqa: S301
            inputs = tuple(torch.zeros(size) for size in sizes)
            with torch.no_grad():
                result = {"fvcore": _fvcore, "thop": _thop}[tool](model, inputs)
        except Exception as error:  # a tool or a model may raise anything
            result = _failed(tool, reason(error))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(asdict(result)), file=answers, flush=True)


def _fvcore(model: nn.Module, inputs: tuple[Tensor, ...]) -> External:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    flops = FlopCountAnalysis(model, inputs).by_module_and_operator()
    shares = {path: Counter(ops) for path, ops in flops.items()}
    total = int(flops[""].total())
    for path, ops in flops.items():
        if path:
            shares[path.rpartition(".")[0]].subtract(ops)
    own = {path: {op: int(n) for op, n in ops.items() if n} for path, ops in shares.items()}
    return External("fvcore", _version("fvcore"), parameter_count(model)[""], total, shares=own)


def _thop(model: nn.Module, inputs: tuple[Tensor, ...]) -> External:
    import thop

    flops, params, layers = thop.profile(model, inputs, verbose=False, ret_layer_info=True)
    shares = dict(_thop_shares("", flops, params, layers))
    return External("thop", _version("thop"), int(params), int(flops), shares=shares)


def _thop_shares(
    path: str, flops: float, params: float, layers: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, int]]]:
    for name, layer in layers.items():
        yield from _thop_shares(f"{path}.{name}" if path else name, *layer)
        flops, params = flops - layer[0], params - layer[1]
    yield path, {"forward": int(flops), PARAMS: int(params)}
