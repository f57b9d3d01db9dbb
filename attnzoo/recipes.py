"""YAML recipes -> pydantic models, with errors that name the file, the line and the field."""

import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class Part(BaseModel):
    """A recipe or a part of one: fields are checked, frozen, and none may be misspelt.

    >>> class Training(Part):
    ...     epochs: int = 3
    >>> Training(epochs=5).epochs
    5
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which Python counts among the numbers
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]


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


def load(
    recipe: str | Path,
    model: type[P] | Callable[[Mapping[str, Any]], type[P]],
    changes: Mapping[str, Any] | None = None,
) -> P:
    """Read and check a recipe.

    Args:
        recipe: see `find`.
        model: what it must be; or what tells that from its content, or raises a ValueError that begins with a field.
        changes: dotted field -> value, put in place of what the file says, as in {"training.epochs": 3}.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: not YAML, or fields that are misspelt or ill-typed; with the file, the line and the valid ones.

    >>> class Mine(Part):
    ...     name: str
    ...     epochs: int = 3
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = (Path(folder) / "mine.yaml").write_text("name: mine")
    ...     load(f"{folder}/mine.yaml", Mine, {"epochs": 5})
    Mine(name='mine', epochs=5)
    """
    path = find(recipe)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        tree = yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    whole = isinstance(content, dict)
    for dotted, value in (changes or {}).items() if whole else ():
        put(content, dotted, value)
    try:
        kind: type[P] = model if isinstance(model, type) else model(content if whole else {})
    except ValueError as error:
        raise ValueError(f"{path}:{_line(tree, [str(error).partition(' ')[0]])}: {error}") from None
    if not whole:
        raise ValueError(f"{path}: a recipe is a mapping with the fields {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        errors = [_Error(tuple(p for p in e["loc"] if not str(p).startswith("function-")), e) for e in error.errors()]
        told = [e for e in errors if not _told_already(e, errors)][:3]
        raise ValueError("; ".join(_explain(e, path, tree, kind, changes or {}) for e in told)) from None


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


class _Error(NamedTuple):
    """An error of pydantic's, and its field without the names of validators, which are no fields of the file."""

    field: tuple[int | str, ...]
    details: Any


def _told_already(error: _Error, errors: Sequence[_Error]) -> bool:
    """Whether an error only follows from another: of a list without its wrong entries, of a field that is misspelt."""
    for other in errors:
        if len(other.field) > len(error.field) and other.field[: len(error.field)] == error.field:
            return True
        strange = other.details["type"] == "extra_forbidden" and other.field[:-1] == error.field[:-1]
        if strange and error.details["type"] == "missing" and _near(str(other.field[-1]), [str(error.field[-1])]):
            return True
    return False


def _near(word: str, words: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(word, words, n=1)


def _explain(
    error: _Error, path: Path, tree: yaml.Node | None, model: type[BaseModel], changes: Mapping[str, Any]
) -> str:
    field, details = error
    dotted = ".".join(map(str, field))
    # A change is no line of the file: it is cited itself.
    change = next((c for c in changes if f"{dotted}.".startswith(f"{c}.") or f"{c}.".startswith(f"{dotted}.")), None)
    where = f"{path}:{_line(tree, field)}" if change is None else f"{path} with {change}={changes[change]}"
    where = f"{where}: {dotted or 'recipe'}"
    if details["type"] == "extra_forbidden":
        valid = _fields(model, field[:-1])
        near = _near(str(field[-1]), valid)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where} is not a field; {hint}valid: {', '.join(valid)}"
    if details["type"] == "missing":
        return f"{where} is missing"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error" and isinstance(details["input"], dict):
        return f"{where}: {message}"  # of a whole part: the message shows the values that matter
    if details["type"] == "tuple_type":
        message = f"must be a list, as in [{details['input']}]"  # YAML has no tuples
    return f"{where} = {details['input']!r}: {message[0].lower()}{message[1:]}"


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
