"""Where attention can go in a network.

Sites of a residual block, found by the names of its children (conv1, bn1, conv2, ...), not by its class:

* out: after the block's last norm, before the sum with the shortcut; a pre-activation block ends in a convolution, and
  attention goes after that;
* mid: before the block's last convolution, after the norm and activation of the one before;
* conv: in place of the block's first convolution with a kernel larger than 1, whose width and stride it takes;
* stage: after the whole stage.

In any other network a pattern names the modules that attention goes after or before, or that it replaces.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import index
from typing import Any, Literal, cast

from torch import nn

Action = Literal["after", "before", "replace"]
Blocks = Sequence[int] | Callable[[int, int], bool] | str | None
OWN = ("se", "se_module")  # the child that holds a block's own attention, in timm
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Place:
    """One place for attention.

    Attributes:
        path: of the module there, as in the network's state dict.
        parent: the module that has it as a child.
        name: the child's name.
        action: whether attention goes after it, before it, or replaces it.
        channels: C of what the attention sees.
        spatial_dims: the number of spatial axes there.
        shape: out_channels and stride, where it replaces a convolution.
        own: the block's own attention, if it has one: its path and its parent.
    """

    path: str
    parent: nn.Module
    name: str
    action: Action
    channels: int
    spatial_dims: int
    shape: Mapping[str, Any] = field(default_factory=dict)
    own: tuple[str, nn.Module] | None = None

    @property
    def child(self) -> nn.Module:
        """The module that is there now."""
        return self.parent.get_submodule(self.name)


class Wrapper(nn.Module):
    """Base of what stands in a module's place to bring attention there; the module itself is its `base`."""


def bare(module: nn.Module) -> nn.Module:
    """A module without the attention attached to it.

    Args:
        module: any module.

    >>> bare(nn.ReLU())
    ReLU()
    """
    while isinstance(module, Wrapper):
        module = cast(nn.Module, module.base)
    return module


def children(module: nn.Module) -> dict[str, nn.Module]:
    """The children of a module, as they are without attention.

    Args:
        module: any module.

    >>> children(nn.Sequential(nn.ReLU()))
    {'0': ReLU()}
    """
    return {name: bare(child) for name, child in bare(module).named_children()}


def residual(
    model: nn.Module, site: str, stages: Sequence[int] | None = None, blocks: Blocks = None
) -> Iterator[Place]:
    """Places in the residual blocks of a network.

    Args:
        model: a network with stages layer1, layer2, ... or stages.0, stages.1, ... of blocks conv1, bn1, conv2, ...
        site: "out", "mid", "conv" or "stage".
        stages: their numbers from 1; all if None.
        blocks: see `attnzoo.inject`.

    Raises:
        ValueError: no such stage, block or site.
        TypeError: stages or blocks of another form.

    >>> import torchvision
    >>> [place.path for place in residual(torchvision.models.resnet18(), "mid", stages=[4])]
    ['layer4.0.conv2', 'layer4.1.conv2']
    """
    there = dict(_stages(model))
    for stage in _numbers("stages", stages, there) if stages is not None else there:
        if stage not in there:
            have = f"it has {', '.join(map(str, there))}" if there else "it has none; name the modules with where="
            raise ValueError(f"stage {stage} is not in this {type(model).__name__}; {have}")
        path = there[stage]
        stack = _get(model, path)
        found = children(stack)
        names = list(found)
        if site == "stage":
            last = f"{path}.{names[-1]}"
            width, dims = _width(_units(last, found[names[-1]])[-1].conv)
            yield Place(last, stack, names[-1], "after", width, dims)
            continue
        for name in (names[i] for i in _chosen(stage, len(names), blocks)):
            yield _in_block(f"{path}.{name}", found[name], site)


