"""How the authors' released files of whole ResNets are named, module by module."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Family:
    """How the files of one module's ResNets are named.

    Attributes:
        sign: a pattern of a key that tells such a file from others.
        own: a pattern of the attention's keys within a block (or, of the whole file, for what stands between stages);
            its group is the key within the module.
        child: what the authors call the attention in a block, or in the network.
        place: where it is: "out", "stage", after the second convolution ("conv2") or in place of it ("conv"), or in
            front of all convolutions ("before").
        options: the module's options, read off its converted state, its channels, and the names that any block has.
    """

    sign: str
    own: str
    child: str
    place: str
    options: Callable[[Mapping[str, Tensor], int, Set[str]], dict[str, Any]]


_SHELL = r"(?:(?:conv|bn)\d|downsample\.\d)\.(?:weight|bias|running_mean|running_var|num_batches_tracked)$"
_BESIDE = rf"(?!{_SHELL})\w+\.(.+)"  # whatever the authors call the child of the block


def _epsa(state: Mapping[str, Tensor], channels: int, names: Set[str]) -> dict[str, Any]:
    weights = [state[f"convs.{i}.weight"] for i in range(4)]
    return {
        "kernels": tuple(w.shape[-1] for w in weights),
        "groups": tuple(channels // w.shape[1] for w in weights),
        "reduction": weights[0].shape[0] // state["fc1.weight"].shape[0],
    }


FAMILIES: dict[str, Family] = {
    "cbam": Family(
        r"\.ChannelGate\.mlp\.",
        _BESIDE,
        "cbam",
        "out",
        lambda s, c, names: {
            "reduction": c // s["mlp.0.weight"].shape[0],
            "spatial": any(k.startswith("spatial.") for k in names),
            **({"kernel_size": s["spatial.conv.weight"].shape[-1]} if "spatial.conv.weight" in s else {}),
        },
    ),
    "bam": Family(
        r"^bam\d\.",
        r"bam\d\.(.+)",
        "bam",
        "stage",
        lambda s, c, names: {
            "reduction": c // s["channel.0.weight"].shape[0],
            "depth": sum(k.startswith("channel.") and k.endswith("weight") for k in names) // 2,
            "layers": sum(k.startswith("spatial.") and k.endswith("weight") for k in names) // 2 - 1,
        },
    ),
    "triplet": Family(
        r"\.(?:ChannelGateH|cw)\.(?:spatial|conv)\.",
        _BESIDE,
        "triplet_attention",
        "out",
        lambda s, c, names: {
            "kernel_size": s["cw.conv.weight"].shape[-1],
            "spatial": any(k.startswith("hw.") for k in names),
        },
    ),
    "sa": Family(r"\.cweight$", _BESIDE, "sa", "out", lambda s, c, names: {"groups": c // (2 * s["cweight"].shape[1])}),
    "eca": Family(
        r"\.eca\.conv\.",
        _BESIDE,
        "eca",
        "out",
        lambda s, c, names: {"kernel_size": s["conv.weight"].shape[-1], "shared": s["conv.weight"].shape[0] == 1},
    ),
    "sge": Family(r"\.sge\.", _BESIDE, "sge", "out", lambda s, c, names: {"groups": s["weight"].shape[1]}),
    "simam": Family(r"\.conv2\.0\.weight$", r"(?!)", "conv2.0", "conv2", lambda s, c, names: {"regularisation": 0.1}),
    "epsa": Family(r"\.conv2\.conv_1\.", r"conv2\.(\D.*\..+)", "conv2", "conv", _epsa),
    "sk": Family(
        r"\.conv2g\.",
        r"((?:conv2|bn2|conv2g|bn2g|conv_fc\d|bn_fc1)\..+)",
        "conv2g",
        "conv",
        lambda s, c, names: {
            "kernels": (s["convs.0.0.weight"].shape[-1], s["convs.1.0.weight"].shape[-1]),
            "groups": (c // s["convs.0.0.weight"].shape[1], c // s["convs.1.0.weight"].shape[1]),
            "reduction": c // s["fc.0.weight"].shape[0],
            "min_width": 1,
            "norm": True,
            "bias": False,
        },
    ),
    "res2net": Family(
        r"\.\d+\.convs\.0\.weight",
        r"((?:convs|bns)\..+)",
        "convs",
        "conv",
        lambda s, c, names: {"scale": c // s["convs.0.weight"].shape[0]},
    ),
    "splat": Family(
        r"\.conv2\.bn0\.",
        r"conv2\.((?:conv|bn0|fc1|bn1|fc2)\..+)",
        "conv2",
        "conv",
        lambda s, c, names: {
            "radix": s["fc2.weight"].shape[0] // c,
            "groups": c // s["fc1.weight"].shape[1],
            "pool": "after",
        },
    ),
    "srm": Family(r"\.rclb\.cfc$", _BESIDE, "rclb", "out", lambda s, c, names: {}),
    "gct": Family(r"\.conv1\.0\.alpha$", r"(.+)\.0\.(alpha|beta|gamma)", "0", "before", lambda s, c, names: {}),
    "fca": Family(
        r"\.dct_layer\.",
        _BESIDE,
        "att",
        "out",
        lambda s, c, names: {
            "reduction": c // s["fc.0.weight"].shape[0],
            "size": s["basis"].shape[-1],
            "frequencies": s["basis"].shape[0],
        },
    ),
    "se": Family(
        r"\.\d+\.\w+\.(?:fc\.0|fc1)\.",
        _BESIDE,
        "se",
        "out",
        lambda s, c, names: {
            "reduction": c // s["fc.0.weight"].shape[0],
            "bias": any(k.endswith("bias") for k in names),
        },
    ),
}
