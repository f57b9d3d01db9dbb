"""Train in processes that end at given points: VIDEOS OUT RECIPE.json POINT ..., for test_resume.py.

A point is SIGNAL:batch=EPOCH/BATCH, SIGNAL:validation=EPOCH, or SIGNAL:write=NAME/N for the moment when the process has
written a part of the file for the Nth time. Each process goes on where the one before it was stopped.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnzoo.emotion.datasets import read_folder
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.task import Task
from attnzoo.emotion.training import train


def stop_at(place: str, stop: Callable[[], None]) -> None:
    what, _, where = place.partition("=")
    name, _, number = where.partition("/")
    step, validation_step, replace = Task.training_step, Task.validation_step, Path.replace
    written = 0

    def training_step(self: Task, loaded: Any, batch: int) -> Tensor:
        if what == "batch" and where == f"{self.current_epoch + 1}/{batch + 1}":
            stop()
        return step(self, loaded, batch)

    def validating(self: Task, loaded: Any, batch: int) -> None:
        if what == "validation" and where == str(self.current_epoch + 1):
            stop()
        validation_step(self, loaded, batch)

    def replacing(self: Path, target: Path) -> Path:
        nonlocal written
        written += what == "write" and target.name == name
        if written and written == int(number):
            os.truncate(self, self.stat().st_size // 2)
            stop()
        return replace(self, target)

    Task.training_step, Task.validation_step = training_step, validating  # type: ignore[method-assign]
    Path.replace = replacing  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests
    videos, out, recipe, *points = sys.argv[1:]
    for point in points:
        process = os.fork()
        if not process:
            name, _, place = point.partition(":")
            stop_at(place, lambda name=name: os.kill(os.getpid(), signal.Signals[name]))  # type: ignore[misc]
            status = 0
            try:
                train(Recipe.model_validate_json(Path(recipe).read_text()), read_folder(Path(videos), 4), Path(out))
            except KeyboardInterrupt:
                status = 130
            os._exit(status)
        print(point, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
