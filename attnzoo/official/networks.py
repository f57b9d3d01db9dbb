"""The ResNets that the authors' released files were made for, with our modules in them."""

import logging
import re
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.inject import inject
from attnzoo.official.names import count, entries_of
from attnzoo.registry import check_options, spec
from attnzoo.state_dicts import difference, read_state_dict

log = logging.getLogger("attnzoo.official")


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


def identify(source: str | Path | Mapping[str, Any]) -> str:
    """The module that a released file's network has.

    Args:
        source: see `load`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no state dict, or none of a network that is known here.

    >>> identify({"layer1.0.sge.weight": torch.zeros(1, 64, 1, 1)})
    'sge'
    """
    keys = read_state_dict(source)
    for name, family in FAMILIES.items():
        if any(re.search(family.sign, key) for key in keys):
            return name
    origin = source if isinstance(source, str | Path) else "the state dict"
    raise ValueError(f"{origin} is of no network with {', '.join(FAMILIES)}; its keys are {', '.join(list(keys)[:3])}")


def load(name: str, source: str | Path | Mapping[str, Any], **options: Any) -> nn.Module:
    """The ResNet that a released file was made for, with our modules in it and the file's weights.

    Depth, widths, stem, groups, classes and the modules' options are read off the file's names and shapes. The network
    is torchvision's, changed where the authors' differs, with attention as `attnzoo.inject` puts it there: se (of
    moskomule, PytorchInsight, timm and timm's legacy_*), cbam and bam (of the authors and PytorchInsight), sa, triplet,
    epsa, eca, sge, simam, sk (PytorchInsight), res2net, srm, gct, fca and
    splat (ResNeSt, also timm's).

    Args:
        name: the module, a name or an alias of it.
        source: a file written by `torch.save`, a state dict, or what a checkpoint holds one in.
        **options: of the module, where the file does not tell: SimAM's regularisation (0.1, as the authors trained) and
            splat's pool ("after"; their resnest50_fast_* have it "before").

    Returns:
        The network, in eval mode, with `num_features` and `num_classes` as attributes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown module, one without released networks, or a file that does not fit: the message names
            the foreign and the missing keys.
        TypeError: an unknown option.

    >>> import torchvision
    >>> theirs = inject(torchvision.models.resnet18(), "se").state_dict()
    >>> theirs = {key.replace(".bn2.attn.", ".se."): value for key, value in theirs.items()}
    >>> load("se", {"state_dict": theirs}).num_features
    512
    """
    found = spec(name)
    check_options(found, options)
    if found.name not in FAMILIES:
        raise ValueError(
            f"no ResNet with {found.name} was published whose files are known here; there are {', '.join(FAMILIES)}"
        )
    family = FAMILIES[found.name]
    origin = source if isinstance(source, str | Path) else "the state dict"
    theirs = read_state_dict(source)
    # What thop leaves in a network that it has counted is no weight.
    left = [k for k in theirs if k.endswith(("total_ops", "total_params"))]
    file = _File(family, {k: v for k, v in theirs.items() if k not in left})
    try:
        model = _network(origin, file)
    except (LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{origin} is no file of a ResNet: its shapes do not fit together ({error})") from None
    ours, names = dict(file.shell), dict(file.names)
    places = _places(model, family)
    converted = {
        block: {
            within: entries_of(found.name, within, {k: theirs[name] for k, name in file.parts[block].items()})
            for within in file.parts[block]
        }
        for block in places
        if block in file.parts
    }
    # Whether there are biases or a spatial gate is asked of the whole file: one block without them lacks them.
    kinds = {name for part in converted.values() for entries in part.values() for name in entries}
    told: dict[str, Any] = {}
    for block, (path, action, channels) in places.items():
        part = converted.get(block, {})
        state = {name: value for entries in part.values() for name, value in entries.items()}
        with suppress(LookupError, ArithmeticError):  # what is missing is named below; until then the last block's do
            told = family.options(state, channels, kinds)
        first = {"first": block.endswith(".0")} if found.name == "res2net" else {}
        try:
            inject(model, found.name, where={path: action}, **{**told, **first, **options})
        except ValueError as error:
            raise ValueError(f"{origin} does not fit a ResNet with {found.name}: {error}") from None
        ours |= {f"{path}.attn.{name}": value for name, value in state.items()}
        names |= {
            f"{path}.attn.{name}": file.parts[block][within] for within, entries in part.items() for name in entries
        }
    own = model.state_dict()
    expected = {file.name_of(key, names): value for key, value in own.items()}
    problem = difference({**theirs, **{names[key]: v for key, v in ours.items()}}, expected, ignore=left)
    if problem:
        raise ValueError(f"{origin} does not fit a ResNet with {found.name}: {problem}")
    if not any(value.is_meta for value in own.values()):  # where only the shapes are wanted
        model.load_state_dict(ours)
    new, renamed = len(own.keys() - ours.keys()), sum(key != name for key, name in names.items())
    log.info("%s: %d loaded, %d renamed, %d new, %d left", origin, len(theirs) - len(left), renamed, new, len(left))
    return model.eval()


class _File:
    """A file's entries: those of the plain network under torchvision's names, and the attention's by block."""

    def __init__(self, family: Family, theirs: Mapping[str, Tensor]) -> None:
        self.family = family
        self.stem = next((p for p in ("layer0.", "stem.") if any(key.startswith(p) for key in theirs)), "")
        self.caffe = self.stem == "layer0."
        # The convolution follows its attention in a Sequential, and in a shortcut the norm follows both.
        self.led = {own[1] for key in theirs if family.place == "before" and (own := re.fullmatch(family.own, key))}
        self.shell: dict[str, Tensor] = {}  # torchvision's name -> value
        self.names: dict[str, str] = {}  # torchvision's name -> the file's
        self.parts: dict[str, dict[str, str]] = {}  # block, or stage -> name within the module -> the file's
        for key, value in theirs.items():
            block = re.match(r"(layer[1-9]\.\d+)\.(.+)", key)
            if family.place == "before":
                self._add_before(key, value)
                continue
            if family.place == "stage":
                own, at = re.fullmatch(family.own, key), f"layer{key[3:4]}"
            else:
                own, at = (re.fullmatch(family.own, block[2]), block[1]) if block else (None, "")
            if own:
                self.parts.setdefault(at, {})[own[1]] = key
            elif not (family.place == "conv2" and block and block[2] == "conv2.weight"):  # of a network without it
                plain = re.sub(r"^layer0\.", "", re.sub(r"^last_linear\.", "fc.", key))
                plain = plain.replace(".conv2.0.", ".conv2.") if family.place == "conv2" else plain
                self.shell[plain], self.names[plain] = value, key

    def _add_before(self, key: str, value: Tensor) -> None:
        """An entry of a file with attention in front of all convolutions."""
        led = next((path for path in self.led if key.startswith(f"{path}.")), None)
        plain = key.removeprefix(self.stem)
        if led:
            place, (number, within) = led.removeprefix(self.stem), key[len(led) + 1 :].split(".", 1)
            shortcut = place.endswith("downsample")
            if number == "0":
                self.parts.setdefault(f"{place}.0" if shortcut else place, {})[within] = key
                return
            plain = f"{place}.{int(number) - 1}.{within}" if shortcut else f"{place}.{within}"
        self.shell[plain], self.names[plain] = value, key

    def name_of(self, key: str, names: Mapping[str, str]) -> str:
        """What the file calls, or would call, an entry of our network."""
        if key in names or key.endswith("num_batches_tracked"):  # which old files do not have
            return names.get(key, key)
        place, attn, within = key.partition(".attn.")
        if self.family.place == "before":
            if attn:
                return f"{self.stem * (place == 'conv1')}{place.removesuffix('.0')}.0.{within}"
            return f"{self.stem}{key}" if re.match(r"(conv|bn)1\.", key) else key
        if attn:
            block = ".".join(place.split(".")[:2])
            known = next((n for k, n in names.items() if k.endswith(f".attn.{within}")), None)
            if self.family.place == "stage":
                return f"bam{place[5]}.{known.partition('.')[2] if known else '*'}"
            return f"{block}.{known.split('.', 2)[2] if known else self.family.child + '.*'}"
        if self.caffe:
            key = key.replace("fc.", "last_linear.") if key.startswith("fc.") else key
            return f"{self.stem}{key}" if re.match(r"(conv|bn)1\.", key) else key
        return key.replace(".conv2.", ".conv2.0.") if self.family.place == "conv2" else key


def _places(model: nn.Module, family: Family) -> dict[str, tuple[str, Any, int]]:
    """Of each block (or stage) with attention: where it goes, how, and the channels it sees."""
    places: dict[str, tuple[str, Any, int]] = {}
    if family.place == "before":
        convs = {path: m for path, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        return {path: (path, "before", conv.in_channels) for path, conv in convs.items()}
    for stage in (1, 2, 3, 4):
        blocks: Any = model.get_submodule(f"layer{stage}")
        for i, block in enumerate(blocks):
            path, norm = f"layer{stage}.{i}", "bn3" if hasattr(block, "bn3") else "bn2"
            if family.place == "out":
                places[path] = (f"{path}.{norm}", "after", getattr(block, norm).num_features)
            elif family.place in ("conv", "conv2"):
                action = "replace" if family.place == "conv" else "after"
                places[path] = (f"{path}.conv2", action, block.conv2.in_channels)
            elif stage < 4 and i == len(blocks) - 1:
                places[f"layer{stage}"] = (path, "after", getattr(block, norm).num_features)
    return places


def _stem(origin: Any, shell: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """The first convolution, or the three of a deep stem with what stands between, and its width."""
    names = [f"conv1.{i}.weight" for i in (0, 3, 6)] if "conv1.0.weight" in shell else ["conv1.weight"]
    layers: list[nn.Module] = []
    width = 0
    for name in names:
        weight = shell.get(name, torch.empty(0))
        if weight.ndim != 4:
            raise ValueError(f"{origin} is no file of a ResNet: missing keys {name}")
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if layers else []
        width, given, _, kernel = weight.shape
        # A small stem of one convolution, for small images, keeps their size.
        stride = 2 if not layers and (kernel > 3 or len(names) > 1) else 1
        layers.append(nn.Conv2d(given, width, kernel, stride, kernel // 2, bias=False))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers), width


def _network(origin: Any, file: _File) -> nn.Module:
    """torchvision's ResNet with the sizes of a file, and the layout of the SE authors' Caffe networks if it is one.

    Those have a bottleneck's stride in its first convolution (GCT's too), a max pool without padding, and in basic
    blocks a ReLU before the attention.
    """
    from timm.layers import BatchNormAct2d
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    shell, caffe = file.shell, file.caffe

    def size(*entries: str) -> int:
        """The length of the first of some entries that is there."""
        for entry in entries:
            if entry in shell and shell[entry].ndim:
                return shell[entry].shape[0]
        raise ValueError(f"{origin} is no file of a ResNet: missing keys {entries[0]}")

    stem, width = _stem(origin, shell)
    classes = size("fc.weight", "fc.bias")
    deep = any(re.match(r"layer\d\.\d+\.conv3\.", key) for key in shell)
    with torch.device("meta"):  # for its class and its forward; its layers are made below
        model: Any = ResNet(Bottleneck if deep else BasicBlock, [1, 1, 1, 1])
    model.conv1 = stem
    model.bn1 = nn.BatchNorm2d(width)
    if isinstance(stem, nn.Conv2d) and stem.stride == (1, 1):
        model.maxpool = nn.Identity()
    elif caffe:
        model.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    for stage in (1, 2, 3, 4):
        layer = f"layer{stage}"
        blocks_there = count(rf"^{layer}\.", shell)
        if not blocks_there:
            raise ValueError(f"{origin} is no file of a ResNet: missing keys {layer}.*")
        blocks = []
        for i in range(blocks_there):
            at, last = f"{layer}.{i}", "3" if deep else "2"
            inner = size(*(f"{at}.{key}" for key in ("bn1.weight", "conv1.weight", "bn1.bias")))
            out = size(*(f"{at}.{key}" for key in (f"bn{last}.weight", f"conv{last}.weight", f"bn{last}.bias")))
            stride = 2 if stage > 1 and i == 0 else 1
            downsample = None
            if stride > 1 or width != out:
                pooled = shell.get(f"{at}.downsample.1.weight", torch.empty(0)).ndim > 1  # as in ResNet-D
                conv = nn.Conv2d(width, out, 1, 1 if pooled else stride, bias=False)
                pool = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if pooled else []
                downsample = nn.Sequential(*pool, conv, nn.BatchNorm2d(out))
            conv2 = shell.get(f"{at}.conv2.weight", torch.empty(inner, inner))
            groups = max(1, inner // conv2.shape[1]) if conv2.ndim > 1 else 1
            if deep:
                # torchvision rounds planes * base_width / 64 down to the width of one group.
                base = 64 * (inner // groups + 0.5) / (out // 4)
                block: Any = Bottleneck(width, out // 4, stride, downsample, groups, base)
            else:
                block = BasicBlock(width, out, stride, downsample)
            if (caffe or file.family.place == "before") and deep and groups == 1:
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
            elif caffe and not deep:
                block.bn2 = BatchNormAct2d(out)
            if file.family.place == "conv" and not any(key.startswith(f"{at}.bn2.") for key in shell):
                block.bn2 = nn.Identity()  # the attention has its own norms
            blocks.append(block)
            width = out
        setattr(model, layer, nn.Sequential(*blocks))
    model.fc = nn.Linear(width, classes)
    model.num_features, model.num_classes = width, classes
    network: nn.Module = model
    return network
