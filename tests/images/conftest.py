"""Images whose class is their colour, and a recipe that learns it in seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnzoo.images.folder import ImageFolder, read_images
from attnzoo.images.recipe import ImageRecipe

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (200, 50, 50)}
TINY: dict[str, Any] = {
    "name": "test",
    "task": "image",
    "data": {"test_fraction": 0.25, "val_fraction": 0.2},
    "image": {"size": 32},
    "model": {
        "backbone": "timm/resnet10t",
        "options": {"channels": [8, 16, 16, 32], "stem_width": 8},
        "attn": {"name": "se", "options": {"reduction": 4}},
        "dropout": 0.2,
    },
    "training": {"epochs": 3, "batch": 8, "lr": 0.01, "workers": 0, "schedule": "cosine"},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (36, 48, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of sixteen images."""
    root = tmp_path_factory.mktemp("images")
    for label, (name, colour) in enumerate(COLOURS.items()):
        for i in range(16):
            paint(root / name / f"{i:02d}.{'png' if i % 2 else 'jpg'}", colour, 100 * label + i)
    return root


@pytest.fixture(scope="session")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in train, val and test, with the same file names in each."""
    root = tmp_path_factory.mktemp("parted")
    for part, (name, count) in enumerate((("train", 10), ("val", 3), ("test", 4))):
        for label, (colour, value) in enumerate(COLOURS.items()):
            for i in range(count):
                paint(root / name / colour / f"{i}.png", value, 1000 * part + 100 * label + i)
    return root


@pytest.fixture(scope="session")
def images(root: Path) -> ImageFolder:
    return read_images(root)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ImageRecipe]:
    """A function that gives the recipe with some parts changed: tiny(training={"seed": 1})."""

    def recipe(**parts: dict[str, Any]) -> ImageRecipe:
        return ImageRecipe.model_validate({**TINY, **{name: {**TINY[name], **part} for name, part in parts.items()}})

    return recipe
