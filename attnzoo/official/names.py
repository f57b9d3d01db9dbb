"""The authors' names and shapes of one module's entries, turned into ours."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from attnzoo.registry import spec

# Where our names differ from the authors': (pattern, replacement), applied in turn.
_RENAMES: dict[str, list[tuple[str, str | Callable[[re.Match[str]], str]]]] = {
    "ca": [(r"^conv2\.", "conv_h."), (r"^conv3\.", "conv_w.")],  # of their MobileNetV2
    "se": [(r"^fc1\.", "fc.0."), (r"^fc2\.", "fc.2.")],
    "cbam": [(r"^ChannelGate\.mlp\.1\.", "mlp.0."), (r"^ChannelGate\.mlp\.3\.", "mlp.2."), (r"^SpatialGate\.", "")],
    "triplet": [
        (r"^ChannelGateH\.", "cw."),
        (r"^ChannelGateW\.", "hc."),
        (r"^SpatialGate\.", "hw."),
        (r"^(\w+)\.(?:spatial|conv)\.(conv|bn)\.", r"\1.\2."),
    ],
    "bam": [
        (r"^channel_att\.gate_c\.gate_c_fc_(\d+)\.", lambda m: f"channel.{3 * int(m[1])}."),
        (r"^channel_att\.gate_c\.gate_c_bn_(\d+)\.", lambda m: f"channel.{3 * int(m[1]) - 2}."),
        (r"^spatial_att\.gate_s\.gate_s_conv_reduce0\.", "spatial.0."),
        (r"^spatial_att\.gate_s\.gate_s_bn_reduce0\.", "spatial.1."),
        (r"^spatial_att\.gate_s\.gate_s_conv_di_(\d+)\.", lambda m: f"spatial.{3 * int(m[1]) + 3}."),
        (r"^spatial_att\.gate_s\.gate_s_bn_di_(\d+)\.", lambda m: f"spatial.{3 * int(m[1]) + 4}."),
    ],
    "ema": [(r"^gn\.", "norm."), (r"^conv1x1\.", "strip."), (r"^conv3x3\.", "local.")],
    "gc": [(r"^conv_mask\.", "mask."), (r"^channel_(add|mul)_conv\.", r"\1.")],
    "nl": [
        (r"^g\.(0\.)?", "value."),
        (r"^theta\.", "query."),
        (r"^phi\.(0\.)?", "key."),
        (r"^W\.(0\.|(?=weight|bias))", "out."),
        (r"^W\.1\.", "norm."),
        (r"^concat_project\.0\.", "pair."),
    ],
    "epsa": [*((rf"^conv_{i + 1}\.", f"convs.{i}.") for i in range(4)), (r"^se\.", "")],
    "sk": [  # PytorchInsight's; pppLang's are ours
        (r"^conv2\.", "convs.0.0."),
        (r"^bn2\.", "convs.0.1."),
        (r"^conv2g\.", "convs.1.0."),
        (r"^bn2g\.", "convs.1.1."),
        (r"^conv_fc1\.", "fc.0."),
        (r"^bn_fc1\.", "fc.1."),
        (r"^conv_fc2\.", "fcs."),
    ],
}
# What the authors write as 1x1 convolutions of pooled features are linear maps here.
_LINEAR: dict[str, tuple[str, ...]] = {"se": ("fc.",), "gc": ("add.", "mul."), "sk": ("fc.", "fcs.")}


def convert_module(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict of one 2D module, turned into ours.

    Args:
        name: the module, a name of `list_modules()`.
        state: the authors' names and tensors.

    Returns:
        Names and tensors for `create(name, channels, ...).load_state_dict`.

    Raises:
        ValueError: an unknown module.

    >>> import torch
    >>> list(convert_module("epsa", {"conv_1.weight": torch.zeros(1)}))
    ['convs.0.weight']
    """
    return {ours: value for key in state for ours, value in entries_of(spec(name).name, key, state).items()}


def entries_of(module: str, key: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One of the authors' entries under our names: one, or two where they have one map for two branches.

    Args:
        module: its name in the registry, no alias.
        key: the entry's name in `state`.
        state: all entries of the module.

    >>> import torch
    >>> list(entries_of("se", "fc1.weight", {"fc1.weight": torch.zeros(4, 64, 1, 1)}))
    ['fc.0.weight']
    """
    name, value = key, state[key]
    for pattern, replacement in _RENAMES.get(module, []):
        name = re.sub(pattern, replacement, name)
    if module == "bam":  # the last layers come after as many as there are
        name = name.replace("channel_att.gate_c.gate_c_fc_final", f"channel.{3 * count(r'gate_c_fc_', state)}")
        name = name.replace("spatial_att.gate_s.gate_s_conv_final", f"spatial.{3 * count(r'_di_', state) + 3}")
    if value.ndim > 1 and name.startswith(_LINEAR.get(module, ())):
        norm = module == "gc" and name[3:].startswith(".1.")  # theirs is over (hidden, 1, 1)
        value = value.flatten() if norm else value.reshape(value.shape[:2])
    if module == "nl" and name == "pair.weight":  # a 2D convolution in their 3D block too
        value = value.reshape(*value.shape[:2], *state.get("theta.weight", value).shape[2:])
    if module == "sk" and name == "fcs.weight":
        return dict(zip(("fcs.0.weight", "fcs.1.weight"), value.chunk(2), strict=True))
    return {name: value}


def count(layer: str, state: Mapping[str, Tensor]) -> int:
    """How many layers are numbered in the names of a state dict.

    Args:
        layer: a pattern of what stands before the number.
        state: the state dict.

    >>> import torch
    >>> count("block", {"block0.weight": torch.zeros(1), "block1.weight": torch.zeros(1)})
    2
    """
    numbers = (re.search(rf"{layer}(\d+)\.", key) for key in state)
    return 1 + max((int(found[1]) for found in numbers if found), default=-1)