def matching(model: nn.Module, where: Mapping[str, Action]) -> Iterator[Place]:
    """Places named by patterns, in any network.

    Args:
        model: any network.
        where: {pattern: "after", "before" or "replace"}; a pattern is a module's path in which `*` stands for any part
            of one name, as in "stages.*.blocks.*.conv2".

    Raises:
        ValueError: a pattern that matches nothing, an unknown action, or a module whose channels cannot be read off.
        TypeError: `where` is not a mapping.

    >>> import torchvision
    >>> [place.path for place in matching(torchvision.models.resnet18(), {"layer*.0.bn2": "after"})][:2]
    ['layer1.0.bn2', 'layer2.0.bn2']
    """
    if not isinstance(where, Mapping) or not where:
        raise TypeError(f"where={where!r} must map patterns to actions, as in {{'layer*.*.bn2': 'after'}}")
    paths = dict(_walk(model))
    for pattern, action in where.items():
        if action not in ("after", "before", "replace"):
            raise ValueError(f"where={{{pattern!r}: {action!r}}} must be 'after', 'before' or 'replace'")
        parts = pattern.split(".")
        found = [p for p in paths if p.count(".") == len(parts) - 1 and all(map(fnmatchcase, p.split("."), parts))]
        if not found:
            near = ", ".join(list(paths)[:3])
            raise ValueError(f"no module of this {type(model).__name__} matches {pattern!r}; it has {near}, ...")
        for path in found:
            yield _named(model, path, *paths[path], action)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A convolution of a block, and the norm that follows it: modules and their paths in the block."""

    path: str
    conv: nn.Module
    norm: str | None


def _stages(model: nn.Module) -> Iterator[tuple[int, str]]:
    """Numbers and paths of the stages' stacks of blocks."""
    found = children(model)
    for name in sorted((n for n in found if re.fullmatch(r"layer[1-9]\d*", n)), key=lambda n: int(n[5:])):
        yield int(name[5:]), name
    if "stages" in found:
        for name, stage in children(found["stages"]).items():
            if name.isdigit():
                yield int(name) + 1, f"stages.{name}.blocks" if hasattr(stage, "blocks") else f"stages.{name}"


def _units(path: str, block: nn.Module) -> list[_Unit]:
    parts = children(block)
    units = []
    for name in sorted((n for n in parts if re.fullmatch(r"conv\d+", n)), key=lambda n: int(n[4:])):
        inner = children(parts[name])
        convs = [n for n, child in inner.items() if any(isinstance(m, _CONVS) for m in child.modules())]
        if len(convs) == 1 and not isinstance(parts[name], _CONVS):  # a convolution with its norm, in one child
            norm = next((f"{name}.{n}" for n, child in inner.items() if _is_norm(child)), None)
            units.append(_Unit(f"{name}.{convs[0]}", inner[convs[0]], norm))
        else:
            number = name.removeprefix("conv")
            norm = next((n for n in (f"bn{number}", f"norm{number}") if n in parts), None)
            units.append(_Unit(name, parts[name], norm))
    if not units or not any(unit.norm for unit in units):
        raise ValueError(
            f"{path} ({type(block).__name__}) has no children conv1, bn1, ...: no site for attention; "
            f"name the modules with where={{'{path}': 'after'}} or the like"
        )
    return units


def _in_block(path: str, block: nn.Module, site: str) -> Place:
    units, names = _units(path, block), list(children(block))
    last = units[-1]
    own = next(((f"{path}.{n}", block) for n in OWN if isinstance(getattr(block, n, None), nn.Module)), None)
    # In a pre-activation block the norm of a convolution stands in front of it, with the activation.
    before = last.norm is not None and "." not in last.norm and names.index(last.norm) < names.index(last.path)
    if site == "mid":
        channels, dims = _width(last.conv, output=False)
        if before and last.norm:
            return _place(path, block, last.norm, "after", channels, dims, own=own)
        return _place(path, block, last.path, "before", channels, dims, own=own)
    if site == "out":
        channels, dims = _width(last.conv)
        after = last.path if before or last.norm is None else last.norm
        return _place(path, block, after, "after", channels, dims, own=own)
    large = next((u for u in units if any(max(c.kernel_size) > 1 for c in _convs(u.conv))), None)
    if large is None or not _is_conv(large.conv):
        there = f"its {large.path} is a {type(large.conv).__name__}" if large else "it has none larger than 1"
        raise ValueError(f"{path} ({type(block).__name__}) has no convolution that could be replaced: {there}")
    channels, dims = _width(large.conv, output=False)
    return _place(path, block, large.path, "replace", channels, dims, _shape(large.conv), own)


