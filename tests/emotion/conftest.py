"""A recipe that trains in seconds, its videos, and what came of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attnzoo.emotion.datasets import Folder, read_folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.training import train

TINY: dict[str, Any] = {
    "name": "test",
    "data": {"test_fraction": 0.3, "val_fraction": 0.2},
    "clip": {"segments": 2, "frames": 4, "size": 32},
    "audio": {"coefficients": 12, "mels": 24, "width": 16},
    "model": {
        "attn": {"name": "mpe", "options": {"groups": 2}},
        "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}, "freeze": 1},
        "audio": {"backbone": "timm/resnet10t", "options": {"channels": [8, 16, 16, 32], "stem_width": 8}},
        "width": 16,
    },
    "training": {"epochs": 3, "batch": 4, "lr": 1e-3, "workers": 0, "schedule": "cosine"},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread has nothing to do in models as small as these but to wait, and keeps others from working."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """A function that gives the recipe with some parts changed: tiny(training={"seed": 1})."""

    def recipe(**parts: dict[str, Any]) -> Recipe:
        changed = {name: {**TINY[name], **fields} for name, fields in parts.items()}
        return Recipe.model_validate({**TINY, **changed})

    return recipe


@pytest.fixture(scope="session")
def folder(videos: Path) -> Folder:
    return read_folder(videos, 4)


@pytest.fixture(scope="session")
def trained(tiny: Callable[..., Recipe], folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the tiny recipe, in the folder of its training."""
    return train(tiny(), folder, tmp_path_factory.mktemp("trained")).checkpoint
