"""attnzoo for test_parallel.py, with norms as in evaluation: each process would have statistics of its own.

With the variable STOP_AT=EPOCH/BATCH the first process gets SIGTERM there.
"""

import os
import signal
from typing import Any

from torch import Tensor, nn

from attnzoo.cli import main
from attnzoo.emotion.task import Task

step = Task.training_step


def training_step(self: Task, loaded: Any, batch: int) -> Tensor:
    if self.global_rank == 0 and os.environ.get("STOP_AT") == f"{self.current_epoch + 1}/{batch + 1}":
        signal.raise_signal(signal.SIGTERM)
    return step(self, loaded, batch)


if __name__ == "__main__":
    nn.modules.batchnorm._BatchNorm.train = lambda self, mode=True: nn.Module.train(self, False)  # type: ignore[method-assign]
    Task.training_step = training_step  # type: ignore[method-assign]
    main()
