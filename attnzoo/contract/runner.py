"""Makes the checks of the contract on a module, and the tools that they are written with."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnzoo.registry import check_dims, create, spec

CHANNELS = (32, 64, 128, 256)  # the first that a module's options accept
# Odd, square, and with axes of size 1; the first is the one that most checks use.
SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(7,), (8,), (1,)],
    2: [(5, 7), (8, 8), (1, 9), (7, 1), (1, 1)],
    3: [(3, 5, 7), (4, 4, 4), (1, 6, 5), (5, 1, 1), (1, 1, 1)],
}
LONGEST = 240  # characters of a reason; torch explains at length
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Broken(AssertionError):
    """A promise that does not hold."""


class Skipped(Exception):
    """A check that cannot be made here; the message says what it needs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A module to check, by how it is created.

    Attributes:
        name: a name of `list_modules()`.
        channels: C, with which the options must fit.
        spatial_dims: the number of spatial axes.
        options: the module's own.
    """

    name: str
    channels: int
    spatial_dims: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def fresh(self, **place: Any) -> nn.Module:
        """The module as `create` makes it, in eval mode; place: `out_channels` and `stride`, where it takes them."""
        return create(self.name, self.channels, spatial_dims=self.spatial_dims, **self.options, **place).eval()

    def module(self, **place: Any) -> nn.Module:
        """The same with all parameters and buffers away from their start, at which many a module does nothing.

        >>> Subject("se", 32, 2).module().training
        False
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            module = self.fresh(**place)
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    # Features keep their size: a norm's variance is about 1, and weights of many inputs change less.
                    inputs = value[0].numel() if value.ndim > 1 else 1
                    noise = torch.randn_like(value) / max(4, 2 * inputs**0.5)
                    value.copy_(noise.abs() + 0.75 if key.endswith("running_var") else value + noise)
        return module

    def features(
        self, batch: int = 2, size: Sequence[int] | None = None, dtype: torch.dtype | None = None, seed: int = 1
    ) -> Tensor:
        """Random features (batch, C, *size).

        >>> Subject("se", 32, 2).features().shape
        torch.Size([2, 32, 5, 7])
        """
        size = size or SIZES[self.spatial_dims][0]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, self.channels, *size, generator=generator, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        title: the promise in words.
        run: raises if it does not hold.
        applies: whether a module makes it.
    """

    title: str
    run: Callable[[Subject], None]
    applies: Callable[[Subject], bool]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check.

    Attributes:
        title: the promise in words.
        spatial_dims: the number of spatial axes it was checked with.
        status: whether it holds.
        reason: why it does not, or why it was not checked; one line.
    """

    title: str
    spatial_dims: int
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""


CHECKS: list[Check] = []


def check(
    name: str, *, channels: int | None = None, spatial_dims: int | None = None, **options: Any
) -> Iterator[Result]:
    """Check what every module promises, one promise after the other.

    Args:
        name: a name of `list_modules()`.
        channels: C; the smallest of 32, 64, 128 and 256 that the options accept if None.
        spatial_dims: all that the module is defined for if None.
        **options: the module's own.

    Raises:
        ValueError: an unknown name, a dimension that the module is not defined for, or channels that do not fit.
        TypeError: an unknown option, or a value of the wrong type.

    >>> {result.status for result in check("se", spatial_dims=2) if "ONNX" not in result.title}
    {'ok'}
    """
    found = spec(name)
    axes = sorted(found.dims) if spatial_dims is None else [spatial_dims]
    for dims in axes:
        check_dims(found, dims)
    subjects = [
        Subject(name, fitting(name, dims, **options) if channels is None else channels, dims, options) for dims in axes
    ]
    for subject in subjects:
        subject.fresh()  # whatever speaks against it is the caller's error, and no broken promise
    return (_outcome(each, subject) for each in CHECKS for subject in subjects if each.applies(subject))


def fitting(name: str, spatial_dims: int, **options: Any) -> int:
    """The smallest of 32, 64, 128 and 256 channels that a module accepts.

    Args:
        name: a name of `list_modules()`.
        spatial_dims: the number of spatial axes.
        **options: the module's own.

    Raises:
        ValueError: it accepts none of them.

    >>> fitting("sa", 2), fitting("sa", 2, groups=4)
    (128, 32)
    """
    refusal = ""
    for channels in CHANNELS:
        try:
            create(name, channels, spatial_dims=spatial_dims, **options)
        except TypeError:
            raise  # of an option, whatever the channels
        except Exception as error:  # a third party's may be of any kind
            refusal = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            return channels
    raise ValueError(f"{name} accepts none of {', '.join(map(str, CHANNELS))} channels; the last one: {refusal}")


def _outcome(each: Check, subject: Subject) -> Result:
    try:
        each.run(subject)
    except Skipped as reason:
        return Result(each.title, subject.spatial_dims, "skipped", str(reason))
    except Exception as error:  # whatever a module raises is what is to be shown
        words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        words = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
        reason_ = words if isinstance(error, Broken) else f"{type(error).__name__}: {words}"
        return Result(each.title, subject.spatial_dims, "failed", reason_)
    return Result(each.title, subject.spatial_dims, "ok")


def promise(
    title: str, applies: Callable[[Subject], bool] = lambda _: True
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Decorator that adds a check to the contract."""

    def add(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(title, run, applies))
        return run

    return add


def must(holds: bool, otherwise: str) -> None:
    # Not `assert`, which `python -O` drops.
    if not holds:
        raise Broken(otherwise)


def same(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    """Two tensors are equal up to `tolerance` of the largest value, and at least of 1."""
    must(ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
    if ours.numel():
        deviation = float((ours - theirs).detach().abs().max())
        limit = tolerance * max(1.0, float(theirs.detach().abs().max()))
        must(deviation <= limit, f"{what}: differs by {deviation:.1e}, allowed {limit:.1e}")
