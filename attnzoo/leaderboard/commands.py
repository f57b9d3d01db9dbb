"""The commands that train the runs of a row again, as a shell takes them."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from attnzoo.leaderboard.board import Row


def recipe_text(row: Row) -> str:
    """The recipe of a row's first run as YAML, without the place of the data, which is another one elsewhere.

    Args:
        row: of a board.
    """
    recipe = row.runs[0].recipe
    data = recipe.get("data")
    shared = recipe | {"data": data | {"root": None}} if isinstance(data, dict) and "root" in data else recipe
    return yaml.safe_dump(json.loads(json.dumps(shared)), sort_keys=False, allow_unicode=True)


def commands(row: Row) -> tuple[str, list[str]]:
    """The lines that write the recipe of a row to a file, and the line that trains each of its runs from it.

    Whatever a store holds, the shell takes it for data: names are quoted, and comments have one line.

    Args:
        row: of a board.

    Returns:
        The preparation, which ends in a new line, and a line for each of the row's runs.

    >>> from attnzoo.leaderboard.board import summarise
    >>> from attnzoo.leaderboard.store import Run
    >>> found = ({"name": "mine", "training": {"seed": seed}} for seed in (0, 1))
    >>> runs = [
    ...     Run(str(i), "b", "se", i, 0.9, ("a",), (), 1, 1, 1.0, (), recipe, "", "pets", "c0ffee", {}, "", "")
    ...     for i, recipe in enumerate(found)
    ... ]
    >>> preparation, lines = commands(summarise(runs).rows[0])
    >>> print(preparation, *lines, sep="\\n")
    # attnzoo at commit c0ffee; in DATA the folder of: pets
    cat > se.yaml <<'RECIPE'
    name: mine
    training:
      seed: 0
    RECIPE
    <BLANKLINE>
    attnzoo leaderboard run se.yaml --data "$DATA"
    attnzoo leaderboard run se.yaml --data "$DATA" --set training.seed=1
    """
    text = recipe_text(row)
    first = row.runs[0]
    end = "RECIPE"
    while end in text:
        end += "_"
    file = (re.sub(r"[^\w.-]+", "-", row.label, flags=re.ASCII).strip("-.")[:40] or "row") + ".yaml"
    about = " ".join(f"# attnzoo at commit {first.commit}; in DATA the folder of: {first.data}".split())
    own = _fields(first.recipe)
    lines = []
    for run in row.runs:
        fields = _fields(run.recipe)
        changed = {name: fields.get(name) for name in {**own, **fields} if own.get(name) != fields.get(name)}
        changed.pop("data.root", None)
        sets = [shlex.quote(f"{name}={json.dumps(value)}") for name, value in changed.items()]
        lines.append(" ".join([f'attnzoo leaderboard run {file} --data "$DATA"', *(["--set", *sets] if sets else [])]))
    return f"{about}\ncat > {file} <<'{end}'\n{text}{end}\n", lines


def _fields(part: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted field -> value."""
    found: dict[str, Any] = {}
    for name, value in part.items():
        if isinstance(value, dict) and value:
            found |= _fields(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
