"""A Ray cluster for as long as it is needed."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attnzoo.extras import need


@contextmanager
def ray_cluster(address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """Connect to a Ray cluster, or start one on this machine, and let go of it with what it has set in this process.

    Args:
        address: of a cluster, HOST:PORT; that of the environment's RAY_ADDRESS if None, and without it one is started.
        cpus: of the one that is started; as many as the machine has if None.

    Returns:
        The module `ray`, connected. A caller who is connected already stays so.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster answers at the address.

    >>> with ray_cluster("127.0.0.1:1") as ray:
    ...     ray.get(ray.remote(abs).remote(-3))
    Traceback (most recent call last):
    ValueError: no Ray cluster answers at 127.0.0.1:1; start one with `ray start --head`, ...
    """
    need("cluster", "ray")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check(address)
    started: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 200 * 2**20}
    main = threading.current_thread() is threading.main_thread()
    at_sigterm, usage = signal.getsignal(signal.SIGTERM), os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = usage or "0"  # nobody is told of a cluster that starts here
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(started if address == "local" else {}))
        yield ray
    finally:
        ray.shutdown()
        if usage is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        if main:
            signal.signal(signal.SIGTERM, at_sigterm)


def _check(address: str) -> None:
    """Whether somebody answers, since Ray itself would wait for minutes."""
    host, sign, port = address.removeprefix("ray://").rpartition(":")
    if not sign:  # "local", or "auto" for the one that runs on this machine
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError):
        raise ValueError(
            f"no Ray cluster answers at {address}; start one with `ray start --head`, which tells its address, or "
            "leave it out to have one on this machine"
        ) from None
