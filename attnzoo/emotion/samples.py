"""What training asks of samples, be they videos or images: what is known of each, and reading them for a model."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

_log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A sample that cannot be read, or no longer: one line with the file and the reason."""


class Sample(Protocol):
    """What is known of a sample before it is read."""

    @property
    def key(self) -> str:
        """Unique in its data set, as in "class/file name"."""

    @property
    def name(self) -> str:
        """The key without the suffix of a file."""

    @property
    def label(self) -> int:
        """Index of the class."""

    @property
    def path(self) -> Path:
        """Of its file."""

    @property
    def speaker(self) -> str | None:
        """Who speaks, if known."""

    @property
    def parts(self) -> Sequence[str]:
        """Of each published split "train", "val", "test" or ""."""


class DataSet(Protocol):
    """Samples of which training, validation and test samples can be taken."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the labels."""

    @property
    def samples(self) -> Sequence[Sample]:
        """The usable ones, sorted by class and key."""

    @property
    def splits(self) -> tuple[str, ...]:
        """A name for each published split."""

    @property
    def protocol(self) -> str | None:
        """How it is divided where a recipe does not say; None: at random."""

    @property
    def fingerprint(self) -> str:
        """A hash of what the samples are."""

    @property
    def kind(self) -> Literal["video", "image"]:
        """What a sample is called."""

    def summary(self) -> str:
        """One line on what was found."""


class Reader(Dataset[Any]):
    """Reads samples for a model; what is damaged is left out or stops it.

    Args:
        samples: the samples.
        seed: None for evaluation; else what is random is drawn from it, the epoch and the sample's number.
        damaged: "stop" raises at a sample that can no longer be read; "skip" gives None for it and says so once.
        views: in training, how many fixed views of each sample the epochs see in turn; 1 is that of evaluation. None
            draws new ones in each epoch.

    Attributes:
        lost: (len(samples),), which samples were skipped; the processes that load share it.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        seed: int | None = None,
        damaged: Literal["stop", "skip"] = "stop",
        views: int | None = None,
    ) -> None:
        self.samples = samples
        self.seed = seed
        self.damaged = damaged
        self.views = views
        self.lost = torch.zeros(len(samples), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        """Sample `i`, or that of (epoch, i) in training; None if it is skipped."""
        epoch, i = item if isinstance(item, tuple) else (0, item)
        try:
            return self.read(epoch, i)
        except Damaged as error:
            if self.damaged == "stop":
                raise
            if not self.lost[i]:
                self.lost[i] = True
                _log.warning("%s; it is left out", error)
            return None
        except Exception as error:  # in a process that loads, nothing else says which sample it was
            path, reason = str(self.samples[i].path), " ".join(str(error).split())
            known = isinstance(error, ValueError) and path in reason
            raise ValueError(reason if known else f"{path}: {type(error).__name__}: {reason}") from error

    def rng(self, epoch: int, i: int) -> np.random.Generator | None:
        """What a view of sample `i` is drawn from; None for that of evaluation."""
        if self.seed is None or self.views == 1:
            return None
        if self.views is None:
            return np.random.default_rng((self.seed, epoch, i))
        # Of the sample alone, so that what is kept of it serves any split and seed.
        return np.random.default_rng((epoch % self.views, *self.samples[i].key.encode()))

    def read(self, epoch: int, i: int) -> Any:
        """A NamedTuple of tensors, the label last.

        Args:
            epoch: for which it is drawn.
            i: number of the sample.

        Raises:
            Damaged: it cannot be read.
        """
        raise NotImplementedError


def collate(samples: Sequence[Any]) -> Any:
    """Put samples together to a batch, without those that were skipped.

    Args:
        samples: NamedTuples of tensors, all of one shape, or None.

    Returns:
        The NamedTuple of the stacked tensors; None if there is nothing in it.

    >>> collate([None, None])
    """
    present = [sample for sample in samples if sample is not None]
    return type(present[0])(*(torch.stack(parts) for parts in zip(*present, strict=True))) if present else None


class Epochs(Sampler[tuple[int, int]]):
    """Samples as (epoch, i), in an order drawn from seed and epoch: a resumed training sees what it would have seen.

    Args:
        count: number of samples.
        seed: of the order.

    >>> sorted(Epochs(3, seed=0))
    [(0, 0), (0, 1), (0, 2)]
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        yield from ((self.epoch, int(i)) for i in order)
