"""The ResNets that the authors' released files were made for, with our modules in them."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from attnzoo.inject import inject
from attnzoo.official.entries import Entries
from attnzoo.official.families import FAMILIES, Family
from attnzoo.official.names import entries_of
from attnzoo.official.resnet import resnet
from attnzoo.registry import check_options, spec
from attnzoo.state_dicts import difference, read_state_dict

log = logging.getLogger("attnzoo.official")


def identify(source: str | Path | Mapping[str, Any]) -> str:
    """The module that a released file's network has.

    Args:
        source: see `load`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no state dict, or none of a network that is known here.

    >>> import torch
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
    file = Entries(family, {k: v for k, v in theirs.items() if k not in left})
    try:
        model = resnet(origin, file)
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
