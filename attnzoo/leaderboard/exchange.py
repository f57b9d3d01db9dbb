"""Runs as files: CSV for spreadsheets, JSON that says all, and what another store or such a file holds."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attnzoo.leaderboard.schema import SCHEMA
from attnzoo.leaderboard.store import Run, Store
from attnzoo.profiling.report import write

_SQLITE = b"SQLite format 3\0"  # how every such file begins
_runs: TypeAdapter[list[Run]] = TypeAdapter(list[Run], config=ConfigDict(extra="forbid"))


def export(runs: Sequence[Run], path: str | Path, format: str | None = None) -> None:
    """Write runs into a file, whole or not at all.

    JSON is {"schema": "attnzoo.runs", "version", "runs"}, a run a line; a run has every attribute of `Run` under its
    name, and `read` gives it back exactly. The version is that of the store's schema: it counts up with every change,
    and later ones read earlier ones. What is no number in JSON stands there as "NaN", "Infinity" and "-Infinity".

    CSV has timm's column style, a run a line: board, model, row, a column for each factor of the grid, task, seed,
    fold, `top1` and `top1_err` in percent, `test_size` (samples), `param_count (M)`, `macs (G)`, `bytes_moved (MB)` and
    so on. What is not known is empty.

    Args:
        runs: in the order in which they are written.
        path: of the file; folders on the way are made.
        format: "csv" or "json"; that of the path's suffix by default.

    Raises:
        ValueError: another format; a file that cannot be written.

    >>> import tempfile
    >>> run = Run("1f", "b", "se", 0, 0.9, ("joy",), (), 1, 1, 1.0, ({"loss": math.nan},), {}, "", "", "", {}, "", "")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export([run], f"{folder}/runs.json")
    ...     read(f"{folder}/runs.json")[0].history
    ({'loss': nan},)
    """
    path = Path(path)
    writers: dict[str, Callable[[Sequence[Run]], str]] = {"csv": _csv, "json": _json}
    wanted = path.suffix[1:] if format is None else format
    if wanted not in writers:
        raise ValueError(f"the format of {path} must be one of {', '.join(writers)}, not {wanted!r}")
    write(path, writers[wanted](runs))


def read(source: str | Path) -> list[Run]:
    """The runs of another store, or of a JSON file that `export` wrote.

    Args:
        source: path or URL of a store, which is upgraded if it is of an older attnzoo; or path of a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither a store nor such a file, one of a newer attnzoo, or a run that is not whole.

    >>> read("runs.json")
    Traceback (most recent call last):
    FileNotFoundError: there is no runs.json; give a store, or a JSON file from: attnzoo leaderboard export
    """
    path = Path(source)
    if "://" not in str(source):
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {source}; give a store, or a JSON file from: attnzoo leaderboard export"
            )
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                return _from_json(path)
    with Store(source, create=False) as store:
        return store.runs()


def _json(runs: Sequence[Run]) -> str:
    lines = (json.dumps({f.name: _strict(getattr(run, f.name)) for f in fields(run)}, allow_nan=False) for run in runs)
    return f'{{"schema": "attnzoo.runs", "version": {SCHEMA}, "runs": [\n' + ",\n".join(lines) + "\n]}\n"


def _strict(value: Any) -> Any:
    """With strings in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_json(path: Path) -> list[Run]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a SQLite store nor JSON ({error}); give a file from: attnzoo leaderboard export"
        ) from error
    known = isinstance(content, dict) and content.get("schema") == "attnzoo.runs"
    if not known or not isinstance(content.get("version"), int) or not isinstance(content.get("runs"), list):
        raise ValueError(f"{path} holds no runs; give a file from: attnzoo leaderboard export --format json")
    if content["version"] > SCHEMA:
        raise ValueError(
            f"{path} has version {content['version']}, this attnzoo knows versions up to {SCHEMA}; upgrade attnzoo"
        )
    try:
        runs = _runs.validate_python(content["runs"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: run {where}: {first['msg']}, not {str(first['input'])[:60]!r}") from None
    for run in runs:
        for prediction in (p for p in run.predictions if "probabilities" in p):
            shares = prediction["probabilities"]
            try:
                prediction["probabilities"] = [float(x) if isinstance(x, str) else x for x in shares]  # "NaN"
            except (TypeError, ValueError):
                raise ValueError(f"{path}: run {run.id}: probabilities {shares!r} are not a list of numbers") from None
    return runs


def _csv(runs: Sequence[Run]) -> str:
    factors = list(dict.fromkeys(name for run in runs for name in run.factors))
    rows = [_row(run, factors) for run in runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(run: Run, factors: Sequence[str]) -> dict[str, Any]:
    top1 = round(100 * run.accuracy, 4)
    names = {"board": run.board, "model": _model(run.recipe), "row": run.row}
    results = {
        "task": run.task,
        "seed": run.seed,
        "fold": run.fold,
        "top1": top1,
        "top1_err": round(100 - top1, 4),
        "test_size": len(run.predictions),
        "param_count (M)": run.params / 1e6,
        "macs (G)": run.macs / 1e9,
        "bytes_moved (MB)": None if run.bytes is None else run.bytes / 1e6,
        "latency (ms)": None if run.latency is None else 1e3 * run.latency,
        "train_time (s)": run.seconds,
        "epochs": len(run.history),
        "protocol": run.protocol,
        "data": run.data,
        "commit": run.commit,
        "machine": run.machine,
        "finished": run.finished,
        "id": run.id,
    }
    varied = {(f"factor {f}" if f in names | results else f): run.factors.get(f) for f in factors}
    return names | varied | results


def _model(recipe: dict[str, Any]) -> str:
    """The backbones, as in "resnet3d/18 + timm/resnet18"."""
    model = recipe.get("model", {})
    parts = [model, *(part for part in model.values() if isinstance(part, dict))]
    return " + ".join(part["backbone"] for part in parts if isinstance(part.get("backbone"), str))
