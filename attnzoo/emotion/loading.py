"""Batches of samples: in which order, for which process, and from where on in an epoch that was interrupted."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.samples import Epochs, Reader, collate


class Loaded(NamedTuple):
    """What came of the samples of a batch.

    Attributes:
        keys: of the samples in the batch.
        lost: keys of those that could not be read.
        batch: their tensors, the labels last; None if there is nothing in it.
    """

    keys: tuple[str, ...]
    lost: tuple[str, ...]
    batch: Any


class Batches(BatchSampler):
    """Batches of items; those of all processes together are the batches of one process.

    Args:
        items: in their order.
        batch: size of a batch, all processes together.
        rank: of this process.
        world: number of processes.

    Attributes:
        skip: batches that the next iteration leaves out, since they were done before an interruption.

    >>> list(Batches(range(5), 2)), list(Batches(range(5), 2, rank=1, world=2))
    ([[0, 1], [2, 3], [4]], [[1], [3], []])
    """

    def __init__(self, items: Iterable[Any], batch: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(items, batch, drop_last=False)
        self.rank = rank
        self.world = world
        self.skip = 0

    def __iter__(self) -> Iterator[list[Any]]:
        skip, self.skip = self.skip, 0
        for items in islice(super().__iter__(), skip, None):
            yield items[self.rank :: self.world]

    def whole(self, number: int) -> list[Any]:
        """The items of one batch, all processes together.

        Args:
            number: of the batch, from 0.

        >>> Batches(range(5), 2, rank=1, world=2).whole(0)
        [0, 1]
        """
        return next(islice(super().__iter__(), number, None))


class Loader(DataLoader[Loaded]):
    """Loads batches; its state, which Lightning puts into checkpoints, is how many of the epoch are done.

    Args:
        reader: of what is loaded.
        batches: in which order.
        workers: processes that load; 0 loads in this one.
        keep: whether they live on after an epoch.

    >>> loader = Loader(Reader([]), Batches([], 4))
    >>> list(loader), loader.state_dict()
    ([], {'done': 0})
    """

    def __init__(self, reader: Reader, batches: Batches, workers: int = 0, keep: bool = False) -> None:
        keyed: Any = _Keyed(reader)  # whose samples become `Loaded` together
        super().__init__(
            keyed,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_load,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_interrupts,
            persistent_workers=keep and workers > 0,
        )
        self.samples = reader.samples
        self.batches = batches
        self.done = 0

    def __iter__(self) -> Iterator[Loaded]:  # type: ignore[override]
        # Being a generator, it starts no worker before Lightning has told the epoch to the sampler.
        self.done = self.batches.skip
        for loaded in super().__iter__():
            self.done += 1
            yield loaded

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch are done."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the epoch behind those batches."""
        self.batches.skip = state["done"]


class _Keyed(Dataset[tuple[str, Any]]):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[str, Any]:
        return self.reader.samples[item[1] if isinstance(item, tuple) else item].key, self.reader[item]


def _load(samples: Sequence[tuple[str, Any]]) -> Loaded:
    return Loaded(
        keys=tuple(key for key, sample in samples if sample is not None),
        lost=tuple(key for key, sample in samples if sample is None),
        batch=collate([sample for _, sample in samples]),
    )


def ignore_interrupts(_: int) -> None:
    """Ctrl-C is for the training process, which ends its loaders itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_loader(reader: Reader, recipe: Experiment, rank: int = 0, world: int = 1) -> Loader:
    """Batches in an order of their own in each epoch.

    Args:
        reader: of the samples for training.
        recipe: of the training.
        rank: of this process.
        world: number of processes.

    >>> len(training_loader(Reader([]), Experiment(name="mine", model=None, task="video")))
    0
    """
    training = recipe.training
    batches = Batches(Epochs(len(reader), training.seed), training.batch, rank, world)
    return Loader(reader, batches, training.workers, keep=True)


def evaluation_loader(reader: Reader, recipe: Experiment, rank: int = 0, world: int = 1) -> Loader:
    """Batches in the order of the samples.

    Args:
        reader: of the samples for validation or test.
        recipe: of the training.
        rank: of this process.
        world: number of processes.

    >>> len(evaluation_loader(Reader([]), Experiment(name="mine", model=None, task="video")))
    0
    """
    return Loader(reader, Batches(range(len(reader)), recipe.training.batch, rank, world), recipe.training.workers)


@contextmanager
def loading_told(samples: str) -> Iterator[None]:
    """Say in one line what happened in a process that loads samples: what it raised, or that it is gone.

    Args:
        samples: what they are called.

    Raises:
        ValueError: that line.

    >>> with loading_told("videos"):
    ...     raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    Traceback (most recent call last):
    ValueError: a process that loads videos died (DataLoader worker (pid 7) is killed by signal: Killed), most ...
    """
    try:
        yield
    except Exception as error:
        said = str(error).strip()
        if "in DataLoader worker process" in said and "Traceback" in said:  # torch hands on the whole traceback
            raise ValueError(said.splitlines()[-1].partition(": ")[2]) from error
        if not said.startswith("DataLoader worker (pid"):
            raise
        raise ValueError(
            f"a process that loads {samples} died ({' '.join(said.split()).rstrip('.')}), most often for want of "
            "memory; fewer of them may do, with training.workers"
        ) from None
