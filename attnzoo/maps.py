"""What a network looks at: the gates of its attention, the weights of branches, the class activation.

Any network, in 2D or 3D. It runs in eval mode and is left as it was: modes, gradients, random numbers, no hook stays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from attnzoo import nd
from attnzoo.inject import Attached, Replaced, attentions
from attnzoo.registry import list_modules, spec

T = TypeVar("T")
Kind = Literal["gate", "gain", "energy"]
Target = int | Tensor | Callable[[Any], Tensor]
METHODS = ("hirescam", "gradcam")
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True)
class GateMap:
    """How one attention module treats each position.

    Attributes:
        kind: what the values are. "gate": by which x is multiplied, the mean over channels. "gain": of attention that
            is not of the form x * gate, the norm over channels of its output by that of its input. "energy": of
            attention in place of a convolution, whose output has other channels than its input, the root mean square
            over channels of the output.
        values: (N, *spatial).

    >>> GateMap("gate", torch.ones(2, 7, 7)).kind
    'gate'
    """

    kind: Kind
    values: Tensor


def gate_maps(model: nn.Module, *inputs: Any) -> dict[str, GateMap]:
    """Where the attention of a network opens and closes.

    Args:
        model: any network.
        *inputs: of its forward.

    Returns:
        For each attention module, by its state-dict prefix, its map at its own resolution. N is the batch that it sees;
        that of one called several times is all its batches in order.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> from attnzoo.inject import inject
    >>> net = inject(resnet3d(10, widen_factor=0.25), "mpe", stages=(4,))
    >>> {path: (m.kind, m.values.shape) for path, m in gate_maps(net, torch.rand(2, 3, 16, 32, 32)).items()}
    {'layer4.0.conv2.attn': ('gate', torch.Size([2, 1, 1, 1]))}
    """
    found = _record(model, inputs, attentions(model), _gate_map)
    return {path: GateMap(seen[0].kind, torch.cat([m.values for m in seen])) for path, seen in found.items()}


def branch_weights(model: nn.Module, *inputs: Any) -> dict[str, tuple[tuple[str, ...], Tensor]]:
    """How attention with parallel branches, such as MPE's dilations, weighs them against each other.

    Args:
        model: any network.
        *inputs: of its forward.

    Returns:
        For each attention module that weighs branches, by its state-dict prefix, their names and their weights
        (N, branches), averaged over channels or groups; each row sums to 1. N is as in `gate_maps`.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> from attnzoo.inject import inject
    >>> net = inject(resnet3d(10, widen_factor=0.25), "mpe", stages=(4,), fusion="mean")
    >>> names, weights = branch_weights(net, torch.rand(1, 3, 16, 32, 32))["layer4.0.conv2.attn"]
    >>> names, weights.mul(3).tolist()
    (('dilation 1', 'dilation 3', 'dilation 5'), [[1.0, 1.0, 1.0]])
    """
    weighing = {path: module for path, module in attentions(model).items() if _branch_names(module)}
    found = _record(model, inputs, weighing, lambda module, x, _: _branch_weights(module, x))
    return {path: (_branch_names(weighing[path]), torch.cat(seen)) for path, seen in found.items()}


def activation_map(
    model: nn.Module,
    inputs: Sequence[Any],
    target: Target,
    layer: str | nn.Module,
    *,
    method: Literal["hirescam", "gradcam"] = "hirescam",
) -> Tensor:
    """Where a layer's features speak for a class: its class activation.

    ReLU(sum_c G_c A_c) with A the layer's output and G the score's gradient to it (HiResCAM, Draelos and Carin, 2020,
    https://arxiv.org/abs/2011.08891); Grad-CAM (Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391) takes the
    mean of G_c over the positions. Where global average pooling and a linear map follow the layer, both are CAM (Zhou
    et al., 2016) but for a factor; before, where the maps are finer, the mean mixes up what speaks for and against.
    Only what follows the layer is kept for the gradient, so that frozen parts do no harm and memory and time are nearly
    those of a forward.

    Args:
        model: any network.
        inputs: of its forward.
        target: index of a class of the (N, classes) output, or one for each of the N; or a function of the output
            whose sum is the score.
        layer: a module whose output is (N, C, *spatial), or its path in the network.
        method: "hirescam" or "gradcam".

    Returns:
        (N, *spatial), none negative, at the resolution of the layer. In a 3D network the first axis is time.

    Raises:
        ValueError: no such class, layer or method, a layer that is not used exactly once or gives no maps, or on which
            the output does not depend.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> activation_map(net, [torch.rand(5, 3, 8, 8)], 1, layer="1").shape
    torch.Size([5, 6, 6])
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
    module, name = (_find(model, layer), repr(layer)) if isinstance(layer, str) else (layer, type(layer).__name__)
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Any) -> Tensor:
        """End the graph here: nothing before the layer is kept for the gradient."""
        if not isinstance(output, Tensor) or output.ndim < 3 or not output.is_floating_point():
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layer {name} gives no maps (N, C, *spatial) but {shape}; choose one before the pooling")
        with torch.enable_grad():
            leaves.append(output.detach().requires_grad_())
            return leaves[-1].clone()  # what follows may write into its input

    learning = [p for p in model.parameters() if p.requires_grad]
    with _undisturbed(model), torch.inference_mode(False), torch.enable_grad(), ExitStack() as after:
        after.callback(lambda: [p.requires_grad_() for p in learning])
        for p in learning:
            p.requires_grad_(False)
        after.callback(module.register_forward_hook(cut).remove)
        score = _score(model(*inputs), target)
        if len(leaves) != 1:
            raise ValueError(f"layer {name} is used {len(leaves)} times in a forward; choose one that is used once")
        try:
            (gradient,) = torch.autograd.grad(score, leaves[0])
        except RuntimeError:
            raise ValueError(f"the output does not depend on layer {name}, or is made without gradients") from None
    features = leaves[0].detach()
    weights = gradient.mean(nd.axes(features), keepdim=True) if method == "gradcam" else gradient
    return (weights * features).sum(1).relu().float()


