"""The checkpoints of the emotion model: written whole, read without running code from them, checked before use."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe

MARK = "attnzoo"  # the entry of a checkpoint that says whose it is


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a file of tensors whole or not at all.

    Args:
        content: what `torch.save` can write and `torch.load(weights_only=True)` can read.
        path: the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"weights": torch.zeros(2)}, Path(folder) / "model.pt")
    ...     torch.load(f"{folder}/model.pt", weights_only=True)
    {'weights': tensor([0., 0.])}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(dict(content), temporary)
    temporary.replace(path)


def load_checkpoint(path: str | Path) -> tuple[AudioVisualModel, dict[str, Any]]:
    """A trained model in eval mode, and what its checkpoint says of it.

    Args:
        path: a `model.pt` or `last.ckpt` of `train`.

    Returns:
        The model and a mapping with "recipe" (a Recipe), "classes", "data" and "history".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo's emotion model, or one that is damaged.

    >>> load_checkpoint("nowhere.pt")
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint nowhere.pt; `attnzoo train` writes model.pt into its --out folder
    """
    info, state = read_checkpoint(path)
    recipe: Recipe = info["recipe"]
    model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(info["classes"]))
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"{path}: its weights do not fit the model of its recipe; it was changed or is damaged"
        ) from None
    return model.eval(), info


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of itself (see `load_checkpoint`), and the weights of the model.

    Args:
        path: a `model.pt` or `last.ckpt` of `train`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo's emotion model, or one that is damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     told = {"recipe": {"name": "mine"}, "classes": ["calm", "joy"], "data": "4f1c", "history": []}
    ...     save({MARK: told, "state_dict": {"model.classifier.bias": torch.zeros(2)}}, Path(folder) / "model.pt")
    ...     info, state = read_checkpoint(Path(folder) / "model.pt")
    >>> info["recipe"].name, state
    ('mine', {'classifier.bias': tensor([0., 0.])})
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; `attnzoo train` writes model.pt into its --out folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        info = dict(content[MARK])
        recipe = Recipe.model_validate(info["recipe"])
        info["recipe"] = recipe.model_copy(update={"model": recipe.model.without_weights()})  # it has its own
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: this attnzoo does not take its recipe: {field}: {first['msg']}") from None
    except Exception as error:
        what = "another model" if isinstance(error, KeyError | TypeError) else f"damaged ({type(error).__name__})"
        raise ValueError(
            f"{path} is not a checkpoint of attnzoo's emotion model: {what}; give a model.pt that `attnzoo train` wrote"
        ) from None
    return info, state


def check_same(path: Path, recipe: Recipe, folder: Folder) -> None:
    """Refuse a checkpoint of another training.

    Args:
        path: of the checkpoint.
        recipe: of the training that goes on.
        folder: its videos.

    Raises:
        ValueError: what differs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, told = Path(folder) / "model.pt", {"recipe": {"name": "mine"}, "classes": [], "data": "4f1c"}
    ...     save({MARK: told, "state_dict": {}}, path)
    ...     check_same(path, Recipe(name="mine"), Folder(Path("videos"), (), (), ()))
    Traceback (most recent call last):
    ValueError: ...model.pt is from another training: its videos are others than those of videos; ...
    """
    info, _ = read_checkpoint(path)
    now = recipe.model_copy(update={"model": recipe.model.without_weights()})
    other = [f"{field} is {a!r}, here {b!r}" for field, a, b in _differences(info["recipe"], now)]
    if info["data"] != folder.fingerprint:
        other.append(f"its videos are others than those of {folder.root}")
    if other:
        raise ValueError(f"{path} is from another training: {'; '.join(other)}; choose another folder with --out")


def _differences(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    # Where the videos lie and how many processes load them changes nothing in the training but rounding.
    free = {"name", "data.root", "training.workers"}

    def flat(value: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".lstrip(".")).items()}

    one, two = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = [key for key in {**one, **two} if key not in free]
    return [(key, one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)]
