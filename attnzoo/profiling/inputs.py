"""The inputs that a model is profiled with, and in one line why it does not take them."""

import operator
from collections.abc import Sequence
from typing import Any

Size = Sequence[int] | Sequence[Sequence[int]]
Sizes = tuple[tuple[int, ...], ...]


def sizes_of(input_size: Size) -> Sizes:
    """The size of each input.

    Args:
        input_size: (N, C, *spatial), or one such size for each input.

    Raises:
        ValueError: it is neither.

    >>> sizes_of((1, 3, 224, 224)), sizes_of([(2, 8), (2, 4)])
    (((1, 3, 224, 224),), ((2, 8), (2, 4)))
    """
    try:
        given: list[Any] = list(input_size)
        several = bool(given) and all(isinstance(one, Sequence) for one in given)
        sizes = tuple(tuple(map(_positive, one)) for one in (given if several else [given]))
        if not given:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"input_size={input_size!r} must be (N, C, *spatial) in whole numbers above 0, as in (1, 3, 224, 224), or "
            "one such size for each input"
        ) from None
    return sizes


def _positive(n: Any) -> int:
    if isinstance(n, bool) or (number := operator.index(n)) < 1:
        raise ValueError
    return number


def reason(error: BaseException) -> str:
    """What an error says, in one line that makes sense alone.

    Args:
        error: of a model or a tool.

    >>> reason(KeyError("layer")), reason(RuntimeError("sizes differ\\nat ..."))
    ("KeyError: 'layer'", 'RuntimeError: sizes differ')
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
