"""The folder of one run: what it is called, that it can be written, and that one process at a time trains in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def run_name(title: str, seed: int) -> str:
    """What the folder of a run is called; whatever could mean something to a file system gives way to "-".

    Args:
        title: of the attention.
        seed: of the training.

    >>> run_name("mpe/../x y", 3)
    'mpe-..-x-y-seed3'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', title).lstrip('.')}-seed{seed}"


@contextmanager
def claim(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Take the folder of a run for this process; the claim ends with the block, or with the process however it dies.

    Args:
        folder: made if there is none.
        wait: until no other process has it.

    Returns:
        Whether the folder is taken; False where another process has it.

    Raises:
        ValueError: a folder that cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, claim(Path(folder)) as first, claim(Path(folder)) as second:
    ...     first, second
    (True, False)
    """
    lock = FileLock(folder / ".lock", blocking=wait)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        pass
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None
    try:
        yield lock.is_locked
    finally:
        lock.release()
