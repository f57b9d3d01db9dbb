"""The authors' released weights, turned into ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from attnzoo.registry import spec

# Where our names differ from the authors': (pattern, replacement), applied in turn.
_RENAMES: dict[str, list[tuple[str, str]]] = {
    "cbam": [(r"^ChannelGate\.mlp\.1\.", "mlp.0."), (r"^ChannelGate\.mlp\.3\.", "mlp.2."), (r"^SpatialGate\.", "")],
    "triplet": [
        (r"^ChannelGateH\.spatial\.", "cw.conv."),
        (r"^ChannelGateW\.spatial\.", "hc.conv."),
        (r"^SpatialGate\.spatial\.", "hw.conv."),
        (r"^(\w+)\.conv\.(conv|bn)\.", r"\1.\2."),
    ],
    "bam": [
        (r"^channel_att\.gate_c\.gate_c_fc_0\.", "channel.0."),
        (r"^channel_att\.gate_c\.gate_c_bn_1\.", "channel.1."),
        (r"^channel_att\.gate_c\.gate_c_fc_final\.", "channel.3."),
        (r"^spatial_att\.gate_s\.gate_s_conv_reduce0\.", "spatial.0."),
        (r"^spatial_att\.gate_s\.gate_s_bn_reduce0\.", "spatial.1."),
        (r"^spatial_att\.gate_s\.gate_s_conv_di_0\.", "spatial.3."),
        (r"^spatial_att\.gate_s\.gate_s_bn_di_0\.", "spatial.4."),
        (r"^spatial_att\.gate_s\.gate_s_conv_di_1\.", "spatial.6."),
        (r"^spatial_att\.gate_s\.gate_s_bn_di_1\.", "spatial.7."),
        (r"^spatial_att\.gate_s\.gate_s_conv_final\.", "spatial.9."),
    ],
    "ema": [(r"^gn\.", "norm."), (r"^conv1x1\.", "strip."), (r"^conv3x3\.", "local.")],
    "gc": [(r"^conv_mask\.", "mask."), (r"^channel_(add|mul)_conv\.", r"\1.")],
    "nl": [
        (r"^g\.(0\.)?", "value."),
        (r"^theta\.", "query."),
        (r"^phi\.(0\.)?", "key."),
        (r"^W\.0\.", "out."),
        (r"^W\.1\.", "norm."),
        (r"^concat_project\.0\.", "pair."),
    ],
    "epsa": [(rf"^conv_{i + 1}\.", f"convs.{i}.") for i in range(4)] + [(r"^se\.", "")],
}

_LINEAR: dict[str, tuple[str, ...]] = {"se": ("fc.",), "gc": ("add.", "mul.")}


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
    spec(name)
    converted = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES.get(name, []):
            key = re.sub(pattern, replacement, key)
        # What the authors write as 1x1 convolutions of pooled features are linear maps here.
        converted[key] = value[..., 0, 0] if value.ndim > 2 and key.startswith(_LINEAR.get(name, ())) else value
    return converted
