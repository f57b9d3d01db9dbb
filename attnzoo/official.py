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
    "epsa": [(rf"^conv_{i + 1}\.", f"convs.{i}.") for i in range(4)] + [(r"^se\.", "")],
}


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
        converted[key] = value
    return converted
