"""The promises themselves; each raises if a module does not keep it."""

import copy
import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnzoo import nd
from attnzoo.contract.runner import CHANNELS_LAST, SIZES, Broken, Skipped, Subject, must, promise, same
from attnzoo.extras import need
from attnzoo.registry import create, spec


@promise("keeps the shape of any features, in eval and training")
def _keeps_the_shape(subject: Subject) -> None:
    module = subject.module()
    for training in (False, True):
        module.train(training)
        # In training a norm of pooled features needs two samples.
        for size in SIZES[subject.spatial_dims]:
            x = subject.features(2 if training else 1, size)
            with torch.no_grad():
                y = module(x)
            must(y.shape == x.shape, f"{tuple(x.shape)} became {tuple(y.shape)}")
            must(y.dtype == x.dtype, f"{x.dtype} became {y.dtype}")
            must(bool(y.isfinite().all()), f"not finite for {tuple(x.shape)}, training={training}")


@promise("takes an empty batch in eval")
def _takes_an_empty_batch(subject: Subject) -> None:
    module = subject.module()
    for size in SIZES[subject.spatial_dims]:
        x = subject.features(0, size)
        must(module(x).shape == x.shape, f"{tuple(x.shape)} became {tuple(module(x).shape)}")


@promise("does not write into its input")
def _leaves_the_input_alone(subject: Subject) -> None:
    for training in (False, True):
        x = subject.features()
        before = x.clone()
        subject.module().train(training)(x)
        must(torch.equal(x, before), f"the input changed, training={training}")


@promise("samples do not see each other in eval")
def _samples_are_independent(subject: Subject) -> None:
    module, x = subject.module().double(), subject.features(3, dtype=torch.float64)
    alone = torch.cat([module(sample) for sample in x.split(1)])
    same(module(x), alone, 1e-12, "three samples together and one by one")


@promise("registers all its parameters, buffers and modules")
def _registers_everything(subject: Subject) -> None:
    module, x = subject.module(), subject.features()
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                where = f"{path}.{attribute}".lstrip(".")
                hidden = [type(v).__name__ for v in tree_leaves(value) if isinstance(v, Tensor | nn.Module)]
                must(not hidden, f"{where} hides a {hidden[:1]}: make it a Parameter, register_buffer or ModuleList")
    known = {id(parameter) for parameter in module.parameters()}
    for leaf in _leaves(module(x)):
        must(id(leaf) in known, f"the output depends on a parameter {tuple(leaf.shape)} that is not registered")


