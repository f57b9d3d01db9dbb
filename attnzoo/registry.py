"""The registry: names -> attention modules, found in attnzoo/modules and in other packages' entry points."""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_args

from torch import nn

Site = Literal["out", "mid", "conv", "stage"]
SITES: tuple[str, ...] = get_args(Site)
ENTRY_POINTS = "attnzoo.modules"

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Spec:
    """What the registry knows about one module.

    Attributes:
        name: the name in `create`.
        cls: the class; its constructor is the only source of options and defaults.
        paper: where the module was published.
        dims: the numbers of spatial axes it is defined for.
        site: where it goes in a residual block unless the user says otherwise (see `attnzoo.inject`).
        aliases: other names that the field uses for it.
    """

    name: str
    cls: type[nn.Module]
    paper: str
    dims: frozenset[int]
    site: Site
    aliases: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The module's own options and their defaults, read off the constructor.

        >>> spec("se").options
        {'reduction': 16, 'bias': False}
        """
        parameters = inspect.signature(self.cls).parameters.values()
        return {
            p.name: p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.name not in ("spatial_dims", *_PLACE)
        }

    @property
    def idea(self) -> str:
        """The first line of the class's docstring.

        >>> spec("se").idea
        'Channel gate from globally pooled features (Hu et al., 2018).'
        """
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]


_PLACE = ("out_channels", "stride")  # of the convolution that a module replaces
_specs: dict[str, Spec] = {}
_found = False


def register(
    name: str, *, paper: str = "", site: Site = "out", dims: Iterable[int] = (2, 3), aliases: Iterable[str] = ()
) -> Callable[[type[M]], type[M]]:
    """Class decorator that adds an attention module to the zoo.

    The class is called as `cls(channels, *, spatial_dims, **options)` and maps (N, C, *spatial) to the same shape; at
    site `conv` it also takes `out_channels` and `stride`. A package outside this one registers its modules in a Python
    module that it declares as an entry point of the group `attnzoo.modules`.

    Args:
        name: the name in `create`; lower case letters, digits and underscores.
        paper: where the module was published.
        site: "out", "mid", "conv" or "stage" (see `attnzoo.inject`).
        dims: the numbers of spatial axes it is defined for.
        aliases: other names that `create` shall take for it.

    Raises:
        ValueError: an ill-formed or taken name, or an unknown site.

    >>> from torch import nn
    >>> @register("do_nothing", paper="this docstring")
    ... class DoNothing(nn.Identity):
    ...     def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
    ...         super().__init__()
    >>> create("do_nothing", 8)
    DoNothing()
    >>> unregister("do_nothing")
    """
    names = (name, *aliases)
    for each in names:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", each):
            raise ValueError(f"module name {each!r} must be lower case letters, digits and underscores, as in 'my_se'")
    if site not in SITES:
        raise ValueError(f"site {site!r} of module {name!r} must be one of {', '.join(SITES)}")

    def add(cls: type[M]) -> type[M]:
        _find()
        for each in names:
            taken = _by_name().get(each)
            if taken and (taken.cls.__module__, taken.cls.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"module name {each!r} is taken by {taken.cls.__module__}.{taken.cls.__qualname__}; "
                    f"register {cls.__module__}.{cls.__qualname__} under another name"
                )
        _specs[name] = Spec(name, cls, paper, frozenset(dims), site, names[1:])
        return cls

    return add


def _by_name() -> dict[str, Spec]:
    return {each: found for found in _specs.values() for each in (found.name, *found.aliases)}


def unregister(name: str) -> None:
    """Take a module out of the zoo again, as a test or a notebook may want to.

    Args:
        name: a registered name.

    Raises:
        ValueError: no such module.
    """
    del _specs[spec(name).name]


def _find() -> None:
    """Import attnzoo/modules/*.py and the entry points of other packages, once."""
    global _found
    if _found:
        return
    _found = True
    package = importlib.import_module("attnzoo.modules")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # a broken third party must not take the zoo down
            origin = entry.dist.name if entry.dist else "an unknown package"
            warnings.warn(f"attnzoo modules of {origin} ({entry.value}) were not loaded: {error}", stacklevel=3)


def spec(name: str) -> Spec:
    """What the registry knows about the module `name`.

    Args:
        name: a registered name, or an alias of it.

    Raises:
        ValueError: no such module; the message names near matches.

    >>> spec("coord").name, spec("mpe").site
    ('ca', 'mid')
    """
    _find()
    names = _by_name()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(list_modules())}"
        raise ValueError(f"no attention module is called {name!r}; {hint}")
    return names[name]


def list_modules(pattern: str = "*", *, spatial_dims: int | None = None, site: str | None = None) -> list[str]:
    """Names of the modules, in natural order.

    Args:
        pattern: a name with wildcards, as in "s*".
        spatial_dims: only modules defined for features with so many spatial axes.
        site: only modules that go to this site by default.

    Raises:
        ValueError: an unknown site.

    >>> list_modules("s?")
    ['sa', 'se', 'sk']
    """
    _find()
    if site is not None and site not in SITES:
        raise ValueError(f"site {site!r} must be one of {', '.join(SITES)}")
    names = [
        s.name
        for s in _specs.values()
        if fnmatch.fnmatchcase(s.name, pattern)
        and (spatial_dims is None or spatial_dims in s.dims)
        and (site is None or site == s.site)
    ]
    return sorted(names, key=lambda n: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", n)])


def create(name: str, channels: int, *, spatial_dims: int = 2, **options: Any) -> nn.Module:
    """Make an attention module: (N, C, *spatial) -> the same shape.

    Args:
        name: a name of `list_modules()`.
        channels: C.
        spatial_dims: 2 for (H, W), 3 for (T, H, W).
        **options: the module's own, see `spec(name).options`.

    Raises:
        ValueError: an unknown name, a dimension the module is not defined for, or an option's value that does not fit.
        TypeError: an unknown option; the message names the valid ones.

    >>> import torch
    >>> create("mpe", channels=512, groups=8)(torch.randn(2, 512, 7, 9)).shape
    torch.Size([2, 512, 7, 9])
    """
    found = spec(name)
    if spatial_dims not in found.dims:
        raise ValueError(f"{name} is defined for spatial_dims={_either(found.dims)}, not for {spatial_dims}")
    check_options(found, options, place=True)
    return found.cls(channels, spatial_dims=spatial_dims, **options)


def check_options(found: Spec, options: Iterable[str], *, place: bool = False) -> None:
    """Refuse options that a module does not have.

    Args:
        found: the module.
        options: names of options.
        place: whether `out_channels` and `stride` are allowed where it takes them: they belong to a place in a network.

    Raises:
        TypeError: an unknown option; the message names the valid ones.

    >>> check_options(spec("se"), ["reduction"])
    """
    shape = set(_PLACE) & set(inspect.signature(found.cls).parameters) if place else set()
    for option in options:
        if option not in found.options and option not in shape:
            near = difflib.get_close_matches(option, found.options, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TypeError(f"{found.name} has no option {option!r}; {hint}valid: {', '.join(found.options) or 'none'}")


def _either(dims: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(dims)))
