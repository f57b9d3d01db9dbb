"""YAML recipes -> pydantic models, with errors that name the file, the line and the field."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Part(BaseModel):
    """A recipe or a part of one: fields are checked, frozen, and none may be misspelt."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)

# An installed package carries the recipes inside it; in a checkout they stand beside it.
_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "zoo_configs", _PACKAGE.parent / "zoo_configs")


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with attnzoo.

    Args:
        recipe: "my/recipe.yaml", or "demo", "demo.yaml", "zoo_configs/demo.yaml" for the one in the package.

    Raises:
        FileNotFoundError: no such recipe; the message lists those that come with attnzoo.

    >>> find("demo").name
    'demo.yaml'
    """
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = {file.name: file for folder in _FOLDERS for file in sorted(folder.glob("*.yaml"))}
    if path.with_suffix(".yaml").name in shipped and path.parent.as_posix() in (".", "zoo_configs"):
        return shipped[path.with_suffix(".yaml").name]
    raise FileNotFoundError(
        f"there is no recipe {recipe}; give a YAML file or one that comes with attnzoo: {', '.join(sorted(shipped))}"
    )


def load(recipe: str | Path, model: type[P], changes: Mapping[str, Any] | None = None) -> P:
    """Read and check a recipe.

    Args:
        recipe: see `find`.
        model: what it must be.
        changes: dotted field -> value, put in place of what the file says, as in {"training.epochs": 3}.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: not YAML, or fields that are misspelt or ill-typed; with the file, the line and the valid ones.
    """
    path = find(recipe)
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
        tree = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a recipe is a mapping with the fields {', '.join(model.model_fields)}")
    for dotted, value in (changes or {}).items():
        put(content, dotted, value)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(e, path, tree, model) for e in error.errors()[:3])) from None


def put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a field of nested mappings, making those on the way.

    Args:
        content: changed in place.
        dotted: the path of the field.
        value: its new value.

    >>> recipe = {"training": {"epochs": 3}}
    >>> put(recipe, "training.batch", 4)
    >>> recipe
    {'training': {'epochs': 3, 'batch': 4}}
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            inner = content[parent] = {}
        content = inner
    content[last] = value


def _explain(error: Any, path: Path, tree: yaml.Node | None, model: type[BaseModel]) -> str:
    # Pydantic adds the names of validators and of the arms of unions to the path; they are no fields of the file.
    field = [part for part in error["loc"] if isinstance(part, int) or not part.startswith("function-")]
    where = f"{path}:{_line(tree, field)}: {'.'.join(map(str, field)) or 'recipe'}"
    if error["type"] == "extra_forbidden":
        valid = _fields(model, field[:-1])
        near = difflib.get_close_matches(str(field[-1]), valid, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where} is not a field; {hint}valid: {', '.join(valid)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _line(node: yaml.Node | None, field: Sequence[int | str]) -> int:
    """The line on which a field stands, or else the nearest part around it."""
    line = node.start_mark.line + 1 if node else 1
    for part in field:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == part]
            if not pairs:
                break
            key, node = pairs[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _fields(model: type[BaseModel], field: Sequence[int | str]) -> list[str]:
    """The valid fields of the part at a path."""
    for part in field:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = _part(model.model_fields[part].annotation)
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def _part(annotation: Any) -> type[BaseModel] | None:
    """The recipe part in an annotation such as `Attention | None` or `tuple[Attention, ...]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for arg in typing.get_args(annotation) if (found := _part(arg))), None)