def _leaves(y: Tensor) -> Iterator[Tensor]:
    """The tensors that the gradient of y would be accumulated in."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):
                yield node.variable


@promise("every parameter gets a gradient")
def _every_parameter_gets_a_gradient(subject: Subject) -> None:
    module = subject.module()
    for training in (False, True):
        x = subject.features().requires_grad_()
        module.train(training).zero_grad()
        (module(x) * subject.features(seed=2)).sum().backward()
        _finite_gradients(module, x)
        gradients = [float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None]
        must(not gradients or sum(gradients) > 0, f"all gradients are zero, training={training}")


def _finite_gradients(module: nn.Module, x: Tensor) -> None:
    for key, value in [("the input", x), *module.named_parameters()]:
        must(value.grad is not None, f"{key} gets no gradient")
        must(value.grad is None or bool(value.grad.isfinite().all()), f"the gradient of {key} is not finite")


@promise("its derivatives are those of finite differences")
def _derivatives_are_right(subject: Subject) -> None:
    module = subject.module().double()
    values = dict(module.named_parameters())

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(values, parameters, strict=True)), x)  # type: ignore[no-any-return]

    x = subject.features(2, (2, 1, 3)[-subject.spatial_dims :], torch.float64).requires_grad_()
    torch.autograd.gradcheck(forward, (x, *values.values()), fast_mode=True)


@promise("state dict, deepcopy and pickle carry everything")
def _copies_are_equal(subject: Subject) -> None:
    module, x, fresh = subject.module(), subject.features(), subject.fresh()
    fresh.load_state_dict(module.state_dict(), strict=True)
    copies = {
        "load_state_dict": fresh,
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),  # noqa: S301  # our own bytes
    }
    for way, other in copies.items():
        must(torch.equal(other(x), module(x)), f"another output after {way}")
        must(list(other.state_dict()) == list(module.state_dict()), f"other keys after {way}")


@promise("takes features of any strides")
def _takes_any_strides(subject: Subject) -> None:
    module, x = subject.module().double(), subject.features(dtype=torch.float64)
    same(module(x.transpose(0, -1).contiguous().transpose(0, -1)), module(x), 1e-10, "other strides")


@promise("takes and keeps channels_last", lambda subject: subject.spatial_dims in CHANNELS_LAST)
def _keeps_channels_last(subject: Subject) -> None:
    module, x, layout = subject.module(), subject.features(), CHANNELS_LAST[subject.spatial_dims]
    y, last = module(x), x.contiguous(memory_format=layout)
    for weights in ("contiguous", "channels_last"):
        for training in (False, True):
            kept = module.train(training)(last).is_contiguous(memory_format=layout)
            must(kept, f"a channels_last input gives another layout, {weights} weights, training={training}")
        module = subject.module().to(memory_format=layout)
        same(module(last), y, 1e-5, f"{weights} weights")


@promise("runs in mixed precision, bfloat16 and float16")
def _runs_in_mixed_precision(subject: Subject) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        module, x = subject.module().train(), subject.features().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            y = module(x)
        y.float().sum().backward()
        _finite_gradients(module, x)
        same(y.float(), subject.module().train()(x), 0.2, f"{dtype} autocast")


@promise("runs in bfloat16 and float64")
def _runs_in_other_precisions(subject: Subject) -> None:
    y = subject.module()(subject.features())
    for dtype, tolerance in ((torch.bfloat16, 0.2), (torch.float64, 1e-4)):
        other = subject.module().to(dtype)(subject.features().to(dtype))
        must(other.dtype == dtype, f"{dtype} became {other.dtype}")
        same(other.to(y.dtype), y, tolerance, str(dtype))


class _Elsewhere(TorchDispatchMode):
    """Collects the operators that touch a tensor which is not on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(v, Tensor) and not v.is_meta for v in tree_leaves((args, kwargs, out))):
            self.operators.append(str(func))
        return out


@promise("is made and runs on whatever device, here meta")
def _stays_on_its_device(subject: Subject) -> None:
    with torch.device("meta"):
        module, x = subject.fresh(), subject.features(0).new_empty(2, *subject.features().shape[1:], device="meta")
    for key, value in module.state_dict().items():
        must(value.is_meta, f"{key} is made on {value.device}, whatever the default device is")
    for training in (False, True):
        with _Elsewhere() as elsewhere:
            y = module.train(training)(x)
        must(not elsewhere.operators, f"{', '.join(elsewhere.operators)} used a tensor of another device")
        must(y.is_meta and y.shape == x.shape, f"{tuple(x.shape)} on meta became {tuple(y.shape)} on {y.device}")


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


@promise("compiles into one graph")
def _compiles(subject: Subject) -> None:
    module, x = subject.module(), subject.features()
    with _quiet(), _fresh_compiler():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        same(compiled(x), module(x), 1e-6, "compiled")


@promise("torch.export with any batch")
def _exports(subject: Subject) -> None:
    module = subject.module()
    dynamic = ({0: torch.export.Dim("batch")},)
    with _quiet():
        program = torch.export.export(module, (subject.features(),), dynamic_shapes=dynamic).module()
    for batch in (2, 5):
        x = subject.features(batch)
        same(program(x), module(x), 1e-6, f"exported, batch {batch}")


@promise("torch.fx traces a network that holds it")
def _fx_traces(subject: Subject) -> None:
    norm, x = nd.batch_norm(subject.spatial_dims)(subject.channels), subject.features()
    network = nn.Sequential(norm, subject.module(), nn.ReLU()).eval()
    try:
        traced = torch.fx.symbolic_trace(network)
    except Exception:
        if isinstance(network[1], nd.Attention):
            raise
        raise Skipped(
            "torch.fx looks into a plain nn.Module and cannot follow this one; nd.Attention is one node"
        ) from None
    same(traced(x), network(x), 1e-6, "traced")


