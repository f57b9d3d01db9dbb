"""Weights from a file into a backbone: published state dicts of any nesting, prefix and number of classes."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from attnzoo.backbones.resnet3d import DEPTHS, ResNet3d, Shortcut
from attnzoo.state_dicts import difference, read_state_dict

log = logging.getLogger(__name__)

# The children of a ResNet by their numbers in the nn.Sequential in which VAANet and CTEN keep them: resnet.4.0.conv1.
_VAANET = dict(enumerate(("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a published state dict; a head for other classes is skipped and said so.

    Prefixes and classes are those of the file: for resnet3d the Kinetics files of 2018 (`module.` before each name, 400
    classes) and those since 2020, with whatever a training script put beside the weights. A resnet3d also takes the
    checkpoints of VAANet and CTEN, of which it is the visual part, and files of 2D ResNets, see `inflate`.

    Args:
        model: the backbone, before attention is injected.
        path: see `attnzoo.state_dicts.read_state_dict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without a state dict; keys that are foreign or missing, or shapes that differ, other than the
            head's.

    >>> import tempfile, torch
    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     torch.save({"state_dict": resnet3d(10, num_classes=400).state_dict()}, file.name)
    ...     load_weights(resnet3d(10, num_classes=8), file.name)
    """
    load_state(model, read_state_dict(path), str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict as `load_weights` does.

    Args:
        model: the backbone, before attention is injected.
        state: of any number of classes.
        origin: where it is from, for messages.

    Raises:
        ValueError: keys that are foreign or missing, or shapes that differ, other than the head's.

    >>> import torch
    >>> load_state(nn.Linear(2, 3), {"weight": torch.zeros(3, 2)}, "my.pth")
    Traceback (most recent call last):
    ValueError: my.pth does not fit Linear: missing keys bias
    """
    own = model.state_dict()
    if isinstance(model, ResNet3d):
        state = inflate(_visual(state), own)
    head = [key for key in {**state, **own} if key.startswith("fc.")]
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in head):
        log.info("%s: head %s skipped, it is for other classes", origin, ", ".join(head))
        state = {key: value for key, value in state.items() if key not in head}
        own = {key: value for key, value in own.items() if key not in head}
    problem = difference(state, own)
    if problem:
        hint = _hint(state) if isinstance(model, ResNet3d) else ""
        raise ValueError(f"{origin} does not fit {type(model).__name__}: {problem}{hint}")
    model.load_state_dict(state, strict=False)


def inflate(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a 2D network for a 3D one: each kernel repeated over time and divided by how often.

    On a video without change the 3D network then gives what the 2D one gives on a frame (Carreira and Zisserman, 2017,
    https://arxiv.org/abs/1705.07750), but for the zeros with which convolutions pad it in time. Norms are taken as they
    are. The ResNets of torchvision, and those of timm with a 7x7 stem, have the strides of resnet3d: 2 in space in the
    stem, and the stage's in the 3x3 convolution of a bottleneck.

    Args:
        state: of the 2D network; entries that are not those of a 2D convolution stay as they are.
        own: the state dict of the 3D network.

    >>> import torch
    >>> kernel = inflate({"conv1.weight": torch.ones(1, 1, 3, 3)}, {"conv1.weight": torch.zeros(1, 1, 4, 3, 3)})
    >>> kernel["conv1.weight"][0, 0, :, 0, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def inflated(key: str, kernel: Tensor) -> Tensor:
        if key not in own or (kernel.ndim, own[key].ndim) != (4, 5):
            return kernel
        times = own[key].shape[2]
        return (kernel / times).unsqueeze(2).repeat_interleave(times, 2)

    return {key: inflated(key, value) for key, value in state.items()}


def shortcut_of(path: str | Path) -> Shortcut:
    """The shortcut of the 3D ResNet in a file: "A" has no weights, "B" has.

    Args:
        path: see `attnzoo.state_dicts.read_state_dict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without a state dict.

    >>> import tempfile, torch
    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     torch.save(resnet3d(10, shortcut="A").state_dict(), file.name)
    ...     shortcut_of(file.name)
    'A'
    """
    return _shortcut(read_state_dict(path))


def _shortcut(state: Mapping[str, Tensor]) -> Shortcut:
    return "B" if any(".downsample." in key for key in state) else "A"


def _visual(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The visual ResNet in a checkpoint of VAANet or CTEN; any other state dict as it is."""
    if "resnet.0.weight" not in state:
        return state
    parts = [(re.fullmatch(r"resnet\.([0-7])\.(.+)", key), value) for key, value in state.items()]
    return {f"{_VAANET[int(key[1])]}.{key[2]}": value for key, value in parts if key}


def _hint(state: Mapping[str, Tensor]) -> str:
    """Which resnet3d would take these weights, if one would."""
    blocks = [len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)]
    kind = ("layer1.0.conv3.weight" in state, tuple(blocks))
    depth = next((depth for depth, known in DEPTHS.items() if known == kind), None)
    return f"; it is of resnet3d/{depth} with options {{shortcut: {_shortcut(state)}}}" if depth else ""
