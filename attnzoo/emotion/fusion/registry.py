"""The registry of fusions: names -> classes, options read off their constructors."""

import difflib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from attnzoo.registry import Spec, check_options


class Fusion(nn.Module):
    """Two features (B, T, d) -> one (B, T, out_features).

    Args:
        width: d of each input.
        segments: T; what does not depend on T takes any.
        out_features: of the output.

    >>> Fusion(8, 4, 16).out_features
    16
    """

    def __init__(self, width: int, segments: int, out_features: int) -> None:
        super().__init__()
        self.width, self.segments, self.out_features = width, segments, out_features

    def passes(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """What training averages the loss over: the fused features (B, T, out_features), here once."""
        return (self(visual, audio),)


F = TypeVar("F", bound=Fusion)

_specs: dict[str, Spec] = {}


def register(name: str, *, paper: str = "", year: int | None = None) -> Callable[[type[F]], type[F]]:
    """Class decorator that adds a fusion.

    The class is called as `cls(width, segments, **options)`; its options are keyword-only.

    Args:
        name: the name in `create`; lower case letters, digits and underscores.
        paper: where the fusion was published.
        year: of the paper.

    Raises:
        ValueError: an ill-formed or taken name.

    >>> @register("first", paper="this docstring")
    ... class First(Fusion):
    ...     def __init__(self, width: int, segments: int) -> None:
    ...         super().__init__(width, segments, width)
    >>> create("first", 8, 4)
    First()
    >>> unregister("first")
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"fusion name {name!r} must be lower case letters, digits and underscores, as in 'my_gmu'")

    def add(cls: type[F]) -> type[F]:
        taken = _specs[name].cls if name in _specs else cls
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"fusion name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
                f"register {cls.__module__}.{cls.__qualname__} under another name"
            )
        # The record of the attention modules: segments are an axis of one dimension, after the last stage.
        _specs[name] = Spec(name, cls, paper, frozenset({1}), "stage", year=year)
        return cls

    return add


def unregister(name: str) -> None:
    """Take a fusion out again, as a test or a notebook may want to.

    Args:
        name: a registered name.

    Raises:
        ValueError: no such fusion.
    """
    del _specs[spec(name).name]


def list_fusions() -> list[str]:
    """Names of the fusions, sorted.

    >>> "gmu" in list_fusions()
    True
    """
    return sorted(_specs)


def spec(name: str) -> Spec:
    """What the registry knows about the fusion `name`.

    Args:
        name: a registered name.

    Raises:
        ValueError: no such fusion; the message names near matches.

    >>> spec("lmf").options
    {'hidden': 128, 'rank': 4}
    """
    if name not in _specs:
        near = difflib.get_close_matches(name, _specs, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(list_fusions())}"
        raise ValueError(f"no fusion is called {name!r}; {hint}")
    return _specs[name]


def create(name: str, width: int, segments: int, **options: Any) -> Fusion:
    """Make a fusion: two features (B, T, d) -> one (B, T, out_features).

    Args:
        name: a name of `list_fusions()`.
        width: d.
        segments: T.
        **options: the fusion's own, see `spec(name).options`.

    Raises:
        ValueError: an unknown name, or an option's value that does not fit.
        TypeError: an unknown option, the message names the valid ones; or a value of the wrong type.

    >>> create("gmu", 8, 4, hidden=16).out_features
    16
    """
    found = spec(name)
    check_options(found, options)
    fusion = found.cls(width, segments, **options)
    assert isinstance(fusion, Fusion)
    return fusion


def check_positive(**sizes: int) -> None:
    """Refuse sizes of layers below 1.

    Args:
        **sizes: by the name of the option.

    Raises:
        ValueError: the first that is not positive.

    >>> check_positive(hidden=0)
    Traceback (most recent call last):
    ValueError: hidden=0 must be positive
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be positive")
