"""What one module costs at one width, or why it does not fit there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnzoo.profiling import Cost, profile
from attnzoo.profiling.sheets import Column
from attnzoo.registry import Spec, create

SIZES = {1: (784,), 2: (28, 28), 3: (8, 28, 28)}  # of the features, unless the user says another


@dataclass(frozen=True, slots=True)
class Count:
    """A module at one width.

    Attributes:
        channels: C.
        size: of the features, (H, W) or (T, H, W).
        cost: of one forward pass; None where the module cannot be made or run at this width.
        misfit: why it cannot, in one line.
    """

    channels: int
    size: tuple[int, ...]
    cost: Cost | None
    misfit: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """Of a table: plain integers for programs, and as people read them."""
        if self.cost is None:
            return {"misfit": self.misfit, "params": "n/a", "multiply_adds": "n/a", "kernel_count": "n/a"}
        return {
            "param_count": self.cost.params,
            "params": f"{self.cost.params:,}",
            "macs": self.cost.macs,
            "multiply_adds": f"{self.cost.macs:,}",
            "bytes_read": self.cost.bytes_read,
            "bytes_written": self.cost.bytes_written,
            "bytes_moved": self.cost.bytes_read + self.cost.bytes_written,
            "kernels": self.cost.kernels,
            "kernel_count": f"{self.cost.kernels}",
            "saved": self.cost.saved,
        }


def columns(params: str = "params", macs: str = "MACs") -> list[Column]:
    """Parameters and MACs with all their digits, the same for programs.

    Args:
        params: head for people.
        macs: head for people.
    """
    return [
        Column("params", params, digits=0, reader="people"),
        Column("param_count", "params", "M", reader="programs"),
        Column("multiply_adds", macs, digits=0, reader="people"),
        Column("macs", "MACs", "G", reader="programs"),
    ]


def size_for(found: Spec, size: Sequence[int] | None = None) -> tuple[int, ...]:
    """The size of the features that a module is counted on.

    Args:
        found: the module.
        size: as the user gave it: (H, W), (T, H, W), or one number for a square; None for the usual one, in 2D where
            the module is defined for it.

    >>> from attnzoo.registry import spec
    >>> size_for(spec("se")), size_for(spec("se"), [14]), size_for(spec("se"), [4, 14, 14])
    ((28, 28), (14, 14), (4, 14, 14))
    """
    if size:
        return tuple(size) * 2 if len(size) == 1 else tuple(size)
    return SIZES[2 if 2 in found.dims else min(found.dims)]


def count(
    name: str, channels: int, size: Sequence[int], *, batch: int = 1, memory: bool = False, **options: Any
) -> Count:
    """Count a module at one width; one that does not fit there, or fails, is a count that says why.

    Args:
        name: of the module.
        channels: C.
        size: of the features, (H, W) or (T, H, W).
        batch: N.
        memory: whether to measure what is kept for the backward pass.
        **options: the module's own.

    >>> count("se", 512, (28, 28)).cost.params, count("sa", 64, (28, 28)).misfit[:40]
    (32768, 'channels=64 is not divisible by 2 * grou')
    """
    try:
        with torch.device("meta"):
            module = create(name, channels, spatial_dims=len(size), **options)
        return Count(channels, tuple(size), profile(module, (batch, channels, *size), memory=memory))
    except Exception as error:  # a width that does not fit the options, or a broken third party
        return Count(channels, tuple(size), None, " ".join(str(error).split()))


def misfits(counts: Mapping[str, Count]) -> list[str]:
    """Why modules do not fit, a note for each reason.

    Args:
        counts: by what they are called.
    """
    whom: dict[str, list[str]] = {}
    for name, each in counts.items():
        if each.misfit:
            whom.setdefault(each.misfit, []).append(name)
    return [f"n/a for {', '.join(names)}: {why}." for why, names in whom.items()]