def _place(
    path: str,
    block: nn.Module,
    name: str,
    action: Action,
    channels: int,
    dims: int,
    shape: Mapping[str, Any] | None = None,
    own: tuple[str, nn.Module] | None = None,
) -> Place:
    parent, _, child = name.rpartition(".")
    return Place(f"{path}.{name}", _get(block, parent), child, action, channels, dims, shape or {}, own)


def _named(model: nn.Module, path: str, parent: nn.Module, module: nn.Module, action: Action) -> Place:
    try:
        channels, dims = _width(module, output=action == "after")
    except StopIteration:
        raise ValueError(
            f"{path} ({type(module).__name__}) holds no convolution and no norm, so its channels are unknown; "
            "name a convolution or a norm"
        ) from None
    shape = _shape(module) if action == "replace" and any(True for _ in _convs(module)) else {}
    # A norm does not tell how many axes it sees; the convolutions around it do.
    dims = dims or next((c.weight.ndim - 2 for near in (parent, model) for c in _convs(near)), 2)
    return Place(path, parent, path.rpartition(".")[2], action, channels, dims, shape)


def _get(module: nn.Module, path: str) -> nn.Module:
    """The module at a path, as it is without attention."""
    for name in filter(None, path.split(".")):
        module = children(module)[name]
    return bare(module)


def _walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, tuple[nn.Module, nn.Module]]]:
    """Paths, parents and modules of a network, as they are without attention."""
    for name, child in children(module).items():
        yield prefix + name, (bare(module), child)
        yield from _walk(child, f"{prefix}{name}.")


def _convs(module: nn.Module) -> Iterator[Any]:
    return (m for m in module.modules() if isinstance(m, _CONVS))


def _is_norm(module: nn.Module) -> bool:
    # By name too: timm's and torchvision's own norms have no common base.
    return "norm" in type(module).__name__.lower() and not any(True for _ in _convs(module))


def _is_conv(module: nn.Module) -> bool:
    """Whether a module is a convolution, or a chain that stands for one, as the (2+1)D one of torchvision."""
    return isinstance(module, _CONVS) or (
        isinstance(module, nn.Sequential) and all(not any(child.children()) for child in module)
    )


def _width(module: nn.Module, *, output: bool = True) -> tuple[int, int]:
    """Channels of a module's output (or input), and its spatial axes."""
    convs = list(_convs(module))
    if not convs:
        norm: Any = next(m for m in module.modules() if _is_norm(m))
        return norm.weight.shape[0], 0
    conv, side = convs[-1 if output else 0], "out_channels" if output else "in_channels"
    width = getattr(module, side, None)  # a module of several convolutions knows better
    return (width if isinstance(width, int) else getattr(conv, side)), conv.weight.ndim - 2


def _shape(module: nn.Module) -> dict[str, Any]:
    """What takes the place of a convolution needs to know of its output."""
    convs = list(_convs(module))
    return {
        "out_channels": _width(module)[0],
        "stride": tuple(max(strides) for strides in zip(*(c.stride for c in convs), strict=True)),
    }


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
    indices = _numbers("blocks", blocks, range(count))
    for i in indices:
        if not -count <= i < count:
            raise ValueError(f"block {i} is not in stage {stage}, which has blocks 0 to {count - 1}")
    return sorted({i % count for i in indices})


def _numbers(what: str, given: Any, there: Iterable[int]) -> list[int]:
    """A list of whole numbers that a user gave, each once."""
    example = ", ".join(map(str, there)) or "1"
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{what}={given!r} must be a list of numbers, as in {what}=({given if given else example},)")
    try:
        numbers = list(dict.fromkeys(map(index, given)))
    except TypeError:
        numbers = []
    if not numbers:
        raise ValueError(f"{what}={given!r} must hold whole numbers; there are {example}")
    return numbers
