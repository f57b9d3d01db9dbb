"""What `import attnzoo` costs beside `import torch`; the figure of record is the ratio of medians in one run."""

import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 9


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def test_import(benchmark: Any) -> None:
    seconds("import attnzoo")  # compiles the bytecode
    torch = [seconds("import torch")]

    def alternate() -> tuple[tuple[()], dict[str, Any]]:
        torch.append(seconds("import torch"))
        return (), {}

    benchmark.pedantic(lambda: seconds("import attnzoo"), setup=alternate, rounds=ROUNDS)
    ratio = benchmark.stats.stats.median / statistics.median(torch)
    benchmark.extra_info.update(torch_median=statistics.median(torch), ratio=ratio)
    print(f"\nimport attnzoo / import torch = {ratio:.3f} (goal: at most 1.15)")
