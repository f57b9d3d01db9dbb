"""Where attention goes in a residual network, putting it there and taking it out again.

Sites, found by the names of a block's children (conv1, bn1, conv2, ...), not by its class:

* out: after the block's last norm, before the sum with the shortcut;
* mid: before the block's last convolution, after the norm and activation of the one before;
* conv: in place of the block's first convolution with a kernel larger than 1, whose width and stride it takes;
* stage: after the whole stage.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import SITES, Spec, check_options, create, list_modules, spec

Blocks = Sequence[int] | Callable[[int, int], bool] | str | None
M = TypeVar("M", bound=nn.Module)


class Attached(nn.Module):
    """`base` with attention after it; `base` keeps its own state-dict keys, the attention's are new ones under `attn.`.

    A module rather than a forward hook, so that deepcopy, pickle, torch.compile, torch.export, conv-bn fusion and
    SyncBatchNorm conversion see all of it.

    Args:
        base: any module.
        attn: attention that keeps the shape of base's output.
    """

    def __init__(self, base: nn.Module, attn: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.attn = attn
        self._register_state_dict_hook(_hide_base)
        self.register_load_state_dict_pre_hook(_restore_base)
        self.register_load_state_dict_post_hook(_name_as_outside)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """What base makes of x, attended to."""
        attended: Tensor = self.attn(self.base(x))
        return attended


class AttachedBefore(Attached):
    """`base` with attention before it."""

    def forward(self, x: Tensor) -> Tensor:
        """What base makes of the attended x."""
        out: Tensor = self.base(self.attn(x))
        return out


class Replaced(nn.Module):
    """Attention in place of a convolution, which is kept aside for `eject`: not trained, saved or counted.

    Args:
        base: the convolution.
        attn: attention with the convolution's input, output and stride.
    """

    def __init__(self, base: nn.Module, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn
        self.train(base.training)
        self._aside = (base,)  # in a tuple, which nn.Module does not look into

    @property
    def base(self) -> nn.Module:
        """The convolution kept aside."""
        return self._aside[0]

    def forward(self, x: Tensor) -> Tensor:
        """The attention's output for the convolution's input x."""
        out: Tensor = self.attn(x)
        return out


def _hide_base(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    hidden = prefix + "base."
    for key in [k for k in state if k.startswith(prefix)]:
        # Taken out and put back, all of them, to keep the order of the entries.
        value = state.pop(key)
        state[prefix + key.removeprefix(hidden) if key.startswith(hidden) else key] = value


def _restore_base(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for key in [k for k in state if k.startswith(prefix) and not k.startswith(prefix + "attn.")]:
        state[f"{prefix}base.{key.removeprefix(prefix)}"] = state.pop(key)
    module._prefix = prefix  # type: ignore[assignment]  # for the hook after loading, which is not told


def _name_as_outside(module: nn.Module, incompatible: Any) -> None:
    """Missing and unexpected keys as the state dict has them."""
    hidden = f"{module._prefix}base."
    for keys in incompatible:
        keys[:] = [module._prefix + k.removeprefix(hidden) if k.startswith(hidden) else k for k in keys]


@dataclass(frozen=True, slots=True)
class Place:
    """One place for attention: the child `name` of `parent`, and what the attention there is created with."""

    path: str
    parent: nn.Module
    name: str
    wrapper: Callable[[nn.Module, nn.Module], nn.Module]
    channels: int
    shape: Mapping[str, Any]

    @property
    def child(self) -> nn.Module:
        """The module that is there now."""
        return self.parent.get_submodule(self.name)


def inject(
    model: M,
    name: str,
    *,
    stages: Sequence[int] = (1, 2, 3, 4),
    blocks: Blocks = None,
    site: str | None = None,
    identity: bool = False,
    **options: Any,
) -> M:
    """Put attention into a residual network, in place; its own state-dict keys and values stay as they are.

    Args:
        model: a ResNet of timm, torchvision or `attnzoo.backbones.resnet3d`, or any network with stages layer1,
            layer2, ... of blocks with children conv1, bn1, conv2, bn2, ...
        name: the module, a name of `list_modules()`.
        stages: which of layer1, layer2, ...
        blocks: which blocks of each stage: None or "all", "first", "last", indices (negative ones count from the end),
            or a function of (stage, index).
        site: "out", "mid", "conv" or "stage"; the module's own if None.
        identity: start as an exact identity: x + alpha * (attention(x) - x) with a learnable alpha = 0, so that a
            pretrained network gives the same output at step 0 and still trains.
        **options: the module's own.

    Returns:
        The same model. Nothing is changed if an error is raised.

    Raises:
        ValueError: an unknown module, stage, block or site, attention already there, or a width that does not fit the
            options.
        TypeError: an unknown option.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> model = inject(resnet3d(10), "se", stages=(3, 4))
    >>> [key for key in model.state_dict() if ".attn." in key][:2]
    ['layer3.0.bn2.attn.fc.0.weight', 'layer3.0.bn2.attn.fc.2.weight']
    """
    found = spec(name)
    check_options(found, options)
    at = _site(found, site, identity)
    if at == "stage" and blocks is not None:
        raise ValueError(
            f"blocks={blocks!r} at site 'stage': attention goes after the whole stage; choose stages alone"
        )
    places = [place for stage in _stages(model, stages) for place in _places(model, stage, blocks, at)]
    if not places:
        raise ValueError(f"blocks={blocks!r} chooses no block in stages {tuple(stages)}")
    pairs = []
    for place in places:
        if isinstance(place.child, Attached | Replaced):
            raise ValueError(
                f"{place.path} already has attention ({type(_bare(place.child.attn)).__name__}); "
                "take it out first with attnzoo.eject(model), or choose another site, stages or blocks"
            )
        weight = next(place.parent.parameters())
        try:
            attn = create(name, place.channels, spatial_dims=_spatial_dims(model), **place.shape, **options)
        except ValueError as error:
            raise ValueError(f"{name} does not fit {place.path} with its {place.channels} channels: {error}") from None
        attn = nd.Blend(attn) if identity else attn
        pairs.append((place, attn.to(weight.device, weight.dtype).train(model.training)))
    for place, attn in pairs:
        setattr(place.parent, place.name, place.wrapper(place.child, attn))
    return model


def eject(model: M) -> M:
    """Take out all attention that `inject` put in; what is left is the network as it was.

    Args:
        model: a network, changed in place.

    Returns:
        The same model.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> model = resnet3d(10)
    >>> before = list(model.state_dict())
    >>> list(eject(inject(model, "mpe")).state_dict()) == before
    True
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Attached):
                setattr(parent, name, child.base)
            elif isinstance(child, Replaced):
                weight = next(child.attn.parameters())
                setattr(parent, name, child.base.to(weight.device, weight.dtype).train(child.training))
    return model


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The attention modules of a network, injected or built in through `timm_layer`, by their state-dict prefix.

    Args:
        model: any network.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> list(attentions(inject(resnet3d(10), "se", stages=(4,))))
    ['layer4.0.bn2.attn']
    """
    classes = tuple(spec(name).cls for name in list_modules())

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            here = prefix if isinstance(module, Attached) and name == "base" else f"{prefix}{name}."
            injected = isinstance(module, Attached | Replaced) and name == "attn"
            if injected or isinstance(child, classes):
                yield here[:-1], child
            else:
                yield from walk(child, here)

    return dict(walk(model, ""))


def attn_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of the attention modules alone, for an optimizer or for freezing the rest.

    Args:
        model: any network.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> sum(p.numel() for p in attn_parameters(inject(resnet3d(10), "se", stages=(4,))))
    32768
    """
    return chain.from_iterable(module.parameters() for module in attentions(model).values())


