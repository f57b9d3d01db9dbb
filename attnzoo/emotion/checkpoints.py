"""What a training leaves behind: written whole or not at all, read without running code from it, checked before use."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from attnzoo.emotion.experiment import WHERE, Experiment
from attnzoo.emotion.optimisation import RUNNING
from attnzoo.emotion.samples import DataSet
from attnzoo.emotion.tasks import spec

MODEL = "model.safetensors"  # the weights of a finished training; model.json beside them says what they are
BEST = "best.safetensors"  # the weights of the best epoch so far
LAST = "last.ckpt"  # all that an interrupted training goes on from
MARK = "attnzoo"  # the entry of last.ckpt that says what model.json says


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, whenever the process is killed.

    Args:
        path: of the file; its folder is made if need be.

    Returns:
        Where to write; when the block ends it takes the place of what was at `path`.

    Raises:
        ValueError: it cannot be written, as on a full disk; what was at `path` is still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole(Path(folder) / "model.json") as part:
    ...         written = part.write_text("{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['model.json']
    """
    part = path.with_name(f".{path.name}.part")  # what a killed process left of it is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:  # or a power cut could leave a name without its content
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        kept = "; what was there before is intact" if path.exists() else ""
        raise ValueError(f"cannot write {path}: {error.strerror or error}{kept}") from None
    finally:
        with suppress(OSError):  # the folder may be a file
            part.unlink(missing_ok=True)


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain values.

    Args:
        content: what `torch.save` can write and `torch.load(weights_only=True)` can read.
        path: the file.

    Raises:
        ValueError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"weights": torch.zeros(2)}, Path(folder) / "last.ckpt")
    ...     torch.load(f"{folder}/last.ckpt", weights_only=True)
    {'weights': tensor([0., 0.])}
    """
    with whole(path) as part, part.open("wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # in closing what it could not write
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors.

    Args:
        state: of a model.
        path: the file.

    Raises:
        ValueError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights({"weights": torch.zeros(2)}, Path(folder) / "best.safetensors")
    ...     safetensors.torch.load_file(f"{folder}/best.safetensors")
    {'weights': tensor([0., 0.])}
    """
    # Row by row and each for itself, as the format has them.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    with whole(path) as part:
        part.write_bytes(safetensors.torch.save(own, {"format": "pt"}))


