"""When a fast form may stand in for a definition."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks


def eager(x: Tensor) -> bool:
    """Whether operations are carried out one by one, on the CPU (or the meta device, which stands for it).

    Args:
        x: the features.

    >>> eager(torch.zeros(1))
    True
    """
    if torch.compiler.is_compiling():  # first, since the compiler guards what it sees looked at, at each call
        return False
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return x.device.type in ("cpu", "meta") and not (traced or _transformed())


def compiled(x: Tensor, module: nn.Module | None = None) -> bool:
    """Whether operations are compiled for the CPU, and nothing else is done with them: where a form is quicker even so.

    Args:
        x: the features.
        module: whose layers the form takes the parameters of but does not call.

    >>> compiled(torch.zeros(1))
    False
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if x.device.type != "cpu" or _transformed():
        return False
    return module is None or not any(_altered(layer) for layer in module.modules())


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def usable(module: nn.Module, x: Tensor) -> bool:
    """Whether a fast form may stand in for the definition of a module.

    Not under what looks at, transforms or changes the operations of the definition or its layers: the compiler,
    tracers, exporters, functorch, forward-mode derivatives, hooks, parametrizations. On the CPU alone (and on the meta
    device, which stands for it), where it was measured.

    Args:
        module: whose fast form takes the parameters of its layers but does not call them.
        x: its input.

    >>> usable(nn.Sequential(nn.Conv2d(4, 4, 1)), torch.zeros(1, 4, 2, 2))
    True
    """
    if not eager(x) or type(x) not in (Tensor, nn.Parameter) or not x.numel():
        return False
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks or hooks._global_backward_hooks:
        return False
    return not any(_altered(layer) for layer in module.modules())


def _altered(layer: nn.Module) -> bool:
    """Whether a module or layer does more than its class says, or is looked at, as by what counts its operations."""
    own = vars(layer)  # not `hasattr`: a module looks long for what is not there, and this is asked at each call
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return bool(hooked) or "forward" in own or "parametrizations" in own["_modules"]