def attn_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the attention modules alone, under their keys in the whole network's state dict.

    Args:
        model: any network; `model.load_state_dict(attn_state_dict(other), strict=False)` takes it.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> len(attn_state_dict(inject(resnet3d(10), "se", stages=(4,))))
    2
    """
    prefixes = tuple(f"{prefix}." for prefix in attentions(model))
    return {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)}


def timm_layer(name: str, **options: Any) -> Callable[..., nn.Module]:
    """A module in the form that timm's `attn_layer` arguments take.

    timm calls it with the channels and, depending on the family, device, dtype, an activation or a reduction ratio of
    its own, of which device and dtype are heeded.

    Args:
        name: the module, a name of `list_modules()`.
        **options: the module's own.

    Raises:
        ValueError: an unknown module.
        TypeError: an unknown option.

    >>> import timm
    >>> net = timm.create_model("resnet18", block_args=dict(attn_layer=timm_layer("se", reduction=8)))
    >>> type(net.layer1[0].se).__name__
    'SqueezeExcitation'
    """
    check_options(spec(name), options)

    def layer(
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        act_layer: object = None,
        rd_ratio: float | None = None,
    ) -> nn.Module:
        return create(name, channels, **options).to(device=device, dtype=dtype)

    return layer


def _site(found: Spec, site: str | None, identity: bool) -> str:
    at = found.site if site is None else site
    if at not in SITES:
        raise ValueError(f"site {at!r} must be one of {', '.join(SITES)}")
    if at == "conv" and found.site != "conv":
        raise ValueError(f"{found.name} cannot take the place of a convolution; its site may be out, mid or stage")
    if at == "conv" and identity:
        raise ValueError(
            f"identity=True: {found.name} at site 'conv' takes the place of a trained convolution, "
            "so no start leaves the output as it was; use identity=False"
        )
    return at


def _stages(model: nn.Module, stages: Sequence[int]) -> list[int]:
    there = [int(name.removeprefix("layer")) for name in _numbered(model, "layer")]
    if isinstance(stages, int | str):
        raise ValueError(f"stages={stages!r} must be a list of stages, as in stages=({stages},)")
    if not there:
        raise ValueError(
            f"{type(model).__name__} has no stages layer1, layer2, ...; give the residual network itself, not a wrapper"
        )
    for stage in stages:
        if stage not in there:
            raise ValueError(
                f"stage {stage} is not in this {type(model).__name__}; it has {', '.join(map(str, there))}"
            )
    return list(dict.fromkeys(stages))


def _places(model: nn.Module, stage: int, blocks: Blocks, site: str) -> Iterator[Place]:
    layer = model.get_submodule(f"layer{stage}")
    names = [name for name, _ in layer.named_children()]
    chosen = [names[i] for i in _chosen(stage, len(names), blocks)] if site != "stage" else names[-1:]
    for name in chosen:
        path, block = f"layer{stage}.{name}", _bare(layer.get_submodule(name))
        convs, norms = _numbered(block, "conv"), _numbered(block, "bn")
        if not convs or not norms:
            raise ValueError(f"{path} ({type(block).__name__}) has no children conv1, bn1, ...: no site for attention")
        first = next((c for c in convs if max(_conv(block, c).kernel_size) > 1), convs[0])
        width = _conv(block, convs[-1]).out_channels
        if site == "out":
            yield Place(f"{path}.{norms[-1]}", block, norms[-1], Attached, width, {})
        elif site == "mid":
            channels = _conv(block, convs[-1]).in_channels
            yield Place(f"{path}.{convs[-1]}", block, convs[-1], AttachedBefore, channels, {})
        elif site == "stage":
            yield Place(path, layer, name, Attached, width, {})
        else:
            conv = _conv(block, first)
            shape = {"out_channels": conv.out_channels, "stride": conv.stride}
            yield Place(f"{path}.{first}", block, first, Replaced, conv.in_channels, shape)


def _chosen(stage: int, count: int, blocks: Blocks) -> list[int]:
    if blocks is None or blocks == "all":
        return list(range(count))
    if callable(blocks):
        return [i for i in range(count) if blocks(stage, i)]
    if isinstance(blocks, str):
        if blocks not in ("first", "last"):
            raise ValueError(
                f"blocks={blocks!r} must be 'all', 'first', 'last', indices, or a function of (stage, index)"
            )
        return [0] if blocks == "first" else [count - 1]
    for i in blocks:
        if not -count <= i < count:
            raise ValueError(f"block {i} is not in stage {stage}, which has blocks 0 to {count - 1}")
    return sorted({i % count for i in blocks})


def _numbered(block: nn.Module, prefix: str) -> list[str]:
    """Children conv1, conv2, ... of a block, in order."""
    names = [name for name, _ in block.named_children() if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def _bare(module: nn.Module) -> Any:
    """A module without the attention attached to it."""
    while isinstance(module, Attached | Replaced | nd.Blend):
        module = module.attention if isinstance(module, nd.Blend) else module.base
    return module


def _conv(block: nn.Module, name: str) -> Any:
    conv = _bare(block.get_submodule(name))
    if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise ValueError(
            f"{name} of {type(block).__name__} is a {type(conv).__name__}, not a convolution: no site there"
        )
    return conv


def _spatial_dims(model: nn.Module) -> int:
    return next(d for m in model.modules() for d in nd.AXES if isinstance(m, nd.conv(d)))