@promise("ONNX with any batch, equal in onnxruntime")
def _exports_to_onnx(subject: Subject) -> None:
    try:
        need("onnx", "onnx", "onnxscript", "onnxruntime")
    except ImportError as missing:
        raise Skipped(str(missing)) from None
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    module = subject.module()
    dynamic = ({0: torch.export.Dim("batch")},)
    with _quiet():
        program = torch.onnx.export(
            module, (subject.features(),), dynamo=True, dynamic_shapes=dynamic, verbose=False, optimize=True
        )
        must(program is not None, "the exporter gives nothing")
        model = program.model_proto.SerializeToString()  # type: ignore[union-attr]  # see above
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for batch in (2, 5):
        x = subject.features(batch)
        (y,) = session.run(None, {entry.name: x.numpy()})
        same(torch.from_numpy(y), module(x).detach(), 1e-4, f"onnxruntime, batch {batch}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what compiler and exporters say of themselves: warnings, graphs, a log line per operator set."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _knows_its_features(subject: Subject) -> bool:
    """Whether a module has told the base class what it was made for; a plain nn.Module answers for itself."""
    module = subject.fresh()
    return isinstance(module, nd.Attention) and module.channels is not None


@promise("refuses other features in one line that shows them", _knows_its_features)
def _refuses_other_features(subject: Subject) -> None:
    channels, dims = subject.channels, subject.spatial_dims
    for size in ((2, channels + 1, *(4,) * dims), (2, channels, *(4,) * (dims - 1)), (2, channels, *(4,) * (dims + 1))):
        try:
            subject.module()(torch.zeros(size))
        except ValueError as error:
            told = str(error)
            clear = str(size) in told and str(channels) in told and "\n" not in told
            must(clear, f"the error for {size} is not one line with {size} and {channels}: {told}")
        except Exception as error:
            raise Broken(f"{size} gives a {type(error).__name__}, not a ValueError that shows it: {error}") from error
        else:
            raise Broken(f"takes {size} though it was made for {channels} channels and {dims} spatial axes")


@promise("refuses channels that are none", _knows_its_features)
def _refuses_no_channels(subject: Subject) -> None:
    for channels in (0, -8):
        try:
            create(subject.name, channels, spatial_dims=subject.spatial_dims, **subject.options)
        except ValueError as error:
            must(f"={channels} " in str(error), f"the error does not show channels={channels}: {error}")
        else:
            raise Broken(f"takes channels={channels}")


@promise("its gate is what multiplies the input", lambda subject: issubclass(spec(subject.name).cls, nd.Gate))
def _gate_multiplies(subject: Subject) -> None:
    module, x = subject.module().double(), subject.features(dtype=torch.float64)
    gate = module.gate(x)  # type: ignore[operator]  # it is an nd.Gate
    fits = gate.ndim == x.ndim and all(g in (1, s) for g, s in zip(gate.shape[2:], x.shape[2:], strict=True))
    must(fits and x.shape[1] % gate.shape[1] == 0, f"gate {tuple(gate.shape)} does not fit {tuple(x.shape)}")
    spread = gate.repeat_interleave(x.shape[1] // gate.shape[1], 1)
    same(module(x), x * spread, 1e-12, "output and input * gate")


@promise("has the output of the convolution it replaces", lambda subject: spec(subject.name).site == "conv")
def _replaces_a_convolution(subject: Subject) -> None:
    channels, dims = subject.channels, subject.spatial_dims
    for stride in (1, 2, (2, 1, 3)[:dims]):
        module = subject.module(out_channels=channels, stride=stride)
        for size in SIZES[dims]:
            x = subject.features(1, size)
            y, shape = module(x), nd.conv(dims)(channels, channels, 3, stride, 1)(x).shape
            must(y.shape == shape, f"stride {stride}: {tuple(x.shape)} became {tuple(y.shape)}, not {tuple(shape)}")