def activation_layer(model: nn.Module, *inputs: Any, least: int = 7) -> str:
    """The layer to take for `activation_map`: deep, since it speaks of classes, but not too coarse to show places.

    Args:
        model: any network.
        *inputs: of its forward.
        least: positions that its maps have at least in height and width; 7 is the size in Grad-CAM's own figures.

    Returns:
        Name of the network's last child with such maps; if none has them, of the last with the largest.

    Raises:
        ValueError: no child gives maps.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> activation_layer(resnet3d(10), torch.rand(1, 3, 4, 112, 112))
    'layer3'
    """
    outputs = _record(model, inputs, dict(model.named_children()), lambda _, __, out: tuple(getattr(out, "shape", ())))
    edges = {name: min(seen[-1][-2:]) for name, seen in outputs.items() if len(seen) == 1 and len(seen[-1]) > 3}
    if not edges:
        raise ValueError(f"no child of {type(model).__name__} gives maps (N, C, ..., H, W); name a layer that does")
    enough = min(least, max(edges.values()))
    return [name for name, edge in edges.items() if edge >= enough][-1]


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, *spatial) at the resolution of the input, (N, *size), linearly interpolated.

    >>> enlarge(torch.tensor([[0.0, 1.0]]), (4,))
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    large = interpolate(maps.unsqueeze(1), tuple(size), mode=_LINEAR[maps.ndim - 1], align_corners=False)
    return large.squeeze(1)


