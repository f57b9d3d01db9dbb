"""Names -> backbones: timm/NAME, torchvision/NAME, resnet3d/DEPTH, or an authors' released file, with attention."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attnzoo.backbones.resnet3d import DEPTHS, resnet3d
from attnzoo.backbones.weights import load_state, load_weights, shortcut_of
from attnzoo.inject import inject
from attnzoo.official import identify, load
from attnzoo.sites import Action, Blocks

FAMILIES = ("timm", "torchvision", "resnet3d")


def create_backbone(
    name: str,
    *,
    attn: str | None = None,
    stages: Sequence[int] | None = None,
    blocks: Blocks = None,
    site: str | None = None,
    where: Mapping[str, Action] | None = None,
    identity: bool = False,
    replace_own: bool = False,
    spatial_dims: int | None = None,
    attn_options: dict[str, Any] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    inflate: str | None = None,
    **options: Any,
) -> nn.Module:
    """A residual network with the attention of your choice.

    Args:
        name: "timm/resnet101", "torchvision/resnet50", "resnet3d/101", ..., or the path of a file that a module's
            authors released (see `attnzoo.official`), for their network and its weights.
        attn: a name of `list_modules()`, or None for the plain network.
        stages: see `attnzoo.inject`, as blocks, site, where, identity, replace_own and spatial_dims.
        blocks: which blocks of the stages.
        site: where in a block; the module's own site if None.
        where: patterns of paths, instead of stages, blocks and site.
        identity: start as an exact identity.
        replace_own: take the network's own attention out.
        spatial_dims: 2 for attention to each frame of a 3D network on its own.
        attn_options: the module's own options.
        num_classes: classes of the head; 0 for none, the output is then (N, num_features); None for 1000, or for as
            many as a released file has.
        in_channels: C of the input, (N, C, H, W) or (N, C, T, H, W).
        pretrained: load the weights that timm or torchvision publish (they are downloaded).
        weights: a file with a state dict to load, of any number of classes (see `attnzoo.backbones.load_weights`); the
            shortcut of a resnet3d is that of the file, unless it is given.
        inflate: a 2D network, as in "timm/resnet50", whose published weights (they are downloaded) a resnet3d starts
            from (see `attnzoo.backbones.weights.inflate`).
        **options: passed on to the network's own constructor, such as widen_factor of resnet3d.

    Returns:
        The network, with `num_features` and `num_classes` as attributes.

    Raises:
        FileNotFoundError: no such weights file.
        ValueError: an unknown backbone, with near matches; a file that does not fit; what `inject` raises.
        TypeError: an unknown option of the network or of the attention.

    >>> net = create_backbone("timm/resnet18", attn="mpe", stages=(3, 4), num_classes=8, attn_options={"groups": 16})
    >>> net.num_classes
    8
    """
    family, _, variant = name.partition("/")
    if (family not in FAMILIES or not variant) and not Path(name).is_file():
        forms = ", ".join(f"{f}/NAME" for f in FAMILIES)
        if Path(name).suffix in (".pth", ".pt", ".tar"):
            raise FileNotFoundError(f"there is no weights file {name}")
        raise ValueError(
            f"backbone {name!r} must be one of {forms}, as in timm/resnet101, or a released file of weights"
        )
    placement: dict[str, Any] = {
        "stages": stages,
        "blocks": blocks,
        "site": site,
        "where": where,
        "identity": identity,
        "replace_own": replace_own,
        "spatial_dims": spatial_dims,
    }
    if attn is None:
        for option, value in {**placement, "attn_options": attn_options}.items():
            if value:
                raise ValueError(f"{option}={value} without attn; name a module, as in attn='mpe'")
    if family not in FAMILIES:
        if pretrained or weights is not None or inflate is not None:
            raise ValueError(f"{name} has its own weights; leave pretrained, weights and inflate out")
        model = load(identify(name), name, **options)
        _fit(model, num_classes, in_channels)
    else:
        if inflate is not None and (family != "resnet3d" or weights is not None):
            raise ValueError(f"inflate={inflate} is for a resnet3d without other weights; leave it out")
        if family == "resnet3d" and weights is not None:
            options = {"shortcut": shortcut_of(weights), **options}
        make = {"timm": _timm, "torchvision": _torchvision, "resnet3d": _resnet3d}[family]
        model = make(variant, 1000 if num_classes is None else num_classes, in_channels, pretrained, options)
    if weights is not None:
        load_weights(model, weights)
    if inflate is not None:
        load_state(model, create_backbone(inflate, pretrained=True).state_dict(), inflate)
    if attn is not None:
        inject(model, attn, **placement, **attn_options or {})
    return model


def _timm(variant: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(variant.partition(".")[0]):
        raise ValueError(_unknown("timm", variant, timm.list_models()))
    model: nn.Module = timm.create_model(
        variant, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options
    )
    return model


def _torchvision(
    variant: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    import torchvision

    files = ("torchvision.models.resnet", "torchvision.models.video.resnet")
    models = torchvision.models
    names = [name for name in models.list_models() if models.get_model_builder(name).__module__ in files]
    if variant not in names:
        raise ValueError(_unknown("torchvision", variant, names))
    model: Any = torchvision.models.get_model(variant, weights="DEFAULT" if pretrained else None, **options)
    model.num_features, model.num_classes = model.fc.in_features, model.fc.out_features
    _fit(model, num_classes, in_channels)
    network: nn.Module = model
    return network


def _fit(model: Any, num_classes: int | None, in_channels: int) -> None:
    """Give a ResNet of torchvision another head and stem, where it is for other numbers."""
    if num_classes is not None and model.num_classes != num_classes:
        model.num_classes = num_classes
        model.fc = nn.Linear(model.num_features, num_classes) if num_classes else nn.Identity()
    name, stem = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    if in_channels != stem.in_channels:
        conv: Any = type(stem)
        fresh = conv(in_channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False)
        # As timm does: the sum over the three colours, spread over the new channels, keeps the response to grey input.
        fresh.weight.data.copy_(stem.weight.data.sum(1, keepdim=True) / in_channels)
        model.set_submodule(name, fresh)


def _resnet3d(variant: str, num_classes: int, in_channels: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise ValueError(
            "resnet3d publishes no weights to download; give a Kinetics file as weights=PATH, "
            f"or take those of a 2D network by inflate=timm/resnet{variant}"
        )
    if not variant.isdigit() or int(variant) not in DEPTHS:
        raise ValueError(_unknown("resnet3d", variant, [str(d) for d in DEPTHS]))
    valid = [p.name for p in inspect.signature(resnet3d).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in valid:
            raise TypeError(f"resnet3d has no option {option!r}; valid: {', '.join(valid)}")
    return resnet3d(int(variant), num_classes=num_classes, in_channels=in_channels, **options)


def _unknown(family: str, variant: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(variant, names, n=3, cutoff=0.5) or list(names)[:7]
    return f"there is no backbone {family}/{variant}; near matches: {', '.join(f'{family}/{n}' for n in near)}"
