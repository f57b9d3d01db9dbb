"""The registry: names -> attention modules, found in attnzoo/modules and in other packages' entry points."""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from numbers import Integral, Real
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
        golden: its outputs, gradients and buffers were compared with those of its authors' code, or of `checked`.
        year: of the paper.
        formula: what it computes of features x, in one line.
        checked: what it was compared with, where that is not its authors' code.
    """

    name: str
    cls: type[nn.Module]
    paper: str
    dims: frozenset[int]
    site: Site
    aliases: tuple[str, ...] = ()
    golden: bool = False
    year: int | None = None
    formula: str = ""
    checked: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The module's own options and their defaults, read off the constructor.

        >>> spec("se").options["reduction"]
        16
        """
        return {
            p.name: p.default
            for p in _parameters(self).values()
            if p.kind is p.KEYWORD_ONLY and p.name not in ("spatial_dims", *_PLACE)
        }

    @property
    def idea(self) -> str:
        """The first line of the class's docstring.

        >>> spec("se").idea
        'Channel gate from globally pooled features (Hu et al., 2018).'
        """
        return inspect.cleandoc(self.cls.__doc__ or "").partition("\n")[0]

    @property
    def compared_with(self) -> str:
        """What it was compared with; "" where that is nothing.

        >>> spec("ca").compared_with
        "authors' code"
        """
        return self.checked or ("authors' code" if self.golden else "")


_PLACE = ("out_channels", "stride")  # of the convolution that a module replaces
_specs: dict[str, Spec] = {}
_found = False


def register(
    name: str,
    *,
    paper: str = "",
    site: Site = "out",
    dims: Iterable[int] = (2, 3),
    aliases: Iterable[str] = (),
    golden: bool = False,
    year: int | None = None,
    formula: str = "",
    checked: str = "",
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
        golden: whether its outputs, gradients and buffers were compared with those of its authors' code, or of
            `checked`.
        year: of the paper.
        formula: what it computes of features x, in one line: "y = x * sigmoid(W2 relu(W1 mean(x)))".
        checked: what it was compared with, where that is not its authors' code.

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
        _specs[name] = Spec(name, cls, paper, frozenset(dims), site, names[1:], golden, year, formula, checked)
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
            origin, reason = entry.dist.name if entry.dist else "an unknown package", " ".join(str(error).split())
            text = f"attnzoo modules of {origin} ({entry.value}) were not loaded: {reason}"
            # As of that package: a line of ours would only mislead.
            warnings.warn_explicit(text, UserWarning, entry.value, 0)


def spec(name: str) -> Spec:
    """What the registry knows about the module `name`.

    Args:
        name: a registered name, or an alias of it.

    Raises:
        ValueError: no such module; the message names near matches.
        TypeError: something else than a name.

    >>> spec("coord").name, spec("mpe").site
    ('ca', 'mid')
    """
    if not isinstance(name, str):
        raise TypeError(f"{_shown(name)} is not the name of a module; give one as a string, such as 'se'")
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
        TypeError: an unknown option, the message names the valid ones; or a value of the wrong type.

    >>> import torch
    >>> create("mpe", channels=512, groups=8)(torch.randn(2, 512, 7, 9)).shape
    torch.Size([2, 512, 7, 9])
    """
    found = spec(name)
    _check_value(name, "channels", channels, int)
    _check_value(name, "spatial_dims", spatial_dims, int)
    check_dims(found, spatial_dims)
    check_options(found, options, place=True)
    return found.cls(channels, spatial_dims=spatial_dims, **options)


def check_dims(found: Spec, spatial_dims: int) -> None:
    """Refuse a number of spatial axes that a module is not defined for.

    Args:
        found: the module.
        spatial_dims: the number of spatial axes.

    Raises:
        ValueError: it is another one.

    >>> check_dims(spec("se"), 3)
    """
    if spatial_dims not in found.dims:
        raise ValueError(f"{found.name} is defined for spatial_dims={_either(found.dims)}, not for {spatial_dims}")


def check_options(found: Spec, options: Mapping[str, Any], *, place: bool = False) -> None:
    """Refuse options that a module does not have, and values of another type than its constructor says.

    Args:
        found: the module.
        options: by name. What the constructor does not annotate is not checked.
        place: whether `out_channels` and `stride` are allowed where it takes them: they belong to a place in a network.

    Raises:
        TypeError: an unknown option, the message names the valid ones; or a value of the wrong type.
        ValueError: a value that is not one of those listed by the annotation.

    >>> check_options(spec("se"), {"reduction": 8})
    """
    valid, kinds = found.options, _annotations(found)
    taken = {*valid, *(_PLACE if place else ())} & _parameters(found).keys()
    for option, value in options.items():
        if option not in taken:
            near = difflib.get_close_matches(option, valid, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TypeError(f"{found.name} has no option {option!r}; {hint}valid: {', '.join(valid) or 'none'}")
        if option in kinds:
            _check_value(found.name, option, value, kinds[option])


# Read once per class: they take longer than making a small module.
@cache
def _parameters(found: Spec) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(found.cls).parameters


@cache
def _annotations(found: Spec) -> Mapping[str, Any]:
    try:
        return MappingProxyType(get_type_hints(found.cls.__init__))
    except Exception:  # annotations of another package may name what is not there at run time
        return {}


def _check_value(name: str, option: str, value: object, kind: Any) -> None:
    if not _fits(value, kind):
        listed = isinstance(value, str) and any(get_origin(k) is Literal for k in (kind, *get_args(kind)))
        error = ValueError if listed else TypeError
        raise error(f"{option}={_shown(value)} of {name} must be {_words(kind)}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is what an annotation says; one that Python cannot check allows everything."""
    origin, args = _parts(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if _is_sequence(origin):
        # A string is a sequence of strings, as typing has it; a list is as good as a tuple, since YAML has no other.
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return isinstance(value, Sequence) and all(any(_fits(item, arg) for arg in args) for item in items)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


_WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def _words(kind: Any) -> str:
    """An annotation as an error spells it.

    >>> _words(int | Sequence[int] | None)
    'an integer or a sequence (each an integer) or None'
    """
    origin, args = _parts(kind)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, UnionType):
        return " or ".join(map(_words, args))
    if _is_sequence(origin):
        return f"a sequence (each {' or '.join(map(_words, args))})"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _parts(kind: Any) -> tuple[Any, list[Any]]:
    """What a generic annotation is, and what of; the dots of tuple[int, ...] say nothing."""
    return get_origin(kind), [arg for arg in get_args(kind) if arg is not Ellipsis]


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _shown(value: object) -> str:
    return " ".join(repr(value).split())


def _either(dims: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(dims)))
