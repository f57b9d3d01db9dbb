"""What all measurements share."""

import pytest

from attnzoo.benchmarks.timing import keep_memory


@pytest.fixture(autouse=True, scope="session")
def _memory_is_kept() -> None:
    keep_memory()
