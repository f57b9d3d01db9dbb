"""Attention into a network and out again; where it can go stands in `attnzoo.sites`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.registry import SITES, Spec, check_options, create, list_modules, spec
from attnzoo.sites import Action, Blocks, Place, Wrapper, matching, residual

M = TypeVar("M", bound=nn.Module)


class Attached(Wrapper):
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


class Replaced(Wrapper):
    """Attention in place of a module, which is kept aside for `eject`: not trained, saved or counted.

    Args:
        base: a convolution, or a block's own attention.
        attn: attention with base's input, output and stride; None to leave base out.
    """

    def __init__(self, base: nn.Module, attn: nn.Module | None) -> None:
        super().__init__()
        self.attn = attn
        self.train(base.training)
        self._aside = (base,)  # in a tuple, which nn.Module does not look into

    @property
    def base(self) -> nn.Module:
        """The module kept aside."""
        return self._aside[0]

    def forward(self, x: Tensor) -> Tensor:
        """The attention's output for base's input x."""
        return x if self.attn is None else self.attn(x)


WRAPPERS: dict[Action, Callable[[nn.Module, nn.Module], nn.Module]] = {
    "after": Attached,
    "before": AttachedBefore,
    "replace": Replaced,
}


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


def inject(
    model: M,
    name: str,
    *,
    stages: Sequence[int] | None = None,
    blocks: Blocks = None,
    site: str | None = None,
    where: Mapping[str, Action] | None = None,
    identity: bool = False,
    replace_own: bool = False,
    spatial_dims: int | None = None,
    **options: Any,
) -> M:
    """Put attention into a network, in place; its own state-dict keys and values stay as they are.

    Args:
        model: a ResNet of timm (v1 or v2), torchvision (images or videos), MONAI or `attnzoo.backbones.resnet3d`, or
            any network with stages layer1, layer2, ... (or stages.0, stages.1, ...) of blocks with children conv1, bn1,
            conv2, bn2, ...; with `where`, any network.
        name: the module, a name of `list_modules()`.
        stages: which stages, from 1; all if None.
        blocks: which blocks of each stage: None or "all", "first", "last", indices (negative ones count from the end),
            or a function of (stage, index).
        site: "out", "mid", "conv" or "stage" (see `attnzoo.sites`); the module's own if None.
        where: instead of stages, blocks and site, paths of modules in which `*` stands for any part of one name, and
            what happens there: {"layer*.*.conv2": "after"}, "before" or "replace".
        identity: start as an exact identity: x + alpha * (attention(x) - x) with a learnable alpha = 0, so that a
            pretrained network gives the same output at step 0 and still trains.
        replace_own: take the blocks' own attention out, such as the SE of timm's seresnet50; it stays otherwise.
        spatial_dims: that of the network if None; 2 in a 3D network puts the 2D module on each frame on its own (its
            keys are then `attn.attention.*`).
        **options: the module's own.

    Returns:
        The same model. Nothing is changed if an error is raised.

    Raises:
        ValueError: an unknown module, stage, block or site, attention already there, a width that does not fit the
            options, or a network that is wrapped (DataParallel) or compiled.
        TypeError: an unknown option, or an argument of another type.

    >>> from attnzoo.backbones.resnet3d import resnet3d
    >>> model = inject(resnet3d(10), "se", stages=(3, 4))
    >>> [key for key in model.state_dict() if ".attn." in key][:2]
    ['layer3.0.bn2.attn.fc.0.weight', 'layer3.0.bn2.attn.fc.2.weight']
    """
    found = spec(name)
    check_options(found, options)
    _refuse_wrapped(model)
    if where is not None:
        if (stages, blocks, site) != (None, None, None) or replace_own:
            raise ValueError("where= names the places itself; give it without stages, blocks, site and replace_own")
        places = _once(matching(model, where))
    else:
        at = _site(found, site)
        if at == "stage" and blocks is not None:
            raise ValueError(f"blocks={blocks!r} at site 'stage': attention goes after it; choose stages alone")
        places = list(residual(model, at, stages, blocks))
    if not places:
        raise ValueError(
            f"blocks={'the function given' if callable(blocks) else repr(blocks)} chooses no block"
            if blocks is not None
            else f"{type(model).__name__} has no stages layer1, layer2, ...; give the residual network itself, or name "
            "the modules with where={'features.*': 'after'} or the like"
        )
    pairs = [(place, _attention(model, found, place, identity, spatial_dims, options)) for place in places]
    for place in places if replace_own else ():
        if place.own is None or isinstance(place.own[1], Replaced):
            raise ValueError(f"replace_own=True: {place.path} is in no block with attention of its own (se, se_module)")
    for place, attn in pairs:
        setattr(place.parent, place.name, WRAPPERS[place.action](place.child, attn))
        if replace_own and place.own is not None:
            path, block = place.own
            child = path.rpartition(".")[2]
            setattr(block, child, Replaced(block.get_submodule(child), None))
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
                weight, base = _near(model, parent), child.base
                if any(t.is_meta for t in base.parameters()) and not weight.is_meta:
                    base = base.to_empty(device=weight.device)  # as the network was, after the attention came in
                setattr(parent, name, base.to(weight.device, weight.dtype).train(child.training))
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
        **theirs: object,
    ) -> nn.Module:
        return create(name, channels, **options).to(device=device, dtype=dtype)

    return layer


def _refuse_wrapped(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a network (an nn.Module)")
    for module in model.modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise ValueError(
                f"the network is wrapped in {type(module).__name__}, which would not see the new parameters; "
                "inject into model.module and wrap the result"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError("the network is compiled; inject into the plain network, then torch.compile the result")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError("the network is a TorchScript module; inject into the plain network")


def _once(places: Iterable[Place]) -> list[Place]:
    """Places named by several patterns, each once."""
    found: dict[tuple[nn.Module, str], Place] = {}
    for place in places:
        earlier = found.setdefault((place.parent, place.name), place)
        if earlier.action != place.action:
            raise ValueError(f"where= asks for attention {earlier.action} and {place.action} {place.path}; choose one")
    return list(found.values())


def _site(found: Spec, site: str | None) -> str:
    at = found.site if site is None else site
    if at not in SITES:
        raise ValueError(f"site {at!r} must be one of {', '.join(SITES)}")
    if at == "conv" and found.site != "conv":
        raise ValueError(f"{found.name} cannot take the place of a convolution; its site may be out, mid or stage")
    return at


def _attention(
    model: nn.Module,
    found: Spec,
    place: Place,
    identity: bool,
    spatial_dims: int | None,
    options: Mapping[str, Any],
) -> nn.Module:
    """The module for one place, on the device and of the type of the network there."""
    if isinstance(place.child, Wrapper):
        there = next((m for m in place.child.modules() if isinstance(m, nd.Attention)), place.child)
        raise ValueError(
            f"{place.path} already has attention ({type(there).__name__}); "
            "take it out first with attnzoo.eject(model), or choose another site, stages or blocks"
        )
    if place.action == "replace" and identity:
        raise ValueError(
            f"identity=True: {found.name} would take the place of {place.path}, which is trained, "
            "so no start leaves the output as it was; use identity=False"
        )
    shape, dims = dict(place.shape), place.spatial_dims if spatial_dims is None else spatial_dims
    by_frame = (dims, place.spatial_dims) == (2, 3)
    if dims != place.spatial_dims and (shape or not by_frame):
        what = "a convolution is not replaced frame by frame" if by_frame else f"it has {place.spatial_dims}"
        raise ValueError(f"spatial_dims={dims} at {place.path}: {what}; leave it out")
    if found.site != "conv" and shape:
        if shape["out_channels"] != place.channels or max(shape["stride"]) > 1:
            raise ValueError(
                f"{found.name} keeps the shape, but {place.path} makes {shape['out_channels']} of {place.channels} "
                f"channels with stride {max(shape['stride'])}; replace it by a module of site conv"
            )
        shape = {}
    try:
        attn = create(found.name, place.channels, spatial_dims=dims, **shape, **options)
    except ValueError as error:
        raise ValueError(
            f"{found.name} does not fit {place.path} with its {place.channels} channels: {error}"
        ) from None
    weight = _near(model, place.parent)
    if by_frame:
        attn = nd.Frames(attn)
    return (nd.Blend(attn) if identity else attn).to(weight.device, weight.dtype).train(model.training)


def _near(model: nn.Module, parent: nn.Module) -> Tensor:
    """A parameter that tells the device and type at some place of a network."""
    return next(chain(parent.parameters(), model.parameters()), torch.empty(0))