def save_model(state: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> None:
    """Write a trained model: the weights, and first what they are, so that there are no weights without it.

    Args:
        state: of the model.
        about: see `describe`.
        path: of the weights; the description has its name with the suffix .json.

    Raises:
        ValueError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model({}, {"classes": ["calm", "joy"]}, Path(folder) / MODEL)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['model.json', 'model.safetensors']
    """
    with whole(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    save_weights(state, path)


def describe(
    recipe: Experiment, folder: DataSet, protocol: str, history: Sequence[Mapping[str, float]] = ()
) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Args:
        recipe: of the training.
        folder: its samples.
        protocol: how they were divided.
        history: figures of the epochs.

    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.recipe import Recipe
    >>> describe(Recipe(name="mine"), Folder(Path("videos"), ("calm", "joy"), (), ()), "2:1")["classes"]
    ['calm', 'joy']
    """
    return {
        "attnzoo": version("attnzoo"),
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(folder.classes),
        "protocol": protocol,
        "data": folder.fingerprint,
        "history": list(history),
    }


def load_checkpoint(path: str | Path, task: str | None = None) -> tuple[Any, dict[str, Any]]:
    """A trained model in eval mode, and what its checkpoint says of it.

    Args:
        path: the folder of a training, or a `model.safetensors` (with its `model.json`) or `last.ckpt` in it.
        task: of which it must be; any if None.

    Returns:
        The `Classifier` and a mapping with "recipe" (an Experiment), "classes", "protocol", "data" (the fingerprint of
        the samples), "history" and "attnzoo" (the version).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo, one that is damaged, or one of another task.

    >>> load_checkpoint("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint nowhere; `attnzoo train` writes model.safetensors into its --out folder
    """
    about, state = read_about(path), read_weights(path)
    recipe: Experiment = about["recipe"]
    if task is not None and recipe.task != task:
        raise ValueError(f"{path} classifies {recipe.task}s; this is for a model that classifies {task}s")
    model = spec(recipe.task).create(recipe, len(about["classes"]))
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"{path}: its weights do not fit the model of its recipe; it was changed or is damaged"
        ) from None
    return model.eval(), about


def read_about(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, see `load_checkpoint`; its weights are not read.

    Args:
        path: as for `load_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo, or one that is damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     told = {"recipe": {"name": "mine"}, "classes": ["calm", "joy"], "data": "4f1c", "history": []}
    ...     save_model({}, told, Path(folder) / MODEL)
    ...     read_about(folder)["recipe"].name
    'mine'
    """
    file = _file(path)
    beside = file.with_suffix(".json")
    if file.suffix == ".safetensors" and not beside.is_file():
        raise FileNotFoundError(f"{beside} is missing; it belongs to {file}")
    try:
        about = dict(_last(file)[MARK] if file.suffix != ".safetensors" else json.loads(beside.read_bytes()))
        recipe = spec(about["recipe"].get("task", "video")).recipe.model_validate(about["recipe"])
        # It has weights of its own, and features were kept where it was trained.
        here = {"model": recipe.model.without_weights(), "training": recipe.training.model_copy(update={"cache": None})}
        about["recipe"] = recipe.model_copy(update=here)
        len(about["classes"]), about["data"], about["history"]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: this attnzoo does not take its recipe: {field}: {first['msg']}") from None
    except Exception as error:
        raise _not_ours(beside if file.suffix == ".safetensors" else file, error) from None
    return about


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint; of an unfinished training their moving average, if it has one.

    Args:
        path: as for `load_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of attnzoo, or one that is damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"state_dict": {"model.bias": torch.zeros(2)}}, Path(folder) / LAST)
    ...     read_weights(Path(folder) / LAST)
    {'bias': tensor([0., 0.])}
    """
    file = _file(path)
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = _last(file)["state_dict"]
        for prefix in ("average.module.", "model."):
            if any(name.startswith(prefix) for name in state):
                return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        return {}
    except Exception as error:
        raise _not_ours(file, error) from None


def _file(path: str | Path) -> Path:
    file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; `attnzoo train` writes {MODEL} into its --out folder")
    return file


def _last(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return content


def _not_ours(file: Path, error: Exception) -> ValueError:
    what = "another model" if isinstance(error, KeyError | TypeError) else f"damaged ({type(error).__name__})"
    return ValueError(f"{file} is not a checkpoint of attnzoo: {what}; give a {MODEL} that `attnzoo train` wrote")


def check_same(path: Path, recipe: Experiment, folder: DataSet) -> None:
    """Refuse a checkpoint of another training.

    Args:
        path: of the checkpoint.
        recipe: of the training that goes on.
        folder: its samples.

    Raises:
        ValueError: what differs.

    >>> import tempfile
    >>> from attnzoo.emotion.datasets import Folder
    >>> from attnzoo.emotion.recipe import Recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     told = {"recipe": {"name": "mine"}, "classes": [], "data": "4f1c", "history": []}
    ...     save_model({}, told, Path(folder) / MODEL)
    ...     check_same(Path(folder) / MODEL, Recipe(name="mine"), Folder(Path("videos"), (), (), ()))
    Traceback (most recent call last):
    ValueError: ...model.safetensors is from another training: its videos are others than those of videos; ...
    """
    about = read_about(path)
    differing = _differences(about["recipe"], recipe.without_weights())
    other = [f"{field} is {a!r}, here {b!r}" for field, a, b in differing]
    if about["data"] != folder.fingerprint:
        other.append(f"its {recipe.task}s are others than those of {folder.root}")
    if other:
        raise ValueError(f"{path} is from another training: {'; '.join(other)}; choose another folder with --out")


def _differences(a: Experiment, b: Experiment) -> list[tuple[str, Any, Any]]:
    free = {"name", *(f"data.{field}" for field in WHERE), *(f"training.{field}" for field in RUNNING)}

    def flat(value: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".lstrip(".")).items()}

    one, two = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = [key for key in {**one, **two} if key not in free]
    return [(key, one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)]
