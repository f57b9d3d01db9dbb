"""The authors' names and shapes of one module's entries, turned into ours."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attnzoo.registry import spec

_POSITIONS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # timm's
    (r"^pos_embed\.height_rel$", "positions.0"),
    (r"^pos_embed\.width_rel$", "positions.1"),
]
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
    "ge": [  # of the SRM authors, and of BayesWatch
        (r"^conv\.", "gather."),
        (r"^downop\.dwconv\.", "gather.0."),
        (r"^downop\.bn\.", "gather.1."),
        (r"^downop\.(\d+)\.dwconv\.", lambda m: f"gather.{3 * int(m[1])}."),
        (r"^downop\.(\d+)\.bn\.", lambda m: f"gather.{3 * int(m[1]) + 1}."),
    ],
    "lct": [(r"^w$", "norm.weight"), (r"^b$", "norm.bias")],
    "fca": [(r"^dct_layer\.weight$", "basis")],
    "gam": [(r"^(channel|spatial)_attention\.", r"\1.")],
    "nam": [(r"^Channel_Att\.bn2\.", "bn.")],
    "ela": [(r"^conv\.", "strips.0.0."), (r"^gn\.", "strips.0.1.")],
    "epsa": [*((rf"^conv_{i + 1}\.", f"convs.{i}.") for i in range(4)), (r"^se\.", "")],
    "cse": [(r"^fc1\.", "fc.0."), (r"^fc2\.", "fc.2.")],
    "scse": [(r"^cSE\.fc1\.", "fc.0."), (r"^cSE\.fc2\.", "fc.2."), (r"^sSE\.", "")],
    "pe": [(r"^conv_c\.", "squeeze."), (r"^conv_cT\.", "excite.")],
    "lka": [(r"^conv0\.", "local."), (r"^conv_spatial\.", "dilated."), (r"^conv1\.", "point.")],
    "lska": [
        *((rf"^conv0{axis}\.", f"local.{i}.") for i, axis in enumerate("hv")),  # their h is along W
        *((rf"^conv_spatial_{axis}\.", f"dilated.{i}.") for i, axis in enumerate("hv")),
        (r"^conv1\.", "point."),
    ],
    "lsk": [
        (r"^conv0\.", "depthwise.0."),
        (r"^conv_spatial\.", "depthwise.1."),
        (r"^conv([12])\.", lambda m: f"reduce.{int(m[1]) - 1}."),
        (r"^conv_squeeze\.", "weigh."),
        (r"^conv\.", "expand."),
    ],
    "caa": [
        (r"^caa\.", ""),
        (r"^conv1\.conv\.", "before.0."),
        (r"^conv1\.bn\.", "before.1."),
        (r"^h_conv\.conv\.", "strips.0."),
        (r"^v_conv\.conv\.", "strips.1."),
        (r"^conv2\.conv\.", "after.0."),
        (r"^conv2\.bn\.", "after.1."),
    ],
    "scsa": [
        *(
            (rf"^{theirs}\.", f"convs.{i}.")
            for i, theirs in enumerate(("local_dwc", *(f"global_dwc_{s}" for s in "sml")))
        ),
        (r"^q\.", "query."),
        (r"^k\.", "key."),
        (r"^v\.", "value."),
    ],
    "a2": [(r"^conv_reconstruct\.", "out.")],
    "bot": _POSITIONS,
    "halo": [*_POSITIONS, (r"^q\.", "query."), (r"^kv\.", "key_value.")],
    "lambda": [(r"^conv_lambda\.", "local.")],
    "axial": [
        (r"^relative$", "layers.0.positions"),
        (r"^qkv_transform\.", "layers.0.qkv."),
        (r"^bn_(qkv|similarity)\.", r"layers.0.norm_\1."),
        (r"^bn_output\.", "layers.0.norm_out."),
    ],
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
_LINEAR: dict[str, tuple[str, ...]] = {
    "se": ("fc.",),
    "gc": ("add.", "mul."),
    "sk": ("fc.", "fcs."),
    "pe": ("squeeze.",),
    "scsa": ("query.", "key.", "value."),
}

# Several of the authors' projections of x that are one here: ours -> theirs.
_QUERY_KEY_VALUE: dict[str, tuple[str, ...]] = {"project": ("query_conv", "key_conv", "value_conv")}
_JOINED: dict[str, dict[str, tuple[str, ...]]] = {
    "pam": _QUERY_KEY_VALUE,
    "cca": _QUERY_KEY_VALUE,
    "a2": {"project": ("convA", "convB", "convV")},
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
    return {ours: value for key in state for ours, value in entries_of(spec(name).name, key, state).items()}


def entries_of(module: str, key: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One of the authors' entries under our names: one, or two where they have one map for two branches.

    Of several maps that are one here the first gives it all, and the others nothing.

    Args:
        module: its name in the registry, no alias.
        key: the entry's name in `state`.
        state: all entries of the module.

    >>> import torch
    >>> list(entries_of("se", "fc1.weight", {"fc1.weight": torch.zeros(4, 64, 1, 1)}))
    ['fc.0.weight']
    """
    name, value = key, state[key]
    layer, _, leaf = key.rpartition(".")
    for ours, parts in _JOINED.get(module, {}).items():
        if layer in parts:
            whole = {f"{ours}.{leaf}": torch.cat([state[f"{part}.{leaf}"] for part in parts])}
            return whole if layer == parts[0] else {}
    for pattern, replacement in _RENAMES.get(module, []):
        name = re.sub(pattern, replacement, name)
    if module == "bam":  # the last layers come after as many as there are
        name = name.replace("channel_att.gate_c.gate_c_fc_final", f"channel.{3 * count(r'gate_c_fc_', state)}")
        name = name.replace("spatial_att.gate_s.gate_s_conv_final", f"spatial.{3 * count(r'_di_', state) + 3}")
    if value.ndim > 1 and name.startswith(_LINEAR.get(module, ())):
        norm = module == "gc" and name[3:].startswith(".1.")  # theirs is over (hidden, 1, 1)
        value = value.flatten() if norm else value.reshape(value.shape[:2])
    if module == "gct":  # theirs are over (1, C, 1, 1)
        value = value.flatten()
    if module == "gam" and name.startswith("channel.") and value.ndim == 2:  # a linear map of each position
        value = value[:, :, None, None]
    if module == "fca" and name == "basis":  # theirs has it for each channel, and equal ones are neighbours
        value = value.flatten(1).unique_consecutive(dim=0).unflatten(1, value.shape[1:])
    if module == "axial" and key == "flatten_index":
        return {}  # counted out anew, for lines of any length
    if module == "lambda" and name == "local.weight" and value.ndim == 5 and value.shape[-1] == 1:
        value = value.squeeze(-1)  # timm's is a 3D convolution over height, width and channels
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