def _gate_map(attention: nn.Module, x: Tensor, out: Tensor) -> GateMap:
    gate = _gate(attention, x)
    if gate is not None:
        return GateMap("gate", gate.clone())
    norms = [features.float().square().mean(1).sqrt() for features in (x, out)]
    replacing = tuple(spec(name).cls for name in list_modules() if spec(name).site == "conv")
    if isinstance(attention, replacing) or out.shape != x.shape:
        return GateMap("energy", norms[1])
    # Where nothing comes in, next to nothing on both sides makes the gain 1 and not 0 / 0.
    level = norms[0].square().mean(tuple(range(1, norms[0].ndim)), keepdim=True).sqrt()
    little = 1e-3 * level + 1e-6
    return GateMap("gain", (norms[1] + little) / (norms[0] + little))


def _gate(attention: nn.Module, x: Tensor) -> Tensor | None:
    """The mean over channels of a module's gate, (N, *spatial); None if it is not of the form x * gate."""
    if isinstance(attention, nd.Gate):
        mean: Tensor = attention.gate(x).float().mean(1)
        return mean.expand(x.shape[0], *x.shape[2:])
    if isinstance(attention, nd.Blend):
        gate = _gate(attention.attention, x)
        return None if gate is None else 1 + attention.alpha * (gate - 1)
    if isinstance(attention, nd.Frames):
        gate = _gate(attention.attention, x.transpose(1, 2).flatten(0, 1))
        return None if gate is None else gate.reshape(x.shape[0], x.shape[2], *gate.shape[1:])
    return None


def _branch_names(attention: nn.Module) -> tuple[str, ...]:
    if isinstance(attention, nd.Blend | nd.Frames):
        return _branch_names(attention.attention)
    return tuple(getattr(attention, "branch_names", ()))


def _branch_weights(attention: Any, x: Tensor) -> Tensor:
    if isinstance(attention, nd.Blend):
        return _branch_weights(attention.attention, x)
    if isinstance(attention, nd.Frames):
        of_frames = _branch_weights(attention.attention, x.transpose(1, 2).flatten(0, 1))
        return of_frames.reshape(x.shape[0], x.shape[2], -1).mean(1)
    weights: Tensor = attention.branch_weights(x)
    return weights.float()


def _find(model: nn.Module, path: str) -> nn.Module:
    """The module at a path as the state dict has it, without the `base` of attention put in."""
    module = model
    for name in path.split("."):
        while isinstance(module, Attached | Replaced) and not hasattr(module, name):
            module = module.base
        inside = dict(module.named_children())
        if name not in inside:
            there = ", ".join(inside) or "none"
            raise ValueError(f"there is no layer {path!r}: {type(module).__name__} has no {name!r}; it has {there}")
        module = inside[name]
    return module


def _score(output: Any, target: Target) -> Tensor:
    if callable(target):
        score: Tensor = target(output).sum()
        return score
    classes = torch.as_tensor(target, device=output.device)
    if output.ndim != 2 or classes.ndim > 1 or not ((classes >= 0) & (classes < output.shape[1])).all():
        raise ValueError(
            f"target={target!r} is no class of an output {tuple(output.shape)}; give an index below "
            f"{output.shape[-1]}, one for each of the batch, or a function of the output"
        )
    chosen: Tensor = output.gather(1, classes.expand(len(output)).unsqueeze(1))
    return chosen.sum()


def _record(
    model: nn.Module,
    inputs: Sequence[Any],
    modules: Mapping[str, nn.Module],
    read: Callable[[nn.Module, Any, Any], T],
) -> dict[str, list[T]]:
    """What `read` says of some modules, from their inputs and outputs, at each call in one forward."""
    found: dict[str, list[T]] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, out: found.setdefault(path, []).append(read(module, args[0] if args else None, out))

    with _undisturbed(model), torch.no_grad(), ExitStack() as after:
        for path, module in modules.items():
            after.callback(module.register_forward_hook(hook(path)).remove)
        model(*inputs)
    return found


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, not compiled; afterwards the mode of every module and the random numbers are as before."""
    modes = [(module, module.training) for module in model.modules()]
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules())
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()  # it would not see the hooks
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)), eager:
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
