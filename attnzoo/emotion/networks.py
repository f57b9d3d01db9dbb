"""The networks of a model, as recipes describe them: attention in them, what is not trained, what does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from attnzoo.backbones import create_backbone
from attnzoo.emotion.experiment import Placement
from attnzoo.inject import attn_parameters

# What comes of settings that nobody has checked, from the depths of PyTorch.
MISFIT = (TypeError, RuntimeError, ArithmeticError, LookupError)
EXAMPLES = {2: "timm/resnet18", 3: "resnet3d/18"}


class Network(Protocol):
    """The settings of a network."""

    @property
    def backbone(self) -> str:
        """As in `attnzoo.create_backbone`."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the backbone's constructor."""

    @property
    def pretrained(self) -> bool:
        """Whether the published weights are loaded."""

    @property
    def weights(self) -> Path | None:
        """A file of weights."""


def create_network(
    field: str,
    settings: Network,
    attn: Placement | None,
    dims: int,
    *,
    in_channels: int = 3,
    inflate: str | None = None,
    spatial_dims: int | None = None,
) -> nn.Module:
    """A backbone without a head, with attention.

    Args:
        field: of the recipe in which the settings stand, for messages.
        settings: which backbone.
        attn: which attention and where; None for none.
        dims: that the network must have, 2 or 3.
        in_channels: C of the input.
        inflate: see `attnzoo.create_backbone`.
        spatial_dims: 2 for attention to each frame of a 3D network on its own.

    Raises:
        ValueError: an unknown backbone, one of other dimensions, or attention or options that do not fit it.

    >>> from attnzoo.emotion.recipe import Stream
    >>> create_network("model.audio", Stream(backbone="resnet3d/10"), None, 2)
    Traceback (most recent call last):
    ValueError: model.audio.backbone = 'resnet3d/10' is a 3D network; give a 2D one, as in timm/resnet18
    """
    placement: dict[str, Any] = {}
    if attn is not None:
        placement = {
            "attn": attn.name,
            "stages": attn.stages,
            "site": attn.site,
            "identity": attn.identity,
            "spatial_dims": spatial_dims,
            "attn_options": attn.options,
        }
    try:
        network = create_backbone(
            settings.backbone,
            num_classes=0,
            in_channels=in_channels,
            pretrained=settings.pretrained,
            weights=settings.weights,
            inflate=inflate,
            **placement,
            **settings.options,
        )
    except MISFIT as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{field}: {settings.backbone} with options {settings.options}: {reason}") from error
    found = 3 if any(isinstance(module, nn.Conv3d) for module in network.modules()) else 2
    if found != dims:
        raise ValueError(
            f"{field}.backbone = {settings.backbone!r} is a {found}D network; give a {dims}D one, as in "
            f"{EXAMPLES[dims]}"
        )
    return network


def freeze(backbone: nn.Module, last: int | str | None) -> list[str]:
    """Stop training children 0 to `last` or "all", but for attention in them; the modules to keep in eval mode.

    No graph is recorded of what neither is trained nor follows on something that is, so that up to the first attention
    nothing is kept for the backward pass, as under no_grad; and who asks for the gradient of the frames still gets it.

    Args:
        backbone: changed in place.
        last: number of the last child that is frozen; None for none.

    Raises:
        ValueError: there is no such child.

    >>> freeze(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 0)
    ['0']
    """
    names = [name for name, _ in backbone.named_children()]
    if last is None:
        return []
    if isinstance(last, str):
        last = len(names) - 1
    if last >= len(names):
        there = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise ValueError(f"freeze={last} is beyond the last child of the backbone; it has {there}")
    attention = {id(p) for p in attn_parameters(backbone)}
    frozen = []
    for name in names[: last + 1]:
        child = backbone.get_submodule(name)
        for parameter in child.parameters():
            parameter.requires_grad = id(parameter) in attention
        modules = child.named_modules(prefix=name)
        frozen += [path for path, module in modules if not any(p.requires_grad for p in module.parameters())]
    return frozen
